"""Transfer results at rest: one SQLite file, committed cell by cell."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from taskscout.errors import StudyError
from taskscout.notebook import table_html
from taskscout.tasks.arrow_files import read_parquet
from taskscout.tasks.names import NONE

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from taskscout.methods.gains import Gains

#: Kept in the file's header by SQLite: says that the file is ours, and of which layout.
_APPLICATION, _LAYOUT = 0x7A5C0B, 2


@dataclass(frozen=True)
class CellResult:
    """What one transfer gave.

    Attributes
    ----------
    key
        Of the cell: content and settings.
    source, target, encoder, strategy, tuning, size, seed
        What was run; source ``none`` is training on the target alone; size 0 the whole split.
    score
        On the target's test rows, 0 to 1 (correlations -1 to 1); None if it failed.
    scores
        All metrics.
    seconds
        The cell took, data and model at hand, test included.
    source_seconds
        Its source took, once for all targets.
    error
        Why it failed, or empty.
    recipe
        What the study changed of the target's default recipe, such as ``epochs=6``.
    made
        When and by what: date, host, versions.
    """

    key: str
    source: str
    target: str
    encoder: str
    strategy: str
    tuning: str
    size: int
    seed: int
    score: float | None
    scores: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    source_seconds: float = 0.0
    error: str = ""
    recipe: str = "default"
    made: dict[str, Any] = field(default_factory=dict)


_COLUMNS = tuple(f.name for f in fields(CellResult))
_cell: TypeAdapter[CellResult] = TypeAdapter(CellResult)
_JSON = ("scores", "made")
#: Stands in a table before a metric that has a field's name, as a score's ``error`` has.
_METRIC = "metric_"


class GridStore:
    """A grid's file.

    Parameters
    ----------
    path
        Made if it is not there, unless ``create`` is False.

    Raises
    ------
    StudyError
        If the file cannot be opened, or is not a grid.
    """

    def __init__(self, path: str | Path, *, create: bool = True) -> None:
        self.path = Path(path)
        if not create and not self.path.is_file():
            raise _no_grid(self.path)
        with self._open() as db:
            ours, layout = (db.execute(f"PRAGMA {p}").fetchone()[0] for p in _PRAGMAS)
            empty = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
            if (ours, layout) != (_APPLICATION, _LAYOUT) and not (empty and ours == 0):
                raise StudyError(
                    f"{self.path} is a SQLite file, but not a grid of this version.",
                    "Its tables are others'.",
                    "Give another file; a grid of another version can be read as Parquet.",
                )
            if empty:
                # The mark first: another process that looks meanwhile sees a grid being made.
                db.execute(f"PRAGMA application_id={_APPLICATION}")
                db.execute(f"PRAGMA user_version={_LAYOUT}")
                types = {"size": "INTEGER", "seed": "INTEGER"}
                types |= dict.fromkeys(("score", "seconds", "source_seconds"), "REAL")
                columns = ", ".join(f"{c} {types.get(c, 'TEXT')}" for c in _COLUMNS[1:])
                db.execute(f"CREATE TABLE IF NOT EXISTS cells (key TEXT PRIMARY KEY, {columns})")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            db = sqlite3.connect(self.path, timeout=30)
            try:
                with db:
                    yield db
            finally:
                db.close()
        except sqlite3.Error as error:
            raise StudyError(
                f"{self.path} cannot be used ({error}).",
                "A grid is a SQLite file in a folder that may be written.",
                "Give another file, or make room on the disk; what was committed is kept.",
            ) from error

    def put(self, results: Iterable[CellResult]) -> None:
        """Keep results, whole or not at all; one that is there is replaced."""
        rows = [
            tuple(
                json.dumps(getattr(r, c)) if c in _JSON else getattr(r, c) for c in _COLUMNS
            )
            for r in results
        ]  # fmt: skip
        with self._open() as db:
            marks = ", ".join("?" * len(_COLUMNS))
            db.executemany(
                f"INSERT OR REPLACE INTO cells ({', '.join(_COLUMNS)}) VALUES ({marks})", rows
            )

    def done(self, *, failed: bool = False) -> set[str]:
        """Keys of the cells that are there; those that failed count only if asked."""
        with self._open() as db:
            where = "" if failed else " WHERE error = ''"
            return {key for (key,) in db.execute(f"SELECT key FROM cells{where}")}

    def results(self) -> list[CellResult]:
        """All results, in an order that does not depend on when they came."""
        with self._open() as db:
            rows = db.execute(
                f"SELECT {', '.join(_COLUMNS)} FROM cells ORDER BY "
                "encoder, strategy, tuning, recipe, size, target, source != 'none', source, seed, "
                "key"
            ).fetchall()
        return _checked(self.path, [dict(zip(_COLUMNS, row, strict=True)) for row in rows])

    def __repr__(self) -> str:
        return f"GridStore({str(self.path)!r}, {len(self.done(failed=True)):,} cells)"

    def _repr_html_(self) -> str:
        """How many cells of each setting there are, for a notebook."""
        results = self.results()
        counts = Counter((r.encoder, r.strategy, r.tuning, r.size) for r in results)
        failed = sum(bool(r.error) for r in results)
        title = f"{self!r}, {failed} failed"
        rows = [[*setting, n] for setting, n in counts.items()]
        return table_html(title, ["encoder", "strategy", "tuning", "size", "cells"], rows)

    def to_dict(self) -> dict[str, Any]:
        """All results as plain JSON types."""
        return {"path": str(self.path), "cells": [asdict(r) for r in self.results()]}

    def to_pandas(self) -> pd.DataFrame:
        """One row per cell, as in the Parquet file of ``taskscout grid export``."""
        return to_table(self.results()).to_pandas()

    def merge(self, others: Iterable[CellResult], name: str = "another grid") -> int:
        """Take another grid's results, and say how many were new.

        Parameters
        ----------
        others
            Its results (:func:`read_results`).
        name
            What errors call it.

        Raises
        ------
        StudyError
            If both hold a cell with different scores.
        """
        mine = {r.key: r for r in self.results()}
        new = []
        for result in others:
            known = mine.get(result.key)
            if known is None or (known.error and not result.error):
                new.append(result)
            elif not result.error and known.score != result.score:
                raise StudyError(
                    f"{self.path} and {name} hold different scores for {result.source} -> "
                    f"{result.target}, seed {result.seed}: {known.score} and {result.score}.",
                    "One cell, run twice: processors of different kinds round differently.",
                    "Choose one of the two files; share the cells among machines without repeats.",
                )
        self.put(new)
        return len(new)


_PRAGMAS = ("application_id", "user_version")


def read_results(path: str | Path) -> list[CellResult]:
    """Read a grid: its SQLite file, or a Parquet table that was exported from one.

    Raises
    ------
    StudyError
        If it is neither.
    """
    path = Path(path)
    if path.suffix != ".parquet":
        return GridStore(path, create=False).results()
    if not path.is_file():
        raise _no_grid(path)
    table = read_parquet(path)
    plain = [c for c in _COLUMNS if c not in _JSON]
    missing = [c for c in (*plain, "made") if c not in table.column_names]
    if missing:
        raise StudyError(
            f"{path} has no column {missing[0]!r}.",
            "It was not exported from a grid of this version.",
            "Give a file that taskscout grid run or export has written.",
        )
    metrics = [c for c in table.column_names if c not in (*plain, "made")]
    rows = table.to_pylist()
    for row in rows:
        measured = [m for m in ("score", *metrics) if row[m] is not None]
        row["scores"] = {m.removeprefix(_METRIC): row[m] for m in measured}
    return _checked(path, [{c: row[c] for c in _COLUMNS} for row in rows])


def _checked(path: Path, rows: Sequence[dict[str, Any]]) -> list[CellResult]:
    """Make results of rows as they are kept; what is JSON there may still be text.

    Raises
    ------
    StudyError
        If a field is missing, or of another type than a grid's.
    """
    results = []
    for number, row in enumerate(rows, 1):
        try:
            told = {c: json.loads(row[c]) for c in _JSON if not isinstance(row[c], dict)}
            results.append(_cell.validate_python(row | told))
        except ValidationError as error:
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise _no_cell(path, number, reason) from error
        except (ValueError, TypeError, RecursionError) as error:
            raise _no_cell(path, number, str(error)) from error
    return results


def _no_cell(path: Path, number: int, reason: str) -> StudyError:
    return StudyError(
        f"{path}, cell {number} cannot be read ({reason[:200]}).",
        "Its fields are not those of a transfer's result, so the file was changed or damaged.",
        "Restore the file from a copy, or run the grid again into another.",
    )


def _no_grid(path: Path) -> StudyError:
    return StudyError(
        f"There is no grid {path}.",
        "It should hold the results of transfers.",
        "Make one with: taskscout grid run STUDY.yaml --out GRID.sqlite",
    )


def to_table(results: Iterable[CellResult]) -> pa.Table:
    """Results as Arrow: one row per cell, one column per field and per metric."""
    import pyarrow as pa

    results = list(results)
    metrics = sorted({m for r in results for m in r.scores} - {"score"})
    plain = [c for c in _COLUMNS if c not in _JSON]
    columns: dict[str, list[Any]] = {c: [getattr(r, c) for r in results] for c in plain}
    named = {m: _METRIC + m if m in _COLUMNS else m for m in metrics}
    columns |= {named[m]: [r.scores.get(m) for r in results] for m in metrics}
    columns["made"] = [json.dumps(r.made) for r in results]
    numbers = dict.fromkeys(("score", "seconds", "source_seconds", *named.values()), pa.float64())
    numbers |= dict.fromkeys(("size", "seed"), pa.int64())
    return pa.table({c: pa.array(v, numbers.get(c, pa.string())) for c, v in columns.items()})


#: What a setting is: cells that differ in one of these cannot be averaged.
SETTINGS = ("encoder", "strategy", "tuning", "recipe", "size")


def choose(results: Iterable[CellResult], where: Iterable[str]) -> list[CellResult]:
    """Results that have the values asked for, such as ``tuning=lora``.

    Raises
    ------
    StudyError
        If a condition names no field, or nothing is left.
    """
    results = list(results)
    for condition in where:
        name, _, value = condition.partition("=")
        if name not in _COLUMNS or name in _JSON:
            raise StudyError(
                f"The condition is {condition!r}.",
                f"Cells can be chosen by {', '.join(c for c in _COLUMNS[1:] if c not in _JSON)}.",
                "Write it as, for instance, tuning=lora.",
            )
        # Training without a source belongs to every strategy.
        spared = "none" if name == "strategy" else None
        kept = [r for r in results if str(getattr(r, name)) in (value, spared)]
        if not kept:
            found = sorted({str(getattr(r, name)) for r in results})
            raise StudyError(
                f"No cell has {name} = {value!r}.",
                f"There are {', '.join(found[:8])}.",
                "Choose one of these.",
            )
        results = kept
    return results


def gains_by_setting(results: Iterable[CellResult]) -> list[tuple[dict[str, Any], Gains]]:
    """Gains over training on the target alone, for each setting of :data:`SETTINGS`."""
    from taskscout.methods.gains import Gains

    results = [r for r in results if not r.error]
    found = sorted({tuple(getattr(r, s) for s in SETTINGS) for r in results if r.source != NONE})
    out = []
    for values in found:
        setting = dict(zip(SETTINGS, values, strict=True))
        chosen = [
            r
            for r in results
            if all(
                getattr(r, k) == v or (k == "strategy" and r.source == NONE)
                for k, v in setting.items()
            )
        ]
        gains = Gains.of(
            [r.source for r in chosen],
            [r.target for r in chosen],
            [float("nan") if r.score is None else r.score for r in chosen],
            [r.seed for r in chosen],
            unit="fraction",
        )
        out.append((setting, gains))
    return out
