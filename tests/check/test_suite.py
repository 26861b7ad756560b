"""The package's suite is whole and recorded; a suite of one's own is checked before anything runs."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from rlsuite.check import baseline
from rlsuite.check.cell import SCORE
from rlsuite.check.suite import BASELINES, cases_like, read_suite, select
from rlsuite.errors import UserError
from rlsuite.harness.config import algorithm_names, load_algorithm

ROOT = Path(__file__).parent.parent.parent
OWN = '[case.a]\nalgorithm = "bc"\ndataset = "rlsuite/pendulum/mixed-v0"\n'


def test_every_algorithm_has_a_case():
    assert {case.algorithm.name for case in read_suite()} == set(algorithm_names())


@pytest.mark.parametrize("case", read_suite(), ids=lambda case: case.name)
def test_every_case_is_recorded_as_it_stands_in_the_suite(case):
    stored = baseline.read(baseline.path_of(BASELINES, case))
    assert stored is not None, "record it: rlsuite check --update --only " + case.name
    assert stored.about == case.about()
    assert stored.runs >= baseline.FEWEST and len(stored.digests) == 8
    assert SCORE in stored.measures and any(name.endswith(" late") for name in stored.measures)
    assert any("weight" in path for path in stored.moved)
    assert {"command", "date", "code_version", "cpu_class", "versions", "seeds"} <= stored.recorded.keys()
    assert ".dirty" not in stored.recorded["code_version"]
    assert case.best is None or stored.measures[SCORE].max() <= case.best


def test_no_baseline_is_left_of_a_case_that_is_gone():
    assert {path.stem for path in BASELINES.glob("*.json")} == {case.name for case in read_suite()}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = ", "is not valid TOML"),
        ("", "has no cases"),
        ("cases = 1", "has the key 'cases'"),
        ("[case.a]\ndataset = 'x'", "[case.a] of own.toml names no algorithm"),
        ("[case.'a b']\nalgorithm = 'bc'", "is no name for a case"),
        ("[case.a]\nalgorithm = 'bcc'", "unknown algorithm 'bcc'; did you mean 'bc'"),
        (OWN + "seed = 3", "sets a seed"),
        (OWN + "updats = 3", "has the key 'updats', which bc does not know; did you mean 'updates'"),
        (OWN + "updates = 'many'", "[case.a] of own.toml: updates is a whole number"),
        (OWN + "best = 'high'", "best is the highest return"),
    ],
)
def test_a_wrong_suite_is_told_in_a_sentence(text, complaint, tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"\w") as caught:
        read_suite(path)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)


def test_shared_settings_reach_those_that_know_them(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(f'[config]\nupdates = 7\nrollout_steps = 64\n{OWN}[case.b]\nalgorithm = "ppo"\nenv = "CartPole-v1"')
    first, second = read_suite(path)
    assert (
        first.given == {"updates": 7, "dataset": "rlsuite/pendulum/mixed-v0"} and first.task == first.given["dataset"]
    )
    assert second.given == {"rollout_steps": 64, "env": "CartPole-v1"}
    assert first.base == tmp_path


def test_cases_are_chosen_by_name_algorithm_or_task():
    cases = read_suite()
    assert [case.name for case in select(cases, ["bc"])] == ["bc-pendulum"]
    assert {case.algorithm.name for case in select(cases, ["CartPole*"])} == {
        "ppo",
        "props",
        "policy_smoothing",
        "npg_igt",
    }
    assert select(cases, []) == cases
    with pytest.raises(UserError, match="--only pppo matches no case of the suite; did you mean 'ppo'"):
        select(cases, ["pppo"])


@pytest.mark.parametrize(("source", "model"), [("td3_bc", "td3_bc"), ("ppo", "ppo")])
def test_a_users_file_gets_the_cases_of_its_kind_with_the_settings_it_knows(source, model, tmp_path):
    from rlsuite.export.new import begin

    path = tmp_path / "mine.py"
    path.write_text(begin("mine", source, "./mine.py"))
    cases = read_suite()
    own = cases_like(str(path), None, cases)
    theirs = [case for case in cases if case.algorithm.name == model]
    assert [case.name for case in own] == [case.name.replace(model, "mine") for case in theirs]
    assert [case.task for case in own] == [case.task for case in theirs]
    known = {f.name for f in fields(load_algorithm(str(path)).module.Config)}
    assert all(set(case.given) - {"eval_every", "final_episodes", "log_every"} <= known for case in own)
    with pytest.raises(UserError, match="--like td3: the suite has no cases of it; did you mean 'td3_bc'"):
        cases_like(str(path), "td3", cases)


def test_every_seeded_bug_can_still_be_planted():
    """benchmarks/check_power.py measures with them what a check catches; code that moves must take them along."""
    mutants = tomllib.loads((ROOT / "benchmarks" / "check_mutants.toml").read_text())["mutant"]
    assert len({mutant["name"] for mutant in mutants}) == len(mutants) >= 20
    for mutant in mutants:
        text = (ROOT / mutant["file"]).read_text()
        assert text.count(mutant["old"]) == 1, mutant["name"]
        assert mutant["old"] != mutant["new"] and mutant["what"] and mutant["kind"]
        assert mutant["algorithms"] == ["all"] or set(mutant["algorithms"]) <= set(algorithm_names())
