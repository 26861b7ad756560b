"""What a dataset holds and where it comes from, as text, Markdown and a picture: `rlsuite data show`.

The same data give the same bytes: no dates, no paths. State coverage is the coding rate of the states,

    1/2 log2 det(I + C / r^2),    C the covariance of the observations, r = 0.1,

(Ma, Derksen, Hong and Wright, 2007, with a distortion of r^2 a coordinate): the logarithm of the number of cells of
side r that a normal distribution with the states' covariance fills. One bit more is twice the volume, coordinates that
never move add nothing, and a random half of the data has nearly the same value. Observations enter in their own units,
so it compares datasets of one environment.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from rlsuite.data import scores
from rlsuite.data.dataset import Dataset
from rlsuite.data.files import read_json
from rlsuite.data.recipes import RECIPES
from rlsuite.data.rollout import BEHAVIOUR
from rlsuite.data.scores import mean_and_std, rounded
from rlsuite.data.workers import Contribution
from rlsuite.errors import UserError, printable

RESOLUTION = 0.1
SAMPLE = 100_000  # states that the coverage and its picture look at, evenly spaced
INDEX_TITLE = "# Dataset cards"
_COVERAGE = (
    f"State coverage: log2 of the number of cells of side {RESOLUTION} that a normal distribution with the states' "
    "covariance C fills, 1/2 log2 det(I + C / 0.01); one bit more is twice the volume, and only datasets of one "
    "environment compare."
)


@dataclass(frozen=True)
class Part:
    """What one behaviour contributed."""

    behaviour: str
    steps: int
    episodes: int
    measured: str  # what the policy returned when it was measured, in words; "-" where nobody did
    d4rl: str  # the same normalised by D4RL's constants; "-" where they have none for the robot


@dataclass(frozen=True, eq=False)
class Card:
    """Everything that is told about a dataset of N transitions and E episodes."""

    name: str
    description: str
    env_id: str | None
    returns: np.ndarray  # (E,) undiscounted
    lengths: np.ndarray  # (E,)
    terminated: int
    truncated: int
    observation_dim: int
    actions: str
    coverage: float  # bits
    states: np.ndarray  # (M, 2): x and y of a maze, else the first principal components
    state_axes: tuple[str, str]
    parts: tuple[Part, ...]  # empty where the data do not say
    streams: np.ndarray | None  # (E,) the part that each episode belongs to, None where unknown
    content_hash: str
    versions: str  # of the packages that made the data, empty where unknown
    note: Mapping[str, Any]  # what the recipe wrote: recipe, seed ...; empty for foreign data
    origin: tuple[tuple[str, str], ...]  # what foreign metadata say

    @property
    def steps(self) -> int:
        return int(self.lengths.sum())

    @property
    def reference(self) -> scores.Reference | None:
        return scores.reference(self.env_id, self.name)

    @property
    def rebuild(self) -> str | None:
        """The command that builds the same arrays."""
        return f"rlsuite data make {self.note['recipe']} --steps {self.steps}" if "recipe" in self.note else None

    @property
    def stem(self) -> str:
        """File name of the card, without its ending."""
        return self.name.replace("/", "-")


def card(dataset: Dataset, metadata: Mapping[str, Any]) -> Card:
    """The card of a sound, non-empty dataset with its Minari metadata, or {} for none.

    Raises UserError where what its build noted about itself is damaged.
    """
    note = metadata.get("rlsuite") or {}
    lengths = (dataset.episode_ends - dataset.episode_starts).cpu().numpy()
    observations = dataset.observations.cpu().numpy()
    coverage, states, axes = _states(observations, dataset.env_id)
    try:
        parts = _parts(note, dataset.env_id, len(dataset), len(lengths))
        versions = ", ".join(f"{name} {value}" for name, value in note.get("versions", {}).items())
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(
            f"what the build of {dataset.name} noted about itself is damaged ({printable(error)}); build it again."
        ) from error
    told = ("algorithm_name", "author", "code_permalink")
    return Card(
        dataset.name,
        str(metadata.get("description") or ""),
        dataset.env_id,
        dataset.episode_returns(),
        lengths,
        int(dataset.terminations.sum()),
        int(dataset.truncations.sum()),
        dataset.observation_dim,
        _actions(dataset),
        coverage,
        states,
        axes,
        parts,
        _streams(parts, lengths),
        dataset.content_hash,
        versions,
        note,
        () if note else tuple((key.split("_")[0], _words(metadata[key])) for key in told if metadata.get(key)),
    )


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple, set)) else str(value)


def _actions(dataset: Dataset) -> str:
    low, high = dataset.action_low, dataset.action_high
    if low is None or high is None:
        return f"{_numbers(dataset.action_dim)}, bounds unknown"
    if (low == low[0]).all() and (high == high[0]).all():
        return f"{_numbers(dataset.action_dim)} in [{low[0]:g}, {high[0]:g}]"
    return f"{_numbers(dataset.action_dim)}, low {low}, high {high}"


def _numbers(count: int) -> str:
    return f"{count:,} number{'s' if count != 1 else ''}"


def _states(observations: np.ndarray, env_id: str | None) -> tuple[float, np.ndarray, tuple[str, str]]:
    """Coverage in bits, (M, 2) coordinates of a sample of the states, and what the coordinates are."""
    size = min(len(observations), SAMPLE)
    sample = observations[np.arange(size) * len(observations) // size].astype(np.float64)
    centred = sample - sample.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / size)
    values = np.maximum(values, 0)
    coverage = float(np.log2(1 + values / RESOLUTION**2).sum() / 2)
    if env_id is not None and "PointMaze" in env_id:
        return coverage, sample[:, :2], ("x", "y")
    if sample.shape[1] == 1:
        return coverage, np.column_stack([sample, np.zeros(size)]), ("observation", "")
    # Rounded and with one sign, so that a library's last bits cannot move a state to another cell of the picture.
    vectors = vectors[:, [-1, -2]].round(6)
    vectors *= np.where(vectors[np.abs(vectors).argmax(0), [0, 1]] < 0, -1, 1)
    shares = 100 * values[[-1, -2]] / max(values.sum(), np.finfo(float).tiny)
    names = (f"component {i} ({share:.0f} % of the variance)" for i, share in enumerate(shares, 1))
    return coverage, centred @ vectors, (next(names), next(names))


def _parts(note: Mapping[str, Any], env_id: str | None, steps: int, episodes: int) -> tuple[Part, ...]:
    listed = note.get("parts")
    if listed is None and "policy" in note:  # built before there were mixtures
        listed = [{"behaviour": note["policy"], "steps": steps, "episodes": episodes}]
    recipe = RECIPES.get(note.get("recipe", ""))
    same = recipe is not None and recipe.policy_sha256 == note.get("policy_sha256")
    return tuple(
        Part(
            str(part["behaviour"]),
            int(part["steps"]),
            int(part["episodes"]),
            *(_measured(part["behaviour"], env_id) if same else ("-", "-")),
        )
        for part in listed or ()
    )


def _measured(behaviour: str, env_id: str | None) -> tuple[str, str]:
    """`Part.measured` and `Part.d4rl`: from a behaviour's record, or from the reference for uniform actions."""
    if behaviour == "uniform":
        found = scores.reference(env_id)
        if found is None:
            return "-", "-"
        mean, std = found.random, found.random_std or 0
    else:
        name, _, index = behaviour.partition("/")
        measured = read_json(BEHAVIOUR / f"{name}.json").get("measured")
        if not measured:
            return "-", "-"
        record = (measured[int(index)] if index else measured)["stochastic"]
        mean, std = record["mean"], record["std"]
    robot = (env_id or "").partition("-")[0].lower()
    constants = next((r for r in scores.references() if r.scope == "d4rl" and r.key == robot), None)
    return mean_and_std(mean, std), "-" if constants is None else _tenths(constants.score(mean))


def _streams(parts: Sequence[Part], lengths: np.ndarray) -> np.ndarray | None:
    """Whose turn each episode was, by the order of builds; None where that contradicts what the parts say."""
    if not parts:
        return None
    turns, contribution = [], Contribution(len(parts))
    for length in lengths.tolist():
        turns.append(contribution.turn())
        contribution.add(turns[-1], length)
    told = [part.episodes for part in parts], [part.steps for part in parts]
    return np.array(turns) if (contribution.episodes, contribution.steps) == told else None


def facts(card: Card) -> list[tuple[str, str]]:
    """Name and value of what is told in one line each, in words."""
    lengths, returns = card.lengths, card.returns
    reference = card.reference
    pairs = [("description", card.description), *card.origin, ("environment", card.env_id or "unknown")]
    pairs += [
        ("transitions", f"{card.steps:,}"),
        ("episodes", f"{len(returns):,}, length {lengths.mean():,.1f} ({lengths.min():,} to {lengths.max():,})"),
        ("ends", f"{card.terminated:,} terminated, {card.truncated:,} truncated"),
        (
            "returns",
            f"mean {rounded(returns.mean())}, std {rounded(returns.std())}, {_span(returns.min(), returns.max())}",
        ),
    ]
    if reference is None:
        pairs += [("score", "none, no reference returns are known for these data")]
    else:
        pairs += [("score", f"mean {_tenths(reference.score(returns).mean())} (reference: {reference.label})")]
    pairs += [
        ("state coverage", f"{card.coverage:.1f} bits"),
        ("observations", _numbers(card.observation_dim)),
        ("actions", card.actions),
    ]
    if "seed" in card.note:
        pairs += [("seed", str(card.note["seed"]))]
    pairs += [("versions", card.versions), ("content hash", card.content_hash)]
    if card.rebuild is not None:
        pairs += [("rebuild", card.rebuild)]
    return [pair for pair in pairs if pair[1]]


def _tenths(score: float | np.ndarray) -> str:
    return f"{round(float(score), 1) + 0.0:.1f}"  # no "-0.0"


def _span(low: float, high: float) -> str:
    return f"{rounded(low)} to {rounded(high)}"


def histogram(returns: np.ndarray, block: str, bins: int = 10, width: int = 30) -> list[str]:
    """Lines of a bar chart of returns: a line for each of at most `bins` values, or for each of `bins` ranges."""
    values, counts = np.unique(returns, return_counts=True)
    labels = [rounded(value) for value in values]
    if len(values) > bins:
        counts, edges = np.histogram(returns, bins)
        labels = [_span(low, high) for low, high in itertools.pairwise(edges)]
    bars = [block * int(np.ceil(width * count / counts.max())) for count in counts]
    return [
        f"{label:>{max(map(len, labels))}}  {bar:<{width}}  {count:,}"
        for label, bar, count in zip(labels, bars, counts, strict=True)
    ]


PART_HEADER = ("behaviour", "transitions", "episodes", "return here", "measured", "D4RL-normalised")


def part_rows(card: Card) -> list[tuple[str, ...]]:
    """A row under `PART_HEADER` for each behaviour."""
    rows: list[tuple[str, ...]] = []
    for i, part in enumerate(card.parts):
        here = card.returns[card.streams == i] if card.streams is not None else np.empty(0)
        rows.append(
            (
                part.behaviour,
                f"{part.steps:,} ({part.steps / card.steps:.1%})",
                f"{part.episodes:,} ({part.episodes / len(card.returns):.1%})",
                mean_and_std(here.mean(), here.std()) if len(here) else "-",
                part.measured,
                part.d4rl,
            )
        )
    return rows


def markdown(card: Card) -> str:
    """The card as Markdown, beside a picture of its stem."""
    told = [pair for pair in facts(card) if pair[0] not in ("description", "rebuild")]
    lines = [f"# {card.name}", ""]
    lines += [card.description, ""] if card.description else []
    lines += [*_table(("", ""), told), "", f"![returns and states]({quote(card.stem)}.png)", "", _COVERAGE, ""]
    if card.parts:
        lines += ["## Behaviour", "", *_table(PART_HEADER, part_rows(card)), ""]
        lines += [
            "Returns: mean ± standard deviation; measured: over 100 other episodes, actions sampled as here. The last "
            "column is the measured mean under D4RL's constants for the robot, whose simulator was an older one.",
            "",
        ]
    if card.rebuild is not None:
        lines += ["## Rebuild", "", f"    {card.rebuild}", ""]
        lines += ["With the versions above, and on the same class of processor, this gives the content hash above.", ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, ["---"] * len(header), *rows)]
    return ["| " + " | ".join(row) + " |" for row in cells]


def index(cards: Sequence[Card], old: str = "") -> str:
    """The table of contents of a folder of cards: `old` with the rows of `cards` put in or replaced, by name."""
    rows = {line.split("](")[0]: line for line in old.splitlines() if line.startswith("| [")}
    for card in cards:
        reference = card.reference
        score = "-" if reference is None else _tenths(reference.score(card.returns).mean())
        cells = (
            f"[{card.name}]({quote(card.stem)}.md)",
            card.env_id or "unknown",
            f"{card.steps:,}",
            f"{len(card.returns):,}",
            mean_and_std(card.returns.mean(), card.returns.std()),
            score,
            "-" if reference is None else reference.label,
            f"{card.coverage:.1f}",
        )
        row = _table(cells, ())[0]
        rows[row.split("](")[0]] = row
    header = ("dataset", "environment", "transitions", "episodes", "return", "score", "reference", "coverage, bits")
    lines = [INDEX_TITLE, "", *_table(header, ()), *(rows[key] for key in sorted(rows)), ""]
    lines += [
        "Return: mean ± standard deviation over the episodes. Score: mean of the normalised returns under the "
        "reference beside it; scores under different references do not compare.",
        "",
        _COVERAGE,
        "",
        "Made by `rlsuite data show NAME... --card FOLDER`.",
    ]
    return "\n".join(lines) + "\n"


INK = "#24292f"
HUES = ("#3b7dc4", "#e0752d", "#2f9e6e")
_STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.15,
    "figure.constrained_layout.use": True,
} | dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)


def png(card: Card) -> bytes:
    """Histogram of the returns, density of the states, and for a mixture the returns in the order of the episodes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mixture = len(card.parts) > 1
    panels = [_draw_returns, _draw_states, *([_draw_order] if mixture else [])]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.9 * len(panels), 3.8), dpi=130, facecolor="white")
        figure.suptitle(card.name, x=0.01, ha="left", fontsize=12.5, fontweight="bold")
        for place, draw in enumerate(panels, 1):
            draw(card, figure.add_subplot(1, len(panels), place))
        if mixture and card.streams is not None:
            handles: Any = figure.axes[0].containers  # the bars of each part
            figure.legend(handles, [part.behaviour for part in card.parts], loc="outside right center", frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _by_part(card: Card) -> list[tuple[np.ndarray, Any]]:
    """Episodes and colour of each part; all episodes in one colour where the parts are unknown or one."""
    import matplotlib as mpl

    if card.streams is None or len(card.parts) < 2:
        return [(np.arange(len(card.returns)), HUES[0])]
    # A few are told apart by hue; more are checkpoints of one training, in its order.
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(card.parts)))
    tints = HUES if len(card.parts) <= len(HUES) else shades
    return [(np.flatnonzero(card.streams == i), tints[i]) for i in range(len(card.parts))]


def _draw_returns(card: Card, axes: Any) -> None:
    parts = _by_part(card)
    bins = int(np.clip(2 * np.sqrt(len(card.returns)), 10, 40))
    axes.hist([card.returns[k] for k, _ in parts], bins=bins, color=[tint for _, tint in parts], stacked=True)
    axes.yaxis.get_major_locator().set_params(integer=True)
    mean = card.returns.mean()
    axes.axvline(mean, color=INK, lw=1, ls=(0, (4, 3)))
    axes.set_title(f"{len(card.returns):,} episodes, mean {rounded(mean)} (dashed)")
    axes.set_xlabel("return")
    axes.set_ylabel("episodes")


def _draw_states(card: Card, axes: Any) -> None:
    from matplotlib.colors import LogNorm

    drawn = axes.hist2d(card.states[:, 0], card.states[:, 1], bins=80, cmin=1, norm=LogNorm(), cmap="YlGnBu")
    axes.figure.colorbar(drawn[3], ax=axes, label="states in a cell")
    axes.set_title(f"States, coverage {card.coverage:.1f} bits")
    axes.set_xlabel(card.state_axes[0])
    axes.set_ylabel(card.state_axes[1])
    if card.state_axes == ("x", "y"):
        axes.set_aspect("equal")


def _draw_order(card: Card, axes: Any) -> None:
    size = float(np.clip(60 / np.sqrt(len(card.returns)), 2, 5))
    for episodes, tint in _by_part(card):
        axes.plot(episodes, card.returns[episodes], ls="", marker="o", ms=size, mew=0, alpha=0.7, color=tint)
    axes.set_title("Returns in order")
    axes.set_xlabel("episode")
    axes.set_ylabel("return")
