"""`rlsuite check` as a user has it: record, pass, break something, see it named."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import pytest

from rlsuite.check.cell import SCORE, run
from rlsuite.cli import main
from rlsuite.export.new import begin
from tests.conftest import write_line_world

pytestmark = pytest.mark.xdist_group("check")  # one worker, so that one makes the baselines

SUITE = """
[config]
env = "rlsuite/LineWorld-v0"
updates = 150
log_every = 5
eval_every = 0
final_episodes = 2
hidden = "8,8"
batch_size = 16

[case.td3_bc-line]
algorithm = "td3_bc"
dataset = "line.npz"
actor_learning_rate = 3e-3
critic_learning_rate = 3e-3

[case.bc-line]
algorithm = "bc"
dataset = "line.npz"
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a suite, its data, and a user's own algorithm."""
    folder = tmp_path_factory.mktemp("guarded")
    write_line_world(folder / "line.npz")
    (folder / "suite.toml").write_text(SUITE)
    (folder / "mine.py").write_text(begin("mine", "td3_bc", "./mine.py"))
    return folder


@pytest.fixture
def check(rlsuite, place, tmp_path):
    def call(*arguments, **kwargs):
        return rlsuite("check", place / "suite.toml", "--jobs", 2, *arguments, cwd=tmp_path, **kwargs)

    return call


@pytest.fixture(scope="module")
def recorded(place):
    """Baselines of the suite and of the user's file, in the folder check beside them."""
    update = ["check", str(place / "suite.toml"), "--update", "--runs", "20", "--jobs", "2"]
    assert main(update) == 0
    assert main([*update, "--algo", str(place / "mine.py")]) == 0
    return place / "check"


def test_what_is_measured_of_a_run(place, monkeypatch):
    monkeypatch.chdir(place)
    given = {"dataset": "line.npz", "env": "rlsuite/LineWorld-v0", "updates": 50, "log_every": 10, "final_episodes": 3}
    given |= {"hidden": "8,8", "eval_every": 0}
    found = run("bc", given, 1)
    assert (found["update"], found["updates"]) == (50, 50)
    measures = found["measures"]
    assert 0 <= measures[SCORE] <= found["highest"] <= 1
    assert measures["bc_loss early"] > measures["bc_loss late"] > 0
    assert measures["agent.actor.net size"] > measures["agent.actor.net change"] > 0
    assert measures["agent.actor.mean change"] == 0 and "agent.actor.mean" not in found["moved"]
    assert "agent.actor.net.weight0" in found["moved"]
    assert run("bc", given, 1) == found
    assert run("bc", given, 2)["digest"] != found["digest"]


def test_a_run_that_cannot_be_made_says_why(place, monkeypatch):
    monkeypatch.chdir(place)
    given = {"dataset": "line.npz", "env": "rlsuite/LineWorld-v0", "updates": 50, "log_every": 1}
    diverged = run("td3_bc", {**given, "critic_learning_rate": 1e30}, 0)
    assert diverged["failure"].startswith("critic_loss is ") and diverged["seed"] == 0
    assert "spaces" not in run("bc", given, 0)
    assert "CartPole-v1 has the space" in run("bc", {**given, "env": "CartPole-v1"}, 0)["failure"]


def test_recorded_cases_pass(check, recorded, tmp_path):
    done = check("--junit", "out.xml")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["case", "runs", "return", "stored", "p", "sanity", "statistical", "exact"]
    assert [line.split()[-3:] for line in lines[1:3]] == [["ok"] * 3] * 2
    assert lines[3].startswith("all 2 cases are well; 16 runs in ")
    suites = list(ElementTree.parse(tmp_path / "out.xml").getroot())
    assert [suite.attrib["name"] for suite in suites] == ["td3_bc-line", "bc-line"]
    assert all(suite.attrib["tests"] == "3" and suite.attrib["failures"] == "0" for suite in suites)


def test_a_baseline_says_who_made_it(recorded):
    content = json.loads((recorded / "bc-line.json").read_text())
    assert content["recorded"]["seeds"] == [1000, 1019] and set(content["digests"]) == set("01234567")
    assert content["given"]["dataset"] == "line.npz" and content["algorithm"] == "bc"
    assert all(len(values) == 20 for values in content["measures"].values())


@pytest.mark.parametrize(
    ("old", "new", "level"),
    [
        ("torch._foreach_lerp_(self.target_weights, self.weights, self.config.tau)", "pass", "sanity"),
        ("self.weights, self.config.tau)", "self.weights, 1.0)", "statistical"),
        ("alpha: float = 2.5", "alpha: float = 2.50001", "exact"),
    ],
)
def test_a_changed_algorithm_is_found(check, recorded, place, tmp_path, old, new, level):
    text = (place / "mine.py").read_text()
    assert text.count(old) == 1
    (tmp_path / "mine.py").write_text(text.replace(old, new))
    arguments = ("--algo", "mine.py", "--baselines", recorded, "--junit", "out.xml")
    done = check(*arguments, env={"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")})
    assert done.returncode == 1
    assert f"mine-line, {level}: " in done.stdout and "1 of 1 cases failed" in done.stdout
    assert f"::error title=rlsuite check%3A mine-line%2C {level}::" in done.stdout
    failed = {test.attrib["name"] for test in ElementTree.parse(tmp_path / "out.xml").iter("testcase") if len(test)}
    assert level in failed
    assert f"- mine-line, {level}: " in (tmp_path / "summary.md").read_text()


def test_a_bug_is_found_without_the_bits(check, recorded, place, tmp_path):
    """On another class of processors the exact level is silent, and the bug is found all the same."""
    content = json.loads((recorded / "mine-line.json").read_text())
    content["recorded"]["cpu_class"] = "another"
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine-line.json").write_text(json.dumps(content))
    text = (place / "mine.py").read_text().replace("self.weights, self.config.tau)", "self.weights, 1.0)")
    (tmp_path / "mine.py").write_text(text)
    done = check("--algo", "mine.py", "--baselines", "there")
    assert done.returncode == 1 and "mine-line, statistical: " in done.stdout
    assert check("--algo", "mine.py", "--baselines", "there", "--levels", "sanity,exact").returncode == 0
    assert "exact was skipped: recorded on another, this is " in done.stdout


def test_a_crash_costs_its_case_only(check, recorded, place, tmp_path):
    """A process that is killed, as for lack of memory, and one that takes too long."""
    for what, timeout, words in (
        ("import os; os.kill(os.getpid(), 9)", 300, "killed by SIGKILL"),
        ("import time; time.sleep(999)", 4, "than 4 s"),
    ):
        text = (place / "mine.py").read_text().replace("        self.updates += 1", f"        {what}", 1)
        (tmp_path / "mine.py").write_text(text)
        done = check("--algo", "mine.py", "--baselines", recorded, "--timeout", timeout)
        assert done.returncode == 1, done.stderr
        assert words in done.stdout and "0/8" in done.stdout


def cells(marker):
    """Process numbers of cells whose command line has the marker."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            command = path.read_bytes().decode(errors="replace")
            if "rlsuite.check.cell" in command and marker in command:
                found.append(int(path.parent.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_check_leaves_no_process(place, tmp_path, number):
    (place / "long.toml").write_text(SUITE.replace("updates = 150", f"updates = 1000000{number:d}"))
    check = subprocess.Popen(
        [sys.executable, "-m", "rlsuite", "check", place / "long.toml", "--jobs", "2", "--baselines", tmp_path],
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while len(cells(f"1000000{number:d}")) < 2:
        assert check.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    check.send_signal(number)
    assert check.wait(30) == 130
    assert cells(f"1000000{number:d}") == []


def test_what_an_update_changes_is_shown(place, recorded, check, tmp_path):
    text = (place / "mine.py").read_text()
    (tmp_path / "mine.py").write_text(text.replace("alpha: float = 2.5", "alpha: float = 0.1"))
    (tmp_path / "check").mkdir()
    (tmp_path / "check" / "mine-line.json").write_bytes((recorded / "mine-line.json").read_bytes())
    done = check("--algo", "mine.py", "--update", "--runs", 20)
    assert done.returncode == 0, done.stderr
    assert "mine-line: lambda late " in done.stdout and " (medians, p = " in done.stdout
    assert "mine-line: the bits of 8 of 8 runs" in done.stdout
    again = check("--algo", "mine.py", "--update", "--runs", 20)
    assert again.stdout == "mine-line: nothing but its date\n"


def test_an_update_with_a_failed_run_writes_nothing(place, check, tmp_path):
    text = (place / "mine.py").read_text()
    (tmp_path / "mine.py").write_text(text.replace("alpha: float = 2.5", "alpha: float = float('inf')"))
    done = check("--algo", "mine.py", "--update", "--runs", 20)
    assert done.returncode == 2 and "failed, so nothing was stored: " in done.stderr
    assert done.stderr.count("Traceback") == 0 and not (tmp_path / "check").exists()


def test_other_settings_than_the_recorded_are_refused(place, recorded, rlsuite, tmp_path):
    (tmp_path / "suite.toml").write_text(SUITE.replace("updates = 150", "updates = 151"))
    write_line_world(tmp_path / "line.npz")
    done = rlsuite("check", tmp_path / "suite.toml", "--baselines", recorded, "--only", "bc")
    assert done.returncode == 2
    assert "was recorded with other settings than the suite has" in done.stderr and "--only bc-line" in done.stderr


def test_without_a_baseline_a_check_fails(place, check, tmp_path):
    done = check("--baselines", tmp_path / "none", "--only", "bc", "--seeds", 2)
    assert done.returncode == 1 and "there is no baseline; record one with --update" in done.stdout
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere.toml"], "cannot read the suite nowhere.toml"),
        (["--levels", "sane"], "--levels takes some of sanity, statistical, exact"),
        (["--alpha", "1"], "--alpha is a probability between 0 and 1"),
        (["--seeds", "0"], "--seeds is at least 1"),
        (["--update", "--runs", "19"], "--runs is at least 20"),
        (["--like", "ppo"], "add --algo FILE"),
        (["--algo", "nowhere.py"], "there is no algorithm file nowhere.py"),
        (["--only", "nothing"], "matches no case"),
        (["--junit", "no/such/folder/out.xml", "--jobs", "0"], "--jobs is at least 1"),
    ],
)
def test_bad_input_is_one_sentence(arguments, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["check", *arguments]) == 2
    told = capsys.readouterr().err
    assert complaint in told and told.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_the_package_is_as_it_was_recorded(rlsuite):
    """The whole of it is a step of the continuous integration; here its fastest cases."""
    done = rlsuite("check", "--only", "bc-pendulum", "--only", "ppo-gridworld", "--jobs", 2)
    assert done.returncode == 0, done.stdout + done.stderr
