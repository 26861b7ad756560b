"""What SubPO's tables show, one line for each of the six grid environments, beside what planning reaches; and pictures.

Reads the rows of results/subpo_{grids,gp,items,ddesign}, and their runs for the pictures, which are not in the
repository. Environments with ten instances are summarised by the mean of each instance over its seeds, with a 95 %
Student-t interval over the instances; the others by the runs. `oracles` is greedy and beam search (width 1,000; for
two rooms, 10,000).

    python benchmarks/subpo.py oracles       results/subpo/oracles.csv, half a minute
    python benchmarks/subpo.py tables        table.md, table.csv, curves.csv, final.png, curves.png
    python benchmarks/subpo.py paths         one picture an environment, from the policies of instance 0, seed 0
    python benchmarks/subpo.py ant           cells covered by the policies of results/subpo_ant, ModPO's too
    python benchmarks/subpo.py car           laps of the policies of results/subpo_car
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

import rlsuite_envs  # noqa: F401 (registers the environments)
from rlsuite.bench import statistics
from rlsuite.bench.plots import COLOURS, INK, MARKERS, Panel, bar, png
from rlsuite.data.files import write_atomic
from rlsuite.harness.evaluation import evaluate
from rlsuite.harness.runs import load_policy
from rlsuite_envs.oracles import beam, greedy

TABLES = ("grids", "gp", "items", "ddesign")
ENVIRONMENTS = {  # what an id is called without its instance
    "Coverage": "coverage",
    "Bimodal": "bimodal weights",
    "GP": "Gaussian process",
    "TwoRooms": "two rooms",
    "Items": "item collection",
    "DDesign": "D-optimal design",
}
METHODS = {
    "m": "SubPO-M",
    "nm": "SubPO-NM",
    "modpo": "ModPO",
    "m_official": "SubPO-M, official",
    "nm_official": "SubPO-NM, official",
    "modpo_official": "ModPO, official",
}
PAIRS = (("nm", "m"), ("nm_official", "m_official"), ("m", "m_official"), ("nm", "nm_official"))
USUAL_WIDTH, WIDTH = 1000, {"TwoRooms": 10_000}  # of a beam
PATHS = 60  # drawn in a picture
EPISODES, WAYS = 50, 20  # of ants and cars that are judged, and that are drawn
FRESH = 1 << 31  # seed of the first of them
ANTS = {"": "SubPO-M", "History": "SubPO-NM", "Modular": "ModPO"}
CARS = {"": "SubPO-M", "Modular": "ModPO"}


def environment(task: str) -> str:
    """rlsuite/GP3-v0 -> GP"""
    return re.sub(r"^rlsuite/|\d*-v0$", "", task)


def rows_of(results: Path) -> pd.DataFrame:
    return pd.concat([pd.read_csv(results / f"subpo_{name}" / "rows.csv", low_memory=False) for name in TABLES])


def runs_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The mean return of each run: environment, task, algorithm, seed, F."""
    runs = rows.groupby(["task", "algorithm", "seed"], sort=False)["return"].mean().rename("F").reset_index()
    return runs.assign(environment=runs.task.map(environment))


def interval(runs: pd.DataFrame) -> statistics.Interval:
    """Of one method in one environment: over instances where there are several, else over seeds."""
    instances = runs.groupby("task").F.mean()
    return statistics.student_t(instances if len(instances) > 1 else runs.F)


def difference(runs: pd.DataFrame, one: str, other: str) -> statistics.Interval:
    """Between two methods in one environment, in pairs of instances where there are several, else of seeds."""
    pairs = runs.groupby(["task" if runs.task.nunique() > 1 else "seed", "algorithm"]).F.mean().unstack()
    return statistics.student_t(pairs[one] - pairs[other])


# ---- planning


def plan(out: Path) -> None:
    found = []
    for task in sorted(gym.registry):
        if task.startswith("rlsuite/") and environment(task) in ENVIRONMENTS:
            env = gym.make(task).unwrapped
            found.append({"task": task, "greedy": greedy(env).F, "beam": search(task, env).F})
            print(found[-1], flush=True)
    write_atomic(out / "oracles.csv", pd.DataFrame(found).to_csv(index=False, float_format="%.6g").encode())


def search(task: str, env: Any) -> Any:
    return beam(env, WIDTH.get(environment(task), USUAL_WIDTH))


# ---- tables


def tables(results: Path, out: Path) -> None:
    rows = rows_of(results)
    final = runs_of(rows[rows.phase == "final"])
    oracles = pd.read_csv(out / "oracles.csv")
    planned = (
        oracles.assign(environment=oracles.task.map(environment)).groupby("environment")[["greedy", "beam"]].mean()
    )
    cells = {key: interval(part) for key, part in final.groupby(["environment", "algorithm"])}
    shares = final.merge(oracles[["task", "beam"]]).assign(F=lambda runs: 100 * runs.F / runs.beam)
    shares = {key: interval(part) for key, part in shares.groupby(["environment", "algorithm"])}
    first = [["environment", *METHODS.values(), "greedy", "beam"]]
    second = [["% of beam search", *METHODS.values()]]
    records = []
    for name, words in ENVIRONMENTS.items():
        oracle = [f"{planned.loc[name, column]:.1f}" for column in ("greedy", "beam")]
        first.append([words, *(told(cells[name, method]) for method in METHODS), *oracle])
        second.append([words, *(told(shares[name, method]) for method in METHODS)])
        for method in METHODS:
            x = cells[name, method]
            records.append({"environment": name, "algorithm": method, "F": x.value, "low": x.low, "high": x.high})
    third = [["differences in pairs", *(f"{METHODS[a]} less {METHODS[b]}" for a, b in PAIRS)]]
    for name, words in ENVIRONMENTS.items():
        runs = final[final.environment == name]
        third.append([words, *(told(difference(runs, a, b)) for a, b in PAIRS)])
    text = f"{markdown(first)}\n{markdown(second)}\n{markdown(third)}"
    write_atomic(out / "table.md", text.encode())
    write_atomic(out / "table.csv", pd.DataFrame(records).to_csv(index=False, float_format="%.4f").encode())
    print(text)
    handles = [Line2D([], [], label=words, **line(method)) for method, words in METHODS.items()]
    panels = [
        Panel(words, partial(final_panel, name, cells, planned.loc[name]), rows=len(METHODS))
        for name, words in ENVIRONMENTS.items()
    ]
    write_atomic(out / "final.png", png(panels, "F of sampled paths at the end (dotted: greedy; dashed: beam search)"))
    curves = runs_of_positions(rows)
    write_atomic(out / "curves.csv", curves.to_csv(index=False, float_format="%.4f").encode())
    panels = [
        Panel(words, partial(curve_panel, curves[curves.environment == name])) for name, words in ENVIRONMENTS.items()
    ]
    write_atomic(out / "curves.png", png(panels, "F of sampled paths", handles))


def told(x: statistics.Interval) -> str:
    return f"{x.value:.1f} ± {x.half_width:.1f}"


def markdown(lines: list[list[str]]) -> str:
    head, *body = lines
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *body))


def runs_of_positions(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over all runs of an environment at each evaluation: environment, algorithm, update, F."""
    keys = ["environment", "algorithm", "update"]
    return rows.assign(environment=rows.task.map(environment)).groupby(keys)["return"].mean().rename("F").reset_index()


def line(method: str) -> dict[str, Any]:
    index = list(METHODS).index(method)
    style = "--" if "official" in method else "-"
    return {"color": COLOURS[index % 3], "marker": MARKERS[index], "ls": style, "lw": 1.6, "ms": 4.5}


def final_panel(name: str, cells: dict[Any, statistics.Interval], planned: pd.Series, axes: Any) -> None:
    for row, method in enumerate(METHODS):
        bar(axes, row, cells[name, method], line(method)["color"], line(method)["marker"])
    axes.axvline(planned.greedy, color=INK, lw=1.0, ls=":")
    axes.axvline(planned.beam, color=INK, lw=1.0, ls="--")
    axes.set_yticks(range(len(METHODS)), list(METHODS.values()))
    axes.set_ylim(len(METHODS) - 0.4, -0.6)
    axes.set_xlabel("F: mean, 95 % t-interval")


def curve_panel(curves: pd.DataFrame, axes: Any) -> None:
    for method in METHODS:
        part = curves[curves.algorithm == method]
        axes.plot(part["update"] / 1e6, part.F, **line(method))
    axes.set(xlabel="million environment steps", ylabel="F, mean of runs")


# ---- pictures of paths


def paths(results: Path, out: Path) -> None:
    for name, words in ENVIRONMENTS.items():
        task = f"rlsuite/{name}-v0" if f"rlsuite/{name}-v0" in gym.registry else f"rlsuite/{name}0-v0"
        env: Any = gym.make(task).unwrapped
        panels = []
        for method, label in METHODS.items():
            run = next(folder(results, method, task))
            panels.append(played(env, label, sample(env, load_policy(run))))
        best = search(task, env)
        panels.append(played(env, "beam search", (best.cells[None], np.array([best.F]))))
        title = f"{words}: {PATHS} sampled paths from the white square (seed 0)"
        write_atomic(out / f"paths_{name.lower()}.png", png(panels, title))


def folder(results: Path, method: str, task: str) -> Iterator[Path]:
    for place in results.glob("subpo_*/cells"):
        yield from sorted(place.glob(f"{method}-{task.replace('/', '-')}-s0-*"))
    raise SystemExit(f"no run of {method} on {task} with seed 0 is in {results}; run the tables first.")


def sample(env: Any, policy: Any) -> tuple[np.ndarray, np.ndarray]:
    """Cells (PATHS, H) and F (PATHS,) of sampled paths."""
    rng = np.random.default_rng(0)
    seen, values = [], []
    for _ in range(PATHS):
        observation, info = env.reset(seed=0)
        for _ in range(env.horizon - 1):
            flat = gym.spaces.flatten(env.observation_space, observation)[None].astype(np.float32)
            observation, _, _, _, info = env.step(int(policy.act(flat, rng.random(1))[0]))
        seen.append(observation["path"])
        values.append(info["F"])
    return np.array(seen), np.array(values)


def played(env: Any, label: str, found: tuple[np.ndarray, np.ndarray]) -> Panel:
    """The field and the paths over it, a little beside each other so that how many there are can be seen."""
    cells, values = found

    def draw(axes: Any) -> None:
        field = np.ma.masked_array(env.field, env.walls)
        axes.set_facecolor("black")
        axes.imshow(field, cmap="Greys_r", vmin=field.min() - 0.8 * (np.ptp(field) + 1e-9), aspect="equal")
        rng = np.random.default_rng(0)
        several = len(cells) > 1
        for path in cells:
            way = np.array(np.divmod(path, env.columns)) + several * rng.uniform(-0.3, 0.3, (2, 1))
            axes.plot(way[1], way[0], color=COLOURS[1], lw=1.0, alpha=max(0.06, 3 / len(cells)) if several else 1.0)
        axes.plot(*divmod(env.start, env.columns)[::-1], marker="s", color="white", mec=INK, ms=5)
        axes.set(xticks=[], yticks=[], xlabel=f"F = {values.mean():.1f}")
        axes.grid(False)

    return Panel(label, draw, rows=6 * env.rows // env.columns)


# ---- the ant and the car, learnt by PPO


def ant(results: Path, out: Path) -> None:
    """Every policy of the table in the environment that pays marginal gains, so that ModPO is judged by F too."""
    panels, found = [], []
    for suffix, label in ANTS.items():
        env_id = f"rlsuite/AntCoverage{suffix.replace('Modular', '')}-v0"
        for seed, policy in policies(results / "subpo_ant", f"AntCoverage{suffix}"):
            returns, lengths = judged(policy, env_id)
            found.append({"method": label, "seed": seed, "cells": 25 + 10 * returns, "steps": lengths})
            if seed == 0:
                panels.append(Panel(label, partial(ground, policy, env_id), rows=7))
    save(out / "ant", found, panels, f"Ant coverage: {WAYS} ways of seed 0, and what the median one covers; metres")


def car(results: Path, out: Path) -> None:
    """The same for car racing, whose additive reward is the place s on the track."""
    panels, found = [], []
    for suffix, label in CARS.items():
        for seed, policy in policies(results / "subpo_car", f"RaceCar{suffix}"):
            returns, lengths = judged(policy, "rlsuite/RaceCar-v0")
            found.append({"method": label, "seed": seed, "return": returns, "steps": lengths})
            panels.append(Panel(f"{label}, seed {seed}", partial(lap, policy), rows=7))
    save(out / "car", found, panels, "Car racing: one episode each, the car in red at its end")


def policies(results: Path, name: str) -> Iterator[tuple[int, Any]]:
    """The seed and the policy of every run of PPO in rlsuite/{name}-v0."""
    for run in sorted((results / "cells").glob(f"ppo-rlsuite-{name}-v0-s*")):
        yield int(re.findall(r"-s(\d+)-", run.name)[0]), load_policy(run)


def judged(policy: Any, env_id: str) -> tuple[float, float]:
    """Mean return and length of fresh episodes."""
    episodes = evaluate(policy.act, env_id, range(FRESH, FRESH + EPISODES))
    return float(np.mean([e.total for e in episodes])), float(np.mean([e.length for e in episodes]))


def save(place: Path, found: list[dict[str, Any]], panels: list[Panel], title: str) -> None:
    table = pd.DataFrame(found)
    write_atomic(place.with_suffix(".csv"), table.to_csv(index=False, float_format="%.2f").encode())
    write_atomic(place.with_suffix(".png"), png(panels, title))
    print(table.to_string(index=False))


def episode(policy: Any, env: Any, seed: int) -> Iterator[None]:
    """Play one, and wait before each step and at the end."""
    observation, ended = env.reset(seed=seed)[0], False
    while not ended:
        yield
        observation, _, terminated, truncated, _ = env.step(policy.act(observation[None].astype(np.float32))[0])
        ended = terminated or truncated
    yield


def ground(policy: Any, env_id: str, axes: Any) -> None:
    env: Any = gym.make(env_id)
    bare, ways, fields = env.unwrapped, [], []
    for seed in range(FRESH, FRESH + WAYS):
        ways.append(np.array([bare.data.qpos[:2].copy() for _ in episode(policy, env, seed)]))
        fields.append(bare.ground.marked.copy())
    median = fields[int(np.argsort([field.sum() for field in fields])[WAYS // 2])]
    axes.imshow(median.T, origin="lower", extent=(-20, 20, -20, 20), cmap="Greens", vmax=2)
    for way in ways:
        axes.plot(*way.T, color=INK, lw=0.8, alpha=0.6)
    axes.set(xlim=(-10, 10), ylim=(-10, 10), xlabel=f"median: {int(median.sum())} cells")
    axes.grid(False)


def lap(policy: Any, axes: Any) -> None:
    env: Any = gym.make("rlsuite/RaceCar-v0", render_mode="rgb_array")
    steps = sum(1 for _ in episode(policy, env, FRESH)) - 1
    axes.imshow(env.render())
    axes.set(xticks=[], yticks=[], xlabel=f"{steps} steps, {env.unwrapped.path[-1][0]:.1f} m")
    axes.grid(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["oracles", "tables", "paths", "ant", "car"])
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR")
    arguments = parser.parse_args()
    out = arguments.results / "subpo"
    out.mkdir(parents=True, exist_ok=True)
    jobs: dict[str, Callable[[], None]] = {
        "oracles": partial(plan, out),
        "tables": partial(tables, arguments.results, out),
        "paths": partial(paths, arguments.results, out),
        "ant": partial(ant, arguments.results, out),
        "car": partial(car, arguments.results, out),
    }
    jobs[arguments.what]()


if __name__ == "__main__":
    main()
