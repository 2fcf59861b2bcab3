"""Tests for methods of other packages: what all of ours pass."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from taskscout.methods.joint import split
from taskscout.methods.method import Description, Method
from taskscout.models.cache import NoCache
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task

_WORDS = (("good", "fine", "great", "happy"), ("bad", "poor", "awful", "sad"))
_FILLER = ("the", "a", "film", "book", "day", "we", "saw", "it", "was", "and")


def check_method(
    method: Method,
    *,
    bench: Workbench | None = None,
    independent: bool = True,
    tolerance: float = 1e-6,
) -> None:
    """Check that a method keeps the protocol, on small tasks made here.

    Scores must not depend on the order of the target's rows, of its classes or of the sources,
    nor on whether sources are asked together or one by one. They are finite or NaN, also for
    fewer rows than dimensions and one example per class. Descriptions hold arrays and plain JSON
    under the keys that the method names, and take no tuned model unless it says so. The order of
    rows and classes is not asked of methods that tune the encoder on the target, for training
    takes rows as they come.

    Parameters
    ----------
    method
        What is checked. It has to serve classification or regression.
    bench
        Embeds and tunes; None for the embedded default encoder without a cache on disk.
    independent
        Whether a source's score is the same whatever other sources are asked with it. False for
        methods that compare sources with one another, such as those that centre over them.
    tolerance
        By which scores may differ, relative to their size and absolutely.

    Raises
    ------
    AssertionError
        If the method breaks a rule; the message says which.
    """
    bench = bench or Workbench(cache=NoCache())
    assert isinstance(method, Method), f"{method!r} lacks attributes of Method: extend BaseMethod"
    assert method.name, "the method has no name"
    kind = "classification" if "classification" in method.kinds else "regression"
    assert kind in method.kinds, f"{method.name} serves neither classification nor regression"
    regression = kind == "regression"
    target = _task("target", rows=24, seed=0, regression=regression)
    tasks = [_task(f"source_{i}", rows=30, seed=i, regression=regression) for i in (1, 2, 3)]

    before = bench.tunings
    sources = [method.describe(task, bench) for task in tasks]
    tuned = bench.tunings > before
    assert not tuned or method.describes_from != "texts", (
        f"{method.name} tunes a model to describe a source and says that texts are enough"
    )
    for task, source in zip(tasks, sources, strict=True):
        _check_description(method, task, source)

    def scores(of: Task, by: Sequence[Description]) -> NDArray[np.float64]:
        out = method.score(of, by, bench)
        assert out.shape == (len(by),), f"{len(by)} sources have scores of shape {out.shape}"
        assert not np.isinf(out).any(), f"a score is infinite: {out}; say NaN where none applies"
        return out

    def same(found: NDArray[np.float64], expected: NDArray[np.float64], what: str) -> None:
        assert np.allclose(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True), (
            f"scores depend on {what}: {found} and {expected}"
        )

    expected = scores(target, sources)
    assert np.isfinite(expected).any(), "no source has a score"
    same(scores(target, sources), expected, "how often they are asked for")
    same(scores(target, sources[::-1])[::-1], expected, "the order of the sources")
    if independent:
        alone = np.concatenate([scores(target, [s]) for s in sources])
        same(alone, expected, "which sources are asked together")
    assert scores(target, []).shape == (0,)
    reverse = np.arange(target.tables["train"].num_rows)[::-1]
    if method.cost != "tuning":  # training takes rows in their order
        same(scores(target.take({"train": reverse}), sources), expected, "the order of the rows")
    if not regression and method.cost != "tuning":
        same(scores(_classes_turned(target), sources), expected, "the order of the classes")
    scores(target.take({"train": np.arange(6)}), sources)
    labels = target.labels("train")
    one_each = np.array([np.flatnonzero(labels == c)[0] for c in np.unique(labels)], np.int64)
    scores(target.take({"train": one_each}), sources)
    untouched = method.none(bench)
    if untouched is not None:
        with_none = scores(target, [*sources, untouched])
        if independent:
            same(with_none[:-1], expected, 'whether "none" is asked too')


def _check_description(method: Method, task: Task, description: Description) -> None:
    assert description.source == task.name, (
        f"the description of {task.name} names the source {description.source!r}"
    )
    for part in split(description):
        assert part.key in method.reads, f"it describes {part.key!r} and reads {method.reads}"
        json.dumps(dict(part.header), allow_nan=True)
        for name, array in part.arrays.items():
            assert isinstance(array, np.ndarray), f"{name} of {part.key} is a {type(array)}"
            assert array.dtype != object, f"{name} of {part.key} holds objects"


def _task(name: str, *, rows: int, seed: int, regression: bool) -> Task:
    """Make a task that a few words decide."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 2
    texts = [
        " ".join(rng.permutation([*rng.choice(_FILLER, 4), *rng.choice(_WORDS[c], 3)]).tolist())
        for c in labels.tolist()
    ]
    if regression:
        table = pa.table({"text": texts, "label": 2.0 * labels + rng.normal(0, 0.05, rows)})
        return Task(name, "regression", {"train": table, "test": table})
    table = pa.table({"text": texts, "label": labels})
    return Task(name, "classification", {"train": table, "test": table}, ("bad", "good"))


def _classes_turned(task: Task) -> Task:
    """Number the classes the other way round."""
    last = len(task.label_names) - 1
    tables = {
        s: t.set_column(t.column_names.index("label"), "label", pa.array(last - task.labels(s)))
        for s, t in task.tables.items()
    }
    return replace(task, tables=tables, label_names=task.label_names[::-1])
