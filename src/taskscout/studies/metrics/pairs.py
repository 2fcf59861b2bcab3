"""Pairs of sources: how many of them a method puts in the right order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from taskscout.studies.metrics.order import Array, Order, Truth

#: Standard errors by which two true scores have to differ; two-sided, 5%.
CLEAR = 1.96
#: Elements of the largest intermediate arrays.
_BLOCK = 4_000_000


def kendall(order: Order, truth: Truth) -> Array:
    """Kendall's tau-b with the true scores.

    0 where the prediction is constant; NaN where the truth is, or with fewer than two candidates.
    """
    shape = np.broadcast_shapes(order.predicted.shape, truth.scores.shape)
    tau = np.empty(int(np.prod(shape[:-1])))
    for rows, predicted, true, _ in _signs(order, truth):
        untied = (predicted != 0).sum(1), (true != 0).sum(1)
        size = np.sqrt(untied[0].astype(float) * untied[1])
        agreed = (predicted * true).sum(1)
        tau[rows] = np.where(size > 0, agreed / np.maximum(size, 1e-300), 0.0)
        tau[rows][untied[1] == 0] = np.nan
    return np.where(order.applies, tau.reshape(shape[:-1]), np.nan)


def pair_accuracy(order: Order, truth: Truth) -> Array:
    """Share of the pairs of sources that are put in the right order, in percent.

    Only pairs count whose true scores differ by more than noise: by more than 1.96 standard
    errors of their difference, from the standard error of each score over seeds
    (``truth.noise``). Where that is unknown, as with one seed, all pairs count that differ at
    all. A pair that the method ties counts half, as in a random order, so 50 is chance. NaN for a
    target without such a pair.
    """
    shape = np.broadcast_shapes(order.predicted.shape, truth.scores.shape)
    share = np.empty(int(np.prod(shape[:-1])))
    for rows, predicted, true, clear in _signs(order, truth):
        counted = (true != 0) & clear
        right = (np.where(counted, 1.0 + predicted * true, 0.0) / 2).sum(1)
        n = counted.sum(1)
        share[rows] = np.where(n > 0, 100.0 * right / np.maximum(n, 1), np.nan)
    return np.where(order.applies, share.reshape(shape[:-1]), np.nan)


def _signs(order: Order, truth: Truth) -> Iterator[tuple[slice, Array, Array, NDArray[np.bool_]]]:
    """Which source of each pair is predicted, and which is, the better one: 1, -1, or 0 for a tie.

    In blocks of rows (targets of all truths in one line): the rows, both signs, and whether the
    true scores differ by more than noise, rows × pairs. 0 for pairs that are no candidates.
    """
    shape = np.broadcast_shapes(order.predicted.shape, truth.scores.shape)
    n = shape[-1]

    def in_rows(values: Array) -> Array:
        return np.broadcast_to(values, shape).reshape(-1, n)

    places, scores = in_rows(-order.ranks), in_rows(truth.scores)
    candidates = ~np.isnan(scores)
    variance = np.zeros_like(scores) if truth.noise is None else in_rows(truth.noise) ** 2
    first, second = np.triu_indices(n, 1)
    step = max(1, _BLOCK // max(len(first), 1))
    for start in range(0, len(scores), step):
        rows = slice(start, start + step)
        both = candidates[rows][:, first] & candidates[rows][:, second]
        apart = scores[rows][:, first] - scores[rows][:, second]
        error = np.sqrt(variance[rows][:, first] + variance[rows][:, second])
        yield (
            rows,
            np.where(both, np.sign(places[rows][:, first] - places[rows][:, second]), 0.0),
            np.where(both, np.sign(apart), 0.0),
            both & (np.abs(apart) > CLEAR * np.nan_to_num(error)),
        )
