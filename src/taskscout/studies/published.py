"""Transfer results that others have published, read as a grid like any other.

Any long table of runs serves: :func:`read_runs`, with the names of its columns if they are not
ours. Ready-made scores of methods come as long tables, too: :func:`read_predictions`. TaskWeb
(Kim et al. 2023), with its published runs and predictions, is read by :func:`read_taskweb`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import StudyError
from taskscout.methods.gains import Gains, Unit, read_table
from taskscout.methods.pivot import transfer_score
from taskscout.studies.metrics import measure
from taskscout.studies.predictions import Predicted
from taskscout.tasks.names import NONE

Array = NDArray[np.float64]

#: Categories of TaskWeb's targets (Kim et al. 2023, table 1).
TASKWEB_CATEGORIES: dict[str, tuple[str, ...]] = {
    "nli": ("anli_r3", "cb", "qnli", "rte", "scitail", "snli"),
    "paraphrase": ("mrpc", "qqp", "stsb"),
    "commonsense": (
        "copa", "cosmosqa", "hellaswag", "piqa", "quartz", "socialiqa", "winogrande"
    ),
    "sentiment": ("imdb", "rotten_tomatoes"),
    "qa": ("boolq",),
    "semantics": ("wic", "wsc"),
}  # fmt: skip
#: The target on which the paper chose its weight, which its averages leave out.
TASKWEB_TUNED_ON = "piqa"


def read_runs(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    none: str = NONE,
    where: Mapping[str, Any] | None = None,
    unit: Unit = "auto",
) -> Gains:
    """Read a long table of transfer runs; see :meth:`taskscout.methods.gains.Gains.read`.

    Target-only runs may be missing: metrics that compare with them are then unknown.

    Parameters
    ----------
    path
        CSV, TSV or Parquet.
    columns
        What the table calls ``source``, ``target``, ``score``, ``seed`` and ``seconds``.
    none
        What it calls the source of target-only runs.
    where
        Only rows with these values in these columns.
    unit
        ``fraction``, ``percent``, or ``auto``.

    Raises
    ------
    DataError
        If the table cannot be used.
    """
    return Gains.read(
        path, where=where, unit=unit, columns=columns, none=none, alone_required=False
    )


def read_predictions(
    path: str | Path,
    gains: Gains,
    *,
    columns: Mapping[str, str] | None = None,
) -> list[Predicted]:
    """Read ready-made scores of methods from a long table.

    Parameters
    ----------
    path
        CSV, TSV or Parquet with the columns ``method``, ``target``, ``source`` and ``score``;
        source ``none`` is "use no source". Pairs that the grid does not have are passed over.
    gains
        The grid whose sources and targets the scores are for.
    columns
        What this table calls these four.

    Returns
    -------
    One per method, in the order of the table.

    Raises
    ------
    StudyError
        If a column is missing, a pair stands there twice, or no pair is the grid's.
    """
    mapping = {n: n for n in ("method", "target", "source", "score")} | dict(columns or {})
    table = read_table(Path(path).expanduser(), texts=[mapping[n] for n in ("source", "target")])
    missing = [c for c in mapping.values() if c not in table.column_names]
    if missing:
        raise StudyError(
            f"{path} has no column {missing[0]!r}.",
            f"Scores of methods have the columns {', '.join(mapping.values())}; this table has "
            f"{', '.join(table.column_names)}.",
            "Rename the column.",
        )
    held = {n: table.column(c).to_pylist() for n, c in mapping.items()}
    row = {name: i for i, name in enumerate(gains.targets)}
    column = {name: j for j, name in enumerate((*gains.sources, NONE))}
    made: dict[str, Array] = {}
    for i, (method, target, source, score) in enumerate(
        zip(held["method"], held["target"], held["source"], held["score"], strict=True)
    ):
        if target not in row or source not in column:
            continue
        scores = made.setdefault(str(method), np.full((len(row), len(column)), np.nan))
        cell = row[target], column[source]
        if not np.isnan(scores[cell]):
            raise StudyError(
                f"{path}, row {i + 1}: {method} has a second score for {source!r} on {target!r}.",
                "A method says one thing about a pair.",
                "Keep one of them.",
            )
        try:
            scores[cell] = np.nan if score in (None, "") else float(score)
        except (TypeError, ValueError):
            raise StudyError(
                f"{path}, row {i + 1}: the score is {score!r}.",
                "A score is a number, or empty where the method does not apply.",
                "Mend the row.",
            ) from None
    if not made:
        raise StudyError(
            f"{path} holds no score for a pair of the grid.",
            f"The grid has the targets {', '.join(gains.targets[:5])}…",
            "Give scores of this grid's sources and targets, under the same names.",
        )
    return [Predicted(name, scores[:, :-1], scores[:, -1]) for name, scores in made.items()]


@dataclass(frozen=True)
class TaskWeb:
    """TaskWeb's runs of one setting, and its published predictions.

    Attributes
    ----------
    gains
        Every run of the setting, source ``none`` among them.
    judged
        Mean over seeds of the score that the published regret is made of, in points, targets ×
        sources. It differs from the score of ``gains`` for ``cb`` only.
    predictions
        The four published methods.
    """

    gains: Gains
    judged: Array
    predictions: tuple[Predicted, ...]

    @property
    def transfer(self) -> Array:
        """Half of PC and of PM, targets × sources: what TaskWeb orders sources by."""
        return np.asarray(transfer_score(self.gains).T)

    @property
    def gold(self) -> Array:
        """The published true order, higher first: by transfer, exact ties by name.

        Eight sources of one target (wsc) tie in two groups; the published figures rest on a
        stable sort, which leaves them in alphabetical order.
        """
        transfer = self.transfer
        order = np.argsort(-transfer, axis=1, kind="stable")
        out = np.empty(transfer.shape)
        np.put_along_axis(out, order, -np.arange(transfer.shape[1], dtype=float)[None], 1)
        return np.where(np.isnan(transfer), np.nan, out)

    def prior(self) -> Predicted:
        """The reference "mean over other targets": no look at the target at all.

        A source's mean transfer over all targets but this one and itself.
        """
        return Predicted("mean over other targets", *_mean_over_others(self.gains, self.transfer))


def read_taskweb(folder: str | Path, setting: str = "t5l_finetune") -> TaskWeb:
    """Read TaskWeb from the folder that holds its grid and predictions.

    Parameters
    ----------
    folder
        Holds ``taskweb_grid.parquet`` and ``taskweb_predictions.csv``.
    setting
        Model and tuning, one of the column ``setting``.

    Raises
    ------
    DataError
        If a file is missing, or has no such setting.
    """
    folder = Path(folder).expanduser()
    path = folder / "taskweb_grid.parquet"
    where = {"setting": setting, "in_taskweb": 1}
    gains = Gains.read(path, where=where)
    judged = Gains.read(path, where=where, columns={"score": "score_eval"}, alone_required=False)
    predictions = read_predictions(folder / "taskweb_predictions.csv", gains)
    return TaskWeb(gains, judged.mean_scores.T, tuple(predictions))


def _mean_over_others(gains: Gains, values: Array) -> tuple[Array, Array]:
    """Mean of each source's values over all other targets; and no score for none."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(0) - np.where(known, values, 0.0)
    n = known.sum(0) - known
    out = np.where(n > 0, total / np.maximum(n, 1), np.nan)
    return out, np.full(len(gains.targets), np.nan)


#: Columns of the published table.
TASKWEB_COLUMNS = (*TASKWEB_CATEGORIES, "all")
TASKWEB_METRICS = ("ndcg-rank", "mean-regret@5")


def taskweb_table(
    taskweb: TaskWeb, predictions: Iterable[Predicted]
) -> dict[str, dict[str, tuple[float, float]]]:
    """Lay out the table of Kim et al. (2023, table 3): NDCG and Regret@5 by category of target.

    NDCG (rank gain) is by the order of half PC and half PM; Regret@5 (mean of five) by the judged
    scores, its true five chosen by the same order. Averages leave out PIQA.

    Returns
    -------
    By method and by column (the categories, then ``all``), NDCG × 100 and Regret@5 in percent;
    NaN where the method applies to no target of the category. The first row is a random order.
    """
    floor = Predicted(
        "random", np.zeros_like(taskweb.judged), np.full(len(taskweb.gains.targets), np.nan)
    )
    out: dict[str, dict[str, tuple[float, float]]] = {}
    for each in (floor, *predictions):
        found = taskweb_values(taskweb, each)
        out[each.method] = {}
        for column in TASKWEB_COLUMNS:
            rows = taskweb_rows(taskweb.gains.targets, column)
            ndcg, regret = (_mean(found[m][rows]) for m in TASKWEB_METRICS)
            out[each.method][column] = (100 * ndcg, regret)
    return out


def taskweb_values(taskweb: TaskWeb, predicted: Predicted) -> dict[str, Array]:
    """NDCG (rank gain) and Regret@5 (mean of five) of one method, one value per target."""
    return measure(TASKWEB_METRICS, predicted.scores, taskweb.judged, gold=taskweb.gold)


def taskweb_rows(targets: Sequence[str], column: str) -> list[int]:
    """Places of the targets that a column of the published table averages over."""
    wanted = TASKWEB_CATEGORIES.get(column, tuple(targets))
    return [i for i, t in enumerate(targets) if t in wanted and t != TASKWEB_TUNED_ON]


def _mean(values: Array) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
