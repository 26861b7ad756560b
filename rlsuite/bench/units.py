"""What the column `update` of a row counts: updates of an offline method, environment steps of an online one."""

from __future__ import annotations

import re

UPDATES = "updates"
STEPS = "environment steps"


def unit_of(dataset: str) -> str:
    """The unit of a run on `dataset`, "" for an online one."""
    return UPDATES if dataset else STEPS


def singular(unit: str) -> str:
    """
    >>> singular("updates or environment steps")
    'update or environment step'
    """
    return re.sub(r"s\b", "", unit)
