"""Numbers in README, recomputed from committed results.

    python -m benchmarks.claims

A number in README that is measured stands between marks that name its claim, and do not show::

    gains <!-- claim pick-gain/logme -->2.9<!-- /claim --> points

:data:`CLAIMS` says how each is computed from ``benchmarks/results``. Between ``<!-- claims -->``
and ``<!-- /claims -->`` every number has to be marked (code, dates and links aside). The command
fails where a number differs from its result, a claim is unknown, or a number is not marked.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import numpy as np

from benchmarks._grids import block
from benchmarks._report import RESULTS, ROOT
from taskscout.methods.gains import Gains
from taskscout.studies.reliability import honest_oracle
from taskscout.studies.significance import interval

#: The grid that README speaks of, and the study of methods on it.
GRID, STUDY = "lora-200-full", "study-lora-200-full"
#: What README calls methods, and their names in the study.
METHODS = {
    "default": "layered-esm-logme",
    "esm-logme": "esm-logme",
    "logme": "logme",
    "refined": "layered-esm-logme>logme",
    "esm-logme-published": "esm-logme, published formula",
    "logme-published": "logme, published formula",
    "random": "random order",
    "prior": "source-prior",
    "format": "format",
}
_CLAIM = re.compile(r"<!-- claim (\S+) -->(.*?)<!-- /claim -->", re.DOTALL)
_PLACE = re.compile(r"<!-- claims -->(.*?)<!-- /claims -->", re.DOTALL)
#: What may hold digits without being a measured number.
_ASIDE = re.compile(r"`[^`]*`|\]\([^)]*\)|\d{4}-\d\d-\d\d|<!--.*?-->", re.DOTALL)


@cache
def grid() -> Gains:
    """The grid that README speaks of."""
    return block(GRID)


@cache
def result(name: str) -> Mapping[str, Any]:
    """What a benchmark has stored."""
    stored: Mapping[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return stored


@cache
def rows() -> Mapping[tuple[str, str], Mapping[str, float]]:
    """Rows of the study, by method and metric."""
    return {(r["method"], r["metric"]): r for r in result(STUDY)["rows"]}


def with_ends(value: float, low: float, high: float) -> str:
    """A number with its interval, as README writes it."""
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def of_study(method: str, metric: str, *, ends: bool = True, sign: int = 1) -> str:
    """A metric of a method in the study; ``sign`` -1 where README speaks of a loss."""
    row = rows()[METHODS[method], metric]
    value = sign * row["value"]
    return with_ends(value, row["low"], row["high"]) if ends else f"{value:.1f}"


def oracle() -> str:
    """What choosing by two seeds gains under the third."""
    values = honest_oracle(["pick-gain"], grid())["pick-gain"]
    return with_ends(values.mean(), *interval(values, values.mean()))


def advice() -> str:
    """What following the advice gains, a source or none, on targets left out of the forecast."""
    gains = np.array([t["gain"] for t in result("forecast")["maps, target left out"]["table"]])
    drawn = np.random.default_rng(0).integers(0, len(gains), (4000, len(gains)))
    return with_ends(gains.mean(), *np.quantile(gains[drawn].mean(1), [0.025, 0.975]))


def hurt() -> str:
    """Share of transfers that lose against training directly."""
    points = grid().points
    return f"{(points[~np.isnan(points)] < 0).mean():.0%}"


def family(variant: str, what: str = "hit") -> str:
    """Share of targets whose first source is of their family, or what chance would give."""
    return f"{np.mean([t[what] for t in result('families')[f'200: {variant}']]):.0%}"


def family_by_cards() -> str:
    """The same for ``format``, which reads nothing but cards."""
    targets = result("methods")["methods"]["format"]["targets"].values()
    return f"{np.mean([t['hit'] for t in targets]):.0%}"


def single_pairs() -> list[Mapping[str, Any]]:
    """Pairs that were trained with and without their source."""
    return list(result("transfer")["runs"].values())


def difference(summary: Callable[[list[float]], float]) -> str:
    """The mean, least or largest difference over these pairs, in points."""
    return f"{100 * summary([pair['difference'] for pair in single_pairs()]):.1f}"


def on_taskweb(method: str) -> str:
    """Gain of the first pick on TaskWeb's transfers of T5-large, in points."""
    found = result("taskweb")["block"]["rows"]
    (row,) = [r for r in found if (r["method"], r["metric"]) == (METHODS[method], "pick-gain")]
    return f"{row['value']:.1f}"


CLAIMS: dict[str, Callable[[], str]] = {
    "family/default": partial(family, "maps of two layers (default)"),
    "family/chance": partial(family, "maps of two layers (default)", "chance"),
    "family/format": family_by_cards,
    "family/targets": lambda: str(len(result("families")["200: maps of two layers (default)"])),
    "pairs/count": lambda: str(len(single_pairs())),
    "pairs/decided": lambda: str(sum(p["outcome"] != "undecided" for p in single_pairs())),
    "pairs/mean": partial(difference, np.mean),
    "pairs/least": partial(difference, min),
    "pairs/most": partial(difference, max),
    "taskweb/default": partial(on_taskweb, "default"),
    "taskweb/random": partial(on_taskweb, "random"),
    "grid/sources": lambda: str(len(grid().sources)),
    "grid/targets": lambda: str(len(grid().targets)),
    "grid/hurt": hurt,
    "oracle": oracle,
    "advice": advice,
    **{f"pick-gain/{m}": partial(of_study, m, "pick-gain") for m in METHODS},
    **{f"pick-gain-alone/{m}": partial(of_study, m, "pick-gain", ends=False) for m in METHODS},
    **{f"loss/{m}": partial(of_study, m, "pick-gain", ends=False, sign=-1) for m in METHODS},
    **{f"regret@3/{m}": partial(of_study, m, "regret@3", ends=False) for m in METHODS},
}


def mistakes(text: str) -> list[str]:
    """What is wrong with the numbers of a text; empty where all are right."""
    out = []
    marked = _CLAIM.findall(text)
    if not marked:
        out.append("no number is marked with a claim")
    if text.count("<!-- claim ") != len(marked):
        out.append("a claim is not closed with <!-- /claim -->")
    for name, written in marked:
        if name not in CLAIMS:
            out.append(f"{name}: there is no such claim")
        elif (computed := CLAIMS[name]()) != " ".join(written.split()):
            out.append(f"{name}: README says {written!r}, the results say {computed!r}")
    for place in _PLACE.findall(text):
        rest = _ASIDE.sub(" ", _CLAIM.sub(" ", place))
        out += [f"not marked with a claim: {found!r}" for found in re.findall(r"\S*\d\S*", rest)]
    return out


def main() -> None:
    """Check README; the exit status is 1 where a number is wrong."""
    text = (ROOT / "README.md").read_text()
    wrong = mistakes(text)
    for line in wrong:
        print(line)
    if wrong:
        sys.exit(1)
    print(f"{len(_CLAIM.findall(text))} numbers in README are those of the results.")


if __name__ == "__main__":
    main()
