"""Certificates and attacks for the policies of certified_cartpole.toml, in one table and one picture.

Goes on where it was stopped: what stands in the files is not done again.

    rlsuite bench benchmarks/certified_cartpole.toml --jobs 4
    python benchmarks/certified.py --runs results/certified_cartpole/cells --out results/certified --jobs 4
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from rlsuite.certify import certificate, report
from rlsuite.certify.attacks import Plan
from rlsuite.certify.certificate import Question
from rlsuite.certify.policies import load
from rlsuite.data.files import read_json, write_atomic
from rlsuite.harness.smoothing import split_view

BUDGETS = [round(0.05 * i, 2) for i in range(21)]
ATTACKED = [0.2, 0.4, 0.6, 0.8, 1.0]
THRESHOLDS = {True: [0.0, 1.0, 2.0], False: [0.0, 4.0, 8.0]}  # with noise, and without: the paper's scripts, and 0
# Bounds that (2) gives for the survival counts that mrh996/ReCePS prints for networks trained by the authors
# scripts (10,000 episodes, same confidence and method), by sigma: budget -> bound. What it plots itself is no bound.
THIRD_PARTY = {
    0.2: {0.0: 197.43, 0.1: 193.38, 0.2: 185.28, 0.4: 149.31, 0.6: 85.98, 0.8: 28.14, 1.0: 4.36},
    0.4: {0.0: 143.55, 0.2: 119.19, 0.4: 94.51, 0.6: 71.39, 1.0: 33.61},
}
SEEDS = ("#3b7dc4", "#2f9e6e", "#b5569f")
INK, WARM, GREY = "#24292f", "#e0752d", "#7d8590"


def stored(path: Path) -> list[dict[str, Any]]:
    return list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []


def store(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, report.as_csv(tuple(rows[0]), rows))


def certify(run: Path, facts: dict[str, Any], out: Path, jobs: int) -> None:
    """Add the certificate of a run to the table, unless it is there."""
    path = out / "certificates.csv"
    rows = stored(path)
    if any(row["run_id"] == facts["run_id"] for row in rows):
        return
    low, high, whole = certificate.range_of(facts["env"], "return", None, False)
    question = Question(run, facts["env"], low=low, high=high, whole=whole)
    played = certificate.play_all(run, facts["env"], certificate.seeds_of(facts["env"], question.episodes), jobs)
    found = certificate.certify(question, played, BUDGETS, 0.1, [150.0])
    about = {"run_id": facts["run_id"], "seed": facts["seed"]}
    store(path, [*rows, *({**about, **row} for row in found)])
    print(f"{facts['env']} seed {facts['seed']}: clean {found[0]['clean']:.1f}", flush=True)


def attack(run: Path, facts: dict[str, Any], out: Path, jobs: int, episodes: int, samples: int) -> None:
    """Add the attacks on a run to the table, but for those that are there."""
    path, view = out / "attacks.csv", split_view(facts["env"])[1]
    assert view is not None
    subject, seeds = load(run), certificate.seeds_of(facts["env"], episodes, "attack")
    for budget in ATTACKED:
        for threshold in THRESHOLDS[view.noisy]:
            rows = stored(path)
            key = facts["run_id"], f"{budget}", f"{threshold}"
            if any((row["run_id"], row["budget"], row["lambda_q"]) == key for row in rows):
                continue
            plan = Plan("q", budget, threshold, samples)
            played = certificate.play_all(run, facts["env"], seeds, jobs, plan)
            found = report.attack_row(subject, facts["env"], "return", plan, played)
            store(path, [*rows, {"run_id": facts["run_id"], "seed": facts["seed"], **found}])
            print(f"{facts['env']} seed {facts['seed']}: {report.attack_line(found)}", flush=True)


def draw(axes: Axes, sigma: float, certificates: pd.DataFrame, attacks: pd.DataFrame) -> None:
    """Bounds and attacked means of the policies with this noise, and the attacked means of those without any."""
    for colour, (seed, rows) in zip(SEEDS, certificates[certificates["sigma"] == sigma].groupby("seed"), strict=False):
        bound = rows[rows["kind"] == "mean >="].sort_values("budget")
        axes.plot(bound["budget"], bound["bound"], color=colour, lw=2, label=f"certified, seed {seed}")
    third = THIRD_PARTY[sigma]
    axes.plot(list(third), list(third.values()), color=GREY, ls="--", lw=1.4, label="certified, authors' network")
    worst = attacks.groupby(["sigma", "seed", "budget"])["mean"].min().reset_index()
    for noise, marker, ink, name in ((sigma, "o", INK, "attacked"), (0.0, "X", WARM, "attacked, no noise at all")):
        rows = worst[worst["sigma"] == noise]
        axes.plot(rows["budget"], rows["mean"], ls="", marker=marker, color=ink, ms=6, alpha=0.8, label=name)
    axes.set_title(f"noise of {sigma:g}", loc="left")
    axes.set_xlabel("budget of the attack on a whole episode")
    axes.set_ylim(0, 205)
    axes.grid(alpha=0.15)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--episodes", type=int, default=200, help="of each attack")
    parser.add_argument("--samples", type=int, default=32, help="draws of the noise that the attacker averages over")
    args = parser.parse_args()
    for run in sorted(args.runs.iterdir()):
        if (run / "policy.npz").exists():
            facts = read_json(run / "manifest.json")
            if split_view(facts["env"])[1].noisy:  # type: ignore[union-attr]
                certify(run, facts, args.out, args.jobs)
            attack(run, facts, args.out, args.jobs, args.episodes, args.samples)
    certificates, attacks = (pd.read_csv(args.out / f"{name}.csv") for name in ("certificates", "attacks"))
    attacks["sigma"] = attacks["env"].str.extract(r"sigma=([\d.]+)")[0].fillna("0").astype(float)
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharey=True)
    for axes, sigma in zip(panels, THIRD_PARTY, strict=True):
        draw(axes, sigma, certificates, attacks)
    panels[0].set_ylabel("mean return, at most 200")
    panels[0].legend(frameon=False, fontsize=8, loc="lower left")
    figure.suptitle("CartPole, five frames: what is guaranteed, and what an attack achieves", fontsize=12)
    figure.savefig(args.out / "certified.png", dpi=130)
    table = certificates[certificates["kind"] == "mean >="].pivot_table("bound", ["sigma", "seed"], "budget")
    print(table[[b for b in table.columns if b in np.round([0, 0.1, *ATTACKED], 2)]].round(1).to_string())


if __name__ == "__main__":
    main()
