"""Model folders that ``transformers`` and ``peft`` load."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from taskscout.errors import TransferError
from taskscout.models.tuned_model import TunedModel

if TYPE_CHECKING:
    from taskscout.models.encoder import Encoder
    from taskscout.models.heads import SequenceModel

#: Largest difference of logits, as a share of the largest logit (at least 1), between the trained
#: model and a saved one that passes for it.
TOLERANCE = 1e-4
#: What a model folder holds: a class of transformers; a class of ours, whose code is in the
#: folder; a prompt as ``peft`` keeps it.
Form = Literal["native", "own", "peft"]
#: Folder of LoRA factors beside the merged model.
ADAPTER = "adapter"
_CODE = "modeling_taskscout"
_HEADS = ("classifier", "score", "qa_outputs")


def label_maps(label_names: Sequence[str]) -> dict[str, dict[Any, Any]]:
    """Label names as a ``transformers`` configuration keeps them."""
    return {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: i for i, name in enumerate(label_names)},
    }


def save_model(model: Any, encoder: Encoder, folder: Path, label_names: Sequence[str]) -> Form:
    """Write model, tokenizer and label names into an existing folder.

    A language model is saved as transformers' own class, its prompt as ``peft`` keeps it. Of the
    other kinds: where a class of transformers gives our outputs (it does for a head on every
    token, and for sequences where the class reads nothing but the pooler, as BERT's does), the
    folder is one of that class. Elsewhere it holds a class of its own, whose code is in the
    folder. Which of the two is decided by comparing outputs, not by a list of names.

    Parameters
    ----------
    model
        Body and head; LoRA merged in. A model of choices is saved as one that gives a number to
        each pair of text and choice: the highest is the answer.
    encoder
        Says how to pool; its tokenizer is saved.
    folder
        Where to.
    label_names
        Empty for regression.

    Raises
    ------
    TransferError
        If what would be saved does not give the trained model's outputs.
    """
    from taskscout.models.objectives import ChoiceModel, LanguageModel

    save_tokenizer(encoder, folder)
    if isinstance(model, LanguageModel):
        return _save_language_model(model, encoder, folder)
    if isinstance(model, ChoiceModel):
        model = _scores_of_choices(model)
    native = _native(model, encoder, label_names)
    if native is not None:
        native.save_pretrained(folder)
        return "native"
    own = _own(model, encoder, label_names)
    apart = _apart(own, model, encoder)
    if apart > TOLERANCE:
        raise TransferError(
            f"The model of {encoder.model_id} to be saved gives other outputs than the trained one "
            f"(by {apart:.2g} of the largest).",
            "A folder that answers otherwise than the scores say would be of no use.",
            "Report this with the name of the encoder.",
        )
    own.save_pretrained(folder)
    shutil.copyfile(Path(__file__).with_name(f"{_CODE}.py"), folder / f"{_CODE}.py")
    return "own"


def save_tokenizer(encoder: Encoder, folder: Path) -> None:
    """Write the tokenizer; it cuts texts where the encoder does."""
    tokenizer = encoder.tokenizer
    length = tokenizer.model_max_length
    try:
        tokenizer.model_max_length = encoder.max_length
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.model_max_length = length


def save_weights(model: Any, folder: Path) -> None:
    """Write the trained weights by our names, where no folder that loads can be made."""
    from safetensors.torch import save_model as save_tensors

    save_tensors(model, str(folder / "weights.safetensors"))


def save_adapter(tuned: TunedModel, encoder: Encoder, folder: Path) -> bool:
    """Write LoRA factors and the head into ``folder/adapter``, for ``peft.PeftModel``.

    Nothing is written after another tuning, nor where the factors do not stand on the encoder's
    own weights: together they would not give the trained model.

    Returns
    -------
    Whether they were written.
    """
    import torch
    from safetensors.torch import save_file

    from taskscout.models.adapting import adapted, apply_adapter, put_parameters

    if not tuned.adapter:
        return False
    load = _loader(tuned.model, encoder)
    merged = apply_adapter(load(), tuned.adapter).state_dict()
    for name, tensor in tuned.model.body.state_dict().items():
        if not torch.allclose(merged[name], tensor.to(merged[name]), atol=1e-4):
            return False
    body = adapted(load(), encoder, tuned.recipe)
    put_parameters(body, encoder, tuned.recipe, tuned.adapter)
    body.peft_config["default"].base_model_name_or_path = encoder.model_id
    body.save_pretrained(folder / ADAPTER)
    head = getattr(tuned.model, "head", None)
    if isinstance(head, torch.nn.Linear):
        weight, bias = _head(tuned.model)
        save_file(
            {"weight": weight.contiguous(), "bias": bias}, folder / ADAPTER / "head.safetensors"
        )
    return True


def _loader(model: Any, encoder: Encoder) -> Callable[[], Any]:
    """What loads the pre-trained model that a tuned one began as."""
    from taskscout.models.objectives import LanguageModel
    from taskscout.models.objectives.text_to_text import load_language_model

    if isinstance(model, LanguageModel):
        return lambda: load_language_model(encoder)
    return encoder.load_model


def _task_of(model: Any) -> str:
    """What transformers calls a model with such a head."""
    from taskscout.models.objectives import TokenModel

    if isinstance(model, TokenModel):
        return "QuestionAnswering" if model.spans else "TokenClassification"
    return "SequenceClassification"


def _head(model: Any) -> tuple[Any, Any]:
    """Weight and bias that give predictions in the task's units."""
    regression = getattr(model, "regression", False)
    scale, center = (float(model.scale), float(model.center)) if regression else (1.0, 0.0)
    weight = model.head.weight.detach().cpu().float() * scale
    return weight, model.head.bias.detach().cpu().float() * scale + center


def _labels(model: Any, label_names: Sequence[str]) -> dict[str, Any]:
    task = _task_of(model)
    if task == "QuestionAnswering":
        return {"num_labels": 2}
    if task == "TokenClassification":
        return {"num_labels": model.head.out_features, **label_maps(label_names)}
    if model.regression:
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "num_labels": model.head.out_features,
        "problem_type": "single_label_classification",
        **label_maps(label_names),
    }


def _plain_body(model: Any) -> tuple[Any, Any, str]:
    """The transformer, the prompt beside it (or None) and the prompt's place."""
    from taskscout.models.prompts import PromptedBody

    body = model.body
    if isinstance(body, PromptedBody):
        return body.base, body.vectors.detach().cpu().float(), body.place
    return body, None, "prompt"


def _own(model: Any, encoder: Encoder, label_names: Sequence[str]) -> Any:
    """Our model as the class whose code goes with the folder."""
    import torch

    from taskscout.transfer import modeling_taskscout

    body, prompt, place = _plain_body(model)
    task = _task_of(model)
    config = modeling_taskscout.TaskscoutConfig(
        encoder=_config_of(body),
        pooling=encoder.pooling,
        layers=encoder.layers,
        hidden=encoder.dimension,
        prompt_length=0 if prompt is None else len(prompt),
        prompt_place=place,
        architectures=[f"TaskscoutFor{task}"],
        auto_map={
            "AutoConfig": f"{_CODE}.TaskscoutConfig",
            f"AutoModelFor{task}": f"{_CODE}.TaskscoutFor{task}",
        },
        **_labels(model, label_names),
    )
    own = getattr(modeling_taskscout, f"TaskscoutFor{task}")(config)
    _copy(body, own.encoder)
    weight, bias = _head(model)
    with torch.no_grad():
        own.classifier.weight.copy_(weight)
        own.classifier.bias.copy_(bias)
        if prompt is not None:
            own.prompt.copy_(prompt)
    return own.eval()


def _native(model: Any, encoder: Encoder, label_names: Sequence[str]) -> Any:
    """Our model as transformers' own class for the architecture; None where it answers otherwise.

    For sequences it is tried only with pooling ``pooler``, ``cls`` or ``last_token``: no class of
    the kind takes the mean over tokens without further layers.
    """
    import torch
    import transformers

    body, prompt, _ = _plain_body(model)
    task = _task_of(model)
    pooled_by_mean = task == "SequenceClassification" and encoder.pooling == "mean"
    if prompt is not None or pooled_by_mean or encoder.layers != "last":
        return None
    config = copy.deepcopy(body.config)
    config.architectures = None
    for name, value in _labels(model, label_names).items():
        setattr(config, name, value)
    try:
        native = getattr(transformers, f"AutoModelFor{task}").from_config(config).eval()
        heads = [
            m
            for name, m in native.named_children()
            if isinstance(m, torch.nn.Linear) and name in _HEADS
        ]
        if len(heads) != 1 or heads[0].bias is None:
            return None
        _copy(body, native.base_model)
        weight, bias = _head(model)
        with torch.no_grad():
            heads[0].weight.copy_(weight)
            heads[0].bias.copy_(bias)
        apart = _apart(native, model, encoder)
    except (ValueError, RuntimeError, TypeError, AttributeError, TransferError):
        return None
    return native if apart <= TOLERANCE else None


def _apart(saved: Any, model: Any, encoder: Encoder) -> float:
    """Largest difference of outputs of two models on two texts, as :data:`TOLERANCE` measures it.

    Parameters
    ----------
    saved
        A model as ``transformers`` has it, on the CPU, in the task's units.
    model
        The trained model, in float32 whatever it was trained in.
    encoder
        Makes the batch.
    """
    import torch

    rows = encoder.tokenize(["a probe", "a second, longer probe of the same model"])
    batch = encoder.tokenizer.pad(rows, return_tensors="pt", return_attention_mask=True)
    with torch.inference_mode():
        said = saved(**batch)
        logits = (
            torch.stack([said.start_logits, said.end_logits], -1)
            if _task_of(model) == "QuestionAnswering"
            else said.logits
        )
        trained = model.cpu().eval()(**batch)["logits"].float()
    if getattr(model, "regression", False):
        trained = trained * model.scale + model.center
    if logits.ndim == 3:
        there = batch["attention_mask"] == 1
        logits, trained = logits[there], trained[there]
    return float((logits - trained).abs().max() / max(1.0, float(trained.abs().max())))


def _config_of(body: Any) -> dict[str, Any]:
    """The configuration as plain types, without what belongs to where it was loaded from."""
    left_out = ("_name_or_path", "transformers_version", "architectures", "id2label", "label2id")
    plain = body.config.to_dict()
    return {k: v for k, v in plain.items() if k not in left_out and not k.startswith("_")}


def _copy(body: Any, into: Any) -> None:
    """Copy weights; a pooler that only one of the two has is left as it is."""
    state = {k: v.detach().cpu().float() for k, v in body.state_dict().items()}
    there = into.state_dict().keys()
    into.load_state_dict({k: v for k, v in state.items() if k in there}, strict=False)
    missing = [k for k in there if k not in state and not k.startswith("pooler.")]
    if missing:
        raise TransferError(
            f"{type(into).__name__} has weights that the trained model lacks ({missing[0]}).",
            "It would not give the trained model's answers.",
            "Report this with the name of the encoder.",
        )


def _scores_of_choices(model: Any) -> SequenceModel:
    """A model of choices as one that gives a number to each pair of text and choice."""
    from taskscout.models.heads import SequenceModel

    out = SequenceModel(model.body, model.encoder, 1, regression=True)
    out.head = model.head
    return out.eval()


def _save_language_model(model: Any, encoder: Encoder, folder: Path) -> Form:
    """Save a language model as its own class; a prompt as ``peft`` keeps it for that class."""
    import torch

    from taskscout.models.prompts import PromptedLanguageModel, with_peft

    body = model.body
    if not isinstance(body, PromptedLanguageModel):
        body.save_pretrained(folder)
        return "native"
    from peft import PromptTuningConfig, TaskType

    both = body.base.config.is_encoder_decoder
    config = PromptTuningConfig(
        task_type=TaskType.SEQ_2_SEQ_LM if both else TaskType.CAUSAL_LM,
        num_virtual_tokens=body.length,
        num_transformer_submodules=1,  # before the input of the encoder only
        base_model_name_or_path=str(encoder.folder),
    )
    prompted = with_peft(body.base, config)
    with torch.no_grad():
        prompted.prompt_encoder["default"].embedding.weight.copy_(body.vectors)
    prompted.save_pretrained(folder)
    return "peft"
