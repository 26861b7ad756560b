"""From episodes to rows: what is certified, for whom, and in which units; checks of the specification in brackets."""

from __future__ import annotations

import csv
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlsuite.algorithms.policy_smoothing import band, shift
from rlsuite.certify import certificate, crop, report
from rlsuite.certify.certificate import (
    COLUMNS,
    Question,
    budgets_of,
    certify,
    numbers_of,
    play_all,
    play_policy,
    range_of,
    seeds_of,
    steps_of,
    whole_budgets,
)
from rlsuite.certify.play import Played
from rlsuite.certify.policies import load
from rlsuite.errors import UserError
from rlsuite.harness.seeding import EVALUATION, evaluation_seeds
from tests.certify.subjects import LOOSE, SINGLE, STEADY, steady

pytestmark = pytest.mark.filterwarnings("ignore:.*is out of date.*:DeprecationWarning")

# (10) Mean, and the certificate at these budgets, of 10,000 episodes: as the specification has them from an
# implementation of its own, and how far blocks of 10,000 episodes are apart (four standard deviations, of six blocks).
BUDGETS = (0, 0.1, 0.2, 0.4, 0.6, 0.8, 1)
LINEAR = {
    "steady": (
        STEADY,
        (198.7, 198.1, 193.8, 183.6, 134.5, 62.2, 15.3, 1.8),
        (0.4, 0.5, 1.3, 3.0, 8.1, 9.1, 4.1, 0.8),
    ),
    "loose": (
        LOOSE,
        (141.7, 139.2, 126.6, 113.6, 87.9, 64.1, 43.6, 27.2),
        (2.4, 2.4, 2.4, 2.4, 2.2, 2.0, 1.9, 1.6),
    ),
    "single": (
        SINGLE,
        (195.0, 194.1, 185.0, 168.4, 112.6, 50.9, 13.6, 1.8),
        (0.8, 0.8, 1.7, 2.8, 4.3, 3.2, 1.2, 0.2),
    ),
}


@pytest.mark.parametrize("name", LINEAR)
def test_certificates_of_linear_policies_are_those_of_the_specification(name, tmp_path):
    """(10) Training-free: 10,000 episodes of CartPole each, through policy file, play and rows."""
    made, expected, apart = LINEAR[name]
    path = steady(tmp_path / "run", made)
    question = Question(path, made[0], low=0, high=200, whole=True)
    played = play_policy(path, made[0], seeds_of(made[0], 10_000), None, False)
    rows = certify(question, played, BUDGETS, 0.1, [])
    found = [rows[0]["clean"], *(row["bound"] for row in rows if row["kind"] == "mean >=")]
    assert (np.abs(np.array(found) - expected) <= apart).all(), found


def episodes(returns, terminated=None) -> Played:
    n = len(returns)
    ends = np.zeros(n, bool) if terminated is None else np.asarray(terminated)
    return Played(np.arange(n), np.asarray(returns, float), np.ones(n), ends, np.zeros(n))


@pytest.fixture
def run(tmp_path):
    return steady(tmp_path / "run")


def bounds(rows, kind):
    return [row["bound"] for row in rows if row["kind"] == kind]


@pytest.mark.parametrize(("whole", "high", "method"), [(True, 200, "clopper-pearson / 200"), (False, 200, "dkw")])
def test_a_row_for_every_bound_and_budget(run, whole, high, method):
    x = np.random.default_rng(0).integers(1, 201, 400)
    question = Question(run, STEADY[0], alpha=0.02, low=0, high=high, whole=whole)
    rows = certify(question, episodes(x), BUDGETS, 0.25, [50, 120], theta=0.2)
    assert all(tuple(row) and set(row) == set(COLUMNS) for row in rows)
    assert len(rows) == 6 * len(BUDGETS) + 2
    expected = band(x, 0.02, 0, high, np.arange(1, 201) if whole else None)
    assert bounds(rows, "mean >=") == expected.mean(BUDGETS, 0.2).tolist()
    assert bounds(rows, "mean <=") == expected.mean_upper(BUDGETS, 0.2).tolist()
    assert bounds(rows, "quantile >=") == expected.quantile(0.25, BUDGETS, 0.2).tolist()
    at = np.concatenate([expected.probability(level, BUDGETS, 0.2) for level in (50, 120)])
    assert bounds(rows, "P(score >= level) >=") == at.tolist()
    assert (
        bounds(rows, "mean >= (CROP-GRe, no confidence)") == crop.global_mean(x.mean(), BUDGETS, 0.2, 0, 200).tolist()
    )
    most = {
        row["level"]: row["bound"] for row in rows if row["kind"] == "P(score >= level) > 0.2" and row["budget"] == ""
    }
    for level in (50, 120):
        assert expected.probability(level, most[level], 0.2) == pytest.approx(0.2)
    assert {row["level"] for row in rows} == {"", 0.25, 50, 120}
    first = rows[0]
    assert (first["method"], first["alpha"], first["episodes"], first["clean"]) == (method, 0.02, 400, x.mean())
    assert (first["sigma"], first["frames"], first["policy"]) == ("0.2", 5, "policy_smoothing")
    assert first["policy_sha256"] == load(run).digest and len(first["policy_sha256"]) == 64


def test_success_is_a_score_of_one_level(run):
    ends = np.array([True] * 70 + [False] * 30)
    low, high, whole = range_of("MountainCarContinuous-v0#sigma=0.2", "success", None, False)
    question = Question(run, STEADY[0], score="success", low=low, high=high, whole=whole)
    rows = certify(question, episodes(np.full(100, -3.3), ends), [0.0, 0.2], 0.5, [])
    sure = band(ends, 0.05, 0, 1, [1]).lower[0]
    assert rows[0]["clean"] == 0.7 and rows[0]["method"] == "clopper-pearson / 1"
    assert bounds(rows, "mean >=") == [sure, float(shift(sure, 0.2, 0.2))]


def test_budgets_of_noise_that_differs_are_in_standard_deviations(run):
    question = Question(run, "CartPole-v0#frames=5,sigma=0.1:0.2:0.3:0.4", low=0, high=200, whole=True)
    x = np.random.default_rng(0).integers(150, 201, 300)
    rows = certify(question, episodes(x), [1.0], 0.1, [])
    assert bounds(rows, "mean >=") == [band(x, 0.05, 0, 200, np.arange(1, 201)).mean(1.0, 1.0)]
    assert rows[0]["sigma"] == "0.1:0.2:0.3:0.4"


def test_which_band_is_decided_before_the_episodes_are_known():
    question = Question(None, STEADY[0], low=0, high=500, whole=True)
    assert len(question.levels) == 500
    assert replace(question, high=501).levels is None
    assert len(replace(question, high=501, method="cp").levels) == 501
    assert replace(question, method="dkw").levels is None
    assert replace(question, whole=False).levels is None
    with pytest.raises(UserError, match="--whole"):
        replace(question, whole=False, method="cp").levels  # noqa: B018
    with pytest.raises(UserError, match="--method dkw"):
        replace(question, high=2e6, method="cp").levels  # noqa: B018


@pytest.mark.parametrize(
    ("env", "score", "given", "whole", "expected"),
    [
        ("CartPole-v0#sigma=0.2", "return", None, False, (0, 200, True)),
        ("CartPole-v1#sigma=0.2", "return", None, False, (0, 500, True)),
        ("CartPole-v1#sigma=0.2,steps=50", "return", None, False, (0, 50, True)),
        ("Acrobot-v1#sigma=0.2", "return", [-500, 0], True, (-500, 0, True)),
        ("Acrobot-v1#sigma=0.2", "return", [-500, 0], False, (-500, 0, False)),
        ("Acrobot-v1#sigma=0.2", "success", None, False, (0, 1, True)),
        ("ale-smoothing/Pong#sigma=0.05", "return", None, False, (-21, 21, True)),
        ("ale-smoothing/Pong#sigma=0.05,ends=reward", "return", None, False, (-1, 1, True)),
        ("ale-smoothing/Pong#sigma=0.05,steps=10", "return", None, False, (-10, 10, True)),
        ("ale-smoothing/Freeway#sigma=0.05,steps=250", "return", None, False, (0, 99, True)),
    ],
)
def test_the_range_of_returns(env, score, given, whole, expected):
    assert range_of(env, score, given, whole) == expected


@pytest.mark.parametrize(
    ("env", "given", "words"),
    [
        ("Acrobot-v1#sigma=0.2", None, "--range"),
        ("Acrobot-v1#sigma=0.2", [0, -500], "--range 0 -500"),
        ("Acrobot-v1#sigma=0.2", [-500, float("inf")], "--range"),
        ("Acrobot-v1#sigma=0.2", [float("nan"), 0], "--range"),
    ],
)
def test_a_range_that_is_none_is_refused(env, given, words):
    with pytest.raises(UserError, match=words):
        range_of(env, "return", given, False)


@pytest.mark.parametrize(
    ("text", "budgets"),
    [
        ("0,0.2,0.4", [0, 0.2, 0.4]),
        ("0.3", [0.3]),
        ("0:1:0.25", [0, 0.25, 0.5, 0.75, 1]),
        ("0:1:0.1", [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]),
        ("0.2:0.9:0.3", [0.2, 0.5, 0.8]),
    ],
)
def test_budgets_are_listed_or_counted(text, budgets):
    assert budgets_of(text) == pytest.approx(budgets, abs=1e-12)


@pytest.mark.parametrize(
    "text",
    ["", "a", "0,-1", "0,,1", "1:0:0.1", "0:1", "0:1:0", "0:1:-1", "nan", "0,inf", "0:inf:1", "0:1:nan", "0:1:1e-6"],
)
def test_budgets_that_are_none_are_refused(text):
    with pytest.raises(UserError, match="--budgets"):
        budgets_of(text)


def test_budgets_of_steps_become_those_of_episodes():
    assert steps_of("CartPole-v0#frames=5,sigma=0.2") == 200
    assert steps_of("CartPole-v0#sigma=0.2,steps=30") == 30
    assert steps_of("ale-machado/Freeway#steps=250") == 250
    assert whole_budgets([0.1, 0.2], "CartPole-v0#frames=5,sigma=0.2", "l2") == pytest.approx(
        [0.1 * 200**0.5, 0.2 * 200**0.5]
    )
    assert numbers_of("CartPole-v0#frames=5") == 4  # of a frame, whatever is stacked
    assert whole_budgets([0.1], "CartPole-v0#frames=5,sigma=0.2", "linf") == pytest.approx([0.1 * 800**0.5])


def test_an_environment_of_another_module_says_how_long_its_episodes_are():
    gym.register("some_package/Long-v0", entry_point="tests.certify:nothing", max_episode_steps=77)
    try:
        assert steps_of("tests.certify:some_package/Long-v0#sigma=0.1") == 77
    finally:
        del gym.registry["some_package/Long-v0"]


def test_episodes_that_nobody_says_how_long_they_are_need_steps():
    with pytest.raises(UserError, match="steps="):
        steps_of("ale-machado/Pong#sigma=0.1")


def test_a_policy_that_changes_while_it_is_played_is_noticed(run, monkeypatch):
    def play_and_change(path, *rest):
        played = play_policy(path, *rest)
        steady(path.parent / "other", LOOSE)
        (path.parent / "other" / "policy.npz").replace(path / "policy.npz")
        return played

    seeds = seeds_of(STEADY[0], 3)
    assert len(play_all(run, STEADY[0], seeds).returns) == 3
    monkeypatch.setattr(certificate, "play_policy", play_and_change)
    with pytest.raises(UserError, match=r"policy\.npz changed while it was played"):
        play_all(run, STEADY[0], seeds)


def test_certified_episodes_are_no_training_or_evaluation_episodes():
    name = STEADY[0]
    seeds = seeds_of(name, 2000)
    assert min(seeds) >= EVALUATION and len({*seeds}) > 1990
    assert seeds[:100] == seeds_of(name, 100)
    for others in (
        evaluation_seeds(name, "final", 2000),
        evaluation_seeds(name, "interim", 2000),
        seeds_of(name, 2000, "attack"),
    ):
        assert not {*seeds} & {*others}


# CROP


def test_crops_mean_bound_is_the_weaker_one():
    """Phi(Phi^-1(p) - c) >= p - c / sqrt(2 pi), for every p; so also with the true distribution."""
    p = np.sort(np.random.default_rng(0).random(200))[::-1]
    grid = np.linspace(0, 1, 30)
    ours = np.array([shift(p, b, 0.2).sum() for b in grid])
    theirs = crop.global_mean(p.sum(), grid, 0.2, 0, 200)
    assert (ours >= theirs).all() and (ours[1:-5] > theirs[1:-5]).all()
    assert theirs[0] == p.sum() and theirs[-1] == 0
    assert crop.global_mean(10.0, 0.1, 0.2, -5, 20) == pytest.approx(10 - 25 * np.sqrt(2 / np.pi) / 2)


def test_crops_radius_by_hand():
    """sigma / 2 (Phi^-1(u) - Phi^-1(l)): the two best values, less and plus the margin, scaled to [0, 1]."""
    from scipy.stats import norm

    values = np.array([[3.0, -1.0, 9.0], [4.0, 4.2, 0.0], [-3.0, 12.0, 1.0]])
    low, high, samples, sigma = -2.0, 10.0, 1000, 0.3
    margin = 12 * np.sqrt(np.log(20) / 2000)
    best, second = (9 - margin + 2) / 12, (3 + margin + 2) / 12
    expected = sigma / 2 * (norm.ppf(best) - norm.ppf(second))
    found = crop.local_radius(values, samples, sigma, low, high)
    assert found[0] == pytest.approx(expected)
    assert found[1] == 0.0  # too close for so few samples
    best, second = (10 - margin + 2) / 12, (1 + margin + 2) / 12  # 12 is clipped to the highest
    assert found[2] == pytest.approx(sigma / 2 * (norm.ppf(best) - norm.ppf(second)))


def test_crops_policy_averages_over_the_noise_and_the_radius_is_of_what_it_averaged():
    """With one number and values -x and x the average is known, and so is where the episode goes: up, to its end."""
    env = "CartPole-v0#frames=1,sigma=0.2,steps=30"
    seen = []

    def values(x):
        seen.append(x.numpy())
        clean = 0.5 + 0 * x[:, :1]
        return torch.cat([clean - 0.3 * (x[:, 2:3] > 0), clean], 1)

    local = crop.local(values, env, seeds_of(env, 3, "crop"), samples=4000)
    assert local.returns.tolist() == [len(part) for part in np.split(local.radii, [int(local.returns[0])])]
    first = seen[0]
    assert first.shape == (4000, 4)
    assert first.std(0) == pytest.approx(0.2, rel=0.06)  # every number of the observation has noise
    assert len({len(x) for x in seen}) == 1 and len(seen) > local.returns.sum()  # and one episode beforehand
    assert (local.radii >= 0).all() and 0 < local.certified(0.0) <= 1
    assert local.certified([0.0, 10.0]).tolist() == [float(local.certified(0.0)), 0.0]
    again = crop.local(values, env, seeds_of(env, 3, "crop"), samples=4000)
    assert np.array_equal(again.radii, local.radii)


# Files


@pytest.fixture
def written(run, tmp_path):
    question = Question(run, STEADY[0], low=0, high=200, whole=True)
    played = episodes(np.random.default_rng(0).integers(100, 201, 50))
    rows = certify(question, played, [0.0, 0.1], 0.1, [120])
    return rows, played, tmp_path / "out"


def test_what_is_written_is_what_was_found(written):
    rows, played, folder = written
    text = report.table(rows)
    report.write(folder, rows, played, text, "rlsuite certify run")
    assert {path.name for path in folder.iterdir()} == {
        "certificate.csv",
        "certificate.md",
        "certificate.png",
        "episodes.csv",
    }
    with (folder / "certificate.csv").open() as file:
        again = list(csv.DictReader(file))
    assert tuple(again[0]) == COLUMNS
    assert [float(row["bound"]) for row in again] == [row["bound"] for row in rows]
    assert [row["budget"] for row in again] == [str(row["budget"]) for row in rows]
    with (folder / "episodes.csv").open() as file:
        listed = list(csv.DictReader(file))
    assert [float(row["return"]) for row in listed] == played.returns.tolist()
    assert (folder / "certificate.png").read_bytes()[:4] == b"\x89PNG"
    page = (folder / "certificate.md").read_text()
    assert text in page and "rlsuite certify run" in page
    assert "confidence 95 %" in text and f"{rows[0]['clean']:.1f} over 50 episodes" in text
    table = [line for line in text.splitlines() if line.startswith("| 0")]
    assert [float(line.split("|")[2]) for line in table] == pytest.approx(
        [row["bound"] for row in rows if row["kind"] == "mean >="], abs=0.05
    )


def test_the_picture_is_the_same_again(written, tmp_path):
    rows, *_ = written
    for name in ("one.png", "two.png"):
        report.draw(tmp_path / name, rows)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_folder_that_cannot_be_is_one_sentence(written, tmp_path):
    rows, played, _ = written
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match="file"):
        report.write(tmp_path / "file", rows, played, "", "")
    with pytest.raises(UserError, match="file"):
        report.write_attacks(tmp_path / "file", [{"policy": "x"}])
    assert (tmp_path / "file").read_text() == "precious"


def test_a_foreign_table_is_not_written_to(tmp_path):
    (tmp_path / "attacks.csv").write_text("date,profit\n2026,1\n")
    with pytest.raises(UserError, match="--out"):
        report.write_attacks(tmp_path, [{"policy": "x", "mean": 1.0}])
    assert (tmp_path / "attacks.csv").read_text() == "date,profit\n2026,1\n"
