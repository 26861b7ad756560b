"""The track of car racing: its curvature and edges as tables over the centre line, and how it looks from above."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Picture = NDArray[np.uint8]

LENGTH, SPACING = 16.4076, 0.2  # m, of a lap and between the samples
PIXELS = 80  # a metre
LEFT_OF_PICTURE, BOTTOM, WIDTH, HEIGHT = -0.5, -0.75, 3.75, 3.5  # m


def periodic(values: str) -> Array:
    """Samples every `SPACING` from 0, and the first one again at `LENGTH`."""
    samples = np.array(values.split(), np.float64)
    return np.append(samples, samples[0])


CURVATURE = periodic("""
    1.90 1.53 .68 -.04 -.09 -.15 0 .97 2.12 3.60 4.24 3.66 1.66 -.85 -3.30 -3.57 -3.80 -2.39 -1.67 -1.53 -.93 -.71
    -1.04 -1.41 -1.41 -1.45 -1.69 -1.60 -1.68 -1.42 -1.05 -.56 .39 1.36 1.63 2.61 3.44 1.97 1.83 2.35 1.32 .30 -3.33
    -5.01 -1.73 2.79 4.28 3.50 1.81 1.34 .85 .47 -.12 -.74 -.39 .27 .84 .79 .77 .77 .79 .82 .76 .70 .66 .63 .62 .63
    .65 .70 .75 .81 .72 .48 .28 .25 .30 .31 .71 1.46 2.25 2.96 4.19""")
LEFT = periodic("""
    .20 .26 .27 .27 .27 .27 .27 .27 .25 .21 .09 .21 .23 .22 .25 .27 .21 .18 .22 .26 .27 .26 .21 .20 .23 .25 .26 .27
    .28 .27 .24 .23 .24 .24 .20 .10 .19 .25 .27 .25 .16 .09 .21 .28 .24 .13 .30 .24 .27 .27 .23 .16 .12 .26 .26 .20
    .14 .09 .07 .08 .13 .20 .25 .27 .28 .25 .21 .15 .11 .08 .08 .09 .11 .15 .19 .23 .26 .27 .27 .25 .20 .08 .18""")
RIGHT = periodic("""
    -.21 -.10 -.08 -.08 -.08 -.08 -.08 -.08 -.12 -.24 -.27 -.19 -.12 -.13 -.12 -.08 -.16 -.17 -.14 -.10 -.07 -.10
    -.15 -.15 -.11 -.10 -.08 -.07 -.07 -.08 -.11 -.12 -.11 -.11 -.18 -.27 -.24 -.13 -.08 -.14 -.25 -.27 -.23 -.08
    -.16 -.26 -.26 -.18 -.09 -.08 -.14 -.24 -.28 -.20 -.11 -.16 -.22 -.26 -.28 -.27 -.23 -.17 -.11 -.08 -.08 -.10
    -.16 -.21 -.25 -.27 -.27 -.26 -.24 -.21 -.16 -.12 -.10 -.08 -.08 -.11 -.21 -.28 -.20""")
PLACES = np.append(SPACING * np.arange(len(CURVATURE) - 1), LENGTH)


def along(s: Array, table: Array) -> Array:
    """A tabulated quantity at progress s, m, of any number of laps, interpolated."""
    return np.interp(s % LENGTH, PLACES, table)


def on_track(s: Array, d: Array) -> NDArray[np.bool_]:
    """Whether a car at progress s and d to the left of the centre line, both in m, is between the edges."""
    return (d < along(s, LEFT)) & (d > along(s, RIGHT))


@cache
def centre_line() -> Array:
    """(4, k): progress, x, y and heading at points close together, by integrating the curvature from the origin."""
    s = np.linspace(0.0, LENGTH, 16_001)
    middle = (s[1:] + s[:-1]) / 2
    heading = np.append(0.0, np.cumsum(along(middle, CURVATURE) * np.diff(s)))
    towards = (heading[1:] + heading[:-1]) / 2
    x, y = (np.append(0.0, np.cumsum(wave(towards) * np.diff(s))) for wave in (np.cos, np.sin))
    return np.stack([s, x, y, heading])


def position(s: Array, d: Array) -> tuple[Array, Array, Array]:
    """x and y, in m, and the heading of the centre line, in rad, at progress s and d to the left of that line."""
    places, *line = centre_line()
    x, y, heading = (np.interp(s % LENGTH, places, values) for values in line)
    return x - d * np.sin(heading), y + d * np.cos(heading), heading


@cache
def picture() -> Picture:
    """(280, 300, 3): the empty track, to be copied before anything is painted on it."""
    frame = np.full((round(HEIGHT * PIXELS), round(WIDTH * PIXELS), 3), 255, np.uint8)
    s = np.arange(0.0, LENGTH, 0.5 / PIXELS)
    left, right = along(s, LEFT), along(s, RIGHT)
    for share in np.linspace(0.0, 1.0, 81):
        paint(frame, *position(s, right + share * (left - right))[:2], (225, 225, 225))
    for edge in (left, right):
        paint(frame, *position(s, edge)[:2], (90, 90, 90))
    across = np.linspace(RIGHT[0], LEFT[0], 50)
    paint(frame, *position(np.zeros(50), across)[:2], (90, 90, 90))
    return frame


def paint(frame: Picture, x: Array, y: Array, colour: tuple[int, int, int]) -> None:
    """Colour the pixels at places in m; those outside the frame are left out."""
    rows = np.floor((HEIGHT + BOTTOM - y) * PIXELS).astype(int)
    columns = np.floor((x - LEFT_OF_PICTURE) * PIXELS).astype(int)
    height, width, _ = frame.shape
    seen = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    frame[rows[seen], columns[seen]] = colour
