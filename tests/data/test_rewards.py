"""Returns and the scale that they give to rewards, against literal loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlsuite.data.dataset import Dataset
from rlsuite.data.rewards import return_range, scale_by_returns, scaled_rewards
from rlsuite.errors import UserError


def episodes(*parts: tuple[int, str], seed: int = 0) -> Dataset:
    """Episodes of so many rows with random rewards; each ends "terminal", "cut", with "both" flags, or "open"."""
    lengths, ends = [length for length, _ in parts], [end for _, end in parts]
    n = sum(lengths)
    last = np.cumsum(lengths) - 1
    terminations, truncations = torch.zeros(2, n, dtype=torch.bool)
    terminations[last[[end in ("terminal", "both") for end in ends]]] = True
    truncations[last[[end in ("cut", "both") for end in ends]]] = True
    rng = np.random.default_rng(seed)
    as_tensor = lambda x: torch.as_tensor(x, dtype=torch.float32)  # noqa: E731
    return Dataset(
        as_tensor(rng.standard_normal((n, 2))),
        as_tensor(rng.uniform(-1, 1, (n, 1))),
        as_tensor(rng.normal(0.5, 1, n)),
        as_tensor(rng.standard_normal((n, 2))),
        terminations,
        truncations,
        torch.tensor([0, *(last[:-1] + 1).tolist()]),
        "made up",
    )


def exact_loop(dataset: Dataset) -> list[float]:
    """Returns of the episodes that end with a flag."""
    found = []
    for start, end in zip(dataset.episode_starts.tolist(), dataset.episode_ends.tolist(), strict=True):
        if dataset.terminations[end - 1] or dataset.truncations[end - 1]:
            found.append(sum(dataset.rewards[start:end].tolist()))
    return found


def official_loop(dataset: Dataset) -> list[float]:
    """Section 2.8 of O-DICE's specification, row by row, after D4RL has dropped the rows that a time limit cut."""
    found, total, length = [], 0.0, 0
    rows = zip(*(getattr(dataset, k).tolist() for k in ("rewards", "terminations", "truncations")), strict=True)
    for reward, terminal, cut in rows:
        if cut:
            continue
        total, length = total + reward, length + 1
        if terminal or length == 1000:
            found.append(total)
            total, length = 0.0, 0
    return found


DATASETS = {
    "terminal and cut": [(30, "terminal"), (1000, "cut"), (7, "both"), (1, "terminal"), (500, "open")],
    "cut alone, drifting": [(1000, "cut")] * 6,
    "cut early": [(300, "cut")] * 8,
    "drift into a terminal": [(1000, "cut"), (1000, "cut"), (40, "terminal"), (1000, "cut"), (5, "terminal")],
    "1000 rows to a terminal": [(1000, "terminal"), (2000, "terminal"), (1001, "terminal"), (999, "terminal")],
    "one that ends with the data": [(3, "terminal"), (1000, "open")],
    "one that does not": [(3, "terminal"), (999, "open")],
    "longer than the limit": [(2500, "terminal"), (3100, "open")],
    "cut in the last row": [(20, "terminal"), (1001, "cut")],
}


@pytest.mark.parametrize("parts", DATASETS.values(), ids=DATASETS)
def test_return_range_is_that_of_a_literal_loop(parts) -> None:
    dataset = episodes(*parts)
    assert dataset.episode_ends[-1] == len(dataset)
    exact, official = exact_loop(dataset), official_loop(dataset)
    assert return_range(dataset) == return_range(dataset, "exact") == pytest.approx((min(exact), max(exact)), abs=1e-9)
    assert return_range(dataset, "official") == pytest.approx((min(official), max(official)), abs=1e-9)


def test_return_range_of_many_random_datasets() -> None:
    rng = np.random.default_rng(0)
    for seed in range(50):
        ends = rng.choice(["terminal", "cut", "both"], 12).tolist()
        dataset = episodes(*zip(rng.integers(1, 1002, 12).tolist(), ends, strict=True), (10, "open"), seed=seed)
        for rule, loop in (("exact", exact_loop), ("official", official_loop)):
            found = loop(dataset)
            assert return_range(dataset, rule) == pytest.approx((min(found), max(found)), abs=1e-9), (seed, rule)


def test_the_two_rules_differ_where_episodes_are_cut_and_agree_where_all_terminate() -> None:
    cut, terminal = (episodes(*[(1000, end)] * 4) for end in ("cut", "terminal"))
    assert return_range(cut, "official") != return_range(cut)
    assert return_range(terminal, "official") == pytest.approx(return_range(terminal))
    assert len(official_loop(cut)) == 3  # 3996 rows remain


@pytest.mark.parametrize("rule", ["exact", "official"])
def test_scaled_rewards_have_returns_a_thousand_apart_and_all_else_is_kept(rule) -> None:
    dataset = episodes((30, "terminal"), (1000, "cut"), (1000, "cut"), (7, "terminal"), (20, "open"))
    scaled = scale_by_returns(dataset, rule)
    low, high = return_range(scaled, rule)
    assert high - low == pytest.approx(1000, rel=1e-5)
    assert scaled.rewards.dtype == torch.float32
    factors = scaled.rewards / dataset.rewards
    torch.testing.assert_close(factors, factors[:1].expand_as(factors))
    assert factors[0] > 0
    for name in ("observations", "actions", "next_observations", "terminations", "truncations", "episode_starts"):
        assert getattr(scaled, name) is getattr(dataset, name)
    assert scaled.name == dataset.name


def test_scale_and_shift_follow_the_scaling_by_returns() -> None:
    dataset = episodes((30, "terminal"), (1000, "cut"), (7, "terminal"))
    assert torch.equal(scaled_rewards(dataset).rewards, dataset.rewards)
    assert torch.equal(scaled_rewards(dataset, scale=3.0, shift=-3.0).rewards, 3 * dataset.rewards - 3)
    both = scaled_rewards(dataset, "official", 2.0, 1.0)
    assert torch.equal(both.rewards, 2 * scale_by_returns(dataset, "official").rewards + 1)


@pytest.mark.parametrize(
    ("parts", "rule"),
    [
        ([(30, "open")], "exact"),
        ([(30, "open")], "official"),
        ([(30, "cut"), (960, "cut"), (11, "open")], "official"),
    ],
)
def test_data_without_a_complete_episode_are_one_sentence(parts, rule) -> None:
    dataset = episodes(*parts)
    for call in (return_range, scale_by_returns):
        with pytest.raises(UserError, match="made up has no complete episode in") as error:
            call(dataset, rule)
        assert "\n" not in str(error.value)
        assert str(len(dataset)) in str(error.value)


@pytest.mark.parametrize("rule", ["exact", "official"])
@pytest.mark.parametrize("count", [1, 3])
def test_data_with_one_return_cannot_be_scaled(rule, count) -> None:
    dataset = episodes(*[(4, "terminal")] * count)
    dataset = replace(dataset, rewards=torch.ones(len(dataset)))
    assert return_range(dataset, rule) == (4.0, 4.0)
    with pytest.raises(UserError, match=r"every complete episode of made up returns 4,.*--scale-by") as error:
        scale_by_returns(dataset, rule)
    assert "\n" not in str(error.value)
