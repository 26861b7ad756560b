"""The command line as a user meets it: start-up, help, every kind of bad input, resume, eval, verify."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rlsuite.cli import main

ENV = "rlsuite/LineWorld-v0"


def quick(line_world: Path, run_dir: Path, *more: object) -> list[str]:
    return list(
        map(
            str,
            [
                "td3_bc",
                "--dataset",
                line_world,
                "--env",
                ENV,
                "--updates",
                200,
                "--hidden",
                "32,32",
                "--batch-size",
                32,
                "--log-every",
                50,
                "--eval-every",
                100,
                "--eval-episodes",
                2,
                "--final-episodes",
                3,
                "--run-dir",
                run_dir,
                *more,
            ],
        )
    )


@pytest.fixture(scope="module")
def run(line_world, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", *quick(line_world, directory)]) == 0
    return directory


def one_sentence(capsys, *words: str) -> str:
    error = capsys.readouterr().err.strip().splitlines()
    message = next(line for line in reversed(error) if line.startswith("rlsuite: "))
    for word in words:
        assert word in message, message
    assert not any("Traceback" in line for line in error)
    return message


# Start-up


def test_import_is_light_and_loads_no_torch():
    code = "import sys, rlsuite; print([m for m in ('torch', 'numpy', 'gymnasium', 'scipy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_help_loads_no_heavy_module():
    code = "import sys; from rlsuite.cli import main; main(['--help'])"
    heavy = "print([m for m in ('torch', 'numpy', 'gymnasium', 'scipy', 'pandas', 'minari') if m in sys.modules])"
    code = (
        f"import sys\nfrom rlsuite.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n{heavy}"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert out.strip().endswith("[]")
    assert all(command in out for command in ("train", "resume", "eval", "verify", "bench", "report", "data"))


def test_help_of_an_algorithm_shows_every_field_with_its_default(rlsuite):
    out = rlsuite("train", "prdc", "--help").stdout
    assert "--beta X" in out and "weight of the state against the action" in out and "default 2.0" in out
    assert "--no-normalize" in out and "--final-episodes" in out
    assert "prdc" in rlsuite("train", "--help").stdout


def test_python_m_rlsuite_algorithms_is_the_same_path(rlsuite, line_world, tmp_path):
    arguments = quick(line_world, tmp_path / "run")[1:]
    done = subprocess.run(
        [sys.executable, "-m", "rlsuite.algorithms.td3_bc", *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["algorithm"] == "td3_bc"


# Bad input: exit code 2, one sentence, nothing written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "prcd"], ["prcd", "did you mean 'prdc'"]),
        (["train", "./nothing.py"], ["nothing.py"]),
        (["train", "bc"], ["dataset"]),
        (["train", "bc", "--dataset", "rlsuite/hoper/medium-v0"], ["did you mean 'rlsuite/hopper/medium-v0'"]),
        (["train", "bc", "--dataset", "nothing.hdf5"], ["nothing.hdf5"]),
        (["train", "prdc", "--bta", "3"], ["--bta", "did you mean '--beta'"]),
        (["train", "prdc", "--beta", "big"], ["beta", "'big'"]),
        (["train", "prdc", "--dataset"], ["--dataset"]),
        (["trian", "prdc"], ["trian"]),
        (["resume", "nowhere"], ["nowhere"]),
        (["eval", "nowhere"], ["nowhere"]),
        (["verify", "nowhere"], ["nowhere"]),
        (["bench", "nothing.toml"], ["nothing.toml"]),
        (["bench", "nothing.toml", "--jbs", "2"], ["--jbs", "did you mean '--jobs'"]),
        (["data", "make", "rlsuite/hopper/medium-v0", "--steps", "abc"], ["--steps", "whole number", "'abc'"]),
        (["eval", "one", "two"], ["'two'"]),
        (["report", "nowhere"], ["nowhere"]),
        (["data", "show", "rlsuite/hopper/medum-v0"], ["did you mean 'rlsuite/hopper/medium-v0'"]),
    ],
)
def test_unknown_names_are_one_sentence(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    one_sentence(capsys, *words)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--env", "Hopper-v5"], ["1 numbers", "Hopper-v5", "--env"]),
        (["--env", "Hoper-v5"], ["Hoper-v5"]),
        (["--env", "CartPole-v1"], ["CartPole-v1"]),
        (["--device", "cuda:7"], ["cuda:7"]),
        (["--device", "gpu"], ["gpu"]),
        (["--updates", "0"], ["updates"]),
        (["--dataset-steps", "-4"], ["-4"]),
        (["--run-dir", "/proc/nowhere/run"], ["/proc/nowhere"]),
    ],
)
def test_bad_settings_write_nothing(capsys, line_world, tmp_path, change, words):
    assert main(["train", *quick(line_world, tmp_path / "run", *change)]) == 2
    one_sentence(capsys, *words)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["truncated", "text", "pickle", "nan"])
def test_broken_datasets_write_nothing(capsys, line_world, tmp_path, kind):
    import pickle

    path = tmp_path / ("data.npz" if kind != "text" else "data.hdf5")
    content = line_world.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "text":
        path.write_text("observations, actions\n1, 2\n")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"observations": [1]}))
    else:
        arrays = dict(np.load(line_world))
        arrays["rewards"][17] = np.nan
        np.savez(path, **arrays)
    assert main(["train", *quick(path, tmp_path / "run")]) == 2
    one_sentence(capsys, path.name, *(["17"] if kind == "nan" else []))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(rlsuite, line_world, tmp_path):
    """A file-size limit stands for the full disk: writes beyond it fail as ENOSPC's do."""
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY)); "
        "from rlsuite.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["train", *quick(line_world, tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", limited, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert "could not be written" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.tmp"))
    assert rlsuite(*arguments).returncode == 0


# Run directories


def test_a_directory_with_another_run_or_something_else_is_refused(capsys, line_world, run, tmp_path):
    assert main(["train", *quick(line_world, run, "--alpha", 1)]) == 2
    one_sentence(capsys, "another configuration", "--run-dir")
    assert main(["train", *quick(line_world, run)]) == 2
    one_sentence(capsys, "is finished")
    (tmp_path / "thesis.tex").write_text("precious")
    assert main(["train", *quick(line_world, tmp_path)]) == 2
    one_sentence(capsys, "thesis.tex")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def unfinished_copy(run: Path, to: Path) -> Path:
    shutil.copytree(run, to)
    status = json.loads((to / "status.json").read_text())
    (to / "status.json").write_text(json.dumps({**status, "status": "running"}))
    return to


def test_a_damaged_or_foreign_checkpoint_is_refused(capsys, run, line_world, tmp_path):
    damaged = unfinished_copy(run, tmp_path / "damaged")
    newest = max((damaged / "checkpoints").iterdir())
    content = bytearray(newest.read_bytes())
    content[-100] ^= 1
    newest.write_bytes(content)
    assert main(["resume", str(damaged)]) == 2
    one_sentence(capsys, newest.name, "checksum")

    other = tmp_path / "other"
    assert main(["train", *quick(line_world, other, "--alpha", 1)]) == 0
    shutil.copy(max((other / "checkpoints").iterdir()), newest)
    assert main(["resume", str(damaged)]) == 2
    one_sentence(capsys, "another configuration")


def test_changed_data_are_noticed_on_resume(capsys, run, line_world, tmp_path):
    from tests.conftest import write_line_world

    copy = write_line_world(tmp_path / "data.npz")
    directory = tmp_path / "run"
    assert main(["train", *quick(copy, directory)]) == 0
    status = json.loads((directory / "status.json").read_text())
    (directory / "status.json").write_text(json.dumps({**status, "status": "running"}))
    write_line_world(copy, seed=1)
    assert main(["resume", str(directory)]) == 2
    one_sentence(capsys, "data.npz", "not the one")


def test_two_processes_cannot_share_a_run(rlsuite, line_world, tmp_path):
    arguments = quick(line_world, tmp_path / "run", "--updates", 100_000)
    first = subprocess.Popen([sys.executable, "-m", "rlsuite", "train", *arguments], stderr=subprocess.DEVNULL)
    try:
        while not (tmp_path / "run" / "status.json").exists():
            assert first.poll() is None
            time.sleep(0.05)
        second = rlsuite("train", *arguments)
        assert second.returncode == 2
        assert "another process" in second.stderr
    finally:
        first.kill()
        first.wait()


def test_kill_and_resume_from_the_shell(rlsuite, line_world, run, tmp_path):
    directory = tmp_path / "run"
    arguments = quick(line_world, directory, "--updates", 3000, "--checkpoint-every", 100, "--eval-every", 1000)
    first = subprocess.Popen([sys.executable, "-m", "rlsuite", "train", *arguments], stderr=subprocess.DEVNULL)
    while not list((directory / "checkpoints").glob("*.ckpt")):
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    resumed = rlsuite("resume", directory)
    assert resumed.returncode == 0
    assert "continuing at update" in resumed.stderr
    verified = rlsuite("verify", directory)
    assert verified.returncode == 0
    assert "identical" in verified.stdout


def test_a_run_on_a_relative_path_resumes_and_verifies_from_anywhere(rlsuite, line_world, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(line_world, home / "data.npz")
    assert rlsuite("train", *quick("data.npz", "run"), cwd=home).returncode == 0
    assert rlsuite("verify", "home/run", cwd=tmp_path).returncode == 0
    status = json.loads((home / "run" / "status.json").read_text())
    (home / "run" / "status.json").write_text(json.dumps({**status, "status": "running"}))
    assert rlsuite("resume", "home/run", cwd=tmp_path).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


def test_verify_names_the_first_difference(run, tmp_path, capsys):
    changed = tmp_path / "run"
    shutil.copytree(run, changed)
    lines = (changed / "metrics.jsonl").read_text().splitlines()
    row = json.loads(lines[2])
    row["critic_loss"] += 1e-9
    lines[2] = json.dumps(row)
    (changed / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert main(["verify", str(changed)]) == 1
    out = capsys.readouterr().out
    assert "DIFFERENT" in out and "critic_loss at update 150" in out


def test_eval_in_a_new_process_equals_the_evaluation_of_the_run(rlsuite, run):
    rows = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    final = [row["return"] for row in rows if row["phase"] == "final"]
    out = rlsuite("eval", run, "--episodes", 3).stdout
    assert f"return {np.mean(final):.1f}" in out


def test_eval_refuses_a_pickled_policy(capsys, run, tmp_path):
    import pickle

    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "policy.npz").write_bytes(pickle.dumps({"weights": [1.0]}))
    assert main(["eval", str(copy)]) == 2
    one_sentence(capsys, "policy.npz", "pickle")


def test_video_of_an_environment_without_pictures_is_refused(capsys, run):
    assert main(["eval", str(run), "--episodes", "1", "--video"]) == 2
    one_sentence(capsys, "LineWorld", "render")


def test_tensorboard_mirrors_the_metrics(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    mirrored = [(e.step, e.value) for e in events.Scalars("train/critic_loss")]
    assert [step for step, _ in mirrored] == [row["update"] for row in rows]
    np.testing.assert_allclose([value for _, value in mirrored], [row["critic_loss"] for row in rows], rtol=1e-6)


def test_a_users_file_trains_resumes_and_verifies(rlsuite, line_world, tmp_path):
    source = Path(sys.modules["rlsuite"].__file__).parent / "algorithms" / "bc.py"
    mine = tmp_path / "mine.py"
    mine.write_text(source.read_text().replace("mse_loss", "l1_loss"))
    arguments = quick(line_world, tmp_path / "run")[1:]
    done = rlsuite("train", "./mine.py", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rlsuite("verify", tmp_path / "run", cwd=os.sep).returncode == 0
