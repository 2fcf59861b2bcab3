"""What real transfer gave: gains in points per source and target, read from a table of runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import DataError, MethodError

Array = NDArray[np.float64]
Unit = Literal["auto", "fraction", "percent"]

#: Name under which the target-only runs stand in the column ``source``.
NONE = "none"


@dataclass(frozen=True, eq=False)
class Gains:
    """Transfer results of sources on targets, against training on the target alone.

    Every array has one row per source and one column per target, NaN where there is no run.
    A run with a source is compared with the target-only run of the same seed; seeds that only
    one of the two has do not count.

    Attributes
    ----------
    sources, targets
        Names, sorted; ``none`` is not among the sources.
    points
        Mean over seeds of score minus target-only score, in points (0.01 of the scale 0 to 1).
    relative
        Mean over seeds of (score - target-only score) / target-only score, a fraction.
    positive
        Share of these seeds whose score exceeds the target-only score.
    seeds
        Number of seeds compared.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    points: Array
    relative: Array
    positive: Array
    seeds: NDArray[np.int64]

    # -- where they come from -----------------------------------------------------------

    @classmethod
    def of(
        cls,
        sources: Sequence[str],
        targets: Sequence[str],
        scores: Sequence[float],
        seeds: Sequence[Any] | None = None,
        *,
        unit: Unit = "auto",
        where: str = "the table of runs",
    ) -> Gains:
        """Compare runs, given one entry per run.

        Parameters
        ----------
        sources, targets, scores
            One per run; source ``none`` is training on the target alone. A score that is NaN
            is a run that failed and does not count.
        seeds
            One per run; None where every pair has one run.
        unit
            ``fraction`` (0 to 1), ``percent``, or ``auto``: fractions where no score lies
            beyond 1 or -1, else percent.
        where
            What errors call the table.

        Raises
        ------
        DataError
            If two runs have the same source, target and seed, or no target has a run ``none``.
        """
        values = np.asarray(scores, np.float64)
        finite = values[~np.isnan(values)]
        if unit == "auto":
            unit = "percent" if len(finite) and np.abs(finite).max() > 1 else "fraction"
        values = values if unit == "percent" else 100 * values
        runs: dict[tuple[str, str], dict[Any, float]] = {}
        for i, (source, target) in enumerate(zip(sources, targets, strict=True)):
            seed = None if seeds is None else seeds[i]
            cell = runs.setdefault((source, target), {})
            if seed in cell:
                named = "" if seeds is None else f", seed {seed}"
                raise DataError(
                    f"{where} has more than one run with source {source!r}, target {target!r}"
                    f"{named}.",
                    "Runs of different models or recipes would be mixed up."
                    if seeds is not None
                    else "Without a column 'seed' a pair has one run.",
                    "Choose one set of runs, for instance where={'setting': 't5l_finetune'}"
                    + ("." if seeds is not None else ", or add a column 'seed'."),
                )
            cell[seed] = float(values[i])
        names = tuple(sorted({s for s, _ in runs if s != NONE}))
        aims = tuple(sorted({t for _, t in runs}))
        if not any((NONE, t) in runs for t in aims):
            raise DataError(
                f"{where} has no run with source 'none'.",
                "A gain is the difference from training on the target alone.",
                "Add these runs, with 'none' in the column 'source'.",
            )
        shape = len(names), len(aims)
        points, relative, positive = (np.full(shape, np.nan) for _ in range(3))
        counted = np.zeros(shape, np.int64)
        for i, source in enumerate(names):
            for j, target in enumerate(aims):
                alone, with_source = runs.get((NONE, target), {}), runs.get((source, target), {})
                both = [k for k in with_source if k in alone]
                a = np.array([alone[k] for k in both])
                x = np.array([with_source[k] for k in both])
                known = ~(np.isnan(a) | np.isnan(x))
                a, x = a[known], x[known]
                if not len(a):
                    continue
                points[i, j] = (x - a).mean()
                relative[i, j] = ((x - a) / a).mean() if (a != 0).all() else np.nan
                positive[i, j] = (x > a).mean()
                counted[i, j] = len(a)
        return cls(names, aims, points, relative, positive, counted)

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        where: Mapping[str, Any] | None = None,
        unit: Unit = "auto",
    ) -> Gains:
        """Read a long table of runs, CSV or Parquet.

        Its columns are ``source``, ``target`` and ``score``, and ``seed`` where pairs were run
        more than once; others are ignored. Source ``none`` is training on the target alone.
        An empty score is a run that failed.

        Parameters
        ----------
        path
            A file that ends in ``.csv``, ``.tsv`` or ``.parquet``.
        where
            Only rows with these values in these columns; values are compared as text, so
            ``{"in_taskweb": 1}`` and ``{"in_taskweb": "1"}`` mean the same.
        unit
            As for :meth:`of`.

        Raises
        ------
        DataError
            If the file cannot be read, lacks a column, or :meth:`of` refuses its runs.
        """
        path = Path(path).expanduser()
        table = _read_table(path)
        names = table.column_names
        for name in ("source", "target", "score", *(where or {})):
            if name not in names:
                raise DataError(
                    f"{path} has no column {name!r}.",
                    "A table of runs has the columns source, target and score; this one has "
                    f"{', '.join(names)}.",
                    "Rename the column."
                    if name in ("source", "target", "score")
                    else "Choose by a column that is there.",
                )
        wanted = ("source", "target", "score", "seed", *(where or {}))
        columns = {n: table.column(n).to_pylist() for n in wanted if n in names}
        rows = list(range(table.num_rows))
        for name, value in (where or {}).items():
            rows = [i for i in rows if str(columns[name][i]) == str(value)]
            if not rows:
                found = sorted({str(v) for v in columns[name]})[:5]
                raise DataError(
                    f"{path} has no row left with {name} = {value!r}.",
                    f"The column {name!r} holds {', '.join(found)}.",
                    "Choose one of its values.",
                )
        scores = []
        for i in rows:
            value = columns["score"][i]
            try:
                scores.append(float("nan") if value in (None, "") else float(value))
            except (TypeError, ValueError):
                raise DataError(
                    f"{path}, row {i + 1}: the score is {value!r}.",
                    "A score is a number, or empty for a run that failed.",
                    "Mend the row.",
                ) from None
        return cls.of(
            [str(columns["source"][i]) for i in rows],
            [str(columns["target"][i]) for i in rows],
            scores,
            [columns["seed"][i] for i in rows] if "seed" in columns else None,
            unit=unit,
            where=str(path),
        )

    # -- what they say --------------------------------------------------------------------

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {s: i for i, s in enumerate(self.sources)}

    @cached_property
    def _columns(self) -> dict[str, int]:
        return {t: j for j, t in enumerate(self.targets)}

    def __repr__(self) -> str:
        return f"Gains({len(self.sources)} sources, {len(self.targets)} targets)"

    def select(
        self, what: Array, sources: Iterable[str], targets: Iterable[str] | None = None
    ) -> Array:
        """Take rows and columns of one of the arrays, NaN for names that are not there.

        Parameters
        ----------
        what
            ``points``, ``relative`` or ``positive``.
        sources, targets
            Names, in the order wanted; None for all targets.
        """
        rows = [self._rows.get(s, -1) for s in sources]
        columns = [self._columns.get(t, -1) for t in (self.targets if targets is None else targets)]
        wide = np.pad(what, ((0, 1), (0, 1)), constant_values=np.nan)
        return wide[np.ix_(np.array(rows, np.int64), np.array(columns, np.int64))]

    def gain(self, source: str, target: str) -> float:
        """Look up the mean gain over training on the target alone, in points; NaN where unknown."""
        return float(self.select(self.points, [source], [target])[0, 0])

    def prior(self, sources: Sequence[str], target: str) -> Array:
        """Average the gain of each source over all targets but this one and the source, in points.

        NaN for a source without a run on any other target.
        """
        known = self.select(self.points, sources)
        for j, name in enumerate(self.targets):
            known[[name in (target, s) for s in sources], j] = np.nan
        counted = ~np.isnan(known)
        n = counted.sum(1)
        total = np.where(counted, known, 0.0).sum(1)
        return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def _read_table(path: Path) -> Any:
    """Read a CSV, TSV or Parquet file as an Arrow table."""
    import pyarrow as pa

    if not path.is_file():
        raise DataError(
            f"There is no file {path}.",
            "A grid is a table of transfer runs.",
            "Give a CSV or Parquet file with the columns source, target, score and seed.",
        )
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet as pq

            table = pq.read_table(path)
        else:
            from pyarrow import csv

            options = csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
            # Names stay text, whatever they look like ("null", "1", "true").
            texts = {"source": pa.string(), "target": pa.string()}
            convert = csv.ConvertOptions(column_types=texts, strings_can_be_null=False)
            table = csv.read_csv(path, parse_options=options, convert_options=convert)
    except (OSError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{path} cannot be read ({str(error).splitlines()[0]}).",
            "It is damaged, or neither CSV nor Parquet.",
            "Give a CSV or Parquet file with the columns source, target, score and seed.",
        ) from error
    return table


def required(gains: Gains | str | Path | None, method: str) -> Gains:
    """Get the gains, or an error that says how to give some.

    Raises
    ------
    MethodError
        If there are none.
    DataError
        If they are a file that cannot be used.
    """
    if gains is None:
        raise MethodError(
            f"{method} was given no grid.",
            "It needs measured transfer results to say anything.",
            f"Give a table of runs: taskscout rank FILE --method '{method}' --grid RUNS",
        )
    return gains if isinstance(gains, Gains) else Gains.read(gains)
