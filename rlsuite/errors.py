"""The one error that a user sees: a sentence, not a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input, in one sentence: what, where, and what to do about it. The command line prints it and exits with 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the known spelling closest to `name`, or lists the known ones.

    >>> nearest("prcd", ["bc", "prdc"])
    "did you mean 'prdc'?"
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}."


def printable(text: object) -> str:
    """What a damaged file, or a library that reads one, says: one line that can be shown, of at most 200 characters.

    >>> printable("no such\\nkey: \\x00")
    'no such key: ?'
    """
    line = " ".join(str(text).split())[:200]
    return "".join(letter if letter.isprintable() else "?" for letter in line)
