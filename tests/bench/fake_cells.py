"""Cells without learning, for tests of the engine: processes that end well, crash, hang, diverge or get killed.

Also a `rlsuite bench` over them: python fake_cells.py bench TABLE RESULTS JOBS [TIMEOUT [ray|slurm]]
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

ALGORITHM = '''"""A stand-in for an algorithm."""
from dataclasses import dataclass

@dataclass
class Config:
    dataset: str
    """the task"""
    updates: int = 5
    """steps of the fake"""
    seconds: float = 0.2
    """how long it takes"""
    behaviour: str = "ok"
    """how it ends"""
    alpha: float = 2.5
    """a setting"""

def train(config, run):
    raise AssertionError("never called")
'''


def write_table(folder: Path, text: str, **algorithms: str) -> Path:
    """A table `t.toml` in `folder`, beside algorithm files with the given names (default: toy.py)."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in algorithms or {"toy": ""}:
        (folder / f"{name}.py").write_text(algorithms.get(name) or ALGORITHM)
    path = folder / "t.toml"
    path.write_text(text)
    return path


def command(cell, folder: Path) -> list[str]:
    """What the engine runs for a cell, instead of `rlsuite train`."""
    config = cell.resolved.config
    facts = {**cell.identity(), "updates": config.updates, "seconds": config.seconds, "behaviour": config.behaviour}
    return [sys.executable, __file__, "cell", str(folder), json.dumps(facts)]


def run(table, results, **options):
    """`run_table` over fake cells."""
    from rlsuite.bench.runner import run_table

    return run_table(table, results, command=command, prepare=lambda cells, base: None, **options)


def starts(results: Path) -> dict[str, int]:
    """How often each cell's process was started."""
    return {
        path.parents[1].name: len(path.read_text().splitlines())
        for path in sorted(results.glob("cells/*/tensorboard/starts"))
    }


def pids(results: Path) -> list[int]:
    return [int(pid) for path in results.glob("cells/*/tensorboard/starts") for pid in path.read_text().split()]


def _cell(folder: Path, facts: dict) -> int:
    behaviour = facts["behaviour"]
    (folder / "tensorboard").mkdir(exist_ok=True)
    with open(folder / "tensorboard" / "starts", "a") as file:
        file.write(f"{os.getpid()}\n")
    tries = len((folder / "tensorboard" / "starts").read_text().split())
    if behaviour == "early":
        sys.exit("rlsuite: no such thing")

    def write(name: str, content: dict) -> None:
        (folder / f".{name}").write_text(json.dumps(content))
        os.replace(folder / f".{name}", folder / name)

    def status(state: str, update: int, message: str = "") -> None:
        write("status.json", {"status": state, "update": update, "updates": facts["updates"], "message": message})

    identity = {
        **{key: facts[key] for key in ("run_id", "config_hash", "algorithm", "task", "seed")},
        **{"env": "Fake-v0", "dataset": facts["task"], "dataset_hash": "0" * 64, "dataset_rows": 10},
        **{"code_version": "0", "cpu_class": "fake"},
    }
    write("config.json", {"algorithm": facts["algorithm"], "config": {}, "settings": {"seed": facts["seed"]}})
    write("manifest.json", identity | ({"run_id": "another"} if behaviour == "edited" else {}))
    checkpoint = folder / "checkpoints"
    update = int(checkpoint.read_text()) if checkpoint.exists() else 0
    status("running", update)

    def stop(number: int, frame: object) -> None:
        checkpoint.write_text(str(update))
        status("stopped", update)
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "deaf" else stop)
    while update < facts["updates"]:
        time.sleep(facts["seconds"] / facts["updates"])
        update += 1
        status("running", update)
        if update == facts["updates"] // 2:
            while behaviour == "crash_on_word" and not (folder / "tensorboard" / "word").exists():
                time.sleep(0.02)
            if behaviour in ("crash", "crash_on_word") or (behaviour == "crash_once" and tries == 1):
                raise ValueError("the sky fell")
            if behaviour == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if behaviour == "nan":
                status("diverged", update, "critic_loss is nan at update 2")
                return 3
            if behaviour in ("hang", "deaf"):
                time.sleep(3600)
            if behaviour == "lie":
                return 0
    rows = [
        {
            **identity,
            **{"phase": "final", "protocol": "final-3ep-deterministic", "update": update, "episode": episode},
            **{"episode_seed": episode, "return": 100.0 * facts["seed"] + episode, "length": 10, "terminated": True},
            **{"truncated": False, "score": 10.0 * facts["seed"] + episode, "score_reference": "fake"},
            **{"policy_mode": "deterministic", "status": "ok", "message": ""},
        }
        for episode in range(3)
    ]
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    status("finished", update)
    return 0


def _bench(table: str, results: str, jobs: str, timeout: str = "600", engine: str = "") -> int:
    from rlsuite.bench.cluster import Cluster, Ray, Slurm
    from rlsuite.bench.table import read_table

    place = Cluster(Ray() if engine == "ray" else Slurm(Path(results), {}, "local")) if engine else None
    result = run(read_table(table), Path(results), place=place, jobs=int(jobs), timeout=float(timeout), grace=5.0)
    print(f"ran {result.ran}", flush=True)
    return 130 if result.stopped else 1 if result.failures else 0


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    sys.exit(_cell(Path(rest[0]), json.loads(rest[1])) if role == "cell" else _bench(*rest))
