"""An exported file gives the same metrics, evaluations and weights as the package, without it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import rlsuite_envs
from rlsuite import __version__
from rlsuite.cli import main
from rlsuite.errors import UserError
from rlsuite.export.script import export
from rlsuite.harness import files
from rlsuite.harness.config import algorithm_names, load_algorithm, resolve
from rlsuite.harness.run import execute

ALONE = Path(__file__).with_name("alone.py")
OFFLINE = {
    "hidden": "64,64",
    "updates": 60,
    "batch_size": 32,
    "log_every": 15,
    "eval_every": 25,
}
ONLINE = {"n_envs": 2, "hidden": "32,32", "total_steps": 1250, "log_every": 100, "eval_every": 500}
ROLLOUT = {"rollout_steps": 200, "minibatches": 4, "epochs": 2}
REFIT = {"behavior_steps": 50, "behavior_epochs": 2, "behavior_minibatches": 4}
DQN = {"learning_starts": 200, "train_every": 50, "gradient_steps": 4, "batch_size": 32, "best_every": 500}
GRID = "rlsuite_envs:rlsuite/Items0-v0"
CASES = {
    "bc": [{}],
    "td3_bc": [{}],
    "prdc": [{}, {"k": 3, "k_mode": "mean"}],
    "iql": [{}],
    "odice": [{"policy_hidden": "64,64", "lambda": 0.4}],
    "odice_il": [{"policy_hidden": "64,64", "demos": "1,3"}],
    "ppo": [{"env": "Pendulum-v1"}, {"env": "CartPole-v1", "stochastic": True}],
    "props": [{"env": "Pendulum-v1"}, {"env": "CartPole-v1"}],
    "policy_smoothing": [{"env": "CartPole-v1#frames=3,sigma=0.1"}],
    "npg_igt": [
        {"env": "CartPole-v1"},
        {"env": "CartPole-v1", "method": "nharpg", "baseline": "average", "stochastic": True},
        {"env": "Pendulum-v1", "method": "storm_pg", "step_size": 1e-4, "estimator": "reinforce"},
    ],
    "subpo": [
        {"env": GRID},
        {"env": GRID, "profile": "official", "reward": "mod"},
        {"env": GRID, "policy": "NM", "credit": "gae", "baseline": "value", "step": "npg"},
        {"env": GRID, "policy": "GRU", "features": "raw", "entropy_weight": 0.1},
    ],
}
SWITCHES = {"k_mode", "scale_by_returns", "stochastic", "method", "baseline", "estimator"}
SWITCHES |= {"reward", "profile", "features", "step"}
OWN = {"npg_igt": {"batch_steps": 150}, "ppo": ROLLOUT, "props": ROLLOUT | REFIT, "policy_smoothing": DQN}
OWN["subpo"] = {"paths": 4}


def write_pendulum(path: Path, episodes: int = 6, steps: int = 100) -> Path:
    """Random steps of Pendulum as an npz."""
    env = gym.make("Pendulum-v1", max_episode_steps=steps)
    rng = np.random.default_rng(0)
    columns: dict[str, list] = {
        k: [] for k in ("observations", "actions", "rewards", "next_observations", "terminations", "truncations")
    }
    for k in range(episodes):
        observation, truncated = env.reset(seed=k)[0], False
        while not truncated:
            action = rng.uniform(-2, 2, 1).astype(np.float32)
            following, reward, terminated, truncated, _ = env.step(action)
            for key, value in zip(
                columns, (observation, action, reward, following, terminated, truncated), strict=True
            ):
                columns[key].append(value)
            observation = following
    np.savez(path, **{key: np.array(values) for key, values in columns.items()})
    return path


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory) -> Path:
    return write_pendulum(tmp_path_factory.mktemp("data") / "pendulum.npz")


def run_alone(script: Path, given: dict, directory: Path) -> subprocess.CompletedProcess:
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in given.items() if not isinstance(value, bool)]
    flags += [f"--{'' if value else 'no-'}{key}" for key, value in given.items() if isinstance(value, bool)]
    return subprocess.run(
        [sys.executable, str(ALONE), str(script), *flags, f"--run-dir={directory}"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(rlsuite_envs.__file__).parents[1])},
    )


def assert_same(package: Path, alone: Path) -> None:
    """Metrics, evaluations and weights, bit for bit."""
    assert files.read_lines(package / "metrics.jsonl") == files.read_lines(alone / "metrics.jsonl")
    rows = files.read_lines(alone / "evaluations.jsonl")
    for ours, theirs in zip(files.read_lines(package / "evaluations.jsonl"), rows, strict=True):
        assert {key: ours[key] for key in theirs} == theirs
    tracked = files.load_checkpoint(max((package / "checkpoints").iterdir()))["tracked"]
    with np.load(alone / "weights.npz") as arrays:
        assert arrays
        for name, array in arrays.items():
            owner, part, key = name.split(".", 2)
            assert np.array_equal(tracked[owner][part][key].numpy(), array), name


CASE_LIST = [(name, variant) for name, variants in CASES.items() for variant in variants]


def test_every_algorithm_is_among_the_cases():
    assert set(CASES) == set(algorithm_names())


def given_for(name: str, variant: dict, dataset: Path) -> dict:
    online = "env" in variant
    task = {} if online else {"dataset": str(dataset), "env": "Pendulum-v1"}
    given = task | (ONLINE if online else OFFLINE) | OWN.get(name, {}) | variant
    given = {key: value for key, value in given.items() if key != "n_envs" or name != "subpo"}
    return given | {"seed": 3, "eval_episodes": 2, "final_episodes": 3}


@pytest.mark.parametrize(("name", "variant"), CASE_LIST)
def test_an_exported_file_gives_the_same_bits(name, variant, pendulum, tmp_path):
    given = given_for(name, variant, pendulum)
    assert execute(resolve(load_algorithm(name), given), tmp_path / "package") == 0
    settled = SWITCHES - ({"baseline"} if name == "subpo" else set())
    switches = {key: given.pop(key) for key in settled & given.keys()}
    script = tmp_path / f"{name}_single.py"
    script.write_text(export(name, script.name, switches))
    done = run_alone(script, given, tmp_path / "alone")
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "package", tmp_path / "alone")


def test_a_file_with_all_variants_gives_the_same_bits(pendulum, tmp_path):
    given = given_for("odice", {"policy_hidden": "64,64", "gradient": "semi", "twin": False, "f": "kl"}, pendulum)
    assert execute(resolve(load_algorithm("odice"), given), tmp_path / "package") == 0
    script = tmp_path / "odice_single.py"
    script.write_text(export("odice", script.name, variants=True))
    done = run_alone(script, given, tmp_path / "alone")
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "package", tmp_path / "alone")


# What a file looks like


ONCE = [pytest.param(name, marks=pytest.mark.xdist_group(f"export {name}")) for name in algorithm_names()]


@pytest.fixture(scope="module", params=ONCE)
def text(request) -> str:
    return export(request.param, f"{request.param}_single.py")


MORE = {"props": 1256}  # lines of what has more than 1,000


def test_a_file_has_few_lines(text):
    name = re.search(r"Made from (\w+)\.py", text)[1]
    assert len(text.splitlines()) <= MORE.get(name, 1000)


def test_a_configuration_is_one_class():
    """With the fields of the one that it is built on in their order; what it sets otherwise stands in their place."""
    text = export("props", "props_single.py")
    config = text[text.index("class Config:") : text.index("buffer_batches: int")]
    assert "PpoConfig" not in text and "    entropy_weight: float = 0.01\n" in config
    names = list(load_algorithm("props").module.Config.__dataclass_fields__)
    found = re.findall(r"^    (\w+): ", text[text.index("class Config:") : text.index("\n\n\n#")], re.MULTILINE)
    assert [name for name in names if name in found] == found


def test_what_only_left_out_presets_set_is_settled():
    text = export("ppo", "ppo_single.py")
    assert "ale-" not in text.split("PRESETS")[1] and "stochastic = False" in text and "if stochastic" not in text


def test_what_no_preset_chooses_is_left_out():
    text = export("odice", "odice_single.py")
    assert '    scale_by_returns: Literal["no", "exact"] = "no"\n' in text and "_official_returns" not in text
    for more in ({"given": {"scale_by_returns": "official"}}, {"variants": True}):
        assert "def _official_returns" in export("odice", "odice_single.py", **more)


def test_what_the_row_of_a_method_decides_is_settled():
    assert "def hessian_product" not in export("npg_igt", "npg_igt_single.py")
    text = export("npg_igt", "npg_igt_single.py", {"method": "harpg"})
    assert "def hessian_product" in text and "cumsum(log_ratios)" not in text


def test_a_default_that_no_call_falls_back_on_is_left_out():
    text = export("bc", "bc_single.py")
    assert "max_action: float, hidden: Sequence[int], rng: np.random.Generator\n" in text and "rng or " not in text


def test_an_approximate_search_is_the_packages():
    assert "class _Certificate" in export("prdc", "prdc_single.py", {"search": "approximate"})


def test_a_file_needs_few_libraries(text):
    tree = ast.parse(text)
    modules = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    modules |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert modules - sys.stdlib_module_names <= {"torch", "numpy", "scipy", "gymnasium", "h5py", "minari"}


def test_a_file_says_where_it_comes_from(text):
    docstring = ast.get_docstring(ast.parse(text))
    assert "arXiv" in docstring and "_single.py --" in docstring and "    rlsuite" not in docstring
    assert f"by rlsuite {__version__}" in docstring and "MIT" in docstring


def test_a_file_is_linted_and_formatted(text):
    for command in (
        ["check", "--select=E,F,I,UP,B,SIM", "-"],
        ["format", "--check", "--config=format.skip-magic-trailing-comma=true", "-"],
    ):
        options = [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length=120"]
        done = subprocess.run(options, input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_nothing_in_a_file_is_unused(text):
    """Every definition, and every attribute that is set, is mentioned somewhere else."""
    tree = ast.parse(text)
    called_by_others = {"forward", "backward", "_apply", "__init__", "train", "Config"}
    mentioned = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    mentioned |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)}
    mentioned |= {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    defined = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    defined |= {t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
    own = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) == "self"]
    defined |= {n.attr for n in own if isinstance(n.ctx, ast.Store)}
    assert {name for name in defined - mentioned if not name.startswith("__")} <= called_by_others


def test_comments_and_docstrings_are_kept():
    text = export("td3_bc", "td3_bc_single.py")
    assert '"""Two independent action-value networks Q_1, Q_2 : (s, a) -> R."""' in text
    assert "# In the order of registration: weight, bias, weight, ... `parameters()` would cost as much" in text
    assert '    """standard deviation of the target policy\'s smoothing noise, in units of the action bound"""' in text


def test_without_ruff_the_code_is_the_same(monkeypatch):
    formatted = export("iql", "iql_single.py")
    monkeypatch.setattr("shutil.which", lambda name: None)
    plain = export("iql", "iql_single.py")
    assert ast.dump(ast.parse(plain)) == ast.dump(ast.parse(formatted))


# A user's own file

MINE = """Mine: TD3+BC with a narrower loss.

    rlsuite train ./mine.py --dataset rlsuite/pendulum/mixed-v0
"""


@pytest.fixture
def mine(tmp_path) -> Path:
    """The package's TD3+BC with another loss and a helper of its own."""
    text = Path(load_algorithm("td3_bc").module.__file__).read_text()
    text = text.replace(text[3 : text.index('"""\n\nfrom')], MINE, 1)
    text = text.replace("functional.mse_loss(q1, target)", "distance(q1, target)")
    helper = "SCALE = 2.0\n\n\ndef distance(x: Tensor, y: Tensor) -> Tensor:\n    return SCALE * (x - y).abs().mean()\n"
    path = tmp_path / "mine.py"
    path.write_text(text.replace("class TD3BC:", f"{helper}\n\nclass TD3BC:"))
    return path


def test_a_users_file_is_exported_like_the_packages_own(mine, pendulum, tmp_path):
    given = given_for("mine", {}, pendulum)
    assert execute(resolve(load_algorithm(str(mine)), given), tmp_path / "package") == 0
    script = tmp_path / "mine_single.py"
    script.write_text(export(str(mine), script.name))
    done = run_alone(script, given, tmp_path / "alone")
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "package", tmp_path / "alone")


def test_names_that_clash_are_told_apart(mine, pendulum, tmp_path):
    """A name of the user's own stays; the package's of the same name gets that of its module."""
    mine.write_text(mine.read_text().replace("distance", "evaluate_each"))
    text = export(str(mine), "mine_single.py")
    assert "def evaluate_each(x: Tensor, y: Tensor)" in text and "def standalone_evaluate_each(" in text


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("def train(", "def learn(", ["`train`", "mine.py"]),
        (
            "from rlsuite.kernels.adam import Adam",
            "from rlsuite.kernels import adam\nfrom rlsuite.kernels.adam import Adam\nKEPT = vars(adam)",
            [],
        ),
        (
            "self.noise = config, noise",
            "self.noise, self.kernels = config, noise, vars(adam)",
            ["rlsuite.kernels.adam"],
        ),
    ],
)
def test_what_cannot_be_exported_is_told_in_a_sentence(mine, old, new, words):
    text = mine.read_text().replace(old, new, 1)
    mine.write_text(text.replace("from rlsuite.kernels", "from rlsuite.kernels import adam\nfrom rlsuite.kernels", 1))
    if not words:
        assert "KEPT" not in export(str(mine), "mine_single.py"), "what nothing reaches is left out"
        return
    with pytest.raises(UserError) as error:
        export(str(mine), "mine_single.py")
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_what_a_file_does_when_it_is_loaded_stays(mine):
    mine.write_text(
        mine.read_text().replace("class TD3BC:", 'torch.set_float32_matmul_precision("high")\n\n\nclass TD3BC:')
    )
    assert '\ntorch.set_float32_matmul_precision("high")\n' in export(str(mine), "mine_single.py")


def test_what_is_used_when_the_file_is_loaded_comes_first(mine, pendulum, tmp_path):
    """Through several functions; and two names of one assignment stay two."""
    functions = "def outer() -> float:\n    return inner() * HIGH\n\n\ndef inner() -> float:\n    return LOW\n"
    below = f"\n\n{functions}\n\nLOW, HIGH = 0.5, 2.0\n"
    text = mine.read_text().replace(
        "SCALE = 2.0\n", f"{below}\n\nSCALE = outer() + evaluation_seeds('x', 'final', 1)[0] % 7\n"
    )
    seeds = "from rlsuite.harness.seeding import evaluation_seeds\n"
    mine.write_text(text.replace("from rlsuite.kernels", f"{seeds}from rlsuite.kernels", 1))
    given = given_for("mine", {}, pendulum)
    assert execute(resolve(load_algorithm(str(mine)), given), tmp_path / "package") == 0
    script = tmp_path / "mine_single.py"
    script.write_text(export(str(mine), script.name))
    assert run_alone(script, given, tmp_path / "alone").returncode == 0
    assert_same(tmp_path / "package", tmp_path / "alone")


def test_a_docstring_with_backslashes_stays_the_same(mine):
    mine.write_text(mine.read_text().replace('"""Mine: ', 'r"""Mine: \\alpha '))
    assert ast.get_docstring(ast.parse(export(str(mine), "mine_single.py"))).startswith("Mine: \\alpha TD3+BC")


def test_a_switch_that_is_asked_of_something_else_stays_a_flag(mine):
    mine.write_text(mine.read_text().replace("    if config.normalize:", "    cfg = config\n    if cfg.normalize:"))
    assert "    normalize: bool = True\n" in export(str(mine), "mine_single.py")
    with pytest.raises(UserError, match="'normalize' cannot be settled"):
        export(str(mine), "mine_single.py", {"normalize": False})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("import copy\n", "from copy import *\n", ["from copy import *"]),
        (
            "    agent = TD3BC(",
            "    from rlsuite.data import doctor\n\n    agent = TD3BC(",
            ["rlsuite.data", "train", "top"],
        ),
        ("from torch.nn import functional", "import torch.nn.functional as functional", ["functional", "another"]),
    ],
)
def test_imports_that_cannot_be_followed_are_told_in_a_sentence(mine, old, new, words):
    mine.write_text(mine.read_text().replace(old, new, 1))
    with pytest.raises(UserError) as error:
        export(str(mine), "mine_single.py")
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


# The command


def test_the_command_writes_a_file_and_overwrites_none(rlsuite, tmp_path):
    done = rlsuite("export", "bc", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    script = tmp_path / "bc_single.py"
    assert script.read_text() == export("bc", "bc_single.py")
    again = rlsuite("export", "bc", cwd=tmp_path)
    assert again.returncode == 2 and "--force" in again.stderr and again.stderr.count("\n") == 1
    assert rlsuite("export", "bc", "--force", "--set", "normalize=false", cwd=tmp_path).returncode == 0
    assert "set_normalizer" not in script.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prcd"], ["prcd", "did you mean 'prdc'"]),
        (["sb3:ppo"], ["sb3:ppo", "another library"]),
        (["bc", "--set", "alpha=1"], ["alpha", "normalize"]),
        (["bc", "--set", "normalize"], ["normalize", "VALUE"]),
        (["prdc", "--set", "k_mode=best"], ["k_mode", "rank, mean"]),
    ],
)
def test_bad_input_is_one_sentence(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", *arguments]) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words) and message.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_file_answers_bad_input_with_a_sentence(pendulum, tmp_path):
    script = tmp_path / "bc_single.py"
    script.write_text(export("bc", script.name))
    for given, words in (
        ({"dataset": "absent.npz"}, ["absent.npz"]),
        ({"dataset": str(pendulum)}, ["environment", "--env"]),
        ({"dataset": str(pendulum), "env": "Pendulum-v0.5"}, ["Pendulum-v0.5"]),
        ({"dataset": str(pendulum), "env": "HalfCheetah-v5"}, ["HalfCheetah-v5"]),
        ({"dataset": str(pendulum), "env": "Pendulum-v1", "batch_size": "many"}, ["many"]),
    ):
        done = run_alone(script, given, tmp_path / "alone")
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert all(word in done.stderr for word in words)
    assert not (tmp_path / "alone").exists()
