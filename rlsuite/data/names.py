"""Spellings of dataset names; imports nothing heavy."""

from __future__ import annotations

import re

D4RL_NAME = re.compile(
    r"(?:d4rl/)?(?P<robot>hopper|halfcheetah|walker2d|ant)[-_]"
    r"(?P<level>random|medium|expert|medium[-_]replay|full[-_]replay|medium[-_]expert)-v[0-2](?:\.hdf5|\.h5)?",
    re.IGNORECASE,
)
