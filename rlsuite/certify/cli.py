"""The commands `rlsuite certify` and `rlsuite attack`."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

from rlsuite.errors import UserError

SUCCESS = "success: ended by the task itself, not by the time limit"
CERTIFY = """\
A certificate is for the policy together with its noise, for every attacker who adds to its observations at most the
budget (Euclidean norm over the whole episode, in the units of a frame), however adaptive. All lower bounds of the table
hold at once with the stated confidence. Whoever certifies several policies to pick the best must split alpha.

A zip of Stable-Baselines3 does not say whether VecNormalize stood before the policy; one that was trained behind it is
another policy here.
"""


def add_parsers(subparsers: Any) -> None:
    """Add both to the parser of the command line."""
    parser = subparsers.add_parser(
        "certify",
        help="bound the return of a policy under any attack on its observations",
        description="Play many episodes of a policy under Gaussian noise and certify its return under attack.",
        epilog=CERTIFY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _subject(parser)
    parser.add_argument("--alpha", type=float, default=0.05, metavar="X", help="1 - confidence (default 0.05)")
    parser.add_argument("--budgets", default="0:1:0.1", metavar="B,B|B:B:STEP", help="default 0:1:0.1")
    parser.add_argument("--episodes", type=int, default=10_000, metavar="N", help="default 10000")
    parser.add_argument(
        "--score",
        choices=("return", "success"),
        default="return",
        help=SUCCESS,
    )
    parser.add_argument(
        "--range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="of the returns, where it is not known"
    )
    parser.add_argument("--whole", action="store_true", help="returns are whole numbers")
    parser.add_argument(
        "--method",
        choices=("auto", "cp", "dkw"),
        default="auto",
        help="cp: Clopper-Pearson for each level; dkw: one band for all; auto: cp up to 500 levels",
    )
    parser.add_argument(
        "--quantile", type=float, default=0.1, metavar="Q", help="bound this quantile, too (default 0.1)"
    )
    parser.add_argument(
        "--at",
        type=float,
        nargs="+",
        default=[],
        metavar="X",
        help="bound the probability of a score of X or more, too",
    )
    parser.add_argument(
        "--theta",
        type=float,
        default=0.5,
        metavar="P",
        help="and the budget up to which that probability stays above P (default 0.5)",
    )
    parser.add_argument(
        "--crop",
        type=int,
        default=0,
        metavar="N",
        help="add CROP-LoAct from N episodes: the share of states whose action is certified, of the policy that "
        "averages over the noise (default 0: no such column)",
    )
    parser.add_argument("--crop-samples", type=int, default=1000, metavar="N", help="draws it averages (default 1000)")
    parser.add_argument(
        "--per-step", choices=("l2", "linf"), help="budgets are for each step: Euclidean, or for each number of a frame"
    )
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="run the convolutions in bfloat16, faster where the processor has it: another policy, which is certified "
        "if you let it act so",
    )
    parser.set_defaults(handler=certify)

    parser = subparsers.add_parser(
        "attack",
        help="attack the observations of a policy within a budget",
        description="Play episodes of a policy whose observations are attacked, within a Euclidean budget an episode.",
    )
    _subject(parser)
    parser.add_argument(
        "--attack",
        choices=("q", "pgd", "random", "actor"),
        default="q",
        help="q: the paper's, on action values or logits (default); pgd, random: alike at every step; actor: on "
        "continuous actions",
    )
    parser.add_argument("--budgets", default="0.2:1:0.2", metavar="B,B|B:B:STEP", help="default 0.2:1:0.2")
    parser.add_argument(
        "--lambda-q",
        default="0,1,2",
        metavar="X,X",
        help="thresholds of the q attack, each tried; the worst counts (default 0,1,2)",
    )
    parser.add_argument("--samples", type=int, default=128, metavar="N", help="draws of the noise (default 128)")
    parser.add_argument("--episodes", type=int, default=1000, metavar="N", help="default 1000")
    parser.add_argument("--score", choices=("return", "success"), default="return", help=SUCCESS)
    parser.set_defaults(handler=attack)


def _subject(parser: argparse.ArgumentParser) -> None:
    """The flags that both commands share."""
    parser.add_argument(
        "policy", type=Path, metavar="RUN|POLICY", help="run directory, policy.npz, or Stable-Baselines3 zip"
    )
    parser.add_argument("--env", default="", metavar="NAME", help="environment (default: the one it was trained in)")
    parser.add_argument("--sigma", metavar="X|X:X:...", help="standard deviation of the noise (default: as trained)")
    parser.add_argument(
        "--frames", type=int, metavar="N", help="frames that an observation stacks (default: as trained)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default 1)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default certificates/NAME")
    parser.add_argument(
        "--trust-pickle", action="store_true", help="let Stable-Baselines3 unpickle what cannot be inferred"
    )


def certify(arguments: argparse.Namespace) -> int:
    """Play, certify, print the table, and leave table, rows, episodes and picture in a folder."""
    from rlsuite.certify import certificate, crop, report
    from rlsuite.certify.policies import load
    from rlsuite.cli import limit_threads

    limit_threads(1)
    budgets = certificate.budgets_of(arguments.budgets)
    if not 0 < arguments.alpha <= 0.5:
        raise UserError(f"--alpha lies between 0 and 0.5, not at {arguments.alpha:g}.")
    if not 0 < arguments.quantile < 1:
        raise UserError(f"--quantile lies between 0 and 1, not at {arguments.quantile:g}.")
    if not 0 < arguments.theta < 1:
        raise UserError(f"--theta lies between 0 and 1, not at {arguments.theta:g}.")
    env = _env(arguments)
    low, high, whole = certificate.range_of(env, arguments.score, arguments.range, arguments.whole)
    question = certificate.Question(
        arguments.policy,
        env,
        _at_least_one("--episodes", arguments.episodes),
        arguments.alpha,
        arguments.score,
        low,
        high,
        whole,
        arguments.method,
        arguments.trust_pickle,
        arguments.bfloat16,
    )
    question.levels  # noqa: B018 (says now what it would say after the episodes)
    if not all(question.view.sigma):
        raise UserError(f"{env} has numbers without noise, and so nothing can be certified; add --sigma.")
    subject, local = load(arguments.policy, arguments.trust_pickle, arguments.bfloat16), None
    certificate.check_fit(subject, env)
    folder = _folder(arguments, env)
    if arguments.crop:
        seeds = certificate.seeds_of(env, _at_least_one("--crop", arguments.crop) + 1, "crop")
        local = crop.of(subject, env, seeds, _at_least_one("--crop-samples", arguments.crop_samples))
    if arguments.per_step:
        budgets = certificate.whole_budgets(budgets, env, arguments.per_step)
    seeds = certificate.seeds_of(env, question.episodes)
    jobs = _at_least_one("--jobs", arguments.jobs)
    played = certificate.play_all(
        arguments.policy, env, seeds, jobs, trust=arguments.trust_pickle, bfloat16=arguments.bfloat16
    )
    rows = certificate.certify(question, played, budgets, arguments.quantile, arguments.at, arguments.theta, local)
    text = report.table(rows)
    if local is not None:
        text += (
            f"\nCROP-LoAct is of another policy, which averages {local.samples:,} draws of the noise at every step "
            f"(mean return {local.returns.mean():.1f} over {len(local.returns)} episodes)."
        )
    print(text)
    report.write(folder, rows, played, text, " ".join(["rlsuite", *sys.argv[1:]]))
    print(f"\nin {folder}: certificate.md, certificate.csv, episodes.csv, certificate.png")
    return 0


def _env(arguments: argparse.Namespace) -> str:
    """The environment with the view that the flags ask for, or that the policy was trained with."""
    from dataclasses import replace

    from rlsuite.certify.policies import load
    from rlsuite.harness.environments import is_atari
    from rlsuite.harness.smoothing import View, split_view

    trained, given = load(arguments.policy, arguments.trust_pickle).env, arguments.env
    if not (given or trained):
        raise UserError(f"{arguments.policy} does not say which environment it was trained in; add --env.")
    name, view = split_view(given or trained)
    if view is None:
        view = split_view(trained)[1] or View(4 if is_atari(name) else 1)
    changes: dict[str, Any] = {}
    if arguments.sigma is not None:
        changes["sigma"] = split_view(f"{name}#sigma={arguments.sigma}")[1].sigma  # type: ignore[union-attr]
    if arguments.frames is not None:
        changes["frames"] = _at_least_one("--frames", arguments.frames)
    return replace(view, **changes).of(name)


def _at_least_one(flag: str, number: int) -> int:
    if number < 1:
        raise UserError(f"{flag} is at least 1, not {number}.")
    return number


def _folder(arguments: argparse.Namespace, env: str) -> Path:
    """Where results go; UserError, before any episode, where nothing can be written."""
    name = arguments.policy.name if arguments.policy.is_dir() else arguments.policy.stem
    folder: Path = arguments.out or Path("certificates") / re.sub(r"[/:#,=]+", "-", f"{name}-{env}")
    above = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"nothing can be written to {folder}; name another folder with --out.")
    return folder


def attack(arguments: argparse.Namespace) -> int:
    """Play under every attack, print the table, and leave its rows in a folder."""
    from rlsuite.certify import certificate, report
    from rlsuite.certify.attacks import Plan
    from rlsuite.certify.policies import load
    from rlsuite.cli import limit_threads
    from rlsuite.harness.environments import is_atari
    from rlsuite.harness.smoothing import split_view

    limit_threads(1)
    budgets, env = certificate.budgets_of(arguments.budgets), _env(arguments)
    view = split_view(env)[1]
    if len(view.sigma) > 1:  # type: ignore[union-attr]
        raise UserError(
            "attacks have one budget in the units of a frame, which noise of one sigma belongs to; give one."
        )
    thresholds = certificate.budgets_of(arguments.lambda_q, "--lambda-q") if arguments.attack == "q" else [0.0]
    seeds = certificate.seeds_of(env, _at_least_one("--episodes", arguments.episodes), "attack")
    jobs, samples = _at_least_one("--jobs", arguments.jobs), _at_least_one("--samples", arguments.samples)
    steps = certificate.steps_of(env) if arguments.attack in ("pgd", "random") else 0
    subject, rows = load(arguments.policy, arguments.trust_pickle), []
    certificate.check_fit(subject, env)
    folder = _folder(arguments, env)
    for budget in budgets:
        for threshold in thresholds:
            plan = Plan(arguments.attack, budget, threshold, samples, steps, is_atari(env.partition("#")[0]))
            played = certificate.play_all(arguments.policy, env, seeds, jobs, plan, arguments.trust_pickle)
            rows.append(report.attack_row(subject, env, arguments.score, plan, played))
            print(report.attack_line(rows[-1]), flush=True)
    report.write_attacks(folder, rows)
    print(f"\nin {folder}: attacks.csv")
    return 0
