"""Models as sources: an adapter or a fine-tuned checkpoint of the pool's encoder, without data.

What is kept of an adapter are its LoRA factors; of a checkpoint the difference of each parameter to
the encoder's own, in half precision, which says more of it than the parameter itself would.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from taskscout.errors import ModelError
from taskscout.methods.method import Description
from taskscout.methods.source_features import TUNED
from taskscout.models.encoder import Encoder
from taskscout.models.tuned_model import DIFFERENCE
from taskscout.models.workbench import Workbench
from taskscout.pools.build import DEFAULT_METHODS, check_encoder, describe, tuned_model
from taskscout.pools.pool import Pool
from taskscout.pools.texts import texts_of
from taskscout.tasks import Kind, Task, TaskCard
from taskscout.tasks.catalogue import commercial_use

_ADAPTER, _FACTORS = "adapter_config.json", "adapter_model.safetensors"
#: Files of a model on the hub that are read.
_PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model", "README.md")
#: A checkpoint whose parameters lie further from the encoder's than this share of their norm was
#: not tuned from it: two models trained apart lie about 1.4 apart, fine-tuned ones below 0.3.
_FURTHEST = 0.7
#: Kinds by what model cards call them.
_KINDS: dict[str, Kind] = {
    "text-classification": "classification",
    "token-classification": "tagging",
    "question-answering": "span_qa",
    "multiple-choice": "multiple_choice",
}
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"^base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight$")
_NOT_A_NAME = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class Change:
    """What a model does to its encoder.

    Attributes
    ----------
    arrays
        LoRA factors (``LAYER.lora_A``, ``LAYER.lora_B`` with the scaling in it) and differences
        (``PARAMETER.difference``).
    form
        ``adapter`` or ``checkpoint``.
    """

    arrays: Mapping[str, NDArray[Any]]
    form: str


def add_model(
    pool: Pool,
    path: str | Path,
    encoder: Encoder,
    *,
    name: str | None = None,
    licence: str | None = None,
    texts: Sequence[str] | None = None,
    methods: Sequence[str] = DEFAULT_METHODS,
    same_base: bool = False,
    replace_source: bool = False,
) -> list[str]:
    """Add a tuned model to a pool as a source.

    Methods that read source models serve it at once. Space maps are fitted on texts, in place of
    those of its training that are not here.

    Parameters
    ----------
    pool
        Of the same encoder.
    path
        A folder or hub id: a ``peft`` LoRA adapter, or a fine-tuned checkpoint.
    encoder
        The pool's.
    name
        Of the source; the last part of ``path`` by default.
    licence
        In place of what the model card says.
    texts
        To fit the maps on; None for those that the pool carries. Without any, there is no map.
    methods
        Whose descriptions to make, where there are texts.
    same_base
        Take the user's word that an adapter's base, which has another name than the pool's encoder
        and is not here to be compared, is the same.
    replace_source
        Overwrite a source of that name.

    Returns
    -------
    Lines for the user.

    Raises
    ------
    ModelError
        If it cannot be read, was not tuned from the pool's encoder, or changes nothing.
    PoolError
        If the pool is of another encoder, or the name cannot be taken.
    """
    check_encoder(pool, encoder)
    folder = _located(path)
    card, notes = _card(folder, str(path), name, licence)
    pool.check_name(card.name, replace=replace_source)
    if (folder / _ADAPTER).is_file():
        change = read_adapter(folder, encoder, same_base=same_base)
    else:
        change = read_checkpoint(folder, encoder)
    header = {
        "kind": card.kind, "center": 0.0, "scale": 1.0, "encoder": encoder.fingerprint,
        "tuning": "full", "form": change.form, "seconds": 0.0,
    }  # fmt: skip
    tuned = Description(TUNED, card.name, header, change.arrays)
    tuning = {
        "recipe": {"tuning": "full"}, "scores": {}, "trained_on": 0, "seconds": 0.0,
        "model": str(path),
    }  # fmt: skip
    carried = list(texts) if texts is not None else texts_of(pool)
    descriptions = [tuned]
    if carried:
        descriptions += _described(tuned, tuning, carried, encoder, methods)
        notes.append(f"its maps were fitted on {len(carried):,} texts")
    else:
        notes.append(
            "no map was fitted, since the pool carries no texts: only methods on source models "
            "(logme and others) rank it. Give texts with --texts FILE, one a line"
        )
    pool.add(card, tuning, descriptions, replace=replace_source)
    return notes


def _described(
    tuned: Description,
    tuning: Mapping[str, Any],
    texts: Sequence[str],
    encoder: Encoder,
    methods: Sequence[str],
) -> list[Description]:
    """Fit what methods read of a tuned model on texts that are not its own; heads are left out."""
    table = pa.table({"text": list(texts), "label": pa.array([0] * len(texts), pa.int64())})
    task = Task(tuned.source, "classification", {"train": table}, ("text",))
    model = tuned_model(tuned, tuning, encoder)
    bench = Workbench(encoder, recipe=model.recipe)
    bench.adopt(task, model)
    made = describe(task, bench, methods, known=(TUNED,)).values()
    return [
        replace(
            d,
            header={**d.header, "kind": tuned.header["kind"], "fitted_on": "other texts"},
            arrays={n: a for n, a in d.arrays.items() if not n.startswith("head.")},
        )
        for d in made
    ]


# -- reading models -----------------------------------------------------------------------------


def _located(path: str | Path) -> Path:
    """The folder of a model here, or of the hub's copy of it."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(path), allow_patterns=list(_PATTERNS)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{str(path)!r} is neither a folder here nor a model to be had from the hub "
            f"({type(error).__name__}).",
            "The source is made of its weights.",
            f"Check the name, or fetch it where there is a network: hf download {path}",
        ) from error


def read_adapter(folder: Path, encoder: Encoder, *, same_base: bool = False) -> Change:
    """Read a LoRA adapter that ``peft`` saved, by the layers of an encoder.

    Raises
    ------
    ModelError
        If it is no plain LoRA, belongs to another base, does not fit, or changes nothing.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        config = json.loads((folder / _ADAPTER).read_text(encoding="utf-8"))
        arrays = load_file(folder / _FACTORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"{folder} holds no adapter that can be read ({type(error).__name__}: {error}).",
            f"An adapter is {_ADAPTER} beside {_FACTORS}; weights in other formats are pickles.",
            "Save it again with save_pretrained, or get it anew.",
        ) from error
    more_than_lora = [key for key in ("use_dora", "lora_bias") if config.get(key)]
    if config.get("peft_type") != "LORA" or more_than_lora:
        kind = ", ".join([str(config.get("peft_type")), *more_than_lora])
        raise ModelError(
            f"{folder} is an adapter of another kind than LoRA ({kind}).",
            "Its weights alone do not say what it does to the encoder.",
            "Merge it into its base (merge_and_unload), save that, and add the merged model.",
        )
    _require_base(config.get("base_model_name_or_path"), folder, encoder, same_base=same_base)
    body = encoder.load_model()
    modules, parameters = dict(body.named_modules()), dict(body.named_parameters())
    factors: dict[str, dict[str, NDArray[Any]]] = {}
    out: dict[str, NDArray[Any]] = {}
    for key in sorted(arrays):
        factor = _FACTOR.match(key)
        own = _within(key.removeprefix(_PREFIX), parameters)
        if factor is not None:
            factors.setdefault(factor[1], {})[factor[2]] = arrays[key].astype(np.float32)
        elif own is not None:  # a part of the body that was trained whole beside the factors
            if tuple(parameters[own].shape) != arrays[key].shape:
                raise _does_not_fit(folder, encoder, own)
            out[f"{own}{DIFFERENCE}"] = arrays[key] - parameters[own].detach().numpy()
    for name, pair in factors.items():
        layer = _within(name, modules)
        weight = getattr(modules.get(layer or ""), "weight", None)
        if weight is None or pair.keys() != {"A", "B"}:
            raise _does_not_fit(folder, encoder, name)
        sides = pair["B"].shape[0], pair["A"].shape[1]
        if sides not in (tuple(weight.shape), tuple(weight.shape)[::-1]):
            raise _does_not_fit(folder, encoder, name)
        out[f"{layer}.lora_A"] = pair["A"]
        out[f"{layer}.lora_B"] = pair["B"] * _scaling(config, name, len(pair["A"]))
    if not out:
        raise _does_not_fit(folder, encoder, next(iter(arrays), "nothing"))
    if not any(np.any(a) for n, a in out.items() if not n.endswith(".lora_A")):
        raise _changes_nothing(folder, encoder)
    return Change({n: a.astype(np.float16) for n, a in out.items()}, "adapter")


def read_checkpoint(folder: Path, encoder: Encoder) -> Change:
    """Read a model of an encoder's architecture as the differences of its parameters.

    Its head is left out: it stands on what the model's own class pools, not on what this encoder
    does.

    Raises
    ------
    ModelError
        If it cannot be loaded, is of another architecture, was not tuned from the encoder, or
        changes nothing.
    """
    tuned = Encoder(folder, precision="fp32", **encoder.settings)
    body, base = tuned.load_model(), encoder.load_model()
    if tuned.config.get("model_type") != encoder.config.get("model_type"):
        raise _does_not_fit(folder, encoder, f"a model of type {tuned.config.get('model_type')}")
    ours, theirs = dict(base.named_parameters()), dict(body.named_parameters())
    # A pooler that is not read may be there on one side only.
    read = {n for n in ours if encoder.pooling == "pooler" or not n.startswith("pooler.")}
    for name in sorted(read):
        if name not in theirs or theirs[name].shape != ours[name].shape:
            raise _does_not_fit(folder, encoder, name)
    out, moved, whole = {}, 0.0, 0.0
    for name in sorted(read):
        own = ours[name].detach().numpy()
        difference = theirs[name].detach().numpy() - own
        if own.ndim > 1:  # what is 1 at first, as the scales of norms, tells models apart badly
            moved += float(np.square(difference, dtype=np.float64).sum())
            whole += float(np.square(own, dtype=np.float64).sum())
        if np.any(difference):
            out[f"{name}{DIFFERENCE}"] = difference.astype(np.float16)
    if not out:
        raise _changes_nothing(folder, encoder)
    if moved > _FURTHEST**2 * whole:
        raise ModelError(
            f"The matrices of {folder} lie {(moved / whole) ** 0.5:.2f} of their norm from those "
            f"of {encoder.model_id}.",
            "A model that was fine-tuned from it lies nearer (most below 0.3); this one comes of "
            "another pre-training, and rankings of one pool need one base.",
            f"Add it to a pool of its own base: taskscout pool build --encoder {folder}",
        )
    return Change(out, "checkpoint")


def _within(name: str, known: Mapping[str, Any]) -> str | None:
    """A name in a body, of the name in a model that holds the body under a prefix."""
    while name not in known:
        _, dot, name = name.partition(".")
        if not dot:
            return None
    return name


def _scaling(config: Mapping[str, Any], layer: str, rank: int) -> float:
    """What ``peft`` multiplies the product of a layer's factors by."""
    alpha: float = config.get("lora_alpha", rank)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            alpha = value
            break
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _require_base(base: str | None, folder: Path, encoder: Encoder, *, same_base: bool) -> None:
    """Refuse an adapter of another base, or of one that cannot be told to be the same."""
    if same_base or not base:
        return
    path = Path(base).expanduser()
    if (path / "config.json").is_file():
        if Encoder(path).weights_fingerprint == encoder.weights_fingerprint:
            return
        why = "Its weights are others: the adapter would change them in ways nobody trained."
    else:
        # "sentence-transformers/all-MiniLM-L6-v2" and a folder "all-MiniLM-L6-v2" are one model.
        if Path(base).name.casefold() == Path(encoder.model_id).name.casefold():
            return
        why = "That base is not here, so its weights cannot be compared."
    raise ModelError(
        f"The adapter {folder} was trained on {base}; the pool's encoder is {encoder.model_id}.",
        why,
        "Add it to a pool of that base; if both are one model under two names, say so with "
        "--same-base.",
    )


def _does_not_fit(folder: Path, encoder: Encoder, what: str) -> ModelError:
    return ModelError(
        f"{folder} does not fit {encoder.model_id}: {what} is not in it, or of another shape.",
        "It was made for a model of another architecture or size.",
        "Add it to a pool of the model that it was tuned from.",
    )


def _changes_nothing(folder: Path, encoder: Encoder) -> ModelError:
    return ModelError(
        f"{folder} is the encoder {encoder.model_id} itself: nothing in it differs.",
        "An adapter that was never trained, or was merged and saved as its base, would be ranked "
        "as the untouched encoder.",
        "Give the trained adapter, or the model after merge_and_unload.",
    )


# -- the card -----------------------------------------------------------------------------------


def _card(
    folder: Path, given: str, name: str | None, licence: str | None
) -> tuple[TaskCard, list[str]]:
    """Make a source's card of a model card, and say what it lacks."""
    from huggingface_hub import ModelCard

    said: dict[str, Any] = {}
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
        said = vars(ModelCard(text).data)
    except (OSError, ValueError) as error:
        notes = [f"no model card was read ({type(error).__name__})"]
    else:
        notes = []
    terms = licence or str(said.get("license") or "")
    if not terms:
        notes.append("the model card states no licence; give it with --licence")
    datasets = said.get("datasets") or []
    datasets = [datasets] if isinstance(datasets, str) else list(datasets)
    about = [f"a tuned model, added without data: {given}"]
    if said.get("base_model"):
        about.append(f"base model {said['base_model']}")
    if datasets:
        about.append(f"trained on {', '.join(map(str, datasets))}")
    languages = said.get("language") or "en"
    here = Path(given).expanduser().is_dir()
    last = Path(given).expanduser().resolve().name if here else given.rpartition("/")[2]
    return TaskCard(
        name or _NOT_A_NAME.sub("-", last).strip(".-"),
        kind=_KINDS.get(str(said.get("pipeline_tag")), "classification"),
        language=languages if isinstance(languages, str) else str(languages[0]),
        licence=terms,
        commercial=commercial_use(terms, None),
        homepage="" if here else f"https://huggingface.co/{given}",
        notes="; ".join(about),
    ), notes
