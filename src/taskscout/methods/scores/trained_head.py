"""Scores of a linear head that is trained on a source's features."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from taskscout.methods.scores.inputs import checked, class_codes, has_values, mean_correlation


def linear_probe(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    folds: int = 5,
    strength: float = 1.0,
    seed: int = 0,
    groups: NDArray[np.int64] | None = None,
) -> float:
    """Cross-validated score of a linear head on frozen features.

    Features are standardised within each training fold. Classes: logistic regression, the
    accuracy of its out-of-fold predictions over all rows. Regression: ridge, its strength chosen
    within the training fold, the mean of Pearson and Spearman correlation of out-of-fold
    predictions and labels.

    Parameters
    ----------
    features
        n × d.
    labels
        n class ids or floats.
    folds
        Of the cross-validation, stratified by class; no more than the largest class has rows.
    strength
        L2 penalty of the logistic regression (1 / C).
    seed
        Of the shuffle before rows are dealt to folds.
    groups
        Numbers of what rows belong to (n): no fold parts rows of one number. None where each row
        stands alone.

    Returns
    -------
    From 0 to 1, or from -1 to 1; NaN where a training fold could hold a single class, or where
    all predictions are equal.

    References
    ----------
    A standard probe; as a selector in Poth et al. 2021 and, trained by gradient, in Schulte et
    al. 2024 (:func:`frozen_transfer`).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.model_selection import (
        KFold,
        StratifiedGroupKFold,
        StratifiedKFold,
        cross_val_predict,
    )
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    f, y = checked(features, labels)
    regression = has_values(y)
    folds = min(folds, len(f) if groups is None else len(np.unique(groups)))
    if folds < 2:
        return math.nan
    if regression:
        head: Any = RidgeCV(np.logspace(0, 6, 13))
        split: Any = KFold(folds, shuffle=True, random_state=seed)
    else:
        y = class_codes(y)
        counts = np.bincount(y)
        if (counts > 1).sum() < 2:
            return math.nan
        folds = min(folds, int(counts.max()))
        head = LogisticRegression(C=1 / strength, max_iter=200)
        together = StratifiedKFold if groups is None else StratifiedGroupKFold
        split = together(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The least populated class")
        pipeline = make_pipeline(StandardScaler(), head)
        predicted = cross_val_predict(pipeline, f, y, cv=split, groups=groups)
    return mean_correlation(predicted, y) if regression else float((predicted == y).mean())


def frozen_transfer(
    features: ArrayLike,
    labels: ArrayLike,
    *,
    epochs: int = 3,
    batch_size: int = 32,
    learning_rate: float = 2e-5,
    weight_decay: float = 0.01,
    dropout: float = 0.1,
    held_out: float = 0.2,
    seed: int = 0,
    groups: NDArray[np.int64] | None = None,
) -> float:
    """Validation score of a fresh head trained for a few epochs on the frozen encoder.

    The released recipe: a linear head drawn from N(0, 0.02²), dropout before it, AdamW with a
    linear decay to 0 and no warm-up, gradients clipped at norm 1. At its learning rate of 2e-5 a
    head hardly leaves where it began, so the score is more that of a random projection than of
    the features; 1e-2 trains one.

    Parameters
    ----------
    features
        n × d, of the frozen encoder.
    labels
        n class ids or floats, which are standardised.
    epochs, batch_size, learning_rate, weight_decay, dropout
        Of the training.
    held_out
        Share of the rows the head is scored on, spread over classes or values.
    seed
        Of the held-out rows, the head, the order of rows and the dropout: the same for every
        source.
    groups
        Numbers of what rows belong to (n): rows of one number are held out together. None where
        each row stands alone.

    Returns
    -------
    Accuracy, or the mean of Pearson and Spearman correlation.

    References
    ----------
    Schulte et al. 2024 (arXiv 2410.15148), "frozen transfer".
    """
    import torch

    f, y = checked(features, labels)
    regression = has_values(y)
    if not regression:
        y = class_codes(y)
    if groups is None:
        train, validation = _hold_out(y, held_out, regression=regression, seed=seed)
    else:
        numbers, group_of = np.unique(groups, return_inverse=True)
        parts = _hold_out(np.arange(len(numbers)), held_out, regression=True, seed=seed)
        train, validation = (np.flatnonzero(np.isin(group_of, part)) for part in parts)
    generator = torch.Generator().manual_seed(seed)
    x = torch.from_numpy(f.astype(np.float32))
    if regression:
        scale = max(float(y[train].std()), 1e-12)
        wanted = torch.from_numpy(((y - y[train].mean()) / scale).astype(np.float32))
    else:
        wanted = torch.from_numpy(y)
    outputs = 1 if regression else int(y.max()) + 1
    weight = torch.empty(outputs, x.shape[1]).normal_(0.0, 0.02, generator=generator)
    weight, bias = weight.requires_grad_(), torch.zeros(outputs, requires_grad=True)
    optimizer = torch.optim.AdamW([weight, bias], lr=learning_rate, weight_decay=weight_decay)
    steps = epochs * -(-len(train) // batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    rows = torch.from_numpy(train)
    for _ in range(epochs):
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(batch_size):
            kept = torch.rand(len(batch), x.shape[1], generator=generator) >= dropout
            logits = (x[batch] * kept / (1 - dropout)) @ weight.T + bias
            if regression:
                loss = torch.nn.functional.mse_loss(logits[:, 0], wanted[batch])
            else:
                loss = torch.nn.functional.cross_entropy(logits, wanted[batch])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([weight, bias], 1.0)
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        out = (x[torch.from_numpy(validation)] @ weight.T + bias).numpy().astype(np.float64)
    if regression:
        return mean_correlation(out[:, 0], y[validation])
    return float((out.argmax(1) == y[validation]).mean())


def _hold_out(
    labels: NDArray[Any], share: float, *, regression: bool, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split row numbers into training and held-out ones, every k-th of the rows by label."""
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    key = labels[shuffled]
    if not regression:
        # Classes in the order in which they come up, so that their numbers play no part.
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        key = first[inverse]
    ordered = shuffled[np.argsort(key, kind="stable")]
    every = max(2, round(1 / share))
    held = np.zeros(len(labels), bool)
    held[every // 2 :: every] = True
    if not held.any():
        held[-1] = True
    return np.sort(ordered[~held]), np.sort(ordered[held])
