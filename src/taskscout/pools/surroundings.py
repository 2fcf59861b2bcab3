"""Where a target lies among the sources of a pool: a map, and the texts nearest to its own.

Both rest on what pools keep of a source's texts under the base encoder: their mean
(``text-embedding`` or ``moments``) and a sample of embeddings (``sample``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import TaskscoutError
from taskscout.methods.descriptions import EXAMPLES, SAMPLE, by_text, sample_of, unit_rows
from taskscout.methods.method import get_method
from taskscout.pools.pool import Pool, Source
from taskscout.pools.source_data import data_of, is_local
from taskscout.tasks import Task

if TYPE_CHECKING:
    from taskscout.models.workbench import Workbench
    from taskscout.tasks.catalogue import Catalogue

#: Methods whose description holds a mean embedding, the better known first.
_MEANS = ("text-embedding", "sentence-embedding")
#: Sources on a map, at most: t-SNE of more takes long, and their points cover one another.
MOST_POINTS = 500
#: With fewer points there are no neighbourhoods to show.
_FEWEST_POINTS = 4


@dataclass(frozen=True)
class PoolMap:
    """Tasks as points in the plane.

    Attributes
    ----------
    method
        Whose task embeddings were projected.
    names
        Sources, in the order given.
    points
        One row of x and y per source, between 0 and 1.
    target
        The target's point; None where the map has none.
    trustworthiness
        How far neighbours on the map are neighbours among the embeddings, 0 to 1 (Venna and
        Kaski 2001), over the five nearest of each.
    """

    method: str
    names: tuple[str, ...]
    points: NDArray[np.float64]
    target: NDArray[np.float64] | None
    trustworthiness: float


@dataclass(frozen=True)
class NearText:
    """A source's text near one of the target's.

    Attributes
    ----------
    source
        Name of the source.
    similarity
        Cosine of the two embeddings, -1 to 1.
    text
        The source's text; None where its data are not at hand. A pair's second text follows
        in a line of its own.
    """

    source: str
    similarity: float
    text: str | None


@dataclass(frozen=True)
class TargetExample:
    """One text of the target with the nearest texts of sources, nearest first."""

    text: str
    label: str
    nearest: tuple[NearText, ...]


def pool_map(
    pool: Pool,
    names: Sequence[str],
    target: Task | None = None,
    bench: Workbench | None = None,
) -> PoolMap | None:
    """Project the task embeddings of sources, and of a target among them, onto a plane.

    The projection is t-SNE of the unit vectors, begun from their principal components. On the
    built-in pool it keeps 0.94 of the neighbourhoods (trustworthiness), principal components
    keep 0.79 and multidimensional scaling 0.83. It keeps no distances: near points are alike,
    of far ones nothing can be said.

    Parameters
    ----------
    pool
        Whose sources.
    names
        Sources to show; the first 500 that have a mean embedding are.
    target, bench
        A target to place among them, and the workbench that embeds its training rows; a
        workbench of another encoder than the pool's places nothing.

    Returns
    -------
    None where fewer than four points could be shown.
    """
    fits = bench is not None and bench.encoder.fingerprint == pool.encoder["fingerprint"]
    for name in _MEANS:
        method = get_method(name)
        described = set(pool.described(method.key))
        shown = [n for n in names if n in described][:MOST_POINTS]
        if len(shown) < _FEWEST_POINTS:
            continue
        means = [pool.description(n, method.key).arrays["mean"] for n in shown]
        if target is not None and bench is not None and fits:
            means.append(method.describe(target, bench).arrays["mean"])
        vectors = unit_rows(np.stack(means))
        points, trust = _projected(vectors)
        own = points[-1] if len(points) > len(shown) else None
        return PoolMap(name, tuple(shown), points[: len(shown)], own, trust)
    return None


def _projected(vectors: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Project rows onto a plane, each axis from 0 to 1; with the trustworthiness."""
    from sklearn.manifold import TSNE, trustworthiness

    n = len(vectors)
    perplexity = min(10.0, (n - 1) / 3)
    tsne = TSNE(2, perplexity=perplexity, init="pca", learning_rate="auto", random_state=0)
    points = tsne.fit_transform(vectors).astype(np.float64)
    # Fewer than half of the points, as the measure demands.
    trust = trustworthiness(vectors, points, n_neighbors=max(1, min(5, (n - 1) // 2)))
    low, high = points.min(0), points.max(0)
    return (points - low) / np.maximum(high - low, 1e-12), float(trust)


def nearest_examples(
    target: Task,
    pool: Pool,
    bench: Workbench,
    names: Sequence[str],
    *,
    examples: int = 4,
    nearest: int = 3,
    data: Callable[[Source], Task | None] | None = None,
) -> tuple[TargetExample, ...]:
    """Find, for some training texts of a target, the nearest texts of sources.

    Parameters
    ----------
    target
        Its training rows are embedded by the workbench, which has them after a ranking.
    pool, names
        Whose sources; those without a sample of embeddings are passed over.
    bench
        With the pool's encoder.
    examples
        Texts of the target: the first of each class in an order that depends on the texts alone.
    nearest
        Texts of sources for each, at most one of a source.
    data
        Gives a source's data where they are at hand; texts are shown of data that are those
        the source was tuned on.

    Returns
    -------
    Nothing where the pool has no samples made with this encoder.
    """
    fingerprint = bench.encoder.fingerprint
    described = set(pool.described(SAMPLE))
    samples = {
        n: pool.description(n, SAMPLE)
        for n in names
        if n in described and (pool.header(n, SAMPLE) or {}).get("encoder") == fingerprint
    }
    if not samples:
        return ()
    rows = _first_of_each_class(target, examples)
    own = unit_rows(bench.embeddings(target)[rows])
    best: dict[str, tuple[NDArray[np.intp], NDArray[np.float64]]] = {}
    for name, sample in samples.items():
        cosines = own @ sample_of(sample).T
        best[name] = cosines.argmax(1), cosines.max(1)
    texts: dict[str, list[str] | None] = {}

    def text_of(name: str, row: int) -> str | None:
        if name not in texts:
            texts[name] = _sampled_texts(pool.source(name), data)
        of = texts[name]
        return None if of is None else of[row]

    shown = _written(target)
    out = []
    for i, row in enumerate(rows.tolist()):
        order = sorted(best, key=lambda n: (-best[n][1][i], n))[:nearest]
        near = (
            NearText(n, float(best[n][1][i]), text_of(n, int(best[n][0][i]))) for n in order
        )  # fmt: skip
        out.append(TargetExample(shown[row], _label(target, row), tuple(near)))
    return tuple(out)


def data_at_hand(source: Source, catalogue: Catalogue | None = None) -> Task | None:
    """Read a source's data from a catalogue or from the file it was made of; never the network.

    Returns
    -------
    None where neither has them, or they cannot be read any more.
    """
    try:
        return data_of(source.card, catalogue) if is_local(source.card, catalogue) else None
    except (TaskscoutError, OSError):
        return None


def _sampled_texts(
    source: Source, data: Callable[[Source], Task | None] | None
) -> list[str] | None:
    """Write the texts behind the rows of a source's sample; None where they are not at hand."""
    task = None if data is None else data(source)
    if task is None or task.fingerprint != source.tuning.get("fingerprint"):
        return None
    chosen = task.sample(EXAMPLES)
    written = _written(chosen)
    return [written[i] for i in by_text(*chosen.inputs("train")).tolist()]


def _written(task: Task) -> list[str]:
    """Write the training texts, a second text below the first."""
    texts, pairs = task.inputs("train")
    if pairs is None:
        return texts
    return [f"{text}\n{pair}" for text, pair in zip(texts, pairs, strict=True)]


def _first_of_each_class(task: Task, n: int) -> NDArray[np.int64]:
    """Choose rows by their texts, of different classes as far as there are so many."""
    order = by_text(*task.inputs("train"))
    if task.kind != "classification" or task.tables["train"]["label"].null_count:
        return order[:n]
    labels = task.labels("train")[order]
    times = np.zeros(len(labels), np.int64)  # how often a row's class came before it
    for label in np.unique(labels):
        at = np.flatnonzero(labels == label)
        times[at] = np.arange(len(at))
    return order[np.argsort(times, kind="stable")[:n]]


def _label(task: Task, row: int) -> str:
    """Write the label of one training row; nothing for kinds whose labels are no single value."""
    if "label" not in task.tables["train"].column_names:
        return ""
    value = task.tables["train"]["label"][row].as_py()
    if value is None or isinstance(value, list):
        return ""
    if task.kind == "classification":
        return str(task.label_names[value])
    return f"{value:g}" if task.kind == "regression" else ""
