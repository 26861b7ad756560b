"""A certificate as a table, as files and as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlsuite.certify.attacks import Plan
from rlsuite.certify.certificate import COLUMNS
from rlsuite.certify.play import Played
from rlsuite.certify.policies import Subject
from rlsuite.data.files import write_atomic
from rlsuite.errors import UserError
from rlsuite.harness.manifest import code_version, cpu_class

Rows = Sequence[dict[str, Any]]
BLUE, GREY, ORANGE = "#3b7dc4", "#7d8590", "#e0752d"


def table(rows: Rows) -> str:
    """For a terminal, and for a page of Markdown."""
    first = rows[0]
    sure = f"{100 * (1 - first['alpha']):g} %"
    heads = list(dict.fromkeys(head(row) for row in rows if row["budget"] != ""))
    budgets = list(dict.fromkeys(row["budget"] for row in rows if row["budget"] != ""))
    at = {(row["budget"], head(row)): row["bound"] for row in rows}
    what = "success rate" if first["score"] == "success" else "return"
    lines = [
        f"{first['policy']} ({first['policy_sha256'][:12]}) in {first['env']}",
        "",
        f"Clean: mean {what} {number(first['clean'])} over {first['episodes']:,} episodes under its own noise.",
        f"Bounds: for every attacker within the budget, all lower ones at once with confidence {sure} "
        f"({first['method']}); the {what} is within {first['low']:g} and {first['high']:g}.",
        "",
        "| budget | " + " | ".join(heads) + " |",
        "|---:|" + "---:|" * len(heads),
    ]
    for budget in budgets:
        lines.append(f"| {budget:.4g} | " + " | ".join(number(at[budget, name]) for name in heads) + " |")
    most = [row for row in rows if row["budget"] == ""]
    lines += [""] * bool(most) + [f"{head(row)} up to a budget of {row['bound']:.4g}." for row in most]
    return "\n".join(lines)


def head(row: dict[str, Any]) -> str:
    """The column that a row's bound stands in."""
    if row["kind"].startswith("quantile"):
        return f"{100 * row['level']:g} %-quantile >="
    return str(row["kind"]).replace("level", f"{row['level']:g}") if row["level"] != "" else str(row["kind"])


def number(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.1f}"


def write(folder: Path, rows: Rows, played: Played, text: str, command: str) -> None:
    """Put everything into `folder`, each file whole or not at all."""
    write_atomic(folder / "certificate.csv", as_csv(COLUMNS, rows))
    episodes = [
        {"seed": int(seed), "return": float(total), "length": int(length), "terminated": bool(end)}
        for seed, total, length, end in zip(
            played.seeds, played.returns, played.lengths, played.terminated, strict=True
        )
    ]
    write_atomic(folder / "episodes.csv", as_csv(tuple(episodes[0]), episodes))
    write_atomic(folder / "certificate.md", f"{text}\n\n```\n{command}\n```\n")
    draw(folder / "certificate.png", rows)


def attack_row(subject: Subject, env_id: str, score: str, plan: Plan, played: Played) -> dict[str, Any]:
    """What became of the episodes under an attack."""
    scores = played.returns if score == "return" else played.terminated.astype(np.float64)
    return {
        "policy": subject.name,
        "policy_sha256": subject.digest,
        "env": env_id,
        "score": score,
        "attack": plan.kind,
        "budget": plan.budget,
        "lambda_q": plan.threshold,
        "samples": plan.samples,
        "episodes": len(scores),
        "seeds": "attack",
        "mean": float(scores.mean()),
        "standard_error": float(scores.std(ddof=1) / len(scores) ** 0.5) if len(scores) > 1 else "",
        "largest_spent": float(played.spent.max()),
        "mean_spent": float(played.spent.mean()),
        "code_version": code_version(),
        "cpu_class": cpu_class(),
    }


def attack_line(row: dict[str, Any]) -> str:
    threshold = f", lambda_Q {row['lambda_q']:g}" if row["attack"] == "q" else ""
    return (
        f"budget {row['budget']:g}{threshold}: mean {row['score']} {number(row['mean'])} over {row['episodes']:,} "
        f"episodes; spent {row['mean_spent']:.3f}, at most {row['largest_spent']:.3f}"
    )


def write_attacks(folder: Path, rows: Rows) -> None:
    """Put the rows into `folder`, behind those of earlier attacks."""
    path = folder / "attacks.csv"
    earlier = list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []
    if earlier and tuple(earlier[0]) != tuple(rows[0]):
        raise UserError(f"{path} holds something else than rows of attacks; name another folder with --out.")
    write_atomic(path, as_csv(tuple(rows[0]), [*earlier, *rows]))


def as_csv(columns: Sequence[str], rows: Rows) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def draw(path: Path, rows: Rows) -> None:
    """The certified mean against the budget, with CROP's bound and the clean mean."""
    from matplotlib.figure import Figure

    first = rows[0]
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()

    def curve(kind: str) -> tuple[np.ndarray, np.ndarray]:
        chosen = sorted((row["budget"], row["bound"]) for row in rows if row["kind"] == kind)
        return np.array([b for b, _ in chosen]), np.array([x for _, x in chosen])

    budgets, bound = curve("mean >=")
    axes.plot(*curve("mean >= (CROP-GRe, no confidence)"), color=GREY, lw=1.4, ls="--", label="CROP-GRe's bound")
    axes.plot(
        budgets,
        bound,
        color=BLUE,
        lw=2,
        marker="o",
        ms=4,
        label=f"certified, confidence {100 * (1 - first['alpha']):g} %",
    )
    axes.fill_between(budgets, first["low"], bound, color=BLUE, alpha=0.08, linewidth=0)
    axes.plot(0, first["clean"], color=ORANGE, marker="D", ms=6, ls="", label="clean mean", clip_on=False)
    axes.set_xlabel("budget of the attack on a whole episode (Euclidean norm, units of a frame)")
    axes.set_ylabel("mean success rate" if first["score"] == "success" else "mean return")
    axes.set_title(f"{first['policy']}, {first['env']}, {first['episodes']:,} episodes", loc="left", fontsize=10)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=first["low"])
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.15)
    axes.legend(frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, metadata={"Software": None})
    write_atomic(path, buffer.getvalue())
