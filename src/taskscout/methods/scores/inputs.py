"""What every score asks of features and labels, and the correlations that some of them end in."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskscout.errors import DataError
from taskscout.methods.labels import label_columns, label_ids

Array = NDArray[np.float64]


def checked(features: ArrayLike, labels: ArrayLike) -> tuple[Array, NDArray[Any]]:
    """Check that there are n rows of finite features for n labels."""
    f, y = np.asarray(features, np.float64), label_ids(labels)
    if f.ndim != 2 or y.ndim != 1 or len(f) != len(y) or not len(f):
        raise DataError(
            f"Features have shape {f.shape}, labels {y.shape}.",
            "A score needs n × d features and n labels.",
            "Give one row of features per label.",
        )
    if not np.isfinite(f).all():
        row = int(np.argwhere(~np.isfinite(f))[0, 0])
        raise DataError(
            f"Row {row} of the features is not finite.",
            "No score is defined for it.",
            "Drop the row or mend the features.",
        )
    return f, y


def class_codes(labels: ArrayLike) -> NDArray[np.int64]:
    """Number the classes that occur from 0; at least two, or an error."""
    y = label_ids(labels)
    if not np.issubdtype(y.dtype, np.integer):
        raise DataError(
            f"The labels are of type {y.dtype}.",
            "This score is defined for classes only, which are integers.",
            "Use a score that serves regression, such as LogME, kNN or a linear probe.",
        )
    label_columns(y)  # its errors are ours
    codes: NDArray[np.int64] = np.unique(y, return_inverse=True)[1].reshape(len(y))
    return codes


def has_values(labels: NDArray[Any]) -> bool:
    """Tell whether labels are values of a regression; those that are have to be finite."""
    if np.issubdtype(labels.dtype, np.integer):
        return False
    label_columns(labels)
    return True


def correlation(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Pearson correlation; NaN where one side is constant."""
    a, b = x - x.mean(), y - y.mean()
    norm = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / norm if norm > 0 else math.nan


def mean_correlation(predicted: Array, labels: Array) -> float:
    """Mean of Pearson and Spearman correlation."""
    from scipy.stats import rankdata

    ranks = correlation(rankdata(predicted), rankdata(labels))
    return (correlation(predicted, labels) + ranks) / 2
