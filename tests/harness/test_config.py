import dataclasses

import pytest

from rlsuite.errors import UserError
from rlsuite.harness.config import Settings, algorithm_names, coerce, field_help, load_algorithm, resolve

PRDC = load_algorithm("prdc")


def test_defaults_presets_and_flags_in_this_order():
    hopper = resolve(PRDC, {"dataset": "rlsuite/hopper/medium-v0"}).config
    cheetah = resolve(PRDC, {"dataset": "d4rl/halfcheetah-medium-v2"}).config
    chosen = resolve(PRDC, {"dataset": "d4rl/halfcheetah-medium-v2", "alpha": "7"}).config
    assert (hopper.alpha, cheetah.alpha, chosen.alpha) == (2.5, 40.0, 7.0)
    maze = resolve(PRDC, {"dataset": "D4RL/antmaze/medium-play-v1"}).config
    assert (maze.alpha, maze.beta, maze.reward_scale, maze.reward_shift) == (7.5, 7.5, 10_000.0, -1.0)


def test_identity_ignores_the_seed_and_the_checkpoint_interval_and_nothing_else():
    def resolved(**given):
        return resolve(PRDC, {"dataset": "x.npz", **given})

    base = resolved()
    assert resolved(seed=1).config_hash == base.config_hash
    assert resolved(seed=1).run_id != base.run_id
    assert resolved(checkpoint_every=7).run_id == base.run_id
    for field in dataclasses.fields(Settings):
        if field.name not in ("seed", "checkpoint_every", "label", "device"):
            assert resolved(**{field.name: field.default + 1}).config_hash != base.config_hash, field.name
    assert resolved(alpha=2.4).config_hash != base.config_hash


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dataset": "x", "aplha": 1}, ["aplha", "did you mean 'alpha'", "prdc"]),
        ({"dataset": "x", "alpha": "much"}, ["alpha", "number", "'much'"]),
        ({"dataset": "x", "k_mode": "best"}, ["k_mode", "rank, mean"]),
        ({"dataset": "x", "updates": 0}, ["updates", "at least 1"]),
        ({"dataset": "x", "seed": -1}, ["seed", "at least 0"]),
        ({"dataset": "x", "updates": 1.5}, ["updates", "whole number"]),
        ({"dataset": "x", "normalize": 3}, ["normalize", "true or false"]),
        ({}, ["dataset"]),
    ],
)
def test_bad_settings_are_one_sentence(given, words):
    with pytest.raises(UserError) as error:
        resolve(PRDC, given, where="table.toml")
    message = str(error.value)
    assert all(word in message for word in [*words, "table.toml"])
    assert "\n" not in message


def test_values_from_flags_and_from_toml_agree():
    assert coerce("n", int, "1e6") == coerce("n", int, 1_000_000) == coerce("n", int, "1_000_000")
    assert coerce("h", tuple[int, ...], "256,128") == coerce("h", tuple[int, ...], [256, 128]) == (256, 128)
    assert coerce("x", float, "3e-4") == coerce("x", float, 3e-4)
    assert coerce("b", bool, "false") is coerce("b", bool, False) is False


def test_unknown_algorithm_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean 'prdc'"):
        load_algorithm("prcd")


def test_a_users_file_needs_config_and_train(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("x = 1\n")
    with pytest.raises(UserError, match="`Config`"):
        load_algorithm(str(path))
    path.write_text("def f(:\n")
    with pytest.raises(UserError, match="line 1"):
        load_algorithm(str(path))


@pytest.mark.parametrize("name", algorithm_names())
def test_every_field_has_its_help_line(name):
    config = load_algorithm(name).module.Config
    helps = field_help(config)
    assert all(helps.get(f.name) for f in dataclasses.fields(config))
