"""Dataset cards: what they say is what the data hold, and the same data give the same bytes."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rlsuite.data import cards, recipes, registry, scores, workers
from rlsuite.data.dataset import Dataset
from rlsuite.data.recording import Recording
from rlsuite.errors import UserError

RANDOM = recipes.RECIPES["rlsuite/hopper/random-v0"]
MIXTURE = recipes.RECIPES["rlsuite/hopper/medium-expert-v0"]
NOTE = {  # as a build writes it; its episodes are of 5, 1, 7 and 3 steps
    **MIXTURE.identity(),
    "versions": {"gymnasium": "1.4.0"},
    "parts": [
        {"behaviour": "uniform", "episodes": 2, "steps": 8},
        {"behaviour": "hopper-replay/1", "episodes": 2, "steps": 8},
    ],
}


def dataset_of(observations: np.ndarray) -> Dataset:
    """Observations in one long episode, everything else zero."""
    size = len(observations)
    states = torch.from_numpy(observations.astype(np.float32))
    flags = torch.zeros(size, dtype=torch.bool)
    starts = torch.zeros(1, dtype=torch.int64)
    return Dataset(states, torch.zeros(size, 1), torch.zeros(size), states, flags, flags, starts)


def png_width(picture: bytes) -> int:
    assert picture.startswith(b"\x89PNG")
    return int(struct.unpack(">I", picture[16:20])[0])


def test_coverage_counts_the_cells_of_a_normal_distribution() -> None:
    rng = np.random.default_rng(0)
    std = np.array([4.0, 0.5, 0.01])
    states = rng.normal(size=(20_000, 3)) * std
    coverage = cards.card(dataset_of(states), {}).coverage
    assert coverage == pytest.approx(0.5 * np.log2(1 + (std / 0.1) ** 2).sum(), abs=0.02)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert cards.card(dataset_of(states @ rotation + 7), {}).coverage == pytest.approx(coverage, abs=1e-3)
    half = states[rng.permutation(len(states))[:10_000]]
    assert cards.card(dataset_of(half), {}).coverage == pytest.approx(coverage, abs=0.05)
    wider = cards.card(dataset_of(states * [2, 1, 1]), {}).coverage
    assert wider == pytest.approx(coverage + 1, abs=1e-2), "one bit more is twice the volume"
    still = np.concatenate([states, np.full((20_000, 2), 3.0)], axis=1)
    assert cards.card(dataset_of(still), {}).coverage == pytest.approx(coverage, abs=1e-6)


def test_the_picture_shows_the_directions_of_most_variance() -> None:
    states = np.random.default_rng(0).normal(size=(5000, 3)) * [0.1, 5, 1]
    card = cards.card(dataset_of(states), {})
    centred = states - states.mean(0)
    for axis, column in ((0, 1), (1, 2)):
        correlation = np.corrcoef(card.states[:, axis], centred[:, column])[0, 1]
        assert correlation == pytest.approx(1, abs=1e-3), "the sign is fixed too"
    assert card.state_axes == ("component 1 (96 % of the variance)", "component 2 (4 % of the variance)")


def test_a_maze_is_seen_from_above() -> None:
    states = np.random.default_rng(0).normal(size=(50, 4))
    card = cards.card(replace(dataset_of(states), env_id="rlsuite/PointMaze-UMaze-v0"), {})
    assert card.state_axes == ("x", "y")
    assert np.array_equal(card.states, states[:, :2].astype(np.float32))


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (40, 1), (40, 2)])
def test_tiny_data_have_a_card(size: tuple[int, int]) -> None:
    card = cards.card(dataset_of(np.random.default_rng(0).normal(size=size)), {})
    assert np.isfinite(card.coverage)
    assert png_width(cards.png(card)) > 500
    assert "1, length" in cards.markdown(card)


def test_facts(recording: Recording) -> None:
    dataset = recording.dataset()
    card = cards.card(dataset, {"description": "random numbers", "rlsuite": NOTE})
    told = dict(cards.facts(card))
    returns = [recording.rewards[i:j].sum() for i, j in ((0, 5), (5, 6), (6, 13), (13, 16))]
    assert told["description"] == "random numbers"
    assert told["environment"] == "Hopper-v5"
    assert told["transitions"] == "16"
    assert told["episodes"] == "4, length 4.0 (1 to 7)"
    assert told["ends"] == "2 terminated, 2 truncated"
    assert told["returns"].startswith(f"mean {np.mean(returns):.2f}, std {np.std(returns):.2f}, {min(returns):.2f} to")
    reference = scores.reference("Hopper-v5")
    assert reference is not None
    assert told["score"] == f"mean {reference.score(np.mean(returns)):.1f} (reference: rlsuite Hopper-v5)"
    assert told["actions"] == "3 numbers in [-1, 1]"
    assert told["content hash"] == dataset.content_hash
    assert told["rebuild"] == f"rlsuite data make {MIXTURE.id} --steps 16"


def test_foreign_data_say_what_they_know(recording: Recording) -> None:
    dataset = replace(recording.dataset(), name="theirs.npz", env_id="CartPole-v1", action_low=None, action_high=None)
    card = cards.card(dataset, {"author": ["A", "B"], "algorithm_name": "PPO", "rlsuite": {}})
    told = dict(cards.facts(card))
    assert (told["author"], told["algorithm"]) == ("A, B", "PPO")
    assert told["score"].startswith("none")
    assert told["actions"] == "3 numbers, bounds unknown"
    assert not {"rebuild", "seed", "versions", "description"} & set(told)
    text = cards.markdown(card)
    assert "## Behaviour" not in text and "## Rebuild" not in text
    assert "| - | - |" in cards.index([card]), "neither score nor label"


def test_a_mixture_names_its_behaviours(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "TURN", 1)
    dataset = recording.dataset()
    mixture = cards.card(dataset, {"rlsuite": NOTE})
    assert mixture.streams is not None
    assert mixture.streams.tolist() == [0, 1, 1, 0]
    rows, returns = cards.part_rows(mixture), mixture.returns
    assert [row[:3] for row in rows] == [
        ("uniform", "8 (50.0%)", "2 (50.0%)"),
        ("hopper-replay/1", "8 (50.0%)", "2 (50.0%)"),
    ]
    for row, part in zip(rows, (returns[[0, 3]], returns[[1, 2]]), strict=True):
        assert row[3] == f"{part.mean():.2f} ± {part.std():.2f}"
    assert [row[4] for row in rows] == ["18.4 ± 24.3", "268.0 ± 6.3"]
    assert "| hopper-replay/1 | 8 (50.0%) |" in cards.markdown(mixture)
    single = cards.card(dataset, {"rlsuite": {**RANDOM.identity()}})
    assert [(row[0], row[1], row[4]) for row in cards.part_rows(single)] == [("uniform", "16 (100.0%)", "18.4 ± 24.3")]
    widths = [png_width(cards.png(card)) for card in (single, mixture)]
    assert widths[1] == pytest.approx(1.5 * widths[0], abs=2), "a third panel"


def test_nothing_is_said_of_a_behaviour_that_has_changed_since(recording: Recording) -> None:
    card = cards.card(recording.dataset(), {"rlsuite": {**NOTE, "policy_sha256": "0" * 64}})
    assert [row[4] for row in cards.part_rows(card)] == ["-", "-"]


@pytest.mark.parametrize("note", ["text", {"parts": [{"steps": 3}]}, {"parts": 5}, {"versions": [1]}, {"parts": ["x"]}])
def test_a_damaged_note_is_one_sentence(recording: Recording, note: object) -> None:
    with pytest.raises(UserError, match="sample noted about itself is damaged"):
        cards.card(recording.dataset(), {"rlsuite": note})


def test_episodes_in_another_order_belong_to_no_part(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "TURN", 1)
    shuffled = recording.dataset().take_episodes(np.array([2, 0, 1, 3]))
    card = cards.card(shuffled, {"rlsuite": NOTE})
    assert card.streams is None
    assert [row[3] for row in cards.part_rows(card)] == ["-", "-"]
    assert cards.png(card) != cards.png(cards.card(recording.dataset(), {"rlsuite": NOTE}))


@pytest.mark.parametrize("recipe", ["rlsuite/hopper/medium-replay-v0", "rlsuite/hopper/medium-expert-v0"])
def test_the_turns_are_those_of_the_build(recipe: str) -> None:
    """Each part's episodes are its policy's: their returns are near what was measured for it."""
    recipes.build(recipes.RECIPES[recipe], 12_000, jobs=1)
    recording = registry.resolve(recipe).recording(dtype="float32")
    card = cards.card(recording.dataset(), recording.header.metadata)
    assert card.streams is not None
    for row in cards.part_rows(card):
        (here, _), (policy, spread) = ((float(x.replace(",", "")) for x in cell.split(" ± ")) for cell in row[3:5])
        assert abs(here - policy) < 2.5 * spread + 30, row
        d4rl = 100 * (policy + 20.272305) / (3234.3 + 20.272305)  # D4RL d4rl/infos.py
        assert float(row[5]) == pytest.approx(d4rl, abs=0.1)


def test_histogram() -> None:
    lines = cards.histogram(np.random.default_rng(0).normal(size=500) * 1000, "#")
    assert len(lines) == 10
    assert sum(int(line.split()[-1]) for line in lines) == 500
    assert max(line.count("#") for line in lines) == 30
    assert len({line.rindex("  ") for line in lines}) == 1, "columns are aligned"
    sparse = cards.histogram(np.array([0.0] * 30 + [1.0] * 10), "#")
    assert [line.split() for line in sparse] == [["0.00", "#" * 30, "30"], ["1.00", "#" * 10, "10"]]
    assert len(cards.histogram(np.array([5.0]), "#")) == 1


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    drawn = []
    for _ in range(2):
        recipes.build(RANDOM, 1000, jobs=1, force=True)
        source = registry.resolve(RANDOM.id)
        recording = source.recording(dtype="float32")
        card = cards.card(recording.dataset(), recording.header.metadata)
        drawn.append((cards.markdown(card), cards.png(card)))
    assert drawn[0] == drawn[1]
    text = drawn[0][0]
    assert str(tmp_path) not in text
    assert f"rlsuite data make {RANDOM.id} --steps 1000" in text
    assert recording.dataset().content_hash in text
    assert "uniform | 1,000 (100.0%)" in text
    assert f"]({card.stem}.png)" in text


def test_the_index_keeps_the_rows_of_other_cards(recording: Recording) -> None:
    dataset = recording.dataset()
    first, second = (cards.card(replace(dataset, name=name), {}) for name in ("b/one-v0", "a/two|x-v0"))
    text = cards.index([second], cards.index([first]))
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert [row.split("]")[0] for row in rows] == ["| [a/two\\|x-v0", "| [b/one-v0"]
    assert "(b-one-v0.md)" in text
    assert cards.index([second], text) == text
    shorter = cards.card(replace(dataset.take_episodes(np.array([0])), name="b/one-v0"), {})
    rows = [line for line in cards.index([shorter], text).splitlines() if line.startswith("| [b/")]
    assert len(rows) == 1 and "| 5 | 1 |" in rows[0]
    assert "rlsuite Hopper-v5" in rows[0], "a score never stands without its label"
