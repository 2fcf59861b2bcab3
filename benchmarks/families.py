"""Does a ranking put a source of the target's own family first?

Every classification and regression task of the catalogue is ranked against the built-in pool,
its own entry and every source that shares texts with it excluded. "Family" is our grouping of the
catalogue's categories (``taskscout.tasks.catalogue.FAMILIES``). Chance is the share of family
members among the sources that were left. It says whether scores look at the right thing; whether
the first source *helps* is for real transfer to say.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from benchmarks._data import catalogue
from benchmarks._report import markdown, publish
from taskscout import Pool, Workbench
from taskscout.methods import DEFAULT
from taskscout.methods.expression import parse_method
from taskscout.methods.method import Method
from taskscout.tasks.kinds import SEQUENCE_KINDS

VARIANTS = {
    "maps of two layers (default)": DEFAULT,
    "maps of the last layer": "esm-logme",
    "last layer, features as they are": "esm-logme(centring=none, unit_norm=false)",
    "last layer, published formula": "esm-logme(compat=true)",
}


def hits(method: Method, bench: Workbench, rows: int) -> list[dict[str, object]]:
    """Per target: family, first source, whether it is of the family, chance."""
    data, pool = catalogue(), Pool.builtin()
    out = []
    for name in data.names:
        if data.kind(name) not in SEQUENCE_KINDS:
            continue
        shared = data.shares_texts_with(name)
        family = data.family(name)
        names = [
            n
            for n in pool.described(method.key)
            if n != name and n not in shared and name not in data.shares_texts_with(n)
        ]
        relatives = [n for n in names if data.family(n) == family]
        if not relatives:
            continue
        target = data.task(name).for_choosing(rows)
        values = method.score(target, pool.descriptions(method.key, names), bench)
        order = [names[i] for i in np.argsort(-values, kind="stable")]
        places = [order.index(n) + 1 for n in relatives]
        out.append(
            {
                "target": name,
                "family": family,
                "first": order[0],
                "first_family": data.family(order[0]),
                "hit": data.family(order[0]) == family,
                "hit3": any(data.family(n) == family for n in order[:3]),
                "chance": len(relatives) / len(names),
                "chance3": 1 - math.comb(len(names) - len(relatives), 3) / math.comb(len(names), 3),
                "best_place": min(places),
                "relatives": len(relatives),
                "sources": len(names),
            }
        )
    return out


def main() -> None:
    """Run all variants and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[200], help="of each target")
    rows = parser.parse_args().rows
    bench = Workbench()
    summary, tables = [], {}
    for n in rows:
        for variant, method in VARIANTS.items():
            found = hits(parse_method(method), bench, n)
            tables[f"{n}: {variant}"] = found
            mean = {k: float(np.mean([r[k] for r in found])) for k in ("hit", "chance", "hit3")}
            # Standard error of the share of hits, over targets.
            error = math.sqrt(mean["hit"] * (1 - mean["hit"]) / len(found))
            chance3 = float(np.mean([r["chance3"] for r in found]))
            summary.append(
                (n, variant, f"{mean['hit']:.0%} ± {error:.0%}", f"{mean['chance']:.0%}",
                 f"{mean['hit3']:.0%}", f"{chance3:.0%}", len(found))
            )  # fmt: skip
    text = (
        "Every classification and regression task of the catalogue ranked by the evidence of maps "
        "against the built-in pool, its own entry and all sources that share texts with it left "
        "out; tasks without a relative left are not counted.\n\n"
        + markdown(
            ("rows", "variant", "family first", "by chance", "in first 3", "by chance", "targets"),
            summary,
        )
        + f"\n\nEach target, {rows[0]} rows, default variant:\n\n"
        + markdown(
            ("target", "family", "first source", "its family", "", "relatives of sources"),
            [
                (
                    r["target"],
                    r["family"],
                    r["first"],
                    r["first_family"],
                    "✓" if r["hit"] else "",
                    f"{r['relatives']} of {r['sources']}",
                )
                for r in tables[f"{rows[0]}: {next(iter(VARIANTS))}"]
            ],
        )
    )
    publish("families", "Families: is the first source of the target's own kind?", text, tables)


if __name__ == "__main__":
    main()
