"""What HTML pages share: templates, axes of bars, the map of a pool, what was read of a task.

Pages are drawn by templates, in HTML and SVG alone. A plotting library's script would be 4 MB a
page and could not be read by a screen reader; a table whose rows hold their own bar can. No
script runs in these pages and nothing is fetched, which a Content-Security-Policy enforces; all
text is escaped (autoescape), so a task named ``<img onerror=...>`` is shown as that.
"""

from __future__ import annotations

import math
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

    from taskscout.models.encoder import Encoder
    from taskscout.pools.surroundings import PoolMap
    from taskscout.tasks import Task, TaskCard

#: Colours of the map; what is beyond them is grey.
_COLOURS = 7
#: Reference sizes of the map, in pixels, at which labels keep clear of one another.
_NARROW, _BROAD = (330.0, 340.0), (760.0, 520.0)
_CLASSES = 30
#: Letters of an example's text.
_LONGEST_TEXT = 300


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("taskscout.reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    made.filters["breakable"] = _breakable
    return made


def _breakable(name: str) -> Markup:
    """Let a long name be broken after an underscore."""
    from markupsafe import Markup, escape

    return escape(name).replace("_", Markup("_<wbr>"))


def render(template: str, **values: Any) -> str:
    """Render one of the templates; all text is escaped."""
    return _environment().get_template(template).render(**values)


def versions(encoder: Encoder | None = None) -> list[tuple[str, str]]:
    """Name what made a page: the encoder and the versions that its numbers may depend on."""
    out = []
    if encoder is not None:
        out.append(("encoder", f"{encoder.model_id}, pooling {encoder.pooling}, "
                    f"layers {encoder.layers}, at most {encoder.max_length} tokens"))  # fmt: skip
    for name in ("taskscout", "torch", "transformers", "tokenizers", "numpy", "scikit-learn"):
        try:
            out.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return [*out, ("Python", platform.python_version()), ("system", platform.platform(terse=True))]


@dataclass(frozen=True)
class Axis:
    """A scale from ``low`` to ``high``, drawn from the left edge to the right one."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float]) -> Axis:
        """Make an axis that holds all values, with room at both ends; NaN is passed over."""
        known = [v for v in values if not math.isnan(v)]
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        room = 0.06 * (high - low) or max(abs(high), 1.0) * 0.05
        return cls(low - room, high + room)

    def at(self, value: float) -> str:
        """Where a value stands, in percent of the width."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"

    def width(self, low: float, high: float) -> str:
        """How wide a span is drawn."""
        return f"{100 * (high - low) / (self.high - self.low):.2f}%"

    def ticks(self, most: int = 4) -> list[dict[str, str]]:
        """Choose round values, with where they stand."""
        span = self.high - self.low
        step = 10 ** math.floor(math.log10(span / most))
        step *= next(m for m in (1, 2, 5, 10) if span / (m * step) <= most)
        digits = max(0, -math.floor(math.log10(step)))
        first = math.ceil((self.low + 0.04 * span) / step)
        last = math.floor((self.high - 0.04 * span) / step)
        return [
            {"at": self.at(k * step), "text": f"{k * step:.{digits}f}"}
            for k in range(first, last + 1)
        ]


def reading_of(task: Task, notes: Sequence[str]) -> dict[str, Any]:
    """Lay out what was read of a task: notes, rows of each split, rows of each class."""
    splits = task.splits
    classes = []
    if task.kind == "classification":
        counts = [Counter(task.tables[s].column("label").to_pylist()) for s in splits]
        classes = [
            (name, [f"{of.get(i, 0):,}" for of in counts])
            for i, name in enumerate(task.label_names[:_CLASSES])
        ]
    return {
        "notes": list(notes),
        "splits": [{"name": s, "rows": f"{task.tables[s].num_rows:,}"} for s in splits],
        "classes": classes,
        "more_classes": max(0, task.n_classes - _CLASSES) if classes else 0,
    }


def shortened(text: str) -> str:
    """Cut a long text where it is shown as an example."""
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1].rstrip() + "…"


def link(address: str) -> str:
    """Give an address back where a browser may follow it, else nothing."""
    return address if address.startswith(("https://", "http://")) and " " not in address else ""


# -- the map -----------------------------------------------------------------------------------


def plane(
    shown: PoolMap,
    cards: Mapping[str, TaskCard],
    *,
    target: str = "",
    titles: Mapping[str, str],
    links: Mapping[str, str],
) -> dict[str, Any]:
    """Lay out a map for its template.

    Parameters
    ----------
    shown
        Points, in the order in which sources are given labels.
    cards
        Of the sources; their category gives the colour (their domain says too much: on the
        built-in pool it takes 54 values for 74 sources).
    target
        Name beside the target's point.
    titles, links
        By source: what is shown where a pointer rests on it, and where a click leads.
    """
    groups = [cards[n].category or cards[n].domain or "no category" for n in shown.names]
    common = [g for g, _ in Counter(groups).most_common()]
    named = common if len(common) <= _COLOURS else common[:_COLOURS]
    points, names = shown.points, list(shown.names)
    if shown.target is not None:
        points, names = np.vstack([shown.target, shown.points]), [target, *names]
    # Room for symbols at the edges.
    places = 0.04 + 0.92 * points
    labels = _labels(names, places)
    entries = [
        {
            "name": _short(name),
            "x": f"{100 * x:.2f}%",
            "y": f"{100 * (1 - y):.2f}%",
            **label,
        }
        for name, (x, y), label in zip(names, places.tolist(), labels, strict=True)
    ]
    own = None if shown.target is None else entries.pop(0)
    for name, group, entry in zip(shown.names, groups, entries, strict=True):
        entry["group"] = named.index(group) if group in named else _COLOURS
        entry["title"], entry["to"] = titles[name], links[name]
    return {
        "points": entries,
        "target": own,
        "groups": named,
        "others": "" if len(named) == len(common) else f"{len(common) - len(named)} others",
        "label": f"Map of {len(entries)} sources" + (f" and {target}" if own else ""),
        "near": "",
        "about": (
            "Each point is a task: the mean embedding of its training texts "
            f"({shown.method}), projected by t-SNE. Near points have texts that are alike "
            f"(the map keeps {shown.trustworthiness:.2f} of the neighbourhoods, where 1 is all); "
            "of far ones nothing can be said, and likeness of texts is not yet a gain. Colour is "
            "the category; a point leads to its source's line below."
        ),
    }


def _labels(names: Sequence[str], places: NDArray[np.float64]) -> list[dict[str, Any]]:
    """Choose a side for each label, and from which width on it has room; the first ones go first.

    Points stand at shares of the width, so labels that keep clear of one another at one width
    do so at every larger one.
    """
    chosen: dict[int, tuple[str, tuple[float, float, str]]] = {}
    for shown, (width, height) in (("narrow", _NARROW), ("broad", _BROAD)):
        xy = places * (width, height)
        xy[:, 1] = height - xy[:, 1]
        taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in xy.tolist()]
        boxes = {i: _box(names[i], xy[i], side) for i, (_, side) in chosen.items()}
        for i, name in enumerate(names):
            if i in chosen:
                continue
            others = [*(t for j, t in enumerate(taken) if j != i), *boxes.values()]
            for side in _SIDES:
                box = _box(name, xy[i], side)
                inside = box[0] >= 0 and box[1] >= 0 and box[2] <= width and box[3] <= height
                if (inside and not any(_meet(box, other) for other in others)) or i == 0:
                    chosen[i] = shown, side
                    boxes[i] = box
                    break
    out = []
    for i in range(len(names)):
        shown, side = chosen.get(i, ("hidden", _side_within(float(places[i, 0]))))
        out.append({"shown": shown, "dx": side[0], "dy": side[1], "anchor": side[2]})
    return out


#: Where a label may stand beside its point: dx, dy, which end of it is there.
_SIDES = ((9.0, 4.0, "start"), (-9.0, 4.0, "end"), (0.0, -9.0, "middle"), (0.0, 17.0, "middle"))


def _side_within(x: float) -> tuple[float, float, str]:
    """Put a label that appears under the pointer where the map has room for it."""
    return _SIDES[0] if x < 0.6 else _SIDES[1]


def _box(
    name: str, place: NDArray[np.float64], side: tuple[float, float, str]
) -> tuple[float, float, float, float]:
    """Give left, top, right and bottom of a label, its letters taken for 6.2 pixels wide."""
    wide = 6.2 * len(_short(name))
    left = float(place[0]) + side[0] - {"start": 0.0, "middle": wide / 2, "end": wide}[side[2]]
    bottom = float(place[1]) + side[1]
    return left, bottom - 10, left + wide, bottom + 3


def _meet(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return (
        one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
    )  # fmt: skip


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"
