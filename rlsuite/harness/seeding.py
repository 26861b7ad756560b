"""Named random streams of one root seed, and the fixed episode seeds of evaluation.

Every stream is a NumPy generator keyed by (root seed, name), so adding a stream never moves another, and its bits do
not depend on the processor. Nothing in the package draws from a global generator.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

EVALUATION = 1 << 31  # set in every evaluation seed, never in a training seed: the two sets are disjoint
PROTOCOL_VERSION = 1  # raise it when evaluation changes; old and new rows then differ in their seeds


def _words(text: str) -> tuple[int, ...]:
    digest = hashlib.sha256(text.encode()).digest()[:16]
    return tuple(int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4))


class Streams:
    """The random streams of a run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generators: dict[str, np.random.Generator] = {}

    def __call__(self, name: str) -> np.random.Generator:
        """The stream `name`: the same object on every call."""
        if name not in self._generators:
            sequence = np.random.SeedSequence(self.seed, spawn_key=_words(name))
            self._generators[name] = np.random.Generator(np.random.PCG64(sequence))
        return self._generators[name]

    def state_dict(self) -> dict[str, Any]:
        return {name: g.bit_generator.state for name, g in self._generators.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, generator_state in state.items():
            self(name).bit_generator.state = generator_state


def evaluation_seeds(env_id: str, phase: str, episodes: int) -> list[int]:
    """The seeds of the first `episodes` evaluation episodes: the same for every algorithm and training seed.

    Different for each environment and `phase` ("interim", "final"); a longer list begins with the shorter one.
    """
    sequence = np.random.SeedSequence(_words(f"evaluation {PROTOCOL_VERSION} {env_id} {phase}"))
    return [int(word) | EVALUATION for word in sequence.generate_state(episodes)]
