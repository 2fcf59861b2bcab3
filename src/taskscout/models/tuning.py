"""Tuning: an encoder and a head tuned on one task, in full or by few parameters.

``transformers.Trainer`` and ``peft`` do the work. What comes out is small, but after full
fine-tuning: the head, and the tuned parameters beside those they began as.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from taskscout.errors import ModelError
from taskscout.models.encoder import Encoder
from taskscout.models.processor import attend_plainly, lean_lora
from taskscout.models.prompts import (
    PromptedBody,
    is_language_model,
    with_language_prompt,
    with_peft,
    with_prompt,
)
from taskscout.models.recipe import Recipe
from taskscout.models.tuned_model import DIFFERENCE, Arrays, TunedModel
from taskscout.tasks import Task

log = logging.getLogger(__name__)

#: Names of adapted linear layers: BERT-like, MPNet and T5; Llama-like; GPT-NeoX, Bloom and Falcon;
#: GPT-2; OPT and Phi; ModernBERT; DistilBERT; DeBERTa.
_MODULES = {
    "all": r".*\.(query|key|value|dense|q|k|v|o|[qkvo]_proj|(gate|up|down)_proj"
    r"|query_key_value|dense_\w+|c_attn|c_proj|c_fc|out_proj|fc[12]|qkv_proj|gate_up_proj"
    r"|Wqkv|Wi|Wo|[qkv]_lin|out_lin|lin[12]|(query|key|value)_proj)",
    "query-value": r".*\.(query|value|q|v|q_proj|v_proj"
    r"|query_key_value|c_attn|qkv_proj|Wqkv|[qv]_lin|(query|value)_proj)",
}


def _within_budget(
    rows: list[dict[str, list[int]]], budget: int, order: NDArray[np.int64], prompt: int = 0
) -> NDArray[np.int64]:
    """Take the first entries of ``order`` whose token counts fit the budget (at least one)."""
    return _fitting([len(row["input_ids"]) + prompt for row in rows], budget, order)


def _fitting(lengths: list[int], budget: int, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Take the first entries of ``order`` whose lengths sum to the budget at most."""
    total = np.cumsum([lengths[i] for i in order])
    return order[: max(1, int(np.searchsorted(total, budget, side="right")))]


def _initial_seed(recipe: Recipe, tunings_before: int) -> int:
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
    torch.manual_seed(_initial_seed(recipe, tunings_before))
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


def _arrays(body: Any, encoder: Encoder, recipe: Recipe, *, copy: bool = True) -> Arrays:
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
    return _arrays(adapted(encoder.load_model(), encoder, recipe), encoder, recipe)


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


def tune(
    task: Task,
    encoder: Encoder,
    recipe: Recipe,
    *,
    body: torch.nn.Module | None = None,
    tunings_before: int = 1,
    start: Mapping[str, NDArray[Any]] | None = None,
    evaluate: str | None = "test",
    folder: Path | None = None,
    budget_seconds: float | None = None,
) -> TunedModel:
    """Tune ``encoder`` on the task's training split.

    Parameters
    ----------
    task
        A task of any kind.
    encoder
        The model to start from, with its pooling. For text-to-text, a causal or a
        sequence-to-sequence language model.
    recipe
        Tuning, size, learning rate, seed.
    body
        Start from this body in place of the pre-trained one; it is changed in place.
    tunings_before
        Number of tunings that ``body`` and ``start`` hold, where one of them is given.
    start
        Start the tuned parameters here in place of the shared initialisation: those of another
        :class:`TunedModel` of the same recipe, as prompts are transferred.
    evaluate
        Split to score on, or None.
    folder
        Trainer's checkpoints are kept there, the last two (with early stopping: the last and the
        best), and training goes on from the last whole one: a run that was killed ends with the
        parameters and scores of one that was not.
    budget_seconds
        Training ends after the step that exceeds it.

    Returns
    -------
    TunedModel

    Raises
    ------
    DataError
        If a split has no rows or no text.
    ModelError
        If the model cannot be tuned so, the values to start from do not fit, the folder holds
        another run's checkpoints, or disk or GPU are too small.
    """
    from transformers import set_seed
    from transformers.utils import logging as transformers_logging

    from taskscout.models.objectives import check_split, objective_of, unknown_labels
    from taskscout.models.training import Run, train

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    check_split(task, "train")
    if evaluate is not None and evaluate in task.tables:
        check_split(task, evaluate)
        unknown = unknown_labels(task, evaluate)
        if unknown:
            log.warning("%s", unknown)
    task = task.sample(recipe.examples, seed=recipe.seed)
    objective = objective_of(task, encoder, recipe)
    examples = objective.rows("train")
    set_seed(recipe.seed)
    shuffled = np.random.default_rng(recipe.seed).permutation(len(examples))
    prompt = recipe.prompt_length if recipe.tuning == "prompt" else 0
    lengths = [sum(objective.length(row) + prompt for row in rows) for rows in examples]
    chosen = _fitting(lengths, recipe.tokens, shuffled)
    data = [row for i in chosen for row in examples[i]]

    if body is None and start is None:
        tunings_before = 0
    body = _ready_to_train(body if body is not None else objective.load_body(), encoder, recipe)
    tuned_body = adapted(body, encoder, recipe, tunings_before=tunings_before)
    if start is not None:
        put_parameters(tuned_body, encoder, recipe, start)
    initial = _arrays(tuned_body, encoder, recipe, copy=recipe.tuning != "full")
    initialisation = digest(initial)
    if recipe.tuning == "full":
        initial = {}
    model = objective.model(tuned_body, seed=_initial_seed(recipe, tunings_before))
    if recipe.dropout is not None and isinstance(getattr(model, "dropout", None), torch.nn.Dropout):
        model.dropout.p = recipe.dropout  # type: ignore[union-attr]  # asked in the line above

    run = Run(
        model=model,
        rows=data,
        held=_held(task, encoder, recipe),
        lengths=[objective.length(row) for row in data],
        collate=objective.collate,
        recipe=recipe,
        encoder=encoder,
        optimizer=lambda: _optimizer(model, recipe, encoder.device),
        read=lambda: _arrays(tuned_body, encoder, recipe),
        identity=_identity(task, encoder, recipe, initialisation) if folder is not None else "",
        folder=folder,
        budget_seconds=budget_seconds,
    )
    with _frozen_in_half(tuned_body, encoder), _quick_lora(tuned_body, encoder):
        trained = train(run)

    parameters = _arrays(tuned_body, encoder, recipe, copy=recipe.tuning != "full")
    if recipe.tuning == "lora":
        model.body = tuned_body.merge_and_unload()
    model.eval()
    scores: dict[str, float] = {}
    if evaluate is not None and evaluate in task.tables:
        task = task.sample(recipe.test_examples, split=evaluate, seed=recipe.seed)
        objective = objective_of(task, encoder, recipe)
        scores = objective.scores(evaluate, objective.predict(model, evaluate))
    return TunedModel(
        model, recipe, parameters, initial, initialisation, scores, trained.seconds, len(chosen),
        trained.checkpoints,
    )  # fmt: skip


def _held(task: Task, encoder: Encoder, recipe: Recipe) -> list[dict[str, Any]]:
    """Make the validation rows that early stopping looks at; none without it."""
    from taskscout.models.objectives import objective_of

    if not recipe.early_stopping:
        return []
    if "validation" not in task.tables or not task.tables["validation"].num_rows:
        log.warning(
            "Task %r has no validation split, which early stopping looks at: training goes on to "
            "its end.", task.name,
        )  # fmt: skip
        return []
    task = task.sample(recipe.test_examples, split="validation", seed=recipe.seed)
    return [row for rows in objective_of(task, encoder, recipe).rows("validation") for row in rows]


def _identity(task: Task, encoder: Encoder, recipe: Recipe, initialisation: str) -> str:
    """Tell a training from others: its data, model, beginning and recipe."""
    splits = {s: task.tables[s] for s in ("train", "validation") if s in task.tables}
    read = replace(task, tables=splits)
    same = {k: v for k, v in recipe.to_dict().items() if k not in ("report_to", "test_examples")}
    text = json.dumps([read.fingerprint, encoder.space, initialisation, same], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _ready_to_train(body: Any, encoder: Encoder, recipe: Recipe) -> Any:
    """Set dropout, and on a CPU an attention whose backward pass is not slow there."""
    if recipe.dropout is not None:
        for module in body.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = recipe.dropout
            elif isinstance(getattr(module, "attention_dropout", None), float):
                module.attention_dropout = recipe.dropout
    if encoder.device.type == "cpu":
        attend_plainly(body)
    if recipe.recompute:
        # The second name is older: transformers 6 has it no more.
        enable = getattr(body, "activation_checkpointing_enable", None)
        (enable or body.gradient_checkpointing_enable)({"use_reentrant": False})
    return body


@contextlib.contextmanager
def _frozen_in_half(body: Any, encoder: Encoder) -> Iterator[None]:
    """Lend frozen linear layers in bfloat16 where a CPU computes in it, and give them back.

    Autocast would round the same weights anew at every step, and ``peft`` would widen the inputs
    of its factors only for autocast to narrow them again: a fifth of the time, no other result.
    """
    from peft import PeftModel
    from peft.helpers import disable_input_dtype_casting

    if encoder.device.type != "cpu" or encoder.resolved_precision != "bf16":
        yield
        return
    linear = [m.weight for m in body.modules() if isinstance(m, torch.nn.Linear)]
    own = [(w, w.data) for w in linear if not w.requires_grad]
    for weight, data in own:
        weight.data = data.bfloat16()
    narrow = isinstance(body, PeftModel)
    try:
        with disable_input_dtype_casting(body) if narrow else contextlib.nullcontext():
            yield
    finally:
        for weight, data in own:
            weight.data = data


def _quick_lora(body: Any, encoder: Encoder) -> contextlib.AbstractContextManager[None]:
    """Take LoRA layers in one pass on a CPU; on a GPU leave them to ``peft``."""
    return lean_lora(body) if encoder.device.type == "cpu" else contextlib.nullcontext()


def _optimizer(model: Any, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer | None:
    """Make AdamW with a rate for the head; None, the Trainer's own, where the rates agree."""
    if recipe.head_learning_rate == recipe.learning_rate or not hasattr(model, "head"):
        return None
    model.to(device)
    rest = [p for p in model.body.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": list(model.head.parameters()), "lr": recipe.head_learning_rate}
    ]
    if rest:
        groups.append({"params": rest})
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, weight_decay=0.0)


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
