"""What the three gradients of O-DICE do, on a map: the way to a goal, learnt from recorded walks.

A walk begins near (-0.8, -0.8) and ends within 0.15 of the goal (0.8, 0.8); an action in [-1, 1]^2 moves by a tenth of
it. The data are 60 walks through two corridors, by a walker that aims at the next corner with noise of 0.4. Nothing
blocks the way elsewhere: the question is how a policy learnt from the walks goes from places that none of them came
near (farther than 0.25 from every state). Value function and policy have two layers of 128; Adam at 1e-3, batch 256,
3,000 updates. Rewards are -3 a step and 0 at the goal, lambda 0.7 (the maps), 0.65, 0.6 and 0.5; also 0.7 with O-DICE's
usual weight decay, and 0.8 with rewards of -1 and 0, where no weight is positive.

Writes DIR/rows.csv, a row a run, and DIR/gradients.png; prints a table in Markdown, and whether each of the expected
relations holds. The exit status is 1 if one does not. The 240 runs of 16 seeds take half an hour of one core.

    python benchmarks/odice_toy.py --out results/odice_toy [--seeds 16] [--updates 3000] [--jobs 1]
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # read when the libraries are loaded, so before the imports below

import numpy as np
import pandas as pd
import torch

from rlsuite.algorithms.odice import ODICE, Config
from rlsuite.data.dataset import Batch, Dataset

START, GOAL = np.array([-0.8, -0.8]), np.array([0.8, 0.8])
CORRIDORS = [np.array(corners) for corners in ([(0.8, -0.8)], [(-0.8, 0.0), (0.0, 0.0), (0.0, 0.8)])]
SQUARE = 1.2  # positions are clipped to [-1.2, 1.2]^2
RADIUS = 0.15  # of the goal
JITTER = 0.05  # of where walks begin, uniform in both directions
NEAR = 0.15  # at this distance the recorded walker turns to its next corner
NOISE = 0.4  # standard deviation of its actions around the direction to it
LIMIT = 80  # steps
WALKS, STARTS = 60, 40
FAR = 0.25  # from every state of the data
AXIS = np.linspace(-SQUARE, SQUARE, 121)  # of the maps
LAST = 500  # updates at the end of training over which the weights and the gradients are averaged

Array = np.ndarray


@dataclass(frozen=True)
class Setting:
    name: str
    lambda_: float
    scale: float  # of the rewards, which are -1 a step and 0 for the one to the goal
    weight_decay: float = 0.0
    gradients: tuple[str, ...] = ("semi", "orthogonal", "true")


PAIR = ("semi", "orthogonal")
MAIN = Setting("lambda 0.7", 0.7, 3.0)
NEAR_MAIN = Setting("lambda 0.65", 0.65, 3.0, gradients=PAIR)
USUAL = Setting("lambda 0.6", Config.lambda_, 3.0, gradients=PAIR)
GENTLE = Setting("lambda 0.5", 0.5, 3.0)
DECAYED = Setting("lambda 0.7, weight decay", 0.7, 3.0, Config.weight_decay)
STARVED = Setting("lambda 0.8, small rewards", 0.8, 1.0, gradients=PAIR)
SETTINGS = (MAIN, NEAR_MAIN, USUAL, GENTLE, DECAYED, STARVED)


def move(positions: Array, actions: Array) -> tuple[Array, Array]:
    """(S, 2), (S, 2) in [-1, 1] -> the next positions (S, 2), and whether they are at the goal (S,)."""
    following = np.clip(positions + 0.1 * actions, -SQUARE, SQUARE)
    return following, np.linalg.norm(following - GOAL, axis=1) < RADIUS


def starts(rng: np.random.Generator, count: int) -> Array:
    return START + rng.uniform(-JITTER, JITTER, (count, 2))


def record(rng: np.random.Generator) -> Dataset:
    """The recorded walks, half of them through either corridor; rewards of -1, and 0 at the goal."""
    rows: list[tuple[Any, ...]] = []
    first = []
    for walk in range(WALKS):
        corners = [*CORRIDORS[walk % 2], GOAL]
        position = starts(rng, 1)
        first.append(len(rows))
        for step in range(LIMIT):
            if len(corners) > 1 and np.linalg.norm(corners[0] - position) < NEAR:
                corners.pop(0)
            way = corners[0] - position
            aim = way / max(float(np.linalg.norm(way)), 0.1)
            action = np.clip(aim + NOISE * rng.standard_normal((1, 2)), -1, 1)
            following, (reached,) = move(position, action)
            cut = step == LIMIT - 1 and not reached
            rows.append((position[0], action[0], float(reached) - 1, following[0], reached, cut))
            position = following
            if reached:
                break
    numbers = np.float32, np.float32, np.float32, np.float32, bool, bool
    arrays = (np.array(column, dtype) for column, dtype in zip(zip(*rows, strict=True), numbers, strict=True))
    observations, actions, rewards, next_observations, ends, cuts = map(torch.from_numpy, arrays)
    bound = np.ones(2, np.float32)
    return Dataset(
        observations,
        actions,
        rewards,
        next_observations,
        ends,
        cuts,
        torch.tensor(first),
        name="walks",
        action_low=-bound,
        action_high=bound,
    )


def off_data(dataset: Dataset, rng: np.random.Generator, count: int) -> Array:
    """(count, 2): uniform in the square, and farther than `FAR` from every state of the data."""
    states, found = dataset.observations.numpy(), np.empty((0, 2))
    while len(found) < count:
        points = rng.uniform(-SQUARE, SQUARE, (count, 2))
        distances = np.linalg.norm(points[:, None] - states, axis=2).min(1)
        found = np.concatenate([found, points[distances > FAR]])
    return found[:count]


def follow(act: Callable[[Array], Array], positions: Array) -> tuple[Array, Array]:
    """Paths (LIMIT + 1, S, 2) from (S, 2), at rest once at the goal; steps there (S,), NaN where it is not reached."""
    paths, steps = [positions], np.full(len(positions), np.nan)
    for step in range(1, LIMIT + 1):
        following, reached = move(paths[-1], act(paths[-1]))
        walking = np.isnan(steps)
        paths.append(np.where(walking[:, None], following, paths[-1]))
        steps[walking & reached] = step
    return np.array(paths), steps


def conflict(agent: ODICE, batch: Batch) -> tuple[float, float]:
    """cos(g_f, g_b), NaN where both are nil, and c.

    Near lambda = 1 the update is g_f and, where orthogonal, the projected g_b, and no more.
    """
    probe, found = copy.copy(agent), {}
    for gradient in PAIR:
        probe.config = replace(agent.config, gradient=gradient, lambda_=1 - 1e-9)
        parts, _, metrics = probe.value_gradient(batch)
        found[gradient] = torch.cat([part.flatten() for part in parts]).double()
    forward, c = found["semi"], float(metrics["projection"])
    along, across = c * float(forward.norm()), float((found["orthogonal"] - forward).norm())
    size = float(np.hypot(along, across))
    return along / size if size else np.nan, c


def learn(dataset: Dataset, setting: Setting, gradient: str, seed: int, updates: int) -> tuple[ODICE, dict[str, float]]:
    """The agent, and means over the last updates."""
    config = Config(
        "walks",
        gradient=gradient,  # type: ignore[arg-type]
        lambda_=setting.lambda_,
        value_learning_rate=1e-3,
        policy_learning_rate=1e-3,
        weight_decay=setting.weight_decay,
        hidden=(128, 128),
        policy_hidden=(128, 128),
        twin=False,
        layer_norm=False,
    )
    agent = ODICE(dataset, config, np.random.default_rng([seed, 1]))
    batches = dataset.batches(config.batch_size, np.random.default_rng([seed, 2]))
    seen = []
    for update in range(updates):
        batch = next(batches)
        share = agent.update(batch)["positive_weights"]
        if update >= updates - LAST and update % 10 == 0:
            seen.append((float(share), *conflict(agent, batch)))
    return agent, dict(zip(("positive_weights", "cosine", "projection"), np.mean(seen, 0).tolist(), strict=True))


def value(agent: ODICE, positions: Array) -> Array:
    """(S, 2) -> (S,)"""
    with torch.no_grad():
        values: Array = agent.value(torch.from_numpy(positions.astype(np.float32)))[0].numpy()
    return values


def measure(setting: Setting, gradient: str, seed: int, updates: int) -> tuple[dict[str, Any], dict[str, Array]]:
    """A row of the table, and what a map shows."""
    torch.set_num_threads(1)
    dataset = record(np.random.default_rng([seed, 0]))
    dataset = replace(dataset, rewards=setting.scale * dataset.rewards)
    agent, means = learn(dataset, setting, gradient, seed, updates)
    act = agent.actor.act
    far = off_data(dataset, np.random.default_rng([seed, 3]), 1000)
    paths, steps_off = follow(act, far[:STARTS])
    _, steps = follow(act, starts(np.random.default_rng([seed, 4]), STARTS))
    on, off = value(agent, dataset.observations.numpy()), value(agent, far)
    row = {
        "setting": setting.name,
        "gradient": gradient,
        "seed": seed,
        "success_off_data": np.isfinite(steps_off).mean(),
        "success": np.isfinite(steps).mean(),
        "steps": np.nan_to_num(steps, nan=LIMIT).mean(),
        **means,
        "value": on.mean(),
        "gap": (on.mean() - off.mean()) / on.std(),
    }
    grid = np.stack(np.meshgrid(AXIS, AXIS), -1).reshape(-1, 2)
    seen = {
        "states": dataset.observations.numpy(),
        "cloned": weights(agent, dataset) > 0,
        "field": value(agent, grid).reshape(len(AXIS), len(AXIS)),
        "paths": paths,
        "arrived": np.isfinite(steps_off),
        "path": follow(act, START[None])[0],
    }
    return row, seen


def weights(agent: ODICE, dataset: Dataset) -> Array:
    """(N,): with which the policy clones each action of the data, at the end of training."""
    d = dataset
    rows = torch.arange(len(d))
    batch = Batch(d.observations, d.actions, d.rewards, d.next_observations, d.terminations.float(), rows)
    _, residual, _ = agent.value_gradient(batch)
    found: Array = agent.weight(residual).numpy()
    return found


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the seeds, a row for each setting and gradient."""
    return table.drop(columns="seed").groupby(["setting", "gradient"], sort=False).mean()


def relations(means: pd.DataFrame) -> list[tuple[str, bool]]:
    """What is expected, in words, and whether it came."""

    def at(setting: Setting, gradient: str, column: str) -> float:
        return float(means.loc[(setting.name, gradient), column])

    success = [at(MAIN, gradient, "success_off_data") for gradient in reversed(PAIR)]
    steps = [at(MAIN, gradient, "steps") for gradient in ("orthogonal", "true")]
    gaps = [at(GENTLE, gradient, "gap") for gradient in reversed(PAIR)]
    cosine = at(MAIN, "orthogonal", "cosine")
    shares = [at(STARVED, gradient, "positive_weights") for gradient in PAIR]
    return [
        (
            f"success off the data, orthogonal - semi >= 0.4: {success[0]:.2f} - {success[1]:.2f}",
            success[0] - success[1] >= 0.4,
        ),
        (f"steps from the start, orthogonal <= 0.75 true: {steps[0]:.1f}, {steps[1]:.1f}", steps[0] <= 0.75 * steps[1]),
        (
            f"gap of the values at lambda 0.5, orthogonal > semi: {gaps[0]:.2f}, {gaps[1]:.2f}",
            gaps[0] > gaps[1],
        ),
        (f"the two gradients oppose each other, cosine < 0: {cosine:.2f}", cosine < 0),
        (
            f"small rewards and lambda 0.8 leave no positive weight: semi {shares[0]:.4f}, orthogonal {shares[1]:.4f}",
            max(shares) < 1e-3,
        ),
    ]


def markdown(table: pd.DataFrame) -> str:
    """Mean and range over the seeds, a line for each setting and gradient."""
    columns = [c for c in table.columns if c not in ("setting", "gradient", "seed")]
    lines = ["| setting | gradient | " + " | ".join(columns) + " |", "|" + "---|" * (2 + len(columns))]
    for (setting, gradient), part in table.groupby(["setting", "gradient"], sort=False):
        cells = [f"{part[c].mean():.3g} ({part[c].min():.3g} to {part[c].max():.3g})" for c in columns]
        lines.append("| " + " | ".join([setting, gradient, *cells]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--updates", type=int, default=3000)
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    cells = [(s, g, seed, args.updates) for s in SETTINGS for g, seed in product(s.gradients, range(args.seeds))]
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        found = list(pool.map(measure, *zip(*cells, strict=True)))
    table = pd.DataFrame([row for row, _ in found])
    table.to_csv(args.out / "rows.csv", index=False, float_format="%.6g")
    print(markdown(table))
    maps = {row["gradient"]: seen for row, seen in found if row["setting"] == MAIN.name and row["seed"] == 0}
    draw(table, maps, args.out / "gradients.png")
    checked = relations(summarise(table))
    for words, holds in checked:
        print("holds        " if holds else "DOES NOT HOLD", words)
    raise SystemExit(not all(holds for _, holds in checked))


def verdict(means: pd.DataFrame, gradient: str) -> str:
    """Of the policy: how long its way from the start is beside that of `true`, and whether it is lost off the data."""
    own, other = means.loc[(MAIN.name, gradient)], means.loc[(MAIN.name, "true")]
    way = "short way" if own["steps"] <= 0.75 * other["steps"] else "long way"
    success = own["success_off_data"]
    return f"{way}, {'mostly' if success < 0.5 else 'sometimes' if success < 0.75 else 'rarely'} lost off the data"


def draw(table: pd.DataFrame, maps: dict[str, dict[str, Array]], path: Path) -> None:
    """A map for each gradient above, all seeds below."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.lines import Line2D
    from matplotlib.patches import Circle
    from matplotlib.ticker import MaxNLocator

    from rlsuite.bench.plots import COLOURS, INK

    arrived, lost = COLOURS[:2]
    shades = LinearSegmentedColormap.from_list("shades", ["#9aa1ab", "#ffffff"])
    means = summarise(table)
    plt.rcParams.update({"font.size": 10, "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK})
    figure = plt.figure(figsize=(11, 8.2), dpi=125, layout="constrained")
    figure.suptitle(
        f"What a policy learnt from {WALKS} recorded walks does where nobody walked: the three gradients of O-DICE",
        x=0.005,
        ha="left",
        fontsize=13.5,
        fontweight="bold",
    )
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.9, 1))
    for axes, gradient in zip(upper.subplots(1, 3), MAIN.gradients, strict=True):
        seen = maps[gradient]
        field = axes.contourf(AXIS, AXIS, seen["field"], 24, cmap=shades)
        axes.contour(field, levels=field.levels[::2], colors="white", linewidths=0.6, linestyles="solid")
        bar = upper.colorbar(field, ax=axes, orientation="horizontal", fraction=0.04, pad=0.02, aspect=40)
        bar.locator = MaxNLocator(6)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=8.5, length=0)
        axes.scatter(*seen["states"].T, s=2, color="#6a717b", linewidths=0)
        axes.scatter(*seen["states"][seen["cloned"]].T, s=5, color=INK, linewidths=0)
        for way, home in zip(seen["paths"].swapaxes(0, 1), seen["arrived"], strict=True):
            colour = arrived if home else lost
            axes.plot(*way.T, color=colour, lw=0.9)
            axes.plot(*way[0], ls="", marker="o", ms=3.2, mew=0, color=colour)
            if not home:
                axes.plot(*way[-1], ls="", marker="x", ms=6, mew=1.5, color=colour, clip_on=False, zorder=4)
        axes.plot(*seen["path"][:, 0].T, color="white", lw=5)
        axes.plot(*seen["path"][:, 0].T, color=INK, lw=2.6)
        axes.add_patch(Circle(tuple(GOAL), RADIUS, fill=False, ec=INK, lw=1.6, zorder=5))
        axes.plot(*START, ls="", marker="s", ms=8, mfc="white", mec=INK, mew=1.6, zorder=5)
        axes.set(xticks=[], yticks=[], xlim=(-SQUARE, SQUARE), ylim=(-SQUARE, SQUARE), aspect="equal")
        name = "semi-gradient" if gradient == "semi" else f"{gradient} gradient"
        axes.set_title(f"{name}\n", loc="left", fontweight="bold", fontsize=12)
        axes.text(0, 1.025, verdict(means, gradient), transform=axes.transAxes, fontsize=10.5)

    def key(label: str, **style: Any) -> Line2D:
        return Line2D([], [], **({"color": INK, "ls": ""} | style), label=label)

    upper.legend(
        handles=[
            key("usual start", marker="s", ms=7, mfc="white", mew=1.6),
            key("goal", marker="o", ms=9, mfc="none", mew=1.6),
            key("the policy's way from it", ls="-", lw=2.6),
            key("from off the data, arrives", color=arrived, ls="-", lw=1.2, marker="o", ms=3.5),
            key("from off the data, is lost", color=lost, ls="-", lw=1.2, marker="x", ms=6, mew=1.5),
            key("recorded state", marker="o", ms=3, mew=0, color="#6a717b"),
            key("recorded, and its action cloned", marker="o", ms=4, mew=0),
        ],
        loc="outside lower left",
        ncols=4,
        frameon=False,
        fontsize=9.5,
    )
    bars = (
        (MAIN, "success_off_data", "Starts off the data\nthat reach the goal", 100, "{:.0f}", "%"),
        (MAIN, "steps", "Steps to the goal\nfrom the usual start", 1, "{:.1f}", ""),
        (MAIN, "positive_weights", "Recorded actions\nthat the policy clones", 100, "{:.2g}", "%"),
        (GENTLE, "gap", "Value on the data above\nthat off it (λ = 0.5)", 1, "{:.2f}", " sd"),
    )
    for axes, (setting, column, title, scale, digits, unit) in zip(lower.subplots(1, 4), bars, strict=True):
        part = table[table["setting"] == setting.name]
        labels = []
        for place, gradient in enumerate(MAIN.gradients):
            values = scale * part.loc[part["gradient"] == gradient, column]
            axes.bar(place, values.mean(), width=0.75, color="#c6cbd2")
            spread = np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else np.zeros(1)
            axes.plot(place + spread, values, ls="", marker="o", ms=3.5, mew=0, color=INK)
            labels.append(f"{gradient}\n{digits.format(values.mean())}{unit}")
        axes.axhline(0, color=INK, lw=0.8)
        axes.set_xticks(range(3), labels)
        axes.tick_params(axis="x", length=0)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        if unit == "%":
            axes.set(ylim=(0, 104), yticks=range(0, 101, 25))
        axes.yaxis.set_major_formatter("{x:g}" + unit)
        axes.set_title(title, loc="left", fontsize=10.5)
    seeds = table["seed"].nunique()
    usual = [100 * means.loc[(USUAL.name, gradient), "success_off_data"] for gradient in PAIR]
    lower.supxlabel(
        "Maps: one run (seed 0); the shade is the learnt value, light is high. Off the data: farther than "
        f"{FAR} from every recorded state. Cloned: with a positive weight.\n"
        f"Bars: mean of {seeds} runs, a point each; an attempt that fails counts as {LIMIT} steps. "
        f"λ = {MAIN.lambda_} but for the last panel (with {USUAL.lambda_}, "
        f"semi reaches {usual[0]:.0f}%, orthogonal {usual[1]:.0f}%).",
        x=0.005,
        ha="left",
        fontsize=9.5,
    )
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    main()
