"""Maps as hf-dataset-selector keeps them: read into a pool, written from one.

One folder per map: ``config.json`` beside ``model.safetensors`` with ``model.weight`` (d × d) and
``model.bias`` (d), y = x W' + b; version 0.1.0 of that package called them
``sequential.0.weight`` and ``sequential.0.bias``. Schulte et al. 2024 (arXiv 2410.15148).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import PoolError
from taskscout.files import new_folder
from taskscout.methods.method import Description
from taskscout.models.encoder import Encoder
from taskscout.pools.build import encoder_header
from taskscout.pools.pool import Pool
from taskscout.tasks import TaskCard

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_KEY = "space-map"
_NAMES = (("model.weight", "model.bias"), ("sequential.0.weight", "sequential.0.bias"))
_VERSION = "0.2.1"


def read_esm(folder: str | Path) -> tuple[dict[str, Any], NDArray[Any], NDArray[Any]]:
    """Read one map: its configuration, W (d × d) and b (d).

    Raises
    ------
    PoolError
        If there is no linear map that can be read.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(folder)
    try:
        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        arrays = load_file(folder / _WEIGHTS)
        weight, bias = next((arrays[w], arrays[b]) for w, b in _NAMES if w in arrays)
        if weight.shape != (len(bias), len(bias)) or not np.isfinite(weight).all():
            raise ValueError(f"a weight of shape {weight.shape} beside a bias of {bias.shape}")
    except (OSError, ValueError, KeyError, StopIteration, SafetensorError) as error:
        raise PoolError(
            f"{folder} holds no embedding space map ({type(error).__name__}: {error}).",
            f"hf-dataset-selector keeps one as {_CONFIG} beside {_WEIGHTS}; older weights are "
            "pickles, which are not read.",
            "Save it again with ESM.save_pretrained, or leave it out.",
        ) from error
    return config, weight, bias


def pool_of_esms(
    folders: Iterable[str | Path], out: str | Path, encoder: Encoder
) -> tuple[Pool, dict[str, str]]:
    """Make a pool of maps that hf-dataset-selector trained.

    Their scores under ``esm-logme`` are those of the maps as they are, in single precision: nothing
    is cut to a low rank.

    Parameters
    ----------
    folders
        One per map.
    out
        The pool to make, or to add to.
    encoder
        The base model that the maps are for, with the pooling they were trained with:
        ``pooler`` for BERT, ``cls`` for RoBERTa and DistilBERT, ``mean`` for sentence
        transformers; and ``max_length`` 128.

    Returns
    -------
    The pool, and of each folder that was left out the reason.

    Raises
    ------
    PoolError
        If the pool is of another encoder, or no map could be read.
    """
    from taskscout.pools.build import check_encoder

    pool = Pool.create(out, encoder=encoder_header(encoder), write=False)
    check_encoder(pool, encoder)
    left_out: dict[str, str] = {}
    for folder in folders:
        try:
            config, weight, bias = read_esm(folder)
        except PoolError as error:
            left_out[str(folder)] = error.found
            continue
        if len(bias) != encoder.dimension:
            left_out[str(folder)] = (
                f"maps {len(bias)} dimensions, {encoder.model_id} has {encoder.dimension}"
            )
            continue
        header = {
            "kind": "classification", "scale": 0.0, "rank": len(bias), "strength": 0.0,
            "encoder": encoder.fingerprint, "from": "hf-dataset-selector",
        }  # fmt: skip
        arrays = {
            "inner": np.ascontiguousarray(weight.T, np.float32),
            "outer": np.eye(len(bias), dtype=np.float32),
            "offset": bias.astype(np.float32),
        }
        card = _card(config, Path(folder).name)
        tuning = {"recipe": {"esm": {k: v for k, v in config.items() if v is not None}}}
        pool.add(card, tuning, [Description(_KEY, card.name, header, arrays)], replace=True)
    if not len(pool):
        raise PoolError(
            "No map could be read.",
            "; ".join(dict.fromkeys(left_out.values())) or "No folder was given.",
            "Give folders that ESM.save_pretrained wrote.",
        )
    return pool, left_out


def write_esms(pool: Pool, out: str | Path, *, base_model: str | None = None) -> list[Path]:
    """Write the space maps of a pool as hf-dataset-selector reads them, a folder each.

    Parameters
    ----------
    pool
        Sources without a space map are passed over.
    out
        A new folder.
    base_model
        The encoder's hub id; the pool's by default.

    Raises
    ------
    PoolError
        If the pool has no space maps, or the folder is taken.
    """
    from safetensors.numpy import save_file

    out, names = Path(out), pool.described(_KEY)
    if not names or (out.exists() and any(out.iterdir())):
        raise PoolError(
            f"{out} exists already." if names else f"{pool.folder} has no space maps.",
            "The maps are written into a new folder, one folder per source.",
            "Name a new folder."
            if names
            else "Make them: taskscout pool describe --method esm-logme",
        )
    with new_folder(out) as temporary:
        for name in names:
            described, source = pool.description(name, _KEY), pool.source(name)
            inner, outer = (described.arrays[a].astype(np.float64) for a in ("inner", "outer"))
            scale = float(described.header["scale"])
            weight = scale * np.eye(len(outer)) + outer @ inner.T
            folder = temporary / name
            folder.mkdir()
            arrays = {
                "model.weight": weight.astype(np.float32),
                "model.bias": described.arrays["offset"].astype(np.float32),
            }
            save_file(arrays, folder / _WEIGHTS, {"format": "pt"})
            repository, _, config = source.card.hub_id.partition(":")
            about = {
                "base_model_name": base_model or pool.encoder["model"],
                "task_id": repository or name,
                "task_subset": config or None,
                "num_examples": source.tuning.get("trained_on"),
                "language": source.card.language,
                "esm_architecture": "linear",
                "esm_embedding_dim": len(outer),
                "version": _VERSION,
            }
            (folder / _CONFIG).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return [out / name for name in names]


def _card(config: dict[str, Any], folder: str) -> TaskCard:
    """What a map's configuration says of the task it was trained on."""
    task, subset = str(config.get("task_id") or folder), config.get("task_subset")
    last = task.rpartition("/")[2] + (f"-{subset}" if subset else "")
    given = [task, *([str(subset)] if subset else [])]
    return TaskCard(
        re.sub(r"[^\w.-]+", "-", last).strip(".-"),
        language=str(config.get("language") or "en"),
        hub_id=":".join(given),
        load=f"datasets.load_dataset({', '.join(json.dumps(g) for g in given)})",
        notes="an embedding space map of hf-dataset-selector",
    )
