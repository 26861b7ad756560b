"""A new file is an algorithm like the package's own: it trains, resumes, stands in a table and exports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from rlsuite.cli import main
from rlsuite.data.files import read_json
from rlsuite.export.new import begin
from rlsuite.harness import files
from rlsuite.harness.config import algorithm_names, load_algorithm, resolve
from rlsuite.harness.form import departures
from rlsuite.harness.run import execute
from tests.contract.kills import cut_and_finish
from tests.contract.test_promises import resolved
from tests.export.test_export import assert_same, given_for, pendulum, run_alone  # noqa: F401 (a fixture)

TABLE = """
name = "mine"
algorithms = {{ td3_bc = "td3_bc", mine = "./my_method.py" }}
tasks = ["{dataset}"]
seeds = [0]

[config]
env = "rlsuite/LineWorld-v0"
hidden = [16]
updates = 50
eval_every = 0
final_episodes = 2
"""


@pytest.mark.parametrize("name", algorithm_names())
def test_a_new_file_does_what_its_source_does(name, line_world, tmp_path):
    """The same bits, under another name."""
    path = tmp_path / "my_method.py"
    path.write_text(begin("my_method", name, "./my_method.py"))
    assert departures(path.read_text()) == []
    theirs = resolved(name, line_world, updates=100 if name in OFFLINE else 240)
    mine = resolve(load_algorithm(str(path)), {**theirs.as_dict()["config"], **theirs.as_dict()["settings"]})
    assert execute(theirs, tmp_path / "theirs") == 0
    assert execute(mine, tmp_path / "mine") == 0
    for file in ("metrics.jsonl", "evaluations.jsonl"):
        rows = [files.read_lines(tmp_path / run / file) for run in ("theirs", "mine")]
        for a, b in zip(*rows, strict=True):
            own = {"run_id", "config_hash", "algorithm"}
            assert {k: v for k, v in a.items() if k not in own} == {k: v for k, v in b.items() if k not in own}


OFFLINE = {name for name in algorithm_names() if "dataset" in load_algorithm(name).module.Config.__dataclass_fields__}


def test_a_new_file_says_what_it_was_and_has_names_of_its_own():
    text = begin("my_method", "td3_bc", "./my_method.py")
    lines = text.splitlines()
    assert lines[0] == '"""my_method: say in a sentence what it does.'
    assert "td3_bc.py" in lines[2]
    assert "    rlsuite train ./my_method.py --dataset rlsuite/hopper/medium-v0" in lines
    names = {n.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ClassDef)}
    assert names == {"Config", "MyMethod"} and "TD3BC" not in text


def test_a_new_file_resumes(pendulum, tmp_path):  # noqa: F811
    path = tmp_path / "my_method.py"
    path.write_text(begin("my_method", "td3_bc", "./my_method.py"))
    setup = resolve(load_algorithm(str(path)), {**given_for("td3_bc", {}, pendulum), "checkpoint_every": 10})
    assert execute(setup, tmp_path / "whole") == 0
    cut_and_finish(setup, tmp_path / "cut", 3)
    for file in ("metrics.jsonl", "evaluations.jsonl"):
        assert files.read_lines(tmp_path / "whole" / file) == files.read_lines(tmp_path / "cut" / file)


def test_a_new_file_is_exported(pendulum, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    assert main(["new", "my_method", "--from", "iql"]) == 0
    assert main(["export", "./my_method.py"]) == 0
    given = given_for("iql", {}, pendulum)
    assert execute(resolve(load_algorithm("./my_method.py"), given), tmp_path / "package") == 0
    done = run_alone(tmp_path / "my_method_single.py", given, tmp_path / "alone")
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "package", tmp_path / "alone")


def test_a_new_file_stands_in_a_table(line_world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "my_method"]) == 0
    (tmp_path / "table.toml").write_text(TABLE.format(dataset=line_world))
    assert main(["bench", "table.toml", "--results", "results", "--jobs", "1"]) == 0
    text = (tmp_path / "results" / "table.md").read_text()
    assert "mine" in text and "td3_bc" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["3x"], ["3x", "name"]),
        (["class"], ["class", "name"]),
        (["prdc"], ["prdc", "another name"]),
        (["config"], ["Config", "another name"]),
        (["mine", "--from", "prcd"], ["prcd", "did you mean 'prdc'"]),
        (["mine", "--from", "sb3:ppo"], ["sb3:ppo", "td3_bc"]),
        (["there"], ["there.py", "--force"]),
    ],
)
def test_bad_input_is_one_sentence(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("there.py").write_text("mine")
    assert main(["new", *arguments]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words) and message.count("\n") == 1
    assert Path("there.py").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_the_manifest_of_such_a_run_names_the_file(line_world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "my_method", "--from", "bc"]) == 0
    flags = ["--updates", "10", "--final-episodes", "1", "--eval-every", "0", "--run-dir", "run"]
    assert main(["train", "./my_method.py", "--dataset", str(line_world), "--env", "rlsuite/LineWorld-v0", *flags]) == 0
    assert read_json(tmp_path / "run" / "manifest.json")["algorithm"] == "my_method"
