"""What should a row of evidence be? Tags, questions and choices against the built-in pool.

Every tagging, span QA and multiple-choice task of the catalogue is ranked against the built-in pool
by the default's maps, its own entry and every source that shares texts with it left out, under each
definition of a row. It counts how often a source of the target's own kind, and of its own family,
stands first, against chance. That a source of the same kind *helps* most is for real transfer to
say; this says which definition sees that tasks are alike.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from benchmarks._data import catalogue
from benchmarks._report import markdown, publish
from taskscout import Pool, Workbench
from taskscout.errors import MethodError
from taskscout.methods import DEFAULT
from taskscout.methods.evidence_rows import evidence_rows
from taskscout.methods.feature_score import FeatureScore
from taskscout.methods.method import get_method

#: Definitions by kind: what is shown, and the options of :func:`evidence_rows`.
DEFINITIONS: dict[str, dict[str, dict[str, Any]]] = {
    "tagging": {
        "words, `O` as many as others": {},
        "words, all": {"outside": "all"},
        "words, without `O`": {"outside": "none"},
    },
    "span_qa": {
        "sentences": {},
        "words where the answer begins and ends": {"spans": "words"},
    },
    "multiple_choice": {"choices": {}},
}


def ranked(
    method: FeatureScore, bench: Workbench, kind: str, options: dict[str, Any], rows: int
) -> list[dict[str, Any]]:
    """Per target of a kind: first source, best place of its own kind and family, and chance."""
    data, pool = catalogue(), Pool.builtin()
    out = []
    for name in (n for n in data.names if data.kind(n) == kind):
        shared = data.shares_texts_with(name)
        names = [
            n
            for n in pool.described(method.key)
            if n != name and n not in shared and name not in data.shares_texts_with(n)
        ]
        target = data.task(name).for_choosing(rows)
        try:
            made = evidence_rows(target, bench, **options)
        except MethodError:
            continue
        scores = method.score_rows(made, pool.descriptions(method.key, names), bench)
        order = [names[i] for i in np.argsort(-scores, kind="stable")]
        alike = [n for n in order if data.kind(n) == kind]
        family = [n for n in order if data.family(n) == data.family(name)]
        if alike:
            out.append(
                {
                    "target": name,
                    "first": order[0],
                    "rows": len(made),
                    "kind_place": order.index(alike[0]) + 1,
                    "mean_place": float(np.mean([order.index(n) + 1 for n in alike])),
                    "kind_chance": len(alike) / len(order),
                    "family_first": data.family(order[0]) == data.family(name),
                    "family_chance": len(family) / len(order),
                    "sources": len(order),
                }
            )
    return out


def main() -> None:
    """Rank under every definition and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200, help="of each target")
    rows = parser.parse_args().rows
    bench, method = Workbench(), get_method(DEFAULT)
    assert isinstance(method, FeatureScore)
    results: dict[str, list[dict[str, Any]]] = {}
    table = []
    for kind, definitions in DEFINITIONS.items():
        for shown, options in definitions.items():
            found = results[f"{kind}: {shown}"] = ranked(method, bench, kind, options, rows)
            if not found:
                continue
            mean = {
                k: float(np.mean([r[k] for r in found]))
                for k in found[0]
                if k[0] in "fkm" and k != "first"
            }
            first = np.mean([r["kind_place"] == 1 for r in found])
            table.append(
                (kind, shown, len(found), f"{first:.0%}", f"{mean['kind_chance']:.0%}",
                 f"{mean['mean_place']:.0f} of {found[0]['sources']}",
                 f"{mean['family_first']:.0%}", f"{mean['family_chance']:.0%}")
            )  # fmt: skip
    text = (
        f"{rows} rows of every tagging, span QA and multiple-choice task of the catalogue against "
        "the built-in pool, by the default's maps; its own entry and all sources that share texts "
        "with it left out. By chance the mean place of sources of one kind is half the pool.\n\n"
        + markdown(
            ("kind", "a row is", "targets", "own kind first", "by chance", "mean place of own kind",
             "own family first", "by chance"),
            table,
        )
    )  # fmt: skip
    publish(
        "evidence_rows",
        "Rows of evidence: what is a row of tags, questions, choices?",
        text,
        results,
    )


if __name__ == "__main__":
    main()
