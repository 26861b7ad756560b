"""What an algorithm file lacks of the form is told in sentences."""

from __future__ import annotations

import pytest

from rlsuite.cli import main
from rlsuite.errors import UserError
from rlsuite.harness.config import load_algorithm
from rlsuite.harness.form import departures

WHOLE = '''"""Mine: nothing is learnt.

    rlsuite train ./mine.py --env CartPole-v1
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Config:
    env: str
    """environment"""
    total_steps: int = 100
    """environment steps"""


PRESETS = {"*": {"eval_every": 0}}


class Policy(nn.Module):
    pass


class Mine:
    def update(self):
        pass


def train(config, run):
    pass


if __name__ == "__main__":
    from rlsuite.cli import run_file

    run_file(__file__)
'''
AGENT = "class Mine:\n    def update(self):\n        pass\n\n\n"
TRAIN = "def train(config, run):\n    pass\n\n\n"


def test_a_whole_file_lacks_nothing(tmp_path):
    assert departures(WHOLE) == []
    (tmp_path / "mine.py").write_text(WHOLE)
    assert load_algorithm(str(tmp_path / "mine.py")).name == "mine"


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (WHOLE[WHOLE.index("from __future__") :], ["docstring"]),
        (WHOLE.replace('    """environment steps"""\n', ""), ["`total_steps` of Config"]),
        (WHOLE.replace('"""environment"""', '""" """'), ["`env` of Config"]),
        (WHOLE.replace(AGENT, "").replace("class Policy", f"{AGENT}class Policy"), ["the agent before the networks"]),
        (WHOLE.replace("PRESETS = ", "X = ").replace(TRAIN, f"PRESETS = {{}}\n{TRAIN}"), ["the agent before PRESETS"]),
        (WHOLE.replace(TRAIN, f"{TRAIN}def f():\n    pass\n\n\n"), ["after `train`"]),
        (WHOLE[: WHOLE.index("if __name__")], ["__name__"]),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(changed, words):
    (found,) = departures(changed)
    assert all(word in found for word in words) and found.endswith(".") and "\n" not in found


def test_a_base_of_config_in_the_same_file_is_looked_at_too():
    text = WHOLE.replace(
        "class Config:", "class Shared:\n    a: int = 0\n\n\n@dataclass(frozen=True)\nclass Config(Shared):"
    )
    assert departures(text) == ["does not say what `a` of Shared is; write a line of text below it."]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("class Config:", "class Settings:", ["no `Config`"]),
        ("def train(", "def learn(", ["no `train`"]),
        ("@dataclass(frozen=True)\n", "", ["no dataclass", "@dataclass"]),
        ("def train(config, run)", "def train(config)", ["train(config, run)"]),
        ("env: str", "environment: str", ["no task", "`env: str`"]),
        ("total_steps: int = 100", "total_steps: dict = None", ["`total_steps`", "dict", "flag"]),
        ("total_steps: int = 100", "total_steps: Count = 100", ["Count"]),
        ("total_steps: int = 100", "seed: int = 100", ["`seed`", "every run"]),
        ('"eval_every": 0', '"eval_every": 1 / 0', ["ZeroDivisionError", "line 21"]),
        ("from torch import nn", "import torche", ["torche", "line 10"]),
        ("PRESETS = {", "PRESETS = (", ["not Python"]),
    ],
)
def test_a_file_that_cannot_run_is_told_in_one_sentence(old, new, words, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(WHOLE.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        load_algorithm(str(path))
    message = str(error.value)
    assert "mine.py" in message and all(word in message for word in words) and "\n" not in message


def test_train_tells_what_is_missing_and_goes_on(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text(WHOLE.replace('    """environment steps"""\n', ""))
    assert main(["train", str(path), "--env", "CartPole-v1", "--run-dir", str(tmp_path / "run")]) == 0
    assert f"{path} does not say what `total_steps` of Config is" in capsys.readouterr().err
