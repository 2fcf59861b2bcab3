"""Training: ``transformers.Trainer`` with checkpoints that a killed run goes on from exactly.

A checkpoint holds what is tuned, the optimizer, the schedule and all random states, as Trainer
keeps them; beside these the order of examples in the epoch that was going on, which Trainer draws
anew. A file that is written last says that a checkpoint is whole.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from taskscout.errors import ModelError
from taskscout.models.recipe import Recipe
from taskscout.models.tuned_model import Arrays

if TYPE_CHECKING:
    from taskscout.models.encoder import Encoder

log = logging.getLogger(__name__)

_TUNED = "tuned.safetensors"
_KEPT = "kept.safetensors"
_WHOLE = "whole.json"
#: Steps between checkpoints, at most.
_MOST_STEPS = 200


@dataclass
class Run:
    """What is trained, on what, and how.

    Attributes
    ----------
    model
        Gives ``loss`` where it gets ``labels``; what requires a gradient is trained.
    rows, held
        Training and validation examples as features; none held, no early stopping.
    lengths
        Tokens of each training row, to batch rows of like length.
    collate
        Makes a batch of rows.
    recipe, encoder
        How, and on which device and in which precision.
    optimizer
        Makes it; one that returns None leaves it to Trainer.
    read
        Reads the tuned parameters for ``recipe.checkpoints``.
    identity
        Tells this run from others whose checkpoints may lie in the folder.
    folder
        Where checkpoints are kept; None for nowhere.
    budget_seconds
        Training ends after the step that exceeds it; seconds before a restart count.
    """

    model: torch.nn.Module
    rows: Sequence[Mapping[str, Any]]
    held: Sequence[Mapping[str, Any]]
    lengths: Sequence[int]
    collate: Callable[[list[Any]], dict[str, torch.Tensor]]
    recipe: Recipe
    encoder: Encoder
    optimizer: Callable[[], torch.optim.Optimizer | None]
    read: Callable[[], Arrays]
    identity: str
    folder: Path | None = None
    budget_seconds: float | None = None


@dataclass
class Progress:
    """How far a run has come, as its checkpoints keep it.

    Attributes
    ----------
    identity
        Of the run.
    step, total
        Steps made and planned.
    order
        Rows of the present epoch in the order they are read.
    seconds
        Spent until here, over all restarts.
    batch_size, accumulation
        As they stand; less and more than the recipe's after the GPU ran out of memory.
    ended
        Whether training stopped here for good.
    kept
        Fractions of ``recipe.checkpoints`` reached.
    """

    identity: str
    step: int = 0
    total: int = 0
    order: list[int] = field(default_factory=list)
    seconds: float = 0.0
    batch_size: int = 0
    accumulation: int = 1
    ended: bool = False
    kept: list[float] = field(default_factory=list)


@dataclass
class Trained:
    """Seconds spent and steps made in training, and the parameters kept on the way."""

    seconds: float
    steps: int
    checkpoints: dict[float, Arrays]


def planned_steps(rows: int, recipe: Recipe) -> tuple[int, int]:
    """Count the steps of an epoch, and of the whole training."""
    batches = -(-rows // recipe.batch_size)
    per_epoch = -(-batches // recipe.accumulation)
    epochs = min(20, max(recipe.epochs, -(-recipe.least_steps // per_epoch)))
    total = per_epoch * epochs
    return per_epoch, min(total, recipe.max_steps) if recipe.max_steps else total


def train(run: Run) -> Trained:
    """Train a model in place, going on from the last whole checkpoint in the run's folder.

    Where the GPU runs out of memory, the batch is halved and the accumulation doubled, and
    training goes on from the last checkpoint, or begins again without any.

    Raises
    ------
    ModelError
        If the folder holds another run's checkpoints, the disk is full, one example is too much
        for the GPU, or ``report_to`` cannot be reported to.
    """
    with contextlib.ExitStack() as stack:
        folder = run.folder or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="taskscout-"))
        )
        last, progress = _last_whole(folder, run.identity) if run.folder else (None, None)
        batch_size, accumulation = run.recipe.batch_size, run.recipe.accumulation
        if progress is not None:
            batch_size, accumulation = progress.batch_size, progress.accumulation
        begun = _trained_state(run.model) if run.encoder.device.type != "cpu" or _small(run) else {}
        told = False
        while True:
            try:
                return _train(run, folder, last, progress, batch_size, accumulation)
            except torch.OutOfMemoryError as error:
                said = str(error).splitlines()[0]
            except (OSError, RuntimeError, SafetensorError) as error:
                if not _disk_is_full(error):
                    raise
                _remove_broken(folder)
                raise ModelError(
                    f"The disk that holds {folder} is full.",
                    "A checkpoint of the training did not fit; earlier ones are whole.",
                    "Free some space and run the same again: it goes on from the last checkpoint."
                    if run.folder
                    else "Free some space, or let TMPDIR name a folder on another disk.",
                ) from error
            if batch_size == 1 or not begun:
                raise ModelError(
                    f"The device has too little memory for one example ({said}).",
                    "The batch cannot be made smaller.",
                    "Give the encoder a smaller max_length, or use tuning 'lora'.",
                )
            parts = next(k for k in range(2, batch_size + 1) if batch_size % k == 0)
            batch_size, accumulation = batch_size // parts, accumulation * parts
            if not told:
                log.warning(
                    "The GPU is out of memory: batches are made smaller (now %d examples) and "
                    "accumulated (%d), so that a step still sees as many.",
                    batch_size, accumulation,
                )  # fmt: skip
                told = True
            run.model.zero_grad(set_to_none=True)
            _put_state(run.model, begun)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            last, progress = _last_whole(folder, run.identity) if run.folder else (None, None)


def _train(
    run: Run,
    folder: Path,
    last: Path | None,
    progress: Progress | None,
    batch_size: int,
    accumulation: int,
) -> Trained:
    recipe, encoder = run.recipe, run.encoder
    per_epoch, total = planned_steps(len(run.rows), recipe)
    patience = recipe.early_stopping if run.held else 0
    every = min(per_epoch, -(-total // (4 if patience else 10)), _MOST_STEPS)
    saves = run.folder is not None or patience > 0
    reports = recipe.report_to not in ("", "none")
    try:
        arguments = TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=-(-total // per_epoch),
            max_steps=total if recipe.max_steps else -1,
            per_device_train_batch_size=batch_size,
            per_device_eval_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            learning_rate=recipe.learning_rate,
            warmup_steps=0.06,
            bf16=encoder.resolved_precision == "bf16",
            use_cpu=encoder.device.type == "cpu",
            seed=recipe.seed,
            data_seed=recipe.seed,
            save_strategy="steps" if saves else "no",
            save_steps=every,
            save_only_model=run.folder is None,
            eval_strategy="steps" if patience else "no",
            eval_steps=every,
            load_best_model_at_end=patience > 0,
            metric_for_best_model="loss" if patience else None,
            greater_is_better=False if patience else None,
            prediction_loss_only=True,
            logging_strategy="steps" if reports else "no",
            logging_steps=min(10, per_epoch),
            report_to=recipe.report_to if reports else "none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
        )
        # Trainer would take a forward pass with free arguments for one that divides by a count.
        run.model.accepts_loss_kwargs = False  # type: ignore[assignment]  # read by Trainer
        trainer = _Trainer(
            model=run.model,
            args=arguments,
            train_dataset=run.rows,
            eval_dataset=run.held if patience else None,
            data_collator=run.collate,
            optimizers=(run.optimizer(), None),
        )
    except (ImportError, RuntimeError, ValueError) as error:
        if not reports or isinstance(error, torch.OutOfMemoryError):
            raise
        raise ModelError(
            f"report_to is {recipe.report_to!r} ({str(error).splitlines()[0]}).",
            "Training is reported by a package of that name.",
            "Install it, or take report_to 'none'.",
        ) from error
    sampler = _Sampler(batch_size * accumulation, list(run.lengths))
    trainer.sampler = sampler
    now = progress or Progress(run.identity)
    now.total, now.batch_size, now.accumulation = total, batch_size, accumulation
    keeper = _Keeper(run, now, sampler, patience * every, per_epoch)
    if last is not None:
        keeper.recall(last)
        if now.step % per_epoch:
            sampler.next_order = now.order
    trainer.add_callback(keeper)
    begun = time.perf_counter()
    spent = run.budget_seconds is not None and now.seconds > run.budget_seconds
    if last is not None and (now.ended or spent):
        trainer.put_checkpoint(_best_of(last) if patience else last)
    else:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # Trainer prints its summary
                trainer.train(resume_from_checkpoint=None if last is None else str(last))
        finally:
            # accelerate leaves its autocast on the model's forward, also for float32 inputs.
            trainer.accelerator.unwrap_model(run.model, keep_fp32_wrapper=False)
        now.step = int(trainer.state.global_step)
        now.seconds = keeper.before + time.perf_counter() - begun
    return Trained(now.seconds, now.step, keeper.kept)


class _Sampler(LengthGroupedSampler):  # type: ignore[misc]  # transformers is not typed for us
    """Groups rows by length; tells the order it gave, and can be made to give one again."""

    def __init__(self, batch_size: int, lengths: list[int]) -> None:
        super().__init__(batch_size, lengths=lengths)
        self.order: list[int] = []
        self.next_order: list[int] = []

    def __iter__(self) -> Iterator[int]:
        self.order = self.next_order or list(super().__iter__())
        self.next_order = []
        return iter(self.order)


class _Trainer(Trainer):  # type: ignore[misc]  # transformers is not typed for us
    """A Trainer whose checkpoints hold what is tuned and nothing else of the model."""

    sampler: _Sampler

    def _get_train_sampler(self, *_: Any) -> Any:
        return self.sampler

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model)
        save_file(_trained_state(model), folder / _TUNED)

    def put_checkpoint(self, folder: Path) -> None:
        """Put the parameters of a checkpoint into the model."""
        _put_state(self.accelerator.unwrap_model(self.model), load_file(folder / _TUNED))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ARG002
        self.put_checkpoint(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        self.put_checkpoint(Path(self.state.best_model_checkpoint))


class _Keeper(TrainerCallback):  # type: ignore[misc]  # transformers is not typed for us
    """Keeps parameters on the way, declares checkpoints whole, and ends training early."""

    def __init__(
        self, run: Run, now: Progress, sampler: _Sampler, patience: int, per_epoch: int
    ) -> None:
        self.run, self.now, self.sampler = run, now, sampler
        self.patience, self.per_epoch = patience, per_epoch
        self.kept: dict[float, Arrays] = {}
        self.before = now.seconds
        self.last = now.step
        self.begun = time.perf_counter()
        self.steps = {c: max(1, round(c * now.total)) for c in run.recipe.checkpoints}

    def recall(self, folder: Path) -> None:
        """Read the parameters that were kept before a restart."""
        if self.now.kept:
            arrays = load_arrays(folder / _KEPT)
            for fraction in self.now.kept:
                prefix = f"{fraction!r} "
                self.kept[fraction] = {
                    n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)
                }

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.begun

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        reached = [c for c, step in self.steps.items() if step == state.global_step]
        if reached:
            values = self.run.read()
            self.kept.update(dict.fromkeys(reached, values))
        limit = self.run.budget_seconds
        if limit is not None and self.seconds > limit:
            control.should_training_stop = True
            # What was reached is kept, and is what the best one is chosen from.
            control.should_save = args.save_strategy != "no"
            control.should_evaluate = control.should_evaluate or self.patience > 0

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        best = state.best_global_step or 0
        stalled = 0 < self.patience <= state.global_step - best
        if stalled:
            control.should_training_stop = True
        if self.run.folder is None:
            return
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        now = self.now
        now.step, now.seconds, now.order = state.global_step, self.seconds, self.sampler.order
        now.ended, now.kept = stalled or now.step >= now.total, sorted(self.kept)
        if self.kept:
            save_arrays(
                {
                    f"{c!r} {n}": np.ascontiguousarray(a)
                    for c, named in self.kept.items()
                    for n, a in named.items()
                },
                folder / _KEPT,
            )
        unfinished = folder / f".{_WHOLE}"
        unfinished.write_text(json.dumps(vars(now)), encoding="utf-8")
        unfinished.replace(folder / _WHOLE)
        # Only now that this one is whole may an older one go.
        for old in _checkpoints(folder.parent):
            step = int(old.name.rpartition("-")[2])
            if step not in (best, state.global_step) and (best or step != self.last):
                _remove(old)
        self.last = state.global_step


def _last_whole(folder: Path, identity: str) -> tuple[Path | None, Progress | None]:
    """Find the last whole checkpoint and what it says; what is not whole is removed.

    Raises
    ------
    ModelError
        If it is of another run.
    """
    _remove_broken(folder)
    whole = sorted(_checkpoints(folder), key=lambda p: int(p.name.rpartition("-")[2]))
    if not whole:
        return None, None
    progress = Progress(**json.loads((whole[-1] / _WHOLE).read_text(encoding="utf-8")))
    if progress.identity != identity:
        raise ModelError(
            f"{folder} holds checkpoints of another training.",
            "Its data, encoder, recipe or beginning are not those asked for now, so it cannot be "
            "gone on with.",
            "Name another folder, or remove this one.",
        )
    return whole[-1], progress


def _checkpoints(folder: Path) -> list[Path]:
    return [p for p in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if p.name[-1].isdigit()]


def _remove_broken(folder: Path) -> None:
    for path in _checkpoints(folder):
        if not (path / _WHOLE).is_file():
            _remove(path)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint; killed half-way, it is no longer called whole."""
    (checkpoint / _WHOLE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


def _best_of(checkpoint: Path) -> Path:
    """Find the checkpoint that a finished training chose as its best."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    best = state.get("best_global_step")
    folder = checkpoint.parent / f"{PREFIX_CHECKPOINT_DIR}-{best}"
    return folder if best and folder.is_dir() else checkpoint


def _trained_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copy what is trained, on the CPU."""
    return {
        n: p.detach().to("cpu", copy=True).contiguous()
        for n, p in model.named_parameters()
        if p.requires_grad
    }


def _put_state(model: torch.nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(value)


def _small(run: Run) -> bool:
    """Whether a copy of what is trained costs next to nothing."""
    return sum(p.numel() for p in run.model.parameters() if p.requires_grad) < 5_000_000


def _disk_is_full(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that the disk is full."""
    while True:
        said = str(error).lower()
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        if "no space left" in said or "os error 28" in said or "file write failed" in said:
            return True
        cause = error.__cause__ or error.__context__
        if cause is None:
            return False
        error = cause
