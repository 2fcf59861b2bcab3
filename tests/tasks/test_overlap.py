"""Which tasks share texts: normalisation, hashes, sketches, and how well a sketch estimates."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from taskscout.tasks import Task
from taskscout.tasks.overlap import (
    SKETCH_SIZE,
    normalise,
    share_contained,
    sketch,
    text_hashes,
)


def task(texts: list[str], pairs: list[str] | None = None, **splits: list[str]) -> Task:
    def table(texts: list[str], pairs: list[str] | None = None) -> pa.Table:
        columns = {"text": texts, "label": [i % 2 for i in range(len(texts))]}
        return pa.table(columns if pairs is None else {**columns, "text_pair": pairs})

    tables = {"train": table(texts, pairs), **{s: table(t) for s, t in splits.items()}}
    return Task("t", "classification", tables, ("a", "b"))


def numbered(*numbers: int) -> list[str]:
    return [f"this is the text number {i}" for i in numbers]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("It's  GOOD,\tisn't it?\n", "it s good isn t it"),
        ("ＦＵＬＬ ﬁgure", "full figure"),
        ("Straße", "strasse"),
        ("Überall 123-456", "überall 123 456"),
        ("你好,世界", "你好 世界"),
        ("!!! ...", ""),
        ("", ""),
    ],
)
def test_normalise(text, clean):
    assert normalise(text) == clean
    assert normalise(clean) == clean


def test_hashes_are_sorted_distinct_and_of_the_text_alone():
    one = text_hashes(task(["A good, long text!", "another text of words", "a good long TEXT"]))
    other = text_hashes(task(["another -- text of words...", "a good long text"]))
    np.testing.assert_array_equal(one, other)
    assert one.dtype == np.uint64
    assert len(one) == 2
    assert one[0] < one[1]


def test_short_texts_do_not_count():
    assert (
        len(text_hashes(task(["thank you very much", "yes", "thank you so", "no. no. no."]))) == 1
    )


def test_second_texts_and_all_splits_count():
    t = task(numbered(1, 2), pairs=numbered(3, 1), test=numbered(4))
    assert len(text_hashes(t)) == 4
    assert len(text_hashes(t, ["train"])) == 3
    assert len(text_hashes(t, ["test"])) == 1


def test_sketch_keeps_the_smallest():
    hashes = np.arange(0, 2000, 2, dtype=np.uint64)
    np.testing.assert_array_equal(sketch(hashes), hashes[:SKETCH_SIZE])
    np.testing.assert_array_equal(sketch(hashes[:5]), hashes[:5])
    assert sketch(hashes, 7).nbytes == 56


def test_small_sources_are_held_whole():
    source = sketch(text_hashes(task(numbered(*range(100)))))
    target = text_hashes(task(numbered(*range(90, 130))))
    assert share_contained(target, source) == 10 / 40
    assert share_contained(target, target) == 1
    assert share_contained(target, source[:0]) == 0
    assert share_contained(text_hashes(task(numbered(*range(500, 510)))), source) == 0


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_estimate_for_large_sources(share):
    """Of 2,000 texts in a source of 20,000 some fifty can be looked up: five standard errors."""
    rng = np.random.default_rng(0)
    source = np.unique(rng.integers(0, 2**63, 20_000, dtype=np.uint64))
    inside = rng.choice(source, int(2000 * share), replace=False)
    outside = rng.integers(0, 2**63, 2000 - len(inside), dtype=np.uint64)
    target = np.unique(np.concatenate([inside, outside]))
    found = share_contained(target, sketch(source))
    looked_up = (target <= sketch(source)[-1]).sum()
    assert looked_up > 20
    assert abs(found - share) <= 5 * math.sqrt(share * (1 - share) / looked_up)


def test_unknown_where_nothing_can_be_looked_up():
    source = np.arange(1000, dtype=np.uint64)
    high = np.array([10**6], np.uint64)
    assert math.isnan(share_contained(high, sketch(source)))
    assert share_contained(high, sketch(source[:100])) == 0  # a short sketch is the whole source
    assert math.isnan(share_contained(high[:0], sketch(source)))


def test_another_sketch_size():
    source = np.arange(1000, dtype=np.uint64)
    target = np.arange(0, 2000, 3, dtype=np.uint64)
    assert share_contained(target, sketch(source, 10), 10) == 1
    assert share_contained(target, sketch(source, 1000), 2000) == pytest.approx(0.5, abs=0.01)
