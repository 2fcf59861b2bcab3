"""Pools in the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from taskscout.pools.pool import Pool, Source
from taskscout.reports.terminal import number, short_licence, size

if TYPE_CHECKING:
    from taskscout.models.recipe import Recipe
    from taskscout.pools.estimate import Estimate

#: From so many columns on there is room for whole licences.
_WIDE = 110
_NARROWEST_DOMAIN = 10
#: A hash, alone or with more after it, such as the rows that a probe read.
_FINGERPRINT = re.compile(r"[0-9a-f]{16,}([-:].*)?")


def plain(text: object) -> Text:
    """What a file says, as text alone: no markup, and no control character of a terminal."""
    return Text("".join(c if c.isprintable() else "�" for c in str(text)))


def estimate_lines(estimate: Estimate, recipe: Recipe, folder: Path) -> Iterator[str]:
    """What building a pool will take, line by line."""
    step, made = estimate.step_seconds, len(estimate.sources)
    yield f"{made} sources to make in {folder}"
    yield (
        f"measured here: a step of {recipe.batch_size} examples ({estimate.step_tokens:,.0f} "
        f"tokens) takes {step:.2f} s; peak memory {size(estimate.memory)} per process"
    )
    rates = f"rate {recipe.learning_rate:g}, batches of {recipe.batch_size}"
    if recipe.accumulation > 1:
        rates += f" x {recipe.accumulation}"
    if recipe.recompute:
        rates += ", activations computed again"
    yield f"recipe: LoRA of rank {recipe.rank}, {rates}, at most {recipe.examples:,} examples"
    yield (
        f"about {estimate.hours:.1f} hours" if estimate.hours >= 1
        else f"about {60 * estimate.hours:.0f} minutes"
    ) + f"; {size(estimate.disk)} on disk"  # fmt: skip
    if estimate.downloads:
        known = [n for n in estimate.downloads.values() if n is not None]
        sizes = f"{size(sum(known))} of {len(known)} known" if known else "sizes not known here"
        yield (
            f"{len(estimate.downloads)} to load from the hub ({sizes}): "
            f"{', '.join(estimate.downloads)}"
        )
    if estimate.no_place:
        yield (
            f"{len(estimate.no_place)} cannot be loaded by name and will be left out (give a "
            f"folder that has them with --catalogue): {', '.join(estimate.no_place)}"
        )


def pool_table(pool: Pool, width: int) -> Table:
    """One line per source; what a narrow terminal has no room for is the domain.

    Parameters
    ----------
    pool
        Whose sources.
    width
        Columns of the terminal.
    """
    longest = 28 if width >= _WIDE else 14
    columns: dict[str, list[Text]] = {"source": [], "kind": [], "rows": [], "score": []}
    columns |= {"licence": [], "domain": []}
    for source in pool:
        card = source.card
        score = float(source.tuning.get("scores", {}).get("score", math.nan))
        cells = (
            source.name,
            card.kind,
            f"{sum(card.rows.values()):,}",
            number(score, 3),
            short_licence(card.licence, card.commercial, longest=longest),
            card.domain or card.category,
        )
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(plain(cell))
    table = Table(box=None, header_style="bold", pad_edge=False)
    domains = columns.pop("domain")
    room = width
    for name, texts in columns.items():
        justify = "right" if name in ("rows", "score") else "left"
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]  # either
        room -= max((len(text) for text in texts), default=0) + 2
    shown = [*columns.values()]
    if room >= _NARROWEST_DOMAIN:
        table.add_column("domain", no_wrap=True, overflow="ellipsis", max_width=room)
        shown.append(domains)
    for row in zip(*shown, strict=True):
        table.add_row(*row)
    return table


def left_out_lines(left_out: Mapping[str, str]) -> list[str]:
    """Which tasks are not in a pool, a line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason.partition(": test score")[0], []).append(name)
    most_first = sorted(by_reason.items(), key=lambda each: -len(each[1]))
    return [f"{reason}: {', '.join(names)}" for reason, names in most_first]


def source_table(source: Source) -> Table:
    """What a pool knows of one source; fingerprints are for programs, and in its JSON."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    card = source.card.to_dict()
    card["rows"] = ", ".join(f"{split} {rows:,}" for split, rows in card["rows"].items())
    card["columns"] = ", ".join(f"{role} {name}" for role, name in card["columns"].items())
    names = card["label_names"]
    card["label_names"] = ", ".join(names[:12]) + (f" … ({len(names)})" if len(names) > 12 else "")
    for key, value in card.items():
        if value:
            shown = "yes" if value is True else value
            table.add_row(key.replace("_", " "), plain(shown))
    for key, value in source.tuning.get("scores", {}).items():
        table.add_row(plain(f"test {key.replace('_', ' ')}"), number(float(value)))
    table.add_row("recipe", plain(_fields(source.tuning.get("recipe", {}))))
    for key, header in sorted(source.headers.items()):
        table.add_row(plain(f"description {key}"), plain(_fields(header) or "–"))
    return table


def _fields(fields: Mapping[str, Any]) -> str:
    """Names and values, without fingerprints and what is nested."""
    shown = []
    for name, value in fields.items():
        if isinstance(value, float):
            shown.append(f"{name.replace('_', ' ')} {value:.4g}")
        elif (
            isinstance(value, str | int) and not _FINGERPRINT.fullmatch(str(value)) and value != ""
        ):
            shown.append(f"{name.replace('_', ' ')} {value}")
    return ", ".join(shown)
