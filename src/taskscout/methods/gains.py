"""What real transfer gave: gains in points per source and target, read from a table of runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import DataError, MethodError, first_line
from taskscout.tasks.names import NONE

Array = NDArray[np.float64]
Unit = Literal["auto", "fraction", "percent"]

#: Columns of a table of runs that mean something here.
_COLUMNS = ("source", "target", "score", "seed", "seconds")
#: The column that says how sources were used; target-only runs serve every strategy.
_STRATEGY = "strategy"
#: Columns of our grids of which one value has to be chosen; and those of which several may
#: stand together, for different targets.
_SETTINGS, _MAY_VARY = ("encoder", _STRATEGY, "tuning", "recipe"), ("setting", "size")


def mean_of_known(values: Array) -> Array:
    """Average over the last axis, leaving out NaN; NaN where nothing is known."""
    known = ~np.isnan(values)
    n = known.sum(-1)
    total = np.where(known, values, 0.0).sum(-1)
    return np.asarray(np.where(n > 0, total / np.maximum(n, 1), np.nan))


def _sorted(values: set[Any]) -> tuple[Any, ...]:
    try:
        return tuple(sorted(values))
    except TypeError:  # of several types
        return tuple(sorted(values, key=str))


@dataclass(frozen=True, eq=False)
class Gains:
    """Transfer results of sources on targets, against training on the target alone.

    What is kept are the scores of all runs; means and gains follow from them. A run with a
    source is compared with the target-only run of the same seed; seeds that only one of the two
    has do not count for gains.

    Attributes
    ----------
    sources, targets
        Names, sorted; ``none`` is not among the sources.
    scores
        Score of every run in points (0 to 100), sources × targets × seeds, NaN where there is
        no run or it failed.
    alone
        Score of the target-only runs in points, targets × seeds.
    seed_names
        The seeds, in order; ``(None,)`` where the table had none.
    seconds
        Mean training time of a pair's runs, sources × targets; NaN where unknown.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    scores: Array
    alone: Array
    seed_names: tuple[Any, ...] = (None,)
    seconds: Array = field(default_factory=lambda: np.full((0, 0), np.nan))

    def __post_init__(self) -> None:
        shape = len(self.sources), len(self.targets)
        if self.seconds.shape != shape:
            object.__setattr__(self, "seconds", np.full(shape, np.nan))

    # -- what follows from the runs -------------------------------------------------------

    @cached_property
    def _difference(self) -> Array:
        """Score minus target-only score of the same seed, S × T × K."""
        return np.asarray(self.scores - self.alone)

    @cached_property
    def points(self) -> Array:
        """Mean over seeds of score minus target-only score, in points, S × T."""
        return mean_of_known(self._difference)

    @cached_property
    def relative(self) -> Array:
        """Mean over seeds of (score - target-only score) / target-only score, a fraction, S × T.

        NaN where a target-only score is 0.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = self._difference / self.alone
        shares[np.isnan(shares) & ~np.isnan(self._difference)] = np.inf  # 0 / 0
        means = mean_of_known(shares)
        return np.where(np.isinf(means), np.nan, means)

    @cached_property
    def positive(self) -> Array:
        """Share of seeds whose score exceeds the target-only score, S × T."""
        known = ~np.isnan(self._difference)
        return mean_of_known(np.where(known, self._difference > 0, np.nan))

    @cached_property
    def seeds(self) -> NDArray[np.int64]:
        """Number of seeds compared, S × T."""
        return np.asarray((~np.isnan(self._difference)).sum(2), np.int64)

    @cached_property
    def mean_scores(self) -> Array:
        """Mean over seeds of the score, in points, S × T."""
        return mean_of_known(self.scores)

    @cached_property
    def mean_alone(self) -> Array:
        """Mean over seeds of the target-only score, in points, T."""
        return mean_of_known(self.alone)

    def with_seeds(self, places: Sequence[int]) -> Gains:
        """Keep the runs of some seeds, given by their places in :attr:`seed_names`."""
        at = list(places)
        return replace(
            self,
            scores=self.scores[:, :, at],
            alone=self.alone[:, at],
            seed_names=tuple(self.seed_names[i] for i in at),
        )

    def with_targets(self, names: Iterable[str]) -> Gains:
        """Keep some targets, by name, in the order of this grid."""
        wanted = set(names)
        at = [j for j, name in enumerate(self.targets) if name in wanted]
        return replace(
            self,
            targets=tuple(self.targets[j] for j in at),
            scores=self.scores[:, at],
            alone=self.alone[at],
            seconds=self.seconds[:, at],
        )

    def with_sources(self, names: Iterable[str]) -> Gains:
        """Keep some sources, by name, in the order of this grid."""
        wanted = set(names)
        at = [i for i, name in enumerate(self.sources) if name in wanted]
        return replace(
            self,
            sources=tuple(self.sources[i] for i in at),
            scores=self.scores[at],
            seconds=self.seconds[at],
        )

    # -- where they come from -----------------------------------------------------------

    @classmethod
    def of(
        cls,
        sources: Sequence[str],
        targets: Sequence[str],
        scores: Sequence[float],
        seeds: Sequence[Any] | None = None,
        *,
        seconds: Sequence[float] | None = None,
        unit: Unit = "auto",
        where: str = "the table of runs",
        alone_required: bool = True,
        example: tuple[str, str] = ("setting", "t5l_finetune"),
    ) -> Gains:
        """Compare runs, given one entry per run.

        Parameters
        ----------
        sources, targets, scores
            One per run; source ``none`` is training on the target alone. A score that is NaN
            is a run that failed and does not count.
        seeds
            One per run; None where every pair has one run.
        seconds
            Training time of each run; None where unknown.
        unit
            ``fraction`` (0 to 1), ``percent``, or ``auto``: fractions where no score lies
            beyond 1 or -1, else percent.
        where
            What errors call the table.
        alone_required
            False accepts a table without any run ``none``: it has scores, but no gains.
        example
            A column and a value by which an error may advise to choose runs.

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
        of_seeds = [None] * len(values) if seeds is None else list(seeds)
        seen: set[tuple[str, str, Any]] = set()
        for run in zip(sources, targets, of_seeds, strict=True):
            if run in seen:
                source, target, seed = run
                named = "" if seeds is None else f", seed {seed}"
                raise DataError(
                    f"{where} has more than one run with source {source!r}, target {target!r}"
                    f"{named}.",
                    "Runs of different models or recipes would be mixed up."
                    if seeds is not None
                    else "Without a column 'seed' a pair has one run.",
                    f"Choose one set of runs, for instance where={{'{example[0]}': "
                    f"'{example[1]}'}} or --where {example[0]}={example[1]}"
                    + ("." if seeds is not None else ", or add a column 'seed'."),
                )
            seen.add(run)
        if alone_required and NONE not in set(sources):
            raise DataError(
                f"{where} has no run with source 'none'.",
                "A gain is the difference from training on the target alone.",
                "Add these runs, with 'none' in the column 'source'.",
            )
        names = tuple(sorted(set(sources) - {NONE}))
        aims = tuple(sorted(set(targets)))
        distinct = _sorted(set(of_seeds)) or (None,)
        row = {name: i for i, name in enumerate((*names, NONE))}
        column = {name: j for j, name in enumerate(aims)}
        layer = {seed: k for k, seed in enumerate(distinct)}
        at = (
            np.array([row[s] for s in sources], np.int64),
            np.array([column[t] for t in targets], np.int64),
            np.array([layer[k] for k in of_seeds], np.int64),
        )
        shape = len(row), len(aims), len(distinct)
        runs, times = np.full(shape, np.nan), np.full(shape, np.nan)
        runs[at] = values
        if seconds is not None:
            times[at] = np.asarray(seconds, np.float64)
        return cls(names, aims, runs[:-1], runs[-1], distinct, mean_of_known(times[:-1]))

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        where: Mapping[str, Any] | None = None,
        unit: Unit = "auto",
        columns: Mapping[str, str] | None = None,
        none: str = NONE,
        alone_required: bool = True,
    ) -> Gains:
        """Read a long table of runs, CSV or Parquet.

        Its columns are ``source``, ``target`` and ``score``, ``seed`` where pairs were run more
        than once, and ``seconds`` where their training time is known; others serve ``where``.
        Source ``none`` is training on the target alone. An empty score is a run that failed.

        Parameters
        ----------
        path
            A file that ends in ``.csv``, ``.tsv`` or ``.parquet``.
        where
            Only rows with these values in these columns; values are compared as text, so
            ``{"in_taskweb": 1}`` and ``{"in_taskweb": "1"}`` mean the same. Runs of source
            ``none`` whose ``strategy`` is ``none`` or empty serve every strategy.
        unit
            As for :meth:`of`.
        columns
            What this table calls ``source``, ``target``, ``score``, ``seed`` and ``seconds``,
            where its names are others: ``{"score": "accuracy"}``.
        none
            What this table calls the source of target-only runs.
        alone_required
            As for :meth:`of`.

        Raises
        ------
        DataError
            If the file cannot be read, lacks a column, or :meth:`of` refuses its runs.
        """
        path = Path(path).expanduser()
        mapping = {name: name for name in _COLUMNS} | dict(columns or {})
        unknown = set(mapping) - set(_COLUMNS)
        if unknown:
            raise DataError(
                f"A table of runs has no {min(unknown)!r}.",
                f"Its columns are {', '.join(_COLUMNS)}.",
                "Map these to the names in your table.",
            )
        table = read_table(path, texts=(mapping["source"], mapping["target"]))
        names = table.column_names
        required_columns = {mapping[n]: n for n in ("source", "target", "score")}
        for name in (*required_columns, *(columns or {}).values(), *(where or {})):
            if name not in names:
                raise DataError(
                    f"{path} has no column {name!r}.",
                    "A table of runs has the columns source, target and score; this one has "
                    f"{', '.join(names)}.",
                    "Rename the column, or say what it is called here: "
                    f"columns={{'{required_columns[name]}': …}}."
                    if name in required_columns
                    else "Choose by a column that is there.",
                )
        held = {
            n: table.column(n).to_pylist()
            for n in {*mapping.values(), *(where or {}), *_SETTINGS, *_MAY_VARY} & set(names)
        }
        of_source = [str(v) for v in held[mapping["source"]]]
        of_target = [str(v) for v in held[mapping["target"]]]
        rows = list(range(table.num_rows))
        for name, value in (where or {}).items():
            rows = [
                i
                for i in rows
                if str(held[name][i]) == str(value)
                or (
                    name == _STRATEGY
                    and of_source[i] == none
                    and str(held[name][i] or NONE) == NONE
                )
            ]
            if not rows:
                found = sorted({str(v) for v in held[name]})[:5]
                raise DataError(
                    f"{path} has no row left with {name} = {value!r}.",
                    f"The column {name!r} holds {', '.join(found)}.",
                    "Choose one of its values.",
                )
        for name in set(_SETTINGS) & set(held):
            found = sorted(
                {str(held[name][i]) for i in rows if name != _STRATEGY or of_source[i] != none}
            )
            if len(found) > 1:
                raise DataError(
                    f"{path} holds runs of more than one {name}: {', '.join(found[:5])}.",
                    "Runs of different settings would be mixed up.",
                    f"Choose one: where={{'{name}': '{found[0]}'}}, or --where {name}={found[0]}.",
                )

        def numbers(name: str) -> list[float]:
            out = []
            for i in rows:
                value = held[mapping[name]][i]
                try:
                    out.append(float("nan") if value in (None, "") else float(value))
                except (TypeError, ValueError):
                    raise DataError(
                        f"{path}, row {i + 1}: the {name} is {value!r}.",
                        f"A {name} is a number, or empty for a run that failed.",
                        "Mend the row.",
                    ) from None
            return out

        varying = [
            (name, str(held[name][rows[0]]))
            for name in _MAY_VARY
            if name in held and rows and len({str(held[name][i]) for i in rows}) > 1
        ]
        seeds = held.get(mapping["seed"])
        return cls.of(
            [NONE if of_source[i] == none else of_source[i] for i in rows],
            [of_target[i] for i in rows],
            numbers("score"),
            None if seeds is None else [seeds[i] for i in rows],
            seconds=numbers("seconds") if mapping["seconds"] in held else None,
            unit=unit,
            where=str(path),
            alone_required=alone_required,
            **({"example": varying[0]} if varying else {}),
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
            Such as ``points``, ``relative``, ``positive`` or ``mean_scores``.
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


def read_table(path: Path, texts: Sequence[str] = ("source", "target")) -> Any:
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
            from taskscout.tasks.arrow_files import read_parquet

            return read_parquet(path)
        from pyarrow import csv

        options = csv.ParseOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
        # Names stay text, whatever they look like ("null", "1", "true").
        kinds = dict.fromkeys(texts, pa.string())
        convert = csv.ConvertOptions(column_types=kinds, strings_can_be_null=False)
        table = csv.read_csv(path, parse_options=options, convert_options=convert)
        table.validate(full=True)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({first_line(error)}).",
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
