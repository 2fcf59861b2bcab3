"""One transfer run: train a target through sources by a strategy."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import TransferError
from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe
from taskscout.models.tuned_model import Arrays, TunedModel
from taskscout.tasks import Task
from taskscout.tasks.kinds import SEQUENCE_KINDS
from taskscout.transfer.origin import Origin
from taskscout.transfer.result import STRATEGIES, Budget, Strategy, Transfer

if TYPE_CHECKING:
    from taskscout.models.workbench import Workbench

#: Tunings whose parameters can be carried on from where the source's ended.
CONTINUED = ("lora", "prompt", "p-tuning-v2", "bitfit")
#: Tunings that leave the body as it was and read something beside it.
BESIDE = ("prompt", "p-tuning-v2")


def check_target(target: Task, strategy: Strategy) -> tuple[str, ...]:
    """Refuse a target that cannot be trained or scored; notes on what limits it.

    Raises
    ------
    DataError
        If a split is missing or empty, or holds nothing but empty texts.
    """
    from taskscout.models.objectives import check_split, unknown_labels

    for split in ("test",) if strategy == "zero_shot" else ("train", "test"):
        check_split(target, split)
    if strategy == "zero_shot":
        return ()
    held = [s for s in target.splits if s != "train" and target.tables[s].num_rows]
    return tuple(note for note in (unknown_labels(target, s) for s in held) if note)


def check_kinds(target: Task, sources: Sequence[Origin], strategy: Strategy) -> None:
    """Refuse sources of kinds that the strategy cannot bring together with the target's.

    Raises
    ------
    TransferError
        If a kind does not fit.
    """
    for source in sources:
        kind = source.card.kind
        if strategy == "zero_shot" and kind != target.kind:
            raise TransferError(
                f"Source {source.name!r} is of kind {kind}, the target {target.name!r} of kind "
                f"{target.kind}.",
                "Without training on the target, the source's own head has to answer, and it "
                "answers another kind of question.",
                f"Name a source of kind {target.kind}, or use --strategy sequential, which gives "
                "the target a head of its own.",
            )
        if (kind == "text_to_text") != (target.kind == "text_to_text"):
            raise TransferError(
                f"Source {source.name!r} is of kind {kind}, the target {target.name!r} of kind "
                f"{target.kind}.",
                "One is learnt by generating text and the other by a head on an encoder; they "
                "share no model.",
                "Render both as text_to_text by a template, or name a source of another kind.",
            )


def transfer(
    target: Task,
    sources: Sequence[Origin | Task],
    bench: Workbench,
    *,
    strategy: Strategy = "sequential",
    recipe: Recipe | None = None,
    source_recipe: Recipe | None = None,
    seed: int | None = None,
    fresh: bool = False,
    merge: bool = False,
    temperature: float = 1.0,
    with_target: bool = False,
    labels: Mapping[str, str] | None = None,
    budget: Budget | None = None,
    folder: Path | None = None,
    source_folder: Path | None = None,
) -> Transfer:
    """Train a target through sources, once.

    Parameters
    ----------
    target
        Trained on its training split, scored on its test split.
    sources
        For ``sequential`` in the order they are gone through; for ``multitask`` and
        ``zero_shot`` all at once. None of them for ``none``.
    bench
        Its encoder is where everything starts from; it makes each source's model once.
    strategy
        ``none``: the target alone. ``sequential``: source, then target with a new head.
        ``multitask``: all sources together with a head each, then the target (see
        :mod:`taskscout.transfer.multitask`). ``zero_shot``: no training on the target (see
        :mod:`taskscout.transfer.zero_shot`).
    recipe
        How the target is tuned; None for the workbench's.
    source_recipe
        How sources are tuned; None for ``recipe``. Its seed stays the same over the seeds of the
        target, as a source is tuned once and used again.
    seed
        Of the target's tuning; None for the recipe's.
    fresh
        Tune sources from their data even where a tuned model is at hand.
    merge
        Merge a source's LoRA into the encoder even where the target's tuning could carry it on.
    temperature, with_target
        Of ``multitask``: T of the mixing, and whether the target is among the tasks.
    labels
        Of ``zero_shot``: target label by source label, where names alone do not match.
    budget
        What the run may spend.
    folder
        Checkpoints are kept there, and training goes on from the last one.
    source_folder
        The same for sources; runs of other seeds of the target find them trained there. None for
        a folder in ``folder``.

    Raises
    ------
    TransferError
        If target, sources and strategy do not fit together, or data are missing.
    """
    origins = [s if isinstance(s, Origin) else Origin.of(s) for s in sources]
    recipe = recipe or bench.recipe
    source_recipe = source_recipe or recipe
    if seed is not None:
        recipe = replace(recipe, seed=seed)
    if source_folder is None and folder is not None:
        source_folder = folder / "sources"
    budget = budget or Budget()
    if strategy not in STRATEGIES:
        raise TransferError(
            f"The strategy is {strategy!r}.",
            f"There are {', '.join(STRATEGIES)}.",
            "Choose one of these.",
        )
    if strategy == "none" and origins:
        raise TransferError(
            f"Strategy 'none' was asked for with {len(origins)} sources.",
            "It trains on the target alone.",
            "Leave the sources out, or choose another strategy.",
        )
    if strategy in ("sequential", "multitask") and not origins:
        raise TransferError(
            f"Strategy {strategy!r} was asked for without a source.",
            "It trains through at least one.",
            "Name one: taskscout rank says which may help.",
        )
    notes = check_target(target, strategy)
    check_kinds(target, origins, strategy)
    if strategy == "zero_shot":
        from taskscout.transfer.zero_shot import zero_shot

        return zero_shot(
            target, origins, bench, source_recipe=source_recipe, fresh=fresh, labels=labels,
            tuning=recipe.tuning, seed=recipe.seed,
        )  # fmt: skip
    begun = time.perf_counter()
    run = _Run(bench, source_recipe, fresh, merge, budget, source_folder, list(notes))
    if strategy == "multitask":
        start = run.together(target, origins, temperature=temperature, with_target=with_target)
    else:
        start = run.through(target, origins)
    recipe = budget.recipe_for_target(recipe, run.trained)
    body, values = start.for_tuning(recipe, merge=merge)
    left = None if budget.seconds is None else budget.seconds - (time.perf_counter() - begun)
    tuned = tune_task(
        target, bench.encoder, recipe, body=body, tunings_before=start.tunings, start=values,
        folder=None if folder is None else folder / "target", seconds=left,
    )  # fmt: skip
    out = Transfer(
        target=target.name,
        sources=tuple(o.name for o in origins),
        strategy=strategy,
        tuning=recipe.tuning,
        seed=recipe.seed,
        scores={},
        seconds=tuned.seconds,
        source_seconds=run.seconds,
        trained_on=tuned.trained_on,
        source_examples=run.examples,
        notes=tuple(run.notes),
        tuned=tuned,
    )
    out.outputs, out.scores = scored(tuned, target, "test", bench.encoder)
    if "validation" in target.tables and target.tables["validation"].num_rows:
        out.validation = scored(tuned, target, "validation", bench.encoder)[1]
    return out


def tune_task(
    task: Task,
    encoder: Encoder,
    recipe: Recipe,
    *,
    body: Any = None,
    tunings_before: int = 1,
    start: Arrays | None = None,
    folder: Path | None = None,
    seconds: float | None = None,
) -> TunedModel:
    """Tune, with checkpoints in a folder and a bound on time where they are asked for."""
    from taskscout.models.tuning import tune

    return tune(
        task, encoder, recipe, body=body, tunings_before=tunings_before, start=start,
        evaluate=None, folder=folder,
        budget_seconds=None if seconds is None else max(seconds, 1.0),
    )  # fmt: skip


def scored(
    tuned: TunedModel, task: Task, split: str, encoder: Encoder
) -> tuple[NDArray[np.float32] | None, dict[str, float]]:
    """Scores of all rows of a split; and the head's outputs in their order, for sequence kinds."""
    from taskscout.models.objectives import predict

    predictions, scores = predict(tuned, task, encoder, split)
    return predictions if task.kind in SEQUENCE_KINDS else None, scores


@dataclass
class Start:
    """Where the next tuning starts: the encoder itself, or where an earlier tuning ended.

    Attributes
    ----------
    name
        Of the source.
    recipe, parameters
        How that source was tuned, and its tuned parameters; None and empty for the encoder.
    body
        Makes a body that holds all that was learnt so far; None for the encoder's own.
    base
        Makes the body that ``parameters`` stand on; None for the encoder's own.
    tunings
        Number of tunings that body and parameters hold, where there are any.
    """

    name: str = ""
    recipe: Recipe | None = None
    parameters: Arrays = field(default_factory=dict)
    body: Callable[[], Any] | None = None
    base: Callable[[], Any] | None = None
    tunings: int = 1

    def carries_on(self, recipe: Recipe, *, merge: bool = False) -> bool:
        """Whether tuning by a recipe goes on with the parameters rather than on a new body."""
        if self.recipe is None or not carried_on(self.recipe, recipe):
            return False
        return recipe.tuning in BESIDE or not merge

    def for_tuning(self, recipe: Recipe, *, merge: bool = False) -> tuple[Any, Arrays | None]:
        """Body and parameters that :func:`taskscout.models.tuning.tune` starts from.

        Raises
        ------
        TransferError
            If the source left nothing that this tuning can start from.
        """
        if self.carries_on(recipe, merge=merge):
            return None if self.base is None else self.base(), self.parameters
        source = self.recipe
        if source is not None and source.tuning in BESIDE:
            lengths = f" of another length ({source.prompt_length} and {recipe.prompt_length})"
            raise TransferError(
                f"Source {self.name!r} was tuned by {source.tuning!r}, the target is to be tuned "
                f"by {recipe.tuning!r}{lengths if source.tuning == recipe.tuning else ''}.",
                "What it learnt stands beside the encoder's weights, so only the same tuning can "
                "start from it.",
                f"Tune both by {source.tuning!r} with one prompt length, or both by 'lora'.",
            )
        if source is not None and source.tuning == "head":
            raise TransferError(
                f"Source {self.name!r} was tuned by 'head'.",
                "The encoder is left as it was, and the target gets a head of its own: nothing "
                "would be transferred.",
                "Tune the source by 'lora' or 'full'.",
            )
        return None if self.body is None else self.body(), None

    def then(self, name: str, tuned: TunedModel, *, merge: bool = False) -> Start:
        """Where the tuning after this one starts, once ``tuned`` has come of this start."""
        base = self.base if self.carries_on(tuned.recipe, merge=merge) else self.body
        return Start(
            name, tuned.recipe, tuned.parameters, lambda: copy.deepcopy(tuned.model.body), base,
            tunings=1 if self.recipe is None else self.tunings + 1,
        )  # fmt: skip


def carried_on(source: Recipe, target: Recipe) -> bool:
    """Whether the target's tuned parameters can begin where the source's ended."""
    if source.tuning != target.tuning or source.tuning not in CONTINUED:
        return False
    if source.tuning == "lora":
        return (source.rank, source.modules) == (target.rank, target.modules)
    return source.prompt_length == target.prompt_length


@dataclass
class _Run:
    """The sources' part of a run, and what it spent."""

    bench: Workbench
    recipe: Recipe
    fresh: bool
    merge: bool
    budget: Budget
    folder: Path | None
    notes: list[str]
    seconds: float = 0.0
    examples: int = 0
    trained: int = 0

    def through(self, target: Task, origins: Sequence[Origin]) -> Start:
        """Go through the sources one after the other."""
        if not origins:
            return Start()
        at_hand = [o.has_model and not self.fresh for o in origins]
        if len(origins) > 1 and all(at_hand) and not all(o.has_data for o in origins[1:]):
            return self._averaged(origins)
        # A later source starts where the one before it ended, so its own model is of no use.
        self.trained = len(origins) - at_hand[0]
        start = Start()
        for i, origin in enumerate(origins):
            tuned = origin.model() if i == 0 and at_hand[0] else self._tuned(target, origin, start)
            start = start.then(origin.name, tuned, merge=self.merge)
        return start

    def _tuned(self, target: Task, origin: Origin, start: Start) -> TunedModel:
        """Tune one source where the one before it ended."""
        recipe = self.budget.recipe_for_source(target, self.recipe, self.trained)
        task = origin.task()
        share = None
        if self.budget.seconds is not None:
            share = self.budget.seconds / 2 / self.trained
        if start.recipe is None and share is None and self.folder is None:
            tuned = self.bench.tuned(task, recipe)
        else:
            body, values = start.for_tuning(recipe, merge=self.merge)
            folder = None if self.folder is None else self.folder / origin.name
            tuned = tune_task(
                task, self.bench.encoder, recipe, body=body, tunings_before=start.tunings,
                start=values, folder=folder, seconds=share,
            )  # fmt: skip
        self.seconds += tuned.seconds
        self.examples += tuned.trained_on
        return tuned

    def _averaged(self, origins: Sequence[Origin]) -> Start:
        """Add the mean of several adapters to the encoder, where no data allow a sequence."""
        from taskscout.models.adapting import apply_adapter

        models = [o.model() for o in origins]
        other = [o.name for o, m in zip(origins, models, strict=True) if not m.adapter]
        if other:
            raise TransferError(
                f"Source {other[0]!r} has no LoRA adapter.",
                "Without their data, several sources are joined by averaging their adapters.",
                "Name one source, or get the data: they can then be gone through in sequence.",
            )
        body = self.bench.encoder.load_model()
        for model in models:
            shared = {
                n: a / len(models) if n.endswith(".lora_B") else a for n, a in model.adapter.items()
            }
            body = apply_adapter(body, shared)
        self.notes.append(
            f"The adapters of {', '.join(o.name for o in origins)} were averaged: going through "
            "sources in sequence needs the data of all but the first."
        )
        return Start(", ".join(o.name for o in origins), body=lambda: body)

    def together(
        self, target: Task, origins: Sequence[Origin], *, temperature: float, with_target: bool
    ) -> Start:
        """Tune all sources at once, a head each."""
        from taskscout.transfer.multitask import tune_together

        self.trained = len(origins)
        tasks = [o.task() for o in origins]
        recipe = self.budget.recipe_for_source(target, self.recipe, self.trained)
        out = tune_together(
            [*tasks, target] if with_target else tasks,
            self.bench.encoder,
            recipe,
            temperature=temperature,
            folder=None if self.folder is None else self.folder / "together",
            budget_seconds=None if self.budget.seconds is None else self.budget.seconds / 2,
        )
        self.seconds += out.seconds
        self.examples += out.trained_on
        name = ", ".join(o.name for o in origins)
        return Start(name, recipe, out.parameters, lambda: copy.deepcopy(out.body))
