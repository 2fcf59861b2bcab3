"""The folder of a training under way: finished runs, checkpoints, the best models so far.

It lies beside the folder that the user asked for and takes its place, by one renaming, when all
is done. A training that was killed at any moment finds there what was finished and goes on.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taskscout.errors import TransferError
from taskscout.files import write_atomically
from taskscout.transfer.result import Strategy, Transfer

if TYPE_CHECKING:
    from taskscout.models.encoder import Encoder

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _is_full(error: BaseException) -> bool:
    """Whether an error, or what it came of, is that of a full disk."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return True
        # safetensors and torch say it in words only.
        if "No space left on device" in str(seen) or "PytorchStreamWriter failed" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Turn the error of a full disk into one that says what is kept and what to do.

    Raises
    ------
    TransferError
        If the disk is full.
    """
    try:
        yield
    except TransferError:
        raise
    except Exception as error:
        if not _is_full(error):
            raise
        try:
            free = f" ({shutil.disk_usage(_existing(folder)).free / 2**20:,.0f} MiB free)"
        except OSError:
            free = ""
        raise TransferError(
            f"The disk of {folder} is full{free}.",
            "Models and checkpoints could not be written. What was finished is kept there.",
            "Make room, then run the same command again: it goes on where it stopped.",
        ) from error


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


class Workspace:
    """A training under way, in a folder beside the one asked for.

    Parameters
    ----------
    out
        The folder asked for.
    plan
        Everything that decides the result, as plain types. A workspace of another plan is
        begun anew.
    overwrite
        Whether ``out`` may be replaced.

    Raises
    ------
    TransferError
        If ``out`` is there and may not be replaced, or its parent cannot be written to.
    """

    def __init__(self, out: Path, plan: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.out = out.expanduser().absolute()
        self.folder = self.out.with_name(f".{self.out.name}.partial")
        if self.out.exists() and not overwrite:
            raise TransferError(
                f"{out} exists already.",
                "A result is never written over another unasked.",
                "Give another folder with --out, or allow it with --overwrite.",
            )
        text = json.dumps(plan, sort_keys=True, default=str)
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        self._plan = text
        #: Whether an earlier training with the same plan is gone on with.
        self.resumed = False

    def begin(self) -> None:
        """Make the folder, or find the one of an earlier training that was stopped."""
        path = self.folder / "plan.json"
        try:
            if path.is_file():
                self.resumed = json.loads(path.read_text()).get("digest") == self.digest
            if self.folder.exists() and not self.resumed:
                shutil.rmtree(self.folder)
            (self.folder / "runs").mkdir(parents=True, exist_ok=True)
            if not self.resumed:
                data = {"digest": self.digest, "plan": json.loads(self._plan)}
                write_atomically(path, json.dumps(data, indent=1).encode())
        except (OSError, ValueError) as error:
            if _is_full(error):
                raise
            raise TransferError(
                f"{self.folder} cannot be written ({error}).",
                "Checkpoints and the result go there until all is done.",
                "Give --out in a folder that exists and may be written to.",
            ) from error

    @property
    def checkpoints(self) -> Path:
        """Where training keeps its checkpoints."""
        return self.folder / "checkpoints"

    def _run(self, strategy: str, seed: int) -> Path:
        return self.folder / "runs" / f"{strategy}-{seed}.json"

    def known(self, strategy: Strategy, seed: int) -> Transfer | None:
        """A run that was finished before."""
        path = self._run(strategy, seed)
        if not path.is_file():
            return None
        run = Transfer.from_dict(json.loads(path.read_text()))
        outputs = path.with_suffix(".npy")
        if outputs.is_file():
            run.outputs = np.load(outputs, allow_pickle=False)
        return run

    def keep(self, run: Transfer, save: Callable[[Path], Any]) -> None:
        """Keep a finished run, and its model where it is the best of its strategy so far.

        Parameters
        ----------
        run
            What was finished.
        save
            Writes the run's model into an existing folder.
        """
        import io

        if run.tuned is not None and self._better(run):
            model = self.folder / f"model-{run.strategy}"
            fresh = self.folder / f".model-{run.strategy}.tmp"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            save(fresh)
            kept = {"seed": run.seed, "validation": run.validation.get("score")}
            # Last, and in the folder: a folder without it is not whole and is made again.
            write_atomically(fresh / "kept.json", json.dumps(kept).encode())
            # safetensors keeps its files from everybody else, whatever the user's mask is.
            for path in fresh.rglob("*"):
                if path.is_file():
                    shutil.copymode(fresh / "kept.json", path)
            shutil.rmtree(model, ignore_errors=True)
            os.replace(fresh, model)
        path = self._run(run.strategy, run.seed)
        if run.outputs is not None:
            buffer = io.BytesIO()
            np.save(buffer, run.outputs, allow_pickle=False)
            write_atomically(path.with_suffix(".npy"), buffer.getvalue())
        write_atomically(path, json.dumps(run.to_dict(), indent=1).encode())
        shutil.rmtree(self.checkpoints / f"{run.strategy}-{run.seed}", ignore_errors=True)

    def kept(self, strategy: str) -> Mapping[str, Any] | None:
        """Seed and validation score of the model kept for a strategy; None where there is none."""
        path = self.folder / f"model-{strategy}" / "kept.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def _better(self, run: Transfer) -> bool:
        """Whether a run's model is to be kept: the best on validation, without one the first."""
        kept, new = self.kept(run.strategy), run.validation.get("score")
        if kept is None or kept["seed"] == run.seed:
            return True
        return new is not None and kept["validation"] is not None and new > kept["validation"]

    def finish(self, chosen: str, files: Mapping[str, str]) -> Path:
        """Put the chosen strategy's model, and files by name, where the user asked for them.

        Parameters
        ----------
        chosen
            The strategy; one without a model gives a folder of the files alone.
        files
            Texts by file name.
        """
        model = self.folder / f"model-{chosen}"
        model.mkdir(exist_ok=True)
        for name, text in files.items():
            write_atomically(model / name, text.encode())
        (model / "kept.json").unlink(missing_ok=True)
        old = self.out.with_name(f".{self.out.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self.out.exists():
            os.replace(self.out, old)
        os.replace(model, self.out)
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        return self.out


def saver(run: Transfer, encoder: Encoder, label_names: Sequence[str]) -> Callable[[Path], None]:
    """Make what writes a run's model, and its LoRA factors, into an empty folder.

    Where no folder that loads can be made, the trained weights are written as they are, and a
    note of the run says so: what was trained is never lost.
    """
    from taskscout.transfer.export import save_adapter, save_model, save_weights

    def save(folder: Path) -> None:
        assert run.tuned is not None
        try:
            save_model(run.tuned.model, encoder, folder, label_names)
            save_adapter(run.tuned, encoder, folder)
        except Exception as error:
            if _is_full(error):
                raise
            shutil.rmtree(folder)
            folder.mkdir()
            save_weights(run.tuned.model, folder)
            run.notes += (
                f"the model could not be saved as a folder that loads ({error}); its trained "
                "weights are in weights.safetensors",
            )

    return save
