"""The main job of training: through sources and without, over seeds, and the better model kept."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taskscout.errors import TransferError
from taskscout.methods import DEFAULT
from taskscout.models.recipe import Recipe
from taskscout.notebook import table_html
from taskscout.tasks import Task, TaskCard
from taskscout.transfer.choosing import Decision, decide
from taskscout.transfer.comparison import Comparison, compare_over_seeds
from taskscout.transfer.export import ADAPTER
from taskscout.transfer.model_card import model_card, result_json
from taskscout.transfer.origin import Origin
from taskscout.transfer.recipes import recipe_for_sources, target_recipe
from taskscout.transfer.result import NONE, Budget, Strategy, Transfer
from taskscout.transfer.strategies import check_kinds, check_target, transfer
from taskscout.transfer.trials import SHORT_LIST
from taskscout.transfer.workspace import Workspace, full_disk_explained, saver

if TYPE_CHECKING:
    import pandas as pd

    from taskscout.models.workbench import Workbench
    from taskscout.pools import Pool
    from taskscout.tasks.catalogue import Catalogue
    from taskscout.tasks.readers import Rows
    from taskscout.transfer.loaded import LoadedModel

_PROMPTS = ("prompt", "p-tuning-v2")


@dataclass(frozen=True)
class Choice:
    """Which model is handed over.

    Attributes
    ----------
    strategy, seed
        Of the model: the strategy that does better on the validation split, its best seed.
    why
        The reason, in words; it names the number of validation rows.
    tied
        Whether the two strategies lie no further apart on the validation rows than chance puts
        them.
    """

    strategy: Strategy
    seed: int
    why: str
    tied: bool = False


@dataclass(frozen=True)
class TrainResult:
    """What came of a training.

    Attributes
    ----------
    target
        Name of the target.
    strategy
        The one asked for; ``chosen.strategy`` is the one handed over.
    sources
        Cards of the sources.
    runs
        All runs: those through sources, then those without.
    comparison
        With against without, seed by seed; None where nothing was compared.
    chosen
        Which model is in the folder.
    folder
        Model, model card and ``result.json``.
    notes
        Lines for the user.
    details
        What ``result.json`` holds.
    """

    target: str
    strategy: Strategy
    sources: tuple[TaskCard, ...]
    runs: tuple[Transfer, ...]
    comparison: Comparison | None
    chosen: Choice
    folder: Path
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: Keeps a folder that nobody named until the result is gone.
    _temporary: Any = field(default=None, repr=False, compare=False)

    @property
    def verdict(self) -> str:
        """Whether the sources helped, in words; empty where nothing was compared."""
        return "" if self.comparison is None else self.comparison.verdict

    @property
    def score(self) -> float:
        """Mean test score of the strategy handed over, over seeds, as a fraction."""
        scores = [r.score for r in self.runs if r.strategy == self.chosen.strategy]
        return float(np.mean(scores))

    def load(self) -> LoadedModel:
        """The model handed over; see :func:`taskscout.transfer.loaded.load`."""
        from taskscout.transfer.loaded import load

        return load(self.folder)

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Put the model handed over on the hub, with its adapter and card; the commit's address.

        Parameters
        ----------
        repo_id
            ``owner/name`` of a model repository, made where it is missing.
        private
            Whether a repository that is made is private.

        Raises
        ------
        TaskscoutError
            If the hub refuses, or cannot be reached.
        """
        from taskscout.pools.hub_files import upload

        message = f"{self.target}: {self.chosen.strategy}, by taskscout"
        return upload(self.folder, repo_id, "model", private=private, message=message)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types: what ``result.json`` holds."""
        return dict(self.details)

    def to_pandas(self) -> pd.DataFrame:
        """One row per run: strategy, seed, every score, seconds and examples."""
        import pandas as pd

        rows = []
        for run in self.runs:
            row = run.to_dict()
            scores, validation = row.pop("scores"), row.pop("validation")
            del row["notes"]
            row["sources"] = ", ".join(row["sources"])
            rows.append({**row, **scores, **{f"validation_{k}": v for k, v in validation.items()}})
        return pd.DataFrame(rows)

    def _repr_html_(self) -> str:
        """Verdict and score of each run, for a notebook."""
        rows = [[r.strategy, r.seed, 100 * r.score] for r in self.runs]
        title = f"{self.target}: {self.verdict or self.chosen.why}"
        return table_html(title, ["strategy", "seed", "test score, points"], rows)

    def __repr__(self) -> str:
        through = ", ".join(c.name for c in self.sources) or "no source"
        gain = ""
        if self.comparison is not None:
            gain = f", {100 * self.comparison.difference:+.1f} points ({self.comparison.outcome})"
        return (
            f"TrainResult({self.target!r}, {self.strategy} through {through}: "
            f"{100 * self.score:.1f}{gain}, kept: {self.chosen.strategy}, {str(self.folder)!r})"
        )


def train(
    target: Task | str | Path | Rows | Mapping[str, Rows],
    *,
    sources: Sequence[str | Task | Origin] | None = None,
    top: int | None = None,
    method: str = DEFAULT,
    trial: int = SHORT_LIST,
    calibration: str | Path | None = None,
    pool: Pool | str | Path | None = None,
    catalogue: Catalogue | None = None,
    bench: Workbench | None = None,
    strategy: Strategy = "sequential",
    recipe: Recipe | None = None,
    source_recipe: Recipe | None = None,
    seeds: int | Sequence[int] = 3,
    budget: Budget | str | None = None,
    fresh: bool = False,
    merge: bool = False,
    temperature: float = 1.0,
    with_target: bool = False,
    labels: Mapping[str, str] | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    command: str = "",
    report: Callable[[str], object] | None = None,
) -> TrainResult:
    """Train a target through sources, with and without, and hand over the better model.

    A training with ``out`` that is stopped goes on where it was when it is asked for again.

    Parameters
    ----------
    target
        A task, or what :meth:`Task.of` reads: a file, a frame, a ``datasets`` object, rows.
    sources
        Names of the pool or the catalogue, files, ``hub:owner/name``, or tasks. None to choose:
        for ``sequential`` by forecast and trials (:func:`taskscout.transfer.choosing.decide`),
        which may choose to train directly; else, and where ``top`` is given, the first of a
        ranking (none at all for the strategies ``none`` and ``zero_shot``).
    top
        How many of the first sources of the ranking: 1 unless it is said; for ``zero_shot``,
        where None stands for no source, it has to be.
    method
        The method that ranks.
    trial
        How many sources are tried on the training rows where none is named; 0 for the forecast
        alone.
    calibration
        As for :func:`taskscout.rank`.
    pool
        A pool or its folder; None for that of the encoder: the built-in one, or what was made for
        it. Without either, sources are ranked for the default encoder, which a note says, and
        tuned afresh.
    catalogue
        Labelled datasets on disk; None for the one that ``TASKSCOUT_DATA`` names.
    bench
        Its encoder is where everything starts from; None for the embedded default.
    strategy
        ``none``, ``sequential``, ``multitask`` or ``zero_shot``; see
        :func:`taskscout.transfer.strategies.transfer`.
    recipe, source_recipe
        How the target and sources are tuned; None for :func:`target_recipe` and
        :func:`recipe_for_sources`.
    seeds
        Number of runs with and of runs without sources, or the seeds themselves.
    budget
        What each run may spend: a :class:`Budget`, or ``2000`` (examples) or ``10m`` (minutes).
        Where sources are chosen by trials, minutes are for trials and runs together.
    fresh, merge, temperature, with_target, labels
        As for :func:`taskscout.transfer.strategies.transfer`.
    out
        Folder of the model, its card and ``result.json``; None for a temporary one that is
        removed with the result.
    overwrite
        Whether ``out`` may be replaced.
    command
        What was typed, for the model card.
    report
        Called with lines: how the target was read and which sources were chosen, before
        anything is trained; then one for each finished run.

    Raises
    ------
    TransferError
        If target, sources and strategy do not fit together, data are missing, ``out`` exists,
        or the disk is full.
    DataError
        If the target cannot be read, trained or scored.
    """
    from taskscout.models.workbench import Workbench
    from taskscout.pools import Pool
    from taskscout.pools.own import pool_or_hint
    from taskscout.transfer.sources import chosen_by_ranking, origins_of, overlap_notes

    task = Task.of(target)
    check_target(task, strategy)
    bench = bench or Workbench()
    if isinstance(pool, str | Path):
        pool = Pool.open(pool)
    named, pool = pool, pool_or_hint(pool, bench)[0]
    recipe = recipe or target_recipe(encoder=bench.encoder)
    source_recipe = source_recipe or recipe_for_sources(recipe)
    if isinstance(budget, str):
        budget = Budget.parse(budget)
    # A prompt starts from a prompt, and a pool keeps LoRA.
    fresh = fresh or (recipe.tuning in _PROMPTS and not merge)
    seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    budget = budget or Budget()
    tell, place, decision = report or (lambda _: None), Path(out) if out is not None else None, None
    for note in task.notes:
        tell(note)
    notes: list[str] = []
    if sources is None and top is None and strategy == "sequential" and not fresh:
        if place is not None:
            Workspace(place, {}, overwrite=overwrite)  # refuse a folder before minutes are spent
        trials = None if place is None else place.with_name(f".{place.name}.trials.json")
        decision, ranking = decide(
            task, named, bench, trial=trial, recipe=recipe, method=method, calibration=calibration,
            catalogue=catalogue, seconds=None if budget.seconds is None else budget.seconds / 2,
            keep=trials, report=tell,
        )  # fmt: skip
        said = decision.lines if decision is not None else [ranking.about_gains]
        notes += filter(None, said)
    if decision is not None:
        origins = [] if decision.origin is None else [decision.origin]
        strategy = "sequential" if origins else NONE
        if budget.seconds is not None:  # half for the trials, half for the runs
            runs = len(seeds) * (1 + bool(origins))
            left = budget.seconds / (1 if decision.race is None else 2)
            budget = replace(budget, seconds=left / runs)
    elif not sources and strategy != NONE and not (strategy == "zero_shot" and top is None):
        origins, said = chosen_by_ranking(
            task, named, bench, top=top or 1, method=method, catalogue=catalogue,
            needs_data=fresh or strategy == "multitask",
        )  # fmt: skip
        notes += said
    else:
        origins = origins_of(sources or (), pool, bench.encoder, catalogue=catalogue)
    notes += overlap_notes(task, origins, pool)
    check_kinds(task, origins, strategy)
    plan = _Plan(
        task, tuple(origins), bench, strategy, recipe, source_recipe,
        seeds, budget,
        {"fresh": fresh, "merge": merge, "temperature": temperature, "with_target": with_target,
         "labels": dict(labels or {})},
    )  # fmt: skip
    for note in notes:
        tell(note)
    tell(plan.summary)
    temporary = None
    if place is None:
        temporary = tempfile.TemporaryDirectory(prefix="taskscout-train-")
        place = Path(temporary.name) / "model"
    result = plan.carry_out(
        place, overwrite=overwrite, command=command, notes=[*task.notes, *notes], report=tell,
        decision=decision,
    )  # fmt: skip
    place.with_name(f".{place.name}.trials.json").unlink(missing_ok=True)
    return replace(result, _temporary=temporary)


@dataclass(frozen=True)
class _Plan:
    """Everything that decides what comes of a training."""

    task: Task
    origins: tuple[Origin, ...]
    bench: Workbench
    strategy: Strategy
    recipe: Recipe
    source_recipe: Recipe
    seeds: tuple[int, ...]
    budget: Budget
    options: Mapping[str, Any]

    @property
    def labelled(self) -> bool:
        """Whether the test rows have labels to score by."""
        test = self.task.tables["test"]
        return "label" not in test.column_names or not test["label"].null_count

    @property
    def compared(self) -> bool:
        """Whether the target is trained without sources too."""
        return self.labelled and self.strategy != NONE and "train" in self.task.tables

    @property
    def summary(self) -> str:
        """What is about to be done, in one line."""
        names = ", ".join(o.name for o in self.origins)
        rows = ", ".join(f"{split} {table.num_rows:,}" for split, table in self.task.rows())
        runs = "one run" if len(self.seeds) == 1 else f"{len(self.seeds)} runs"
        through = f" through {names}" if names else ""
        without = f" and {runs} without" if self.compared else ""
        return f"{runs} by strategy {self.strategy}{through}{without}; rows: {rows}"

    def to_dict(self) -> dict[str, Any]:
        """Plain types, which tell this training from others."""
        return {
            "target": self.task.fingerprint
            if self.labelled
            else [self.task.name, *self.task.inputs("test")],
            "sources": [[o.card.to_dict(), o.tuning] for o in self.origins],
            "encoder": self.bench.encoder.space,
            "strategy": self.strategy,
            "recipe": self.recipe.to_dict(),
            "source_recipe": self.source_recipe.to_dict(),
            "seeds": list(self.seeds),
            "budget": asdict(self.budget),
            **self.options,
        }

    def carry_out(
        self,
        out: Path,
        *,
        overwrite: bool,
        command: str,
        notes: Sequence[str],
        report: Callable[[str], object],
        decision: Decision | None = None,
    ) -> TrainResult:
        """Train, keep what is finished, and put the result into its folder."""
        space = Workspace(out, self.to_dict(), overwrite=overwrite)
        with full_disk_explained(space.folder):
            space.begin()
            if space.resumed:
                report(f"going on with what {space.folder} holds")
            runs, comparison = self._runs(space, report)
            chosen = choose(self.task, self.strategy, runs, space.kept)
            said = tuple(dict.fromkeys([*notes, *(n for r in runs for n in r.notes)]))
            cards = tuple(o.card for o in self.origins)
            shared: dict[str, Any] = {
                "chosen": asdict(chosen), "sources": cards, "command": command, "notes": said,
                "encoder": self.bench.encoder.model_id,
                "decision": None if decision is None else decision.to_dict(),
            }  # fmt: skip
            text = result_json(self.task, runs, comparison, recipe=self.recipe.to_dict(), **shared)
            model = space.folder / f"model-{chosen.strategy}"
            card = model_card(
                self.task, runs, comparison, form=_form(model),
                adapter=(model / ADAPTER).is_dir(), **shared,
            )  # fmt: skip
            files = {"README.md": card, "result.json": text}
            if not self.labelled and runs[0].outputs is not None:
                files["predictions.csv"] = _predictions(self.task, runs[0].outputs)
            folder = space.finish(chosen.strategy, files)
        return TrainResult(
            self.task.name, self.strategy, cards, tuple(runs), comparison, chosen, folder,
            (*said, chosen.why), json.loads(text),
        )  # fmt: skip

    def _runs(
        self, space: Workspace, report: Callable[[str], object]
    ) -> tuple[list[Transfer], Comparison | None]:
        total = (2 if self.compared else 1) * len(self.seeds)
        done = 0

        def keep(run: Transfer) -> None:
            nonlocal done
            space.keep(run, saver(run, self.bench.encoder, self.task.label_names))
            done += 1
            score = f"{100 * run.score:.1f}" if run.scores else "no labels to score"
            seconds = run.seconds + run.source_seconds
            report(f"{run.strategy}, seed {run.seed}: {score} ({seconds:.0f} s; {done}/{total})")

        settings: dict[str, Any] = {"recipe": self.recipe, "budget": self.budget}
        for_sources = {"source_recipe": self.source_recipe, **self.options}
        if self.compared:
            comparison = compare_over_seeds(
                self.task, self.origins, self.bench, strategy=self.strategy, seeds=self.seeds,
                known=space.known, keep=keep, folder=space.checkpoints, **settings, **for_sources,
            )  # fmt: skip
            return [*comparison.transfers, *comparison.alone], comparison
        runs = []
        # Without training there is nothing that a seed would change.
        seeds = self.seeds if self.strategy != "zero_shot" else self.seeds[:1]
        total = len(seeds)
        for seed in seeds:
            run = space.known(self.strategy, seed)
            if run is None:
                run = transfer(
                    self.task, self.origins, self.bench, strategy=self.strategy, seed=seed,
                    folder=space.checkpoints / f"{self.strategy}-{seed}", **settings,
                    **(for_sources if self.strategy != NONE else {}),
                )  # fmt: skip
                keep(run)
                run.tuned = None
            runs.append(run)
        return runs, None


def choose(
    task: Task,
    strategy: Strategy,
    runs: Sequence[Transfer],
    kept: Callable[[str], Mapping[str, Any] | None],
) -> Choice:
    """Choose the model to hand over: the better strategy on validation rows, its best seed.

    Test rows have no say. Two strategies are called tied where their means over seeds lie no
    further apart than the standard error of the difference on so few rows: the root of the sum
    of the squared standard errors, which is too much rather than too little where both err on
    the same rows.

    Parameters
    ----------
    task
        The target; its validation split is counted.
    strategy
        The one asked for.
    runs
        All runs.
    kept
        Gives seed and validation score of the model kept for a strategy.
    """

    def of(which: str) -> tuple[float, float] | None:
        scores = [(r.validation.get("score"), r.validation.get("error", 0.0))
                  for r in runs if r.strategy == which]  # fmt: skip
        if not scores or any(score is None for score, _ in scores):
            return None
        score, error = np.array(scores, np.float64).mean(0)
        return float(score), float(error)

    def handed(which: Strategy, why: str, *, tied: bool = False) -> Choice:
        model = kept(which)
        return Choice(which, model["seed"] if model else runs[0].seed, why, tied)

    if strategy == NONE:
        return handed(strategy, "It is the strategy that was asked for.")
    through, alone = of(strategy), of(NONE)
    if through is None and alone is None:
        return handed(
            strategy,
            "There are no validation rows to choose by, so the strategy asked for is handed over.",
        )
    if through is None or alone is None:
        return handed(strategy, "It is the strategy that was asked for.")
    better = strategy if through[0] > alone[0] else NONE
    tied = abs(through[0] - alone[0]) <= float(np.hypot(through[1], alone[1]))
    rows = task.tables["validation"].num_rows
    what = "trained through the sources" if better == strategy else "trained on the target alone"
    why = (
        f"Handed over: {what}, by {rows:,} validation row{'s' * (rows != 1)} "
        f"({100 * through[0]:.1f} points through the sources, {100 * alone[0]:.1f} without, mean "
        "over seeds)."
    )
    if tied:
        why += " On so few rows that is a tie: chance alone puts two equal models so far apart."
    return handed(better, why, tied=tied)


def _form(folder: Path) -> str:
    """What loads a model folder."""
    if (folder / "weights.safetensors").is_file():
        return "weights"
    if (folder / "adapter_config.json").is_file():
        return "peft"
    if not (folder / "config.json").is_file():
        return "none"
    return "own" if (folder / "modeling_taskscout.py").is_file() else "native"


def _predictions(task: Task, outputs: Any) -> str:
    """A CSV of the texts with the label that answers for each."""
    texts, pairs = task.inputs("test")
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["text", *(["text_pair"] if pairs else []), "label", "score"])
    for i, best in enumerate(outputs.argmax(1).tolist()):
        row = [texts[i], *([pairs[i]] if pairs else [])]
        writer.writerow([*row, task.label_names[best], f"{outputs[i, best]:.4f}"])
    return out.getvalue()


def top_of(text: str) -> int:
    """Read ``top3`` as 3.

    Raises
    ------
    TransferError
        If it is no such word.
    """
    number = text.strip().lower().removeprefix("top")
    if not text.strip().lower().startswith("top") or not number.isdigit() or int(number) < 1:
        raise TransferError(
            f"--from-ranking is {text!r}.",
            "It says how many of the first sources to take.",
            "Write top1 or top3, for example.",
        )
    return int(number)
