"""What is tuned in a body: put in place, read out, and put back.

``peft`` adapts linear layers. Tuned parameters have the names of
:class:`~taskscout.models.tuned_model.TunedModel` here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taskscout.errors import ModelError
from taskscout.models.encoder import Encoder
from taskscout.models.prompts import (
    PromptedBody,
    is_language_model,
    with_language_prompt,
    with_peft,
    with_prompt,
)
from taskscout.models.recipe import Recipe
from taskscout.models.tuned_model import DIFFERENCE, Arrays, TunedModel

#: Names of adapted linear layers: BERT-like, MPNet and T5; Llama-like; GPT-NeoX, Bloom and Falcon;
#: GPT-2; OPT and Phi; ModernBERT; DistilBERT; DeBERTa.
_MODULES = {
    "all": r".*\.(query|key|value|dense|q|k|v|o|[qkvo]_proj|(gate|up|down)_proj"
    r"|query_key_value|dense_\w+|c_attn|c_proj|c_fc|out_proj|fc[12]|qkv_proj|gate_up_proj"
    r"|Wqkv|Wi|Wo|[qkv]_lin|out_lin|lin[12]|(query|key|value)_proj)",
    "query-value": r".*\.(query|value|q|v|q_proj|v_proj"
    r"|query_key_value|c_attn|qkv_proj|Wqkv|[qv]_lin|(query|value)_proj)",
}


def initial_seed(recipe: Recipe, tunings_before: int) -> int:
    """Seed that the head and fresh tuned parameters are drawn with.

    Where nothing was tuned before, it is the recipe's: tuned parameters of different tasks can then
    be compared. Where a source was tuned before, its head and LoRA factors must not be drawn again.
    Tuning bends the features along the directions in which the source's head began, so a target's
    head that begins in the same directions starts with large outputs for the source's classes: in
    our first grid the loss of a regression started at 5.9 in place of 1, and 17 of the 19 transfers
    that ended eight points below their other seeds shared the source's seed.
    """
    if not tunings_before:
        return recipe.seed
    return int(np.random.SeedSequence([recipe.seed, tunings_before]).generate_state(1)[0])


def adapted(body: Any, encoder: Encoder, recipe: Recipe, *, tunings_before: int = 0) -> Any:
    """Make a body ready for tuning: what is tuned is put in place, all else is frozen.

    For one encoder and recipe it always begins as the same, whatever the task.

    Parameters
    ----------
    body
        The transformer, changed in place.
    encoder, recipe
        What is tuned, and how.
    tunings_before
        Number of tunings whose result the body holds.

    Raises
    ------
    ModelError
        If the model cannot be tuned so.
    """
    if recipe.tuning == "full":
        return body
    if recipe.tuning in ("prompt", "p-tuning-v2"):
        if is_language_model(body):
            return with_language_prompt(
                body, encoder, length=recipe.prompt_length, seed=recipe.seed
            )
        return with_prompt(
            body,
            encoder,
            length=recipe.prompt_length,
            place="prompt" if recipe.tuning == "prompt" else "prefix",
            seed=recipe.seed,
        )
    torch.manual_seed(initial_seed(recipe, tunings_before))
    if recipe.tuning == "lora":
        from peft import LoraConfig

        pooler = any("pooler" in name for name, _ in body.named_modules())
        config = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=0.0,
            target_modules=_MODULES[recipe.modules],
            exclude_modules=r".*pooler.*" if pooler else None,  # peft warns of what is not there
        )
        try:
            return with_peft(body, config)
        except ValueError as error:
            raise ModelError(
                f"{encoder.model_id} has none of the layers that LoRA adapts.",
                str(error).splitlines()[0],
                "Use tuning 'full' or 'prompt'.",
            ) from error
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(recipe.tuning == "bitfit" and name.endswith("bias"))
    if recipe.tuning == "bitfit" and not any(p.requires_grad for p in body.parameters()):
        raise ModelError(
            f"{encoder.model_id} has no biases.",
            "BitFit tunes biases and nothing else.",
            "Use tuning 'lora'.",
        )
    return body


def tuned_tensors(body: Any, encoder: Encoder, recipe: Recipe) -> dict[str, torch.Tensor]:
    """Find the tuned parameters of an adapted body, by their names in :class:`TunedModel`.

    LoRA factors come as ``peft`` holds them, without the scaling. A pooler that is not read is
    left out.
    """
    if isinstance(body, PromptedBody):
        return {body.place: body.vectors}
    if recipe.tuning == "lora":
        out = {}
        for name, tensor in body.named_parameters():
            for factor in ("lora_A", "lora_B"):
                if f".{factor}.default.weight" in name:
                    layer = name.removeprefix("base_model.model.").partition(f".{factor}.")[0]
                    out[f"{layer}.{factor}"] = tensor
        return out
    return {
        name: p
        for name, p in body.named_parameters()
        if p.requires_grad and (encoder.pooling == "pooler" or not name.startswith("pooler."))
    }


def _scaling(name: str, recipe: Recipe) -> float:
    """Say what a tensor is multiplied by to be kept: a LoRA B takes alpha / rank in."""
    return recipe.alpha / recipe.rank if name.endswith(".lora_B") else 1.0


def read_parameters(body: Any, encoder: Encoder, recipe: Recipe, *, copy: bool = True) -> Arrays:
    """Read the tuned parameters of an adapted body as float32 arrays."""
    out: Arrays = {}
    for name, tensor in tuned_tensors(body, encoder, recipe).items():
        array: NDArray[np.float32] = tensor.detach().cpu().float().numpy()
        out[name] = array * _scaling(name, recipe) if copy else array
    return out


def put_parameters(
    body: Any, encoder: Encoder, recipe: Recipe, values: Mapping[str, NDArray[Any]]
) -> None:
    """Put values (as :class:`TunedModel` keeps them) into an adapted body.

    Raises
    ------
    ModelError
        If names or shapes are not those of the body's tuned parameters.
    """
    tensors = tuned_tensors(body, encoder, recipe)
    wrong = sorted(tensors.keys() ^ values.keys()) or [
        n for n, t in tensors.items() if tuple(t.shape) != values[n].shape
    ]
    if wrong:
        raise ModelError(
            f"The values to start from and the parameters of tuning {recipe.tuning!r} differ "
            f"in {wrong[0]!r}.",
            "Names and shapes have to be the same to start one tuning where another ended.",
            "Tune both by the same tuning, rank and prompt length, with the same encoder.",
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            array = np.asarray(values[name], np.float32) / _scaling(name, recipe)
            tensor.copy_(torch.from_numpy(array))


def digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Thirty-two hex digits of named arrays."""
    h = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        h.update(f"{name}:{arrays[name].shape};".encode())
        h.update(np.ascontiguousarray(arrays[name], np.float32).data)
    return h.hexdigest()


def initial_parameters(encoder: Encoder, recipe: Recipe) -> Arrays:
    """Make :attr:`TunedModel.initial` without tuning: it is the same for any task."""
    return read_parameters(adapted(encoder.load_model(), encoder, recipe), encoder, recipe)


def task_vector(tuned: TunedModel, encoder: Encoder, *, at: float = 1.0) -> Arrays:
    """Tuned minus initial parameters, by name.

    Raises
    ------
    ModelError
        If the model was fully fine-tuned from something else than the encoder's own weights.
    """
    initial = tuned.initial
    if tuned.recipe.tuning == "full":
        initial = initial_parameters(encoder, tuned.recipe)
        if digest(initial) != tuned.initialisation:
            raise ModelError(
                "The model was fine-tuned from another model than this encoder's.",
                "Its task vector is the difference to what it began as.",
                "Tune from the encoder itself, or take the difference yourself.",
            )
    return {name: array - initial[name] for name, array in tuned.at(at).items()}


def changed_parameters(model: Any, adapter: Iterable[str]) -> list[torch.nn.Parameter]:
    """The parameters of a model that :func:`apply_adapter` changes."""
    names = {
        n.removesuffix(DIFFERENCE) if n.endswith(DIFFERENCE) else f"{n.rpartition('.')[0]}.weight"
        for n in adapter
    }
    return [model.get_parameter(name) for name in sorted(names)]


def apply_adapter(model: Any, adapter: Mapping[str, NDArray[np.floating[Any]]]) -> Any:
    """Merge factors and differences (as :class:`TunedModel` keeps them) into a model, in place.

    Each adapted layer's weight W (out × in) becomes W + B A.
    """
    from transformers.pytorch_utils import Conv1D

    with torch.no_grad():
        for name in adapter:
            if name.endswith(DIFFERENCE):
                parameter = model.get_parameter(name.removesuffix(DIFFERENCE))
                parameter += torch.from_numpy(np.float32(adapter[name])).to(parameter)
            layer, _, factor = name.rpartition(".")
            if factor != "lora_A":
                continue
            a = torch.from_numpy(np.asarray(adapter[name], np.float32))
            b = torch.from_numpy(np.asarray(adapter[f"{layer}.lora_B"], np.float32))
            module = model.get_submodule(layer)
            product = a.T @ b.T if isinstance(module, Conv1D) else b @ a  # in × out, as in GPT-2
            module.weight += product.to(module.weight)
    return model
