"""Sufficient statistics of a target: all that scoring linear maps needs, as sums over its rows.

They are gathered in one pass over blocks of rows, add up over machines, and are small: a target
of any number of rows is (d + 1)² numbers and C more columns. Kept beside the embeddings, they
make a second ranking of the same target free of any pass over its rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskscout.methods.evidence_rows import EvidenceRows
from taskscout.models.workbench import Workbench

Array = NDArray[np.float64]
Centring = Literal["none", "features", "both"]

#: Rows taken at a time: what is widened to float64 at once.
_BLOCK = 4096


@dataclass(frozen=True)
class TargetStatistics:
    """All that scoring linear maps needs of a target: sums over its rows.

    Attributes
    ----------
    n
        Rows.
    gram
        F'F, d × d.
    total
        F'1, d.
    cross
        F'Y, d × C.
    label_total
        Y'1, C; the class counts where the columns are classes.
    label_square
        Diagonal of Y'Y, C.
    """

    n: int
    gram: Array
    total: Array
    cross: Array
    label_total: Array
    label_square: Array

    @classmethod
    def of(cls, features: ArrayLike, columns: Array) -> TargetStatistics:
        """From features F (n × d) and label columns Y (n × C), a block of rows at a time."""
        f = np.asarray(features)
        starts = range(0, max(len(f), 1), _BLOCK)
        return cls.streamed((f[i : i + _BLOCK], columns[i : i + _BLOCK]) for i in starts)

    @classmethod
    def streamed(cls, blocks: Iterable[tuple[ArrayLike, Array]]) -> TargetStatistics:
        """From blocks of rows of F and Y; only one block is held at a time."""
        out: TargetStatistics | None = None
        for features, columns in blocks:
            f = np.asarray(features, np.float64)
            block = cls(
                n=len(f),
                gram=f.T @ f,
                total=f.sum(0),
                cross=f.T @ columns,
                label_total=columns.sum(0),
                label_square=(columns**2).sum(0),
            )
            out = block if out is None else out + block
        if out is None:
            raise ValueError("no blocks")
        return out

    def __add__(self, other: TargetStatistics) -> TargetStatistics:
        return TargetStatistics(
            self.n + other.n,
            self.gram + other.gram,
            self.total + other.total,
            self.cross + other.cross,
            self.label_total + other.label_total,
            self.label_square + other.label_square,
        )

    def centred(self, centring: Centring) -> TargetStatistics:
        """The statistics of features (and labels, for ``both``) with their means removed."""
        if centring == "none":
            return self
        mean = self.total / self.n
        square = self.label_square
        if centring == "both":
            square = square - self.label_total**2 / self.n
        return TargetStatistics(
            n=self.n,
            gram=self.gram - np.outer(mean, self.total),
            total=np.zeros_like(self.total),
            cross=self.cross - np.outer(mean, self.label_total),
            label_total=self.label_total,
            label_square=square,
        )

    def with_constant(self) -> TargetStatistics:
        """The statistics of [F, 1]: under a map of it, offsets are part of the map."""
        d = len(self.gram)
        gram = np.empty((d + 1, d + 1))
        gram[:d, :d], gram[d, :d], gram[:d, d], gram[d, d] = (
            self.gram,
            self.total,
            self.total,
            self.n,
        )
        return TargetStatistics(
            self.n,
            gram,
            np.append(self.total, self.n),
            np.vstack([self.cross, self.label_total]),
            self.label_total,
            self.label_square,
        )

    def to_vector(self) -> Array:
        """All numbers in one vector; the Gram matrix as its upper triangle."""
        upper = self.gram[np.triu_indices(len(self.gram))]
        parts = (upper, self.total, self.cross, self.label_total, self.label_square)
        return np.concatenate([[float(self.n)], *(p.ravel() for p in parts)])

    @classmethod
    def from_vector(cls, vector: Array, dimension: int, columns: int) -> TargetStatistics:
        """The inverse of :meth:`to_vector`.

        Raises
        ------
        ValueError
            If the vector has another length.
        """
        d, c = dimension, columns
        sizes = (1, d * (d + 1) // 2, d, d * c, c, c)
        if len(vector) != sum(sizes):
            raise ValueError(f"{len(vector)} numbers, not {sum(sizes)}")
        n, upper, total, cross, label_total, label_square = np.split(vector, np.cumsum(sizes)[:-1])
        gram = np.zeros((d, d))
        gram[np.triu_indices(d)] = upper
        gram = gram + np.triu(gram, 1).T
        return cls(int(n[0]), gram, total, cross.reshape(d, c), label_total, label_square)


def target_statistics(
    rows: EvidenceRows, columns: Array, bench: Workbench, *, middle: bool = False
) -> TargetStatistics:
    """Statistics of a target's rows under the base encoder, from the cache where it has them.

    A target of more than a few blocks of rows is embedded block by block, and never held whole.
    Rows that count about their means over an example are taken as their contrasts.

    Parameters
    ----------
    rows
        Whose features.
    columns
        Label columns Y, n × C, in the order of the rows.
    bench
        Embeds and caches.
    middle
        Of the middle layer's embeddings too: d columns of the last layer, d of the middle one.
    """
    texts, pairs = rows.task.inputs("train")
    dimension = (1 + middle) * bench.encoder.dimension

    def make() -> TargetStatistics:
        if rows.within:
            features = rows.contrasts(rows.features(bench, middle=middle))
            return TargetStatistics.of(features, rows.contrasts(columns))
        if rows.words is not None or len(texts) <= 4 * _BLOCK:
            return TargetStatistics.of(rows.features(bench, middle=middle), columns)
        return TargetStatistics.streamed(
            (
                bench.embed(
                    texts[i : i + _BLOCK],
                    None if pairs is None else pairs[i : i + _BLOCK],
                    middle=middle,
                    what=f"embedding {rows.task.name}",
                ),
                columns[i : i + _BLOCK],
            )
            for i in range(0, len(texts), _BLOCK)
        )

    def read(vector: Array) -> TargetStatistics:
        return TargetStatistics.from_vector(vector, dimension, columns.shape[1])

    return bench.statistics(
        rows.task, columns, make, read,
        middle=middle, words=rows.words, grouping=rows.examples.tobytes() if rows.within else b"",
    )  # fmt: skip
