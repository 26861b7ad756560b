"""Certificates and attacks for the policies of the certified_*.toml tables, as rows and pictures in results/certified.

Goes on where it was stopped: what stands in the files is not done again.

    rlsuite bench benchmarks/certified_cartpole.toml --jobs 4
    rlsuite bench benchmarks/certified_mountain_car.toml --jobs 4
    rlsuite bench benchmarks/certified_freeway.toml
    rlsuite bench benchmarks/certified_pong.toml
    python benchmarks/certified.py --jobs 4
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from rlsuite.algorithms.policy_smoothing import QPolicy
from rlsuite.certify import certificate, crop, report
from rlsuite.certify.attacks import Plan
from rlsuite.certify.certificate import Question
from rlsuite.certify.policies import load
from rlsuite.data.files import read_json, write_atomic
from rlsuite.harness.files import save_policy
from rlsuite.harness.smoothing import View, split_view

Row = dict[str, Any]
ROOT = Path(__file__).parent.parent / "results"


@dataclass(frozen=True)
class Experiment:
    """What is asked of the policies of one table."""

    budgets: list[float] = field(default_factory=lambda: grid(0, 1, 0.05))
    episodes: int = 10_000
    score: str = "return"
    at: tuple[float, ...] = ()
    local: int = 0
    """episodes of CROP's policy"""
    attack: str = ""
    attacked: tuple[float, ...] = ()
    """budgets"""
    thresholds: dict[bool, tuple[float, ...]] = field(default_factory=lambda: {False: (0.0,), True: (0.0,)})
    """lambda_Q for policies without noise, and with it"""
    seeds: int = 3
    """policies that are attacked"""
    samples: int = 32


def grid(first: float, last: float, step: float) -> list[float]:
    return [round(first + i * step, 10) for i in range(round((last - first) / step) + 1)]


EXPERIMENTS = {
    # Nothing is trained.
    "linear": Experiment(grid(0, 1, 0.05)),
    # Thresholds as in the paper's scripts, and 0 also without noise.
    "cartpole": Experiment(
        at=(150.0,),
        local=10,
        attack="q",
        attacked=(0.2, 0.4, 0.6, 0.8, 1.0),
        thresholds={False: (0.0, 4.0, 8.0), True: (0.0, 1.0, 2.0)},
    ),
    "mountain_car": Experiment(score="success", attack="actor", attacked=(0.5, 1.0, 2.0, 4.0), seeds=1, samples=16),
    "freeway": Experiment(grid(0, 0.4, 0.02), episodes=2000, at=(1.0,)),
    "pong": Experiment(grid(0, 0.4, 0.02), episodes=2000, at=(1.0,)),
}
# Rule K acts 1 where K . mean(last frames) > 0; with the noise that it is made for, and its certified mean at some
# budgets, as another implementation found it.
RULES = {
    "steady": (
        "CartPole-v0#frames=5,sigma=0.2",
        (0.01, 0.18, 1.8, 0.88),
        (198.1, 193.8, 183.6, 134.5, 62.2, 15.3, 1.8),
    ),
    "loose": ("CartPole-v0#frames=5,sigma=0.4", (0.2, 0.4, 1.9, 2.0), (139.2, 126.6, 113.6, 87.9, 64.1, 43.6, 27.2)),
    "single": ("CartPole-v0#frames=1,sigma=0.2", (0.14, 0.7, 3.3, 2.0), (194.1, 185.0, 168.4, 112.6, 50.9, 13.6, 1.8)),
}
STATED = (0, 0.1, 0.2, 0.4, 0.6, 0.8, 1)
# Bounds that (2) gives for the survival counts that mrh996/ReCePS prints for networks trained by the authors'
# scripts (10,000 episodes, same confidence and method), by sigma: budget -> bound. What it plots itself is no bound.
THIRD_PARTY = {
    0.2: {0.0: 197.43, 0.1: 193.38, 0.2: 185.28, 0.4: 149.31, 0.6: 85.98, 0.8: 28.14, 1.0: 4.36},
    0.4: {0.0: 143.55, 0.2: 119.19, 0.4: 94.51, 0.6: 71.39, 1.0: 33.61},
}
COLOURS = ("#3b7dc4", "#2f9e6e", "#b5569f")
INK, WARM, GREY = "#24292f", "#e0752d", "#7d8590"


# ---- rows


def stored(path: Path) -> list[Row]:
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def store(path: Path, row: list[Row]) -> None:
    rows = [*stored(path), *row]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, report.as_csv(tuple(rows[0]), rows))


def certify(about: Row, policy: Path, env: str, asked: Experiment, out: Path, jobs: int) -> None:
    """Add the certificate of a policy to the table, unless it is there."""
    path = out / "certificates.csv"
    if any(row["run_id"] == about["run_id"] for row in stored(path)):
        return
    low, high, whole = certificate.range_of(env, asked.score, None, False)
    question = Question(policy, env, asked.episodes, score=asked.score, low=low, high=high, whole=whole)
    played = certificate.play_all(policy, env, certificate.seeds_of(env, asked.episodes), jobs)
    local = None
    if asked.local:
        local = crop.of(load(policy), env, certificate.seeds_of(env, asked.local + 1, "crop"), 1000)
    found = certificate.certify(question, played, asked.budgets, 0.1, asked.at, local=local)
    if local is not None:
        found.append({**found[0], "kind": "mean of CROP's policy, 10 episodes", "bound": float(local.returns.mean())})
    store(path, [{**about, **row} for row in found])
    print(f"{about['experiment']} {env} {about['seed']}: clean {found[0]['clean']:.3f}", flush=True)


def attack(about: Row, policy: Path, env: str, asked: Experiment, out: Path, jobs: int, episodes: int) -> None:
    """Add the attacks on a policy to the table, but for those that are there."""
    path, subject = out / "attacks.csv", load(policy)
    seeds, noisy = certificate.seeds_of(env, episodes, "attack"), view_of(env).noisy
    for budget in (0.0, *asked.attacked):
        for threshold in asked.thresholds[noisy] if budget else (0.0,):
            key = about["run_id"], f"{budget}", f"{threshold}"
            if any((row["run_id"], row["budget"], row["lambda_q"]) == key for row in stored(path)):
                continue
            plan = Plan(asked.attack, budget, threshold, asked.samples)  # type: ignore[arg-type]
            played = certificate.play_all(policy, env, seeds, jobs, plan)
            row = report.attack_row(subject, env, asked.score, plan, played)
            store(path, [{**about, **row}])
            print(f"{about['experiment']} {env} {about['seed']}: {report.attack_line(row)}", flush=True)


def view_of(env: str) -> View:
    view = split_view(env)[1]
    assert view is not None
    return view


def linear(name: str, folder: Path) -> Path:
    """The policy of a rule, as a run leaves one."""
    env, rule, _ = RULES[name]
    frames = view_of(env).frames
    policy = QPolicy((4 * frames,), 2, ())
    with torch.no_grad():
        row = torch.tensor(rule).repeat(frames) / frames
        policy.head.weight0.copy_(torch.stack([-row, row]))
        policy.head.bias0.zero_()
    save_policy(folder / "policy.npz", policy, "policy_smoothing")
    return folder / "policy.npz"


def finished(run: Path) -> bool:
    return (run / "status.json").exists() and read_json(run / "status.json")["status"] == "finished"


def measure(name: str, out: Path, jobs: int, episodes: int) -> None:
    """Everything that is asked of one table's policies."""
    asked = EXPERIMENTS[name]
    if name == "linear":
        for rule, (env, _, _) in RULES.items():
            with tempfile.TemporaryDirectory() as folder:
                about = {"experiment": name, "run_id": f"linear {rule}", "seed": rule}
                certify(about, linear(rule, Path(folder)), env, asked, out, jobs)
        return
    runs = [run for run in sorted((ROOT / f"certified_{name}/cells").glob("*")) if finished(run)]
    for run in runs:
        facts = read_json(run / "manifest.json")
        about = {"experiment": name, "run_id": facts["run_id"], "seed": facts["seed"]}
        if view_of(facts["env"]).noisy:
            certify(about, run, facts["env"], asked, out, jobs)
    for run in runs:
        facts = read_json(run / "manifest.json")
        about = {"experiment": name, "run_id": facts["run_id"], "seed": facts["seed"]}
        if asked.attack and facts["seed"] < asked.seeds:
            attack(about, run, facts["env"], asked, out, jobs, episodes)


# ---- pictures


def curves(axes: Axes, rows: pd.DataFrame, kind: str = "mean >=") -> None:
    """The bound of each policy."""
    for colour, (seed, mine) in zip(COLOURS, rows[rows["kind"] == kind].groupby("seed"), strict=False):
        mine = mine.sort_values("budget")
        axes.plot(mine["budget"], mine["bound"], color=colour, lw=2, label=f"certified, seed {seed}")


def attacked(axes: Axes, attacks: pd.DataFrame, sigma: float) -> None:
    """The worst mean under attack at each budget, of policies with this noise and of those without any."""
    worst = attacks.groupby(["sigma", "seed", "budget"])["mean"].min().reset_index()
    for noise, marker, ink, name in (
        (sigma, "o", INK, "attacked"),
        (0.0, "X", WARM, "attacked, trained without noise"),
    ):
        rows = worst[worst["sigma"] == noise]
        axes.plot(rows["budget"], rows["mean"], ls="", marker=marker, color=ink, ms=6, alpha=0.8, label=name)


def finish(axes: Axes, title: str, high: float) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("budget of the attack on a whole episode")
    axes.set_xlim(left=0)
    axes.set_ylim(0, high)
    axes.grid(alpha=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def draw_cartpole(certificates: pd.DataFrame, attacks: pd.DataFrame, path: Path) -> None:
    figure, panels = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained", sharey=True)
    rules = certificates[(certificates["experiment"] == "linear") & (certificates["kind"] == "mean >=")]
    for colour, (name, (env, _, stated)) in zip(COLOURS, RULES.items(), strict=True):
        mine, view = rules[rules["seed"] == name].sort_values("budget"), view_of(env)
        label = f"noise of {view.sigma[0]:g}, {view.frames} frame{'s' * (view.frames > 1)}"
        panels[0].plot(mine["budget"], mine["bound"], color=colour, lw=2, label=label)
        panels[0].plot(STATED, stated, color=colour, ls="", marker="o", ms=5, mfc="white")
    panels[0].plot([], [], color=GREY, ls="", marker="o", ms=5, mfc="white", label="an independent implementation")
    finish(panels[0], "Linear rules, nothing trained: certified", 205)
    trained = certificates[certificates["experiment"] == "cartpole"]
    for axes, sigma in zip(panels[1:], THIRD_PARTY, strict=True):
        curves(axes, trained[trained["sigma"].astype(float) == sigma])
        third = THIRD_PARTY[sigma]
        axes.plot(list(third), list(third.values()), color=GREY, ls="--", lw=1.4, label="certified, authors' scripts")
        attacked(axes, attacks[attacks["experiment"] == "cartpole"], sigma)
        finish(axes, f"DQN trained under noise of {sigma:g}", 205)
    panels[0].set_ylabel("mean return, at most 200")
    panels[0].legend(frameon=False, fontsize=8, loc="lower left")
    figure.legend(*panels[1].get_legend_handles_labels(), loc="outside lower right", ncols=6, frameon=False, fontsize=8)
    figure.suptitle("CartPole: what is guaranteed (lines, confidence 95 %), and what an attack achieves (marks)")
    figure.savefig(path, dpi=130)


def draw_others(certificates: pd.DataFrame, attacks: pd.DataFrame, path: Path) -> None:
    figure, panels = plt.subplots(1, 4, figsize=(16, 4.2), layout="constrained")
    for axes, sigma in zip(panels, (0.2, 0.4), strict=False):
        rows = certificates[certificates["experiment"] == "mountain_car"]
        curves(axes, rows[rows["sigma"].astype(float) == sigma])
        attacked(axes, attacks[attacks["experiment"] == "mountain_car"], sigma)
        finish(axes, f"Mountain Car, noise of {sigma:g}", 1.03)
    panels[0].set_ylabel("success rate")
    panels[0].legend(frameon=False, fontsize=8)
    for axes, name, kind, title, unit in (
        (panels[2], "freeway", "mean >=", "Freeway", "crossings in 250 steps"),
        (panels[3], "pong", "P(score >= level) >=", "Pong, one round", "probability to win"),
    ):
        rows = certificates[certificates["experiment"] == name]
        curves(axes, rows, kind)
        clean = rows["clean"].iloc[0] if name == "freeway" else (rows["clean"].iloc[0] + 1) / 2
        axes.plot(0, clean, color=WARM, marker="D", ms=6, ls="", label="clean mean", clip_on=False)
        finish(axes, f"{title}, noise of 0.05", 1.15 * clean)
        axes.set_ylabel(unit)
    panels[2].legend(frameon=False, fontsize=8)
    figure.suptitle("What is guaranteed (lines, confidence 95 %), and what an attack achieves (marks)")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=EXPERIMENTS, action="append", help="what is measured (default: everything)")
    parser.add_argument("--out", type=Path, default=ROOT / "certified")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=100, help="of each attack")
    args = parser.parse_args()
    for name in args.only or EXPERIMENTS:
        measure(name, args.out, args.jobs, args.episodes)
    paths = [args.out / f"{name}.csv" for name in ("certificates", "attacks")]
    if not all(path.exists() for path in paths):
        return
    certificates, attacks = map(pd.read_csv, paths)
    attacks["sigma"] = attacks["env"].str.extract(r"sigma=([\d.]+)")[0].astype(float).fillna(0.0)
    draw_cartpole(certificates, attacks, args.out / "cartpole.png")
    if {"mountain_car", "freeway", "pong"} <= set(certificates["experiment"]):
        draw_others(certificates, attacks, args.out / "others.png")
    bounds = certificates[certificates["kind"] == "mean >="]
    table = bounds.pivot_table("bound", ["experiment", "env", "seed"], "budget")
    print(table[[b for b in table.columns if b in np.round(STATED, 2)]].round(2).to_string())


if __name__ == "__main__":
    main()
