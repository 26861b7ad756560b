"""`rlsuite certify` and `rlsuite attack` as a user meets them."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch

from rlsuite.algorithms.policy_smoothing import band
from rlsuite.certify.certificate import COLUMNS
from rlsuite.cli import main
from tests.certify.subjects import jittered

pytestmark = pytest.mark.filterwarnings("ignore:.*is out of date.*:DeprecationWarning")
ENV = "CartPole-v0#frames=2,sigma=0.2"
ATTACKS = (
    "policy", "policy_sha256", "env", "score", "attack", "budget", "lambda_q", "samples", "episodes", "seeds", "mean",
    "standard_error", "largest_spent", "mean_spent", "code_version", "cpu_class",
)  # fmt: skip


def train(directory: Path, algorithm: str, *more: object) -> Path:
    quick = ["--total-steps", 256, "--eval-every", 0, "--final-episodes", 1, "--hidden", "16", "--run-dir", directory]
    assert main(["train", algorithm, *map(str, [*quick, *more])]) == 0
    return directory


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of DQN that has hardly learnt."""
    learning = ["--train-every", 64, "--gradient-steps", 2, "--batch-size", 16, "--learning-starts", 64]
    return train(tmp_path_factory.mktemp("runs") / "run", "policy_smoothing", "--env", ENV, *learning)


@pytest.fixture(scope="module")
def td3(tmp_path_factory) -> Path:
    """A zip of Stable-Baselines3 with continuous actions, untrained."""
    path = tmp_path_factory.mktemp("zips") / "td3.zip"
    torch.manual_seed(0)
    model = stable_baselines3.TD3("MlpPolicy", gym.make("MountainCarContinuous-v0"), buffer_size=10, device="cpu")
    jittered(model.policy)
    model.save(path)
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def certified(run: Path, out: Path, *more: object) -> list[dict[str, str]]:
    assert main(["certify", str(run), "--out", str(out), "--episodes", "40", *map(str, more)]) == 0
    return rows_of(out / "certificate.csv")


def bounds(rows: list[dict[str, str]], kind: str = "mean >=") -> list[float]:
    return [float(row["bound"]) for row in rows if row["kind"] == kind]


def test_a_run_is_certified_in_what_it_was_trained_in(run, tmp_path, capsys):
    rows = certified(run, tmp_path / "out", "--budgets", "0,0.1,0.5", "--at", 9, 100, "--quantile", 0.2)
    out = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "certificate.csv",
        "certificate.md",
        "certificate.png",
        "episodes.csv",
    ]
    assert tuple(rows[0]) == COLUMNS
    assert {(row["env"], row["sigma"], row["frames"], row["score"]) for row in rows} == {(ENV, "0.2", "2", "return")}
    assert {(row["episodes"], row["alpha"], row["seeds"]) for row in rows} == {("40", "0.05", "certify")}
    assert {row["policy"] for row in rows} == {"policy_smoothing"}
    assert len(rows) == 6 * 3 + 2
    episodes = rows_of(tmp_path / "out" / "episodes.csv")
    returns = [float(row["return"]) for row in episodes]
    assert len(returns) == 40 and len({row["seed"] for row in episodes}) == 40
    assert returns == [float(row["length"]) for row in episodes]  # a reward of 1 a step
    expected = band(returns, 0.05, 0, 200, np.arange(1, 201)).mean([0, 0.1, 0.5], 0.2)
    assert bounds(rows) == pytest.approx(expected.tolist(), rel=1e-12)
    assert float(rows[0]["clean"]) == pytest.approx(np.mean(returns))
    assert "confidence 95 %" in out and "P(score >= 100) >=" in out and "20 %-quantile >=" in out
    assert "certificate.png" in out


def test_the_numbers_do_not_depend_on_how_many_processes_find_them(run, tmp_path):
    whole, shared = (certified(run, tmp_path / str(jobs), "--jobs", jobs) for jobs in (1, 2))
    assert whole == shared
    assert rows_of(tmp_path / "1" / "episodes.csv") == rows_of(tmp_path / "2" / "episodes.csv")


def test_other_noise_other_frames_and_another_environment_can_be_asked_for(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["certify", str(run / "policy.npz"), "--sigma", "0.5", "--episodes", "5", "--alpha", "0.2"]) == 0
    (folder,) = (tmp_path / "certificates").iterdir()
    assert folder.name == "policy-CartPole-v0-frames-2-sigma-0.5"
    (row, *_) = rows_of(folder / "certificate.csv")
    assert (row["sigma"], row["alpha"]) == ("0.5", "0.2")
    rows = certified(run, tmp_path / "longer", "--env", "CartPole-v1", "--method", "dkw")
    assert (rows[0]["env"], rows[0]["high"], rows[0]["method"]) == ("CartPole-v1#frames=2,sigma=0.2", "500", "dkw")
    rows = certified(run, tmp_path / "uneven", "--sigma", "0.1:0.2:0.1:0.2")
    assert rows[0]["sigma"] == "0.1:0.2:0.1:0.2"
    rows = certified(run, tmp_path / "exact", "--sigma", "0.123456789")
    assert (rows[0]["sigma"], rows[0]["env"]) == ("0.123456789", "CartPole-v0#frames=2,sigma=0.123456789")


@pytest.mark.parametrize(("norm", "factor"), [("l2", 200**0.5), ("linf", 800**0.5)])
def test_budgets_may_be_those_of_a_step(run, tmp_path, norm, factor):
    rows = certified(run, tmp_path / "out", "--budgets", "0,0.001", "--per-step", norm)
    assert [float(row["budget"]) for row in rows[:2]] == pytest.approx([0, 0.001 * factor])
    whole = certified(run, tmp_path / "whole", "--budgets", f"0,{0.001 * factor}")
    assert bounds(rows) == pytest.approx(bounds(whole), rel=1e-9)


def test_a_zip_is_certified_by_its_successes(td3, tmp_path):
    name = "MountainCarContinuous-v0#steps=20,sigma=0.1"
    rows = certified(td3, tmp_path / "out", "--env", name, "--score", "success", "--budgets", "0,0.1", "--episodes", 6)
    assert {(row["score"], row["low"], row["high"]) for row in rows} == {("success", "0.0", "1.0")}
    assert rows[0]["policy"] == "td3" and bounds(rows) == [0.0, 0.0]  # nobody is there after 20 steps
    assert {row["terminated"] for row in rows_of(tmp_path / "out" / "episodes.csv")} == {"False"}


def test_ppo_is_the_second_learner(tmp_path):
    """Trained under noise, certified, and attacked through its logits."""
    steps = ["--rollout-steps", 64, "--n-envs", 2, "--minibatches", 2, "--epochs", 2]
    run = train(tmp_path / "ppo", "ppo", "--env", "CartPole-v1#frames=3,sigma=0.1", *steps)
    rows = certified(run, tmp_path / "out")
    assert rows[0]["policy"] == "ppo" and 0 < bounds(rows)[0] <= float(rows[0]["clean"])
    assert (
        main(
            [
                "attack",
                str(run),
                "--attack",
                "q",
                "--lambda-q",
                "0",
                "--budgets",
                "0.1",
                "--episodes",
                "3",
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 0
    )
    (row,) = rows_of(tmp_path / "out" / "attacks.csv")
    assert row["policy"] == "ppo" and float(row["largest_spent"]) <= 0.1 * (1 + 1e-6)


def attack(run: Path, out: Path, *more: object) -> list[dict[str, str]]:
    assert main(["attack", str(run), "--out", str(out), "--episodes", "6", "--samples", "4", *map(str, more)]) == 0
    return rows_of(out / "attacks.csv")


def test_an_attack_has_a_row_for_every_budget_and_threshold(run, tmp_path, capsys):
    rows = attack(run, tmp_path / "out", "--budgets", "0,0.2", "--lambda-q", "0,0.1")
    assert tuple(rows[0]) == ATTACKS
    assert [(row["budget"], row["lambda_q"]) for row in rows] == [
        ("0.0", "0.0"),
        ("0.0", "0.1"),
        ("0.2", "0.0"),
        ("0.2", "0.1"),
    ]
    assert {(row["env"], row["attack"], row["episodes"], row["seeds"]) for row in rows} == {(ENV, "q", "6", "attack")}
    assert all(float(row["largest_spent"]) <= float(row["budget"]) * (1 + 1e-6) for row in rows)
    assert rows[0]["mean"] == rows[1]["mean"] and float(rows[0]["largest_spent"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("lambda_Q" in line for line in lines) == 4 and "attacks.csv" in lines[-1]
    # The next one stands behind it, and in the folder of a certificate.
    again = attack(run, tmp_path / "out", "--budgets", "0,0.2", "--lambda-q", "0,0.1")
    assert again == rows + rows
    assert attack(run, tmp_path / "out", "--attack", "random", "--budgets", "0.3")[8]["attack"] == "random"


def test_an_attack_does_not_depend_on_how_many_processes_play_it(run, tmp_path):
    more = ("--attack", "random", "--budgets", 0.2, "--episodes", 110)
    one, two = (attack(run, tmp_path / str(jobs), *more, "--jobs", jobs) for jobs in (1, 2))
    assert one == two and one[0]["episodes"] == "110" and float(one[0]["largest_spent"]) > 0


def test_crop_is_a_column_beside(run, tmp_path, capsys):
    rows = certified(run, tmp_path / "out", "--budgets", "0,0.1", "--crop", 2, "--crop-samples", 50, "--at", 9)
    (column,) = {row["kind"] for row in rows if "LoAct" in row["kind"]}
    assert len(bounds(rows, column)) == 2 and all(0 <= share <= 1 for share in bounds(rows, column))
    out = capsys.readouterr().out
    assert "another policy, which averages 50 draws" in out and "over 2 episodes" in out
    assert "P(score >= 9) > 0.5 up to a budget of" in out


def test_a_zip_is_attacked_through_its_critic(td3, tmp_path):
    (row,) = attack(
        td3,
        tmp_path / "out",
        "--env",
        "MountainCarContinuous-v0#steps=4,sigma=0.1",
        "--attack",
        "actor",
        "--budgets",
        "0.1",
    )
    assert row["policy"] == "td3" and row["attack"] == "actor"
    assert 0.05 < float(row["largest_spent"]) <= 0.1 * (1 + 1e-6)


# Bad input: exit code 2, one sentence, nothing left behind

BAD = [
    ("certify NOWHERE", ["NOWHERE"]),
    ("certify RUN --sigma 0", ["--sigma"]),
    ("certify RUN --sigma -1", ["sigma=-1"]),
    ("certify RUN --sigma 0.1:0.2", ["2 numbers", "4"]),
    ("certify RUN --sigma 0.1:0:0.1:0.1", ["without noise"]),
    ("certify RUN --frames 0", ["--frames", "0"]),
    ("certify RUN --frames 5", ["policy_smoothing", "(20,)", "--frames"]),
    ("certify RUN --env MountainCar-v0 --range -200 0", ["MountainCar-v0", "--env"]),
    ("certify RUN --env Acrobot-v1 --range -500 0", ["Acrobot-v1", "--env"]),
    (
        "certify RUN --env MountainCarContinuous-v0#frames=4,sigma=0.1 --score success",
        ["MountainCarContinuous-v0", "--env"],
    ),
    ("certify RUN --env Pendulum-v1", ["Pendulum-v1", "--range"]),
    ("certify RUN --env CartPoll-v0 --range 0 1", ["CartPoll-v0"]),
    ("certify RUN --env CartPole-v0#frame=3", ["frame=3"]),
    ("certify RUN --range 0 5", ["0 to 5"]),
    ("certify RUN --range 5 0", ["--range 5 0"]),
    ("certify RUN --range 0 inf", ["--range 0 inf"]),
    ("certify RUN --range 0 200 --method cp", ["--whole"]),
    ("certify RUN --episodes 0", ["--episodes", "0"]),
    ("certify RUN --episodes x", ["--episodes", "'x'"]),
    ("certify RUN --jobs 0", ["--jobs", "0"]),
    ("certify RUN --alpha 0", ["--alpha", "0"]),
    ("certify RUN --alpha 0.7", ["--alpha", "0.7"]),
    ("certify RUN --alpha nan", ["--alpha", "nan"]),
    ("certify RUN --quantile 1", ["--quantile", "1"]),
    ("certify RUN --bfloat16", ["--bfloat16"]),
    ("certify RUN --theta 0", ["--theta", "0"]),
    ("certify RUN --crop -1", ["--crop", "-1"]),
    ("certify RUN --crop 1 --crop-samples 0", ["--crop-samples", "0"]),
    ("certify ZIP --env MountainCarContinuous-v0 --sigma 0.1 --score success --crop 1", ["--crop"]),
    ("certify RUN --budgets a", ["--budgets a"]),
    ("certify RUN --budgets -1", ["--budgets"]),
    ("certify RUN --budgets 0:inf:1", ["--budgets 0:inf:1"]),
    ("certify RUN --bugdets 1", ["--bugdets", "did you mean '--budgets'"]),
    ("certify RUN --out FILE", ["FILE"]),
    ("certify FILE", ["FILE"]),
    ("certify ZIP", ["--env"]),
    ("certify ZIP --env CartPole-v0 --sigma 0.1", ["CartPole-v0", "--env"]),
    ("attack RUN --attack actor", ["discrete", "--attack q or pgd"]),
    ("attack ZIP --env MountainCarContinuous-v0 --sigma 0.1 --attack q", ["continuous", "--attack actor or random"]),
    ("attack RUN --attack fgsm", ["--attack", "fgsm"]),
    ("attack RUN --lambda-q a", ["--lambda-q a"]),
    ("attack RUN --samples 0", ["--samples", "0"]),
    ("attack RUN --sigma 0.1:0.1:0.1:0.2", ["sigma"]),
    ("attack RUN --frames 5", ["(20,)", "--frames"]),
    ("attack RUN --out FILE", ["FILE"]),
    ("attack RUN --env ale-machado/Pong --attack pgd", ["Pong"]),
    ("attack RUN --budgets 0:1", ["--budgets 0:1"]),
]


@pytest.mark.parametrize(("line", "words"), BAD, ids=[line for line, _ in BAD])
def test_bad_input_is_one_sentence_and_leaves_nothing(line, words, run, td3, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("precious")
    before = sorted(run.rglob("*"))
    arguments = [{"RUN": str(run), "ZIP": str(td3)}.get(part, part) for part in line.split()]
    if "--episodes" not in arguments:
        arguments += ["--episodes", "5"]
    assert main(arguments) == 2
    captured = capsys.readouterr()
    (message,) = [text for text in captured.err.splitlines() if text.startswith("rlsuite: ")]
    assert all(word in message for word in words), message
    assert message.endswith((".", "?", ").")) and "Traceback" not in captured.err and not captured.out
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"] and (tmp_path / "FILE").read_text() == "precious"
    assert sorted(run.rglob("*")) == before


def test_help_is_quick_and_says_what_a_certificate_is():
    program = (
        "import sys\nfrom rlsuite.cli import main\n"
        "try:\n    main(['certify', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'numpy', 'gymnasium', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
    assert out.strip().endswith("[]")
    assert "for every attacker" in " ".join(out.split()) and "--trust-pickle" in out
