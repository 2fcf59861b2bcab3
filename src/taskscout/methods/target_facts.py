"""Facts about a target that a forecast reads beside the scores of methods."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskscout.methods.method import Method
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task

Array = NDArray[np.float64]

#: Facts about a target that a forecast reads; of those in the second tuple the logarithm.
FACTS = ("pair", "regression", "words", "classes", "balance", "probe")
_LOGARITHMS = ("words", "classes")


def unlabelled(target: Task) -> bool:
    """Whether the rows that choose have no labels at all."""
    rows = target.tables["train"]
    return "label" in rows.column_names and rows["label"].null_count == rows.num_rows


def target_facts(target: Task, bench: Workbench, *, folds: int = 5) -> dict[str, float]:
    """Describe a target by a few numbers, from its split ``train`` alone.

    Parameters
    ----------
    target
        A classification or regression task with the rows a ranking reads.
    bench
        Embeds its texts.
    folds
        Of the cross-validation behind ``probe``.

    Returns
    -------
    ``rows``; ``regression`` and ``pair``, 0 or 1; ``words``, mean per example; ``classes``, 0 for
    regression; ``balance``, entropy of the class shares over its largest value; ``probe``: what a
    linear model on the untouched encoder's embeddings reaches in cross-validation, 0 for the
    trivial answer and 1 for a perfect one (balanced accuracy above chance; for regression
    Pearson's correlation), NaN where no class has two examples. Of a target without labels
    ``rows``, ``pair`` and ``words`` alone.
    """
    texts, pairs = target.inputs("train")
    seconds = pairs or [""] * len(texts)
    facts = {
        "rows": float(len(texts)),
        "pair": float(target.is_pair),
        "words": float(
            np.mean([len(f"{a} {b}".split()) for a, b in zip(texts, seconds, strict=True)])
        ),
    }
    if unlabelled(target):
        return facts
    labels = target.labels("train")
    facts |= {
        "regression": float(target.kind == "regression"),
        "classes": float(target.n_classes),
        "balance": 1.0,
    }
    if target.kind != "regression":
        counts = np.bincount(labels)
        shares = counts[counts > 0] / counts.sum()
        facts["balance"] = float(-(shares * np.log(shares)).sum() / np.log(max(len(shares), 2)))
    # Kept with the target's statistics, so that a second ranking neither trains nor imports what
    # trains.
    probe = bench.statistics(
        target,
        np.asarray(labels, np.float64)[:, None],
        lambda: _Probe(_probe(bench.embeddings(target), labels, target.kind, folds)),
        lambda vector: _Probe(float(vector[0])),
        grouping=str(folds).encode(),
        what="probe",
    )
    facts["probe"] = probe.value
    return facts


@dataclass(frozen=True)
class _Probe:
    """What a probe reaches, as the cache keeps it."""

    value: float

    def to_vector(self) -> Array:
        return np.array([self.value])


def _probe(embeddings: NDArray[np.float32], labels: Array, kind: str, folds: int) -> float:
    """Cross-validate a linear model on the untouched encoder; see :func:`target_facts`."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict

    features = embeddings.astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rare classes, slow convergence: no matter here
        if kind == "regression":
            if len(labels) < folds or labels.std() == 0:
                return math.nan
            cut = KFold(folds, shuffle=True, random_state=0)
            guesses = cross_val_predict(Ridge(1.0), features, labels, cv=cut)
            return float(np.corrcoef(guesses, labels)[0, 1])
        counts = np.bincount(labels.astype(np.int64))
        classes = int((counts > 0).sum())
        if counts.max() < 2 or classes < 2:
            return math.nan
        by_class = StratifiedKFold(
            max(2, min(folds, int(counts.max()))), shuffle=True, random_state=0
        )
        model = LogisticRegression(C=10.0, max_iter=1000, class_weight="balanced")
        guesses = cross_val_predict(model, features, labels, cv=by_class)
        accuracy = balanced_accuracy_score(labels, guesses)
        return float((accuracy - 1 / classes) / (1 - 1 / classes))


def evidence_of(target: Task, method: Method, scores: Array) -> float:
    """Nats by which the best source explains a target's labels better than nothing does.

    LogME is the log evidence per example, so n times the difference to that of features which are
    all zero is the logarithm of a Bayes factor. Labels without any tie to the texts have some 1,
    whatever the order of the sources then says.

    Parameters
    ----------
    target
        With the rows that were scored.
    method
        What scored them.
    scores
        Of all sources, and of "use no source".

    Returns
    -------
    The difference; NaN for scores that are no such evidence.
    """
    from taskscout.methods.evidence import logme
    from taskscout.methods.feature_score import label_columns_of
    from taskscout.methods.transferability import LogME

    if not isinstance(method, LogME) or method.compat or np.isnan(scores).all():
        return math.nan
    labels = label_columns_of(target.labels("train"), compat=False)
    nothing = logme(
        np.zeros((len(labels), 1)), labels, centring=method.centring, unit_norm=method.unit_norm
    )
    return float(len(labels) * (np.nanmax(scores) - nothing))


def fact_values(facts: Mapping[str, float]) -> Array:
    """Bring facts into the form in which they are compared; NaN for those not given."""
    values = [float(facts.get(name, math.nan)) for name in FACTS]
    return np.array(
        [
            math.log(max(v, 1.0)) if name in _LOGARITHMS and not math.isnan(v) else v
            for name, v in zip(FACTS, values, strict=True)
        ]
    )
