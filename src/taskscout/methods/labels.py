"""Labels in whatever form they come, and the columns that a linear model of them explains."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskscout.errors import DataError

Array = NDArray[np.float64]


def label_ids(labels: ArrayLike) -> NDArray[Any]:
    """Labels in one form: n class ids (integers), or outputs (floats, n or n × C).

    Class ids may be integers of any numbering, booleans, strings, a column or a tensor. Floats are
    outputs, whole numbers too: a rating of 3.0 is a value.

    Raises
    ------
    DataError
        For labels that are none of these, that are not finite, or below zero.
    """
    detach = getattr(labels, "detach", None)  # a tensor
    y = np.asarray(labels if detach is None else detach().cpu())
    if y.dtype.kind == "O":  # what a column of a table often is
        kinds = {type(label) for label in y.ravel().tolist()}
        if kinds and all(issubclass(kind, (str, int)) for kind in kinds) and len(kinds) == 1:
            y = np.array(y.tolist())
    if y.ndim == 2 and y.shape[1] == 1 and y.dtype.kind in "biuUS":
        y = y[:, 0]
    if y.dtype.kind not in "biufUS":
        raise DataError(
            f"Labels are of type {y.dtype}.",
            "LogME reads class ids (integers or strings) or outputs (floats).",
            "Number the classes: numpy.unique(labels, return_inverse=True)[1]",
        )
    if y.ndim not in (1, 2) or (y.ndim == 2 and y.dtype.kind != "f"):
        raise DataError(
            f"Labels have shape {y.shape} and type {y.dtype}.",
            "Class ids are a vector; outputs are n or n × C floats.",
            "Give one class id per row, or floats.",
        )
    if y.dtype.kind == "f":
        if not np.isfinite(y).all():
            raise DataError(
                f"{int((~np.isfinite(y)).sum())} labels are not finite.",
                "The evidence of missing labels is not defined.",
                "Drop these rows.",
            )
        return y.astype(np.float64)
    if y.dtype.kind in "US":
        y = np.unique(y, return_inverse=True)[1]
    if len(y) and y.dtype.kind == "i" and y.min() < 0:
        raise DataError(
            f"{int((y < 0).sum())} labels are negative.",
            "Class ids start at 0; -1 usually marks a hidden label.",
            "Drop these rows.",
        )
    return y.astype(np.int64)


def label_columns(labels: ArrayLike, *, compat: bool = False) -> Array:
    """Label columns Y (n × C): one against the rest for classes, as given for floats.

    Parameters
    ----------
    labels
        As in :func:`label_ids`.
    compat
        Count every class id from 0 to the largest, also those that never occur, as the
        published code does; else only classes that occur.

    Raises
    ------
    DataError
        As :func:`label_ids`, and for a single class.
    """
    y = label_ids(labels)
    if y.dtype.kind == "f":
        return y.reshape(len(y), -1)
    classes = np.unique(y)
    if len(classes) < 2:
        raise DataError(
            "All labels are the same.",
            "With one class every source explains the labels equally well.",
            "Give examples of at least two classes.",
        )
    if compat:
        classes = np.arange(int(y.max()) + 1)
    columns: Array = (y[:, None] == classes).astype(np.float64)
    return columns
