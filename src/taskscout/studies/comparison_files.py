"""Comparisons as tables and files."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taskscout.errors import StudyError
from taskscout.files import no_formula, write_atomically
from taskscout.studies.comparison import Comparison
from taskscout.studies.metrics import get_metric
from taskscout.tasks.names import NONE

if TYPE_CHECKING:
    import pyarrow as pa


def score_table(comparison: Comparison) -> pa.Table:
    """Every score: method, target, source, score, and what transfer gave."""
    import pyarrow as pa

    columns: dict[str, list[Any]] = {
        n: [] for n in ("method", "target", "source", "score", "true_score", "gain")
    }
    written: set[str] = set()
    for table in comparison.tables:
        gains = table.gains
        truth, gain = gains.mean_scores.T, gains.points.T
        for each in table.predicted:
            if each.method in written:
                continue
            written.add(each.method)
            for i, target in enumerate(gains.targets):
                for j, source in enumerate((*gains.sources, NONE)):
                    none = source == NONE
                    score = each.none[i] if none else each.scores[i, j]
                    true = gains.mean_alone[i] if none else truth[i, j]
                    if math.isnan(score) or math.isnan(true):
                        continue
                    row = (each.method, target, source, score, true, 0.0 if none else gain[i, j])
                    for column, value in zip(columns.values(), row, strict=True):
                        column.append(value)
    return pa.table(columns)


def metric_table(comparison: Comparison) -> pa.Table:
    """Every metric of every method, with interval, spreads and costs.

    Methods that serve fewer targets follow, each set of targets with all methods that serve it;
    the column ``targets_compared`` tells the sets apart.
    """
    import pyarrow as pa

    rows = []
    for table in comparison.tables:
        costs = {p.method: p for p in table.predicted}
        for row in table.rows:
            cost = costs.get(row.method)
            rows.append(
                {
                    "targets_compared": len(table.gains.targets),
                    **asdict(row),
                    "unit": get_metric(row.metric).unit,
                    "better": get_metric(row.metric).better,
                    "seconds_per_target": cost.seconds if cost else math.nan,
                    "bytes_per_source": cost.bytes_per_source if cost else math.nan,
                    "offline_seconds": cost.offline_seconds if cost else math.nan,
                }
            )
    return pa.Table.from_pylist(rows)


def difference_table(comparison: Comparison) -> pa.Table:
    """Methods against the controls and against one another, under the first metric."""
    import pyarrow as pa

    return pa.Table.from_pylist(
        [{**asdict(d), "real": d.real} for t in comparison.tables for d in t.differences]
    )


def write_comparison(comparison: Comparison, folder: str | Path) -> list[Path]:
    """Write all tables into a folder, each beside and renamed.

    ``scores`` and ``metrics`` as Parquet and CSV, ``differences.csv`` and ``study.json``. The
    HTML report is :func:`taskscout.reports.html.study_page`, the Markdown table
    :func:`taskscout.reports.studies.markdown_table`.

    Returns
    -------
    The files.

    Raises
    ------
    StudyError
        If they cannot be written.
    """
    folder = Path(folder).expanduser()
    tables = {"scores": score_table(comparison), "metrics": metric_table(comparison)}
    files = {
        **{f"{n}.parquet": _parquet(t) for n, t in tables.items()},
        **{f"{n}.csv": _csv(t) for n, t in tables.items()},
        "differences.csv": _csv(difference_table(comparison)),
        "study.json": (json.dumps(comparison.to_dict(), indent=1) + "\n").encode(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomically(folder / name, data)
    except OSError as error:
        raise StudyError(
            f"{folder} cannot be written ({error.strerror}).",
            "The results have no place to go.",
            "Give a folder that may be written.",
        ) from error
    return [folder / name for name in files]


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _csv(table: pa.Table) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.column_names)
    for row in table.to_pylist():
        cells = ("" if isinstance(v, float) and math.isnan(v) else v for v in row.values())
        writer.writerow(map(no_formula, cells))
    return out.getvalue().encode()
