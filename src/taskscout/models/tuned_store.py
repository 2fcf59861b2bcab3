"""Tuned models on disk: one safetensors file each, written beside and renamed.

Nothing that is wrong with the folder ever stops a run: a file that cannot be read is tuned anew
and replaced, a folder that cannot be written is done without, and that is said once in the log.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskscout.files import write_atomically
from taskscout.models.cache import limit_of
from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe
from taskscout.models.tuned_model import Arrays, TunedModel, is_change
from taskscout.tasks import Kind, Task

log = logging.getLogger(__name__)

#: Part of every file's name: what changes the outcome of tuning raises it.
FORMAT = 1
_META = "taskscout"
#: Folder of the tuned models beside the embeddings.
FOLDER = "tuned"
#: Bytes all files together are kept below, by removing what was used longest ago.
DEFAULT_MAX_BYTES = 2 * 2**30


@dataclass(frozen=True)
class TunedInfo:
    """What a store of tuned models holds.

    Attributes
    ----------
    path
        The folder.
    bytes
        Size of all files.
    max_bytes
        The size they are kept below.
    models
        How many there are.
    """

    path: Path
    bytes: int
    max_bytes: int
    models: int


class TunedStore:
    """Tuned models by task, encoder and recipe, in a folder.

    Parameters
    ----------
    folder
        Where the files are; made when the first is written.
    max_bytes
        All files together are kept below this, by removing what was used longest ago.
        ``TASKSCOUT_TUNED_CACHE_SIZE`` (such as ``10GB``) stands in for the default.

    Raises
    ------
    TaskscoutError
        If that variable holds no size.

    Notes
    -----
    A file holds the tuned parameters, what they began as, the checkpoints and the head: 0.4 MB
    for a prompt of 100 × 384, 1.4 MB for LoRA of MiniLM, 90 MB after full fine-tuning.
    """

    def __init__(self, folder: Path, *, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.folder = folder
        self.max_bytes = limit_of("TASKSCOUT_TUNED_CACHE_SIZE", max_bytes, DEFAULT_MAX_BYTES)
        self._told = False

    def path(self, task: Task, encoder: Encoder, recipe: Recipe) -> Path:
        """Name the file of one tuned model; checkpoints make no difference."""
        return self.folder / f"{self._name(task, encoder, recipe)}.safetensors"

    @staticmethod
    def _identity(task: Task, encoder: Encoder, recipe: Recipe) -> dict[str, Any]:
        plain = recipe.to_dict()
        del plain["checkpoints"]
        return {"task": task.fingerprint, "encoder": encoder.space, "recipe": plain}

    def _name(self, task: Task, encoder: Encoder, recipe: Recipe) -> str:
        text = json.dumps([FORMAT, self._identity(task, encoder, recipe)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def get(self, task: Task, encoder: Encoder, recipe: Recipe) -> TunedModel | None:
        """Read a tuned model; None where it is not kept or cannot be read.

        The body is made when it is first asked for.
        """
        from safetensors import SafetensorError, safe_open

        path = self.path(task, encoder, recipe)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="numpy") as f:
                meta = json.loads(f.metadata()[_META])
                arrays = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118  # not a dictionary
            if meta["identity"] != self._identity(task, encoder, recipe):
                return None
            os.utime(path)
            return restored(meta, arrays, encoder)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            self._tell(f"{path} cannot be read; the task is tuned anew", error)
            return None

    def put(self, task: Task, encoder: Encoder, tuned: TunedModel) -> None:
        """Keep a tuned model, whole or not at all."""
        data = to_bytes(tuned, self._identity(task, encoder, tuned.recipe))
        path = self.path(task, encoder, tuned.recipe)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
            self._evict(path)
        except OSError as error:
            self._tell(f"{self.folder} cannot be written; tuned models are not kept", error)

    def info(self) -> TunedInfo:
        """Tell what is kept."""
        sizes = [p.stat().st_size for p in self._paths()]
        return TunedInfo(self.folder, sum(sizes), self.max_bytes, len(sizes))

    def clear(self) -> int:
        """Remove all files, and say how many there were."""
        paths = self._paths()
        for path in paths:
            path.unlink(missing_ok=True)
        return len(paths)

    def _paths(self) -> list[Path]:
        return list(self.folder.glob("*.safetensors"))

    def _evict(self, newest: Path) -> None:
        files = [(p.stat(), p) for p in self._paths()]
        total = sum(s.st_size for s, _ in files)
        for status, path in sorted(files, key=lambda f: f[0].st_mtime_ns):
            if total <= self.max_bytes:
                break
            if path != newest:
                path.unlink(missing_ok=True)
                total -= status.st_size

    def _tell(self, what: str, error: Exception) -> None:
        if not self._told:
            self._told = True
            log.warning("%s (%s).", what, error)


def to_bytes(tuned: TunedModel, identity: Mapping[str, Any] | None = None) -> bytes:
    """Put a tuned model into the form it is kept in: one safetensors file.

    Parameters
    ----------
    tuned
        The model.
    identity
        Of task, encoder and recipe; the recipe alone by default.
    """
    from safetensors.numpy import save

    model = tuned.model
    groups: dict[str, Mapping[str, NDArray[Any]]] = {
        "parameters": tuned.parameters,
        "initial": tuned.initial,
        **{f"checkpoint {c!r}": a for c, a in tuned.checkpoints.items()},
        "head": {
            "weight": model.head.weight.detach().cpu().numpy(),
            "bias": model.head.bias.detach().cpu().numpy(),
        },
    }
    arrays = {
        f"{group}/{name}": np.ascontiguousarray(a)
        for group, named in groups.items()
        for name, a in named.items()
    }
    meta = {
        "identity": identity or {"recipe": {**tuned.recipe.to_dict(), "checkpoints": []}},
        "checkpoints": sorted(tuned.checkpoints),
        "initialisation": tuned.initialisation,
        "scores": tuned.scores,
        "seconds": tuned.seconds,
        "trained_on": tuned.trained_on,
        "kind": kind_of(model),
        "center": getattr(model, "center", 0.0),
        "scale": getattr(model, "scale", 1.0),
    }
    packed: bytes = save(arrays, {_META: json.dumps(meta)})
    return packed


def kind_of(model: Any) -> Kind:
    """Say which kind of task a body with a head of ours answers."""
    from taskscout.models.heads import SequenceModel
    from taskscout.models.objectives import ChoiceModel

    if isinstance(model, SequenceModel):
        return "regression" if model.regression else "classification"
    if isinstance(model, ChoiceModel):
        return "multiple_choice"
    return "span_qa" if model.spans else "tagging"


def _with_head(body: Any, encoder: Encoder, meta: Mapping[str, Any], outputs: int) -> Any:
    """Put a head of the kind that was kept on a body."""
    from taskscout.models.heads import SequenceModel
    from taskscout.models.objectives import ChoiceModel, TokenModel

    kind = meta.get("kind") or ("regression" if meta["regression"] else "classification")
    if kind == "multiple_choice":
        return ChoiceModel(body, encoder)
    if kind in ("tagging", "span_qa"):
        return TokenModel(body, encoder, outputs, spans=kind == "span_qa")
    return SequenceModel(
        body,
        encoder,
        outputs,
        regression=kind == "regression",
        center=meta["center"],
        scale=meta["scale"],
    )


def from_bytes(data: bytes, encoder: Encoder) -> TunedModel:
    """Take a tuned model out of what :func:`to_bytes` made; its encoder has to be the same."""
    from safetensors.numpy import load

    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return restored(json.loads(header["__metadata__"][_META]), load(data), encoder)


def restored(
    meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], encoder: Encoder
) -> TunedModel:
    """Make a tuned model of what was kept of it; the body is loaded when it is asked for."""

    def group(name: str) -> Arrays:
        # Sorted: safetensors loads in an order of its own each time, and what is summed over layers
        # would round otherwise each time.
        prefix = f"{name}/"
        return {k.removeprefix(prefix): arrays[k] for k in sorted(arrays) if k.startswith(prefix)}

    recipe = Recipe(**{**meta["identity"]["recipe"], "checkpoints": tuple(meta["checkpoints"])})
    parameters, head = group("parameters"), group("head")

    def model() -> Any:
        import torch

        from taskscout.models.adapting import adapted, apply_adapter, put_parameters

        body = encoder.load_model()
        if all(map(is_change, parameters)):
            body = apply_adapter(body, parameters)
        else:
            body = adapted(body, encoder, recipe)
            put_parameters(body, encoder, recipe, parameters)
        out = _with_head(body, encoder, meta, len(head["bias"]) if head else 1)
        for name, array in head.items():  # none for a model that came without one
            getattr(out.head, name).data.copy_(torch.from_numpy(array))
        return out.eval()

    return TunedModel(
        model,
        recipe,
        parameters,
        group("initial"),
        meta["initialisation"],
        meta["scores"],
        meta["seconds"],
        meta["trained_on"],
        {c: group(f"checkpoint {c!r}") for c in meta["checkpoints"]},
    )
