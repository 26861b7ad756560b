"""Spellings of dataset names; imports nothing heavy."""

from __future__ import annotations

import re

D4RL_NAME = re.compile(
    r"(?:d4rl/)?(?P<robot>hopper|halfcheetah|walker2d|ant)[-_]"
    r"(?P<level>random|medium|expert|medium[-_]replay|full[-_]replay|medium[-_]expert)-v[0-2](?:\.hdf5|\.h5)?",
    re.IGNORECASE,
)

EPISODES = re.compile(r"(?P<name>.+)#(?P<episodes>[0-9]{1,9}(?:,[0-9]{1,9})*)")


def split_episodes(name: str) -> tuple[str, tuple[int, ...]]:
    """The dataset that a name means, and the episodes of it that follow a # ("NAME#1,10"); none if it means all."""
    match = EPISODES.fullmatch(name)
    return (match["name"], tuple(map(int, match["episodes"].split(",")))) if match else (name, ())
