"""Model folders that ``transformers`` loads, and :func:`load`, which reads them back."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import TransferError

if TYPE_CHECKING:
    from taskscout.models.encoder import Encoder
    from taskscout.models.heads import SequenceModel

#: Largest difference of logits between our model and a class of transformers that passes for it.
TOLERANCE = 1e-4
_CODE = "modeling_taskscout"


def label_maps(label_names: Sequence[str]) -> dict[str, dict[Any, Any]]:
    """Label names as a ``transformers`` configuration keeps them."""
    return {
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: i for i, name in enumerate(label_names)},
    }


def save_model(model: Any, encoder: Encoder, folder: Path, label_names: Sequence[str]) -> str:
    """Write model, tokenizer and label names into an existing folder.

    A head on every token (tagging, span answers) and a language model are saved as
    transformers' own classes, a language model's prompt as ``peft`` keeps it. Of the other kinds:
    where the ``AutoModelForSequenceClassification`` of the encoder's architecture gives our
    outputs (it does where it reads nothing but the pooler, as BERT's with pooling ``pooler``),
    the folder is one of that class. Elsewhere it holds a class of its own, whose code is in the
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

    Returns
    -------
    ``native``, ``own`` or ``peft``.
    """
    from taskscout.models.objectives import ChoiceModel, LanguageModel, TokenModel

    tokenizer = encoder.tokenizer
    kept = tokenizer.model_max_length
    try:
        tokenizer.model_max_length = encoder.max_length
        tokenizer.save_pretrained(folder)
    finally:
        tokenizer.model_max_length = kept
    if isinstance(model, LanguageModel):
        return _save_language_model(model, encoder, folder)
    if isinstance(model, TokenModel):
        native = _tokens(model, encoder, label_names)
        if native is None:
            raise TransferError(
                f"{encoder.model_id} has no class of transformers with a head on every token that "
                "gives the trained model's answers.",
                "A prompt beside the weights, or several layers read at once, fits none.",
                "Use tuning 'lora' or 'full', and layers 'last'.",
            )
        native.save_pretrained(folder)
        return "native"
    if isinstance(model, ChoiceModel):
        model = _scores_of_choices(model)
    native = _native(model, encoder, label_names)
    if native is not None:
        native.save_pretrained(folder)
        return "native"
    own = _own(model, encoder, label_names)
    own.save_pretrained(folder)
    shutil.copyfile(Path(__file__).with_name(f"{_CODE}.py"), folder / f"{_CODE}.py")
    return "own"


def _head(model: SequenceModel) -> tuple[Any, Any]:
    """Weight and bias that give predictions in the task's units."""
    scale = float(model.scale) if model.regression else 1.0
    center = float(model.center) if model.regression else 0.0
    weight = model.head.weight.detach().cpu().float() * scale
    return weight, model.head.bias.detach().cpu().float() * scale + center


def _labels(model: SequenceModel, label_names: Sequence[str]) -> dict[str, Any]:
    if model.regression:
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "num_labels": model.head.out_features,
        "problem_type": "single_label_classification",
        **label_maps(label_names),
    }


def _plain_body(model: SequenceModel) -> tuple[Any, Any, str]:
    """The transformer, the prompt beside it (or None) and the prompt's place."""
    from taskscout.models.prompts import PromptedBody

    body = model.body
    if isinstance(body, PromptedBody):
        return body.base, body.vectors.detach().cpu().float(), body.place
    return body, None, "prompt"


def _own(model: SequenceModel, encoder: Encoder, label_names: Sequence[str]) -> Any:
    """Our model as the class whose code goes with the folder."""
    import torch

    from taskscout.transfer.modeling_taskscout import (
        TaskscoutConfig,
        TaskscoutForSequenceClassification,
    )

    body, prompt, place = _plain_body(model)
    config = TaskscoutConfig(
        encoder=_config_of(body),
        pooling=encoder.pooling,
        layers=encoder.layers,
        hidden=encoder.dimension,
        prompt_length=0 if prompt is None else len(prompt),
        prompt_place=place,
        architectures=["TaskscoutForSequenceClassification"],
        auto_map={
            "AutoConfig": f"{_CODE}.TaskscoutConfig",
            "AutoModelForSequenceClassification": f"{_CODE}.TaskscoutForSequenceClassification",
        },
        **_labels(model, label_names),
    )
    own = TaskscoutForSequenceClassification(config)
    _copy(body, own.encoder)
    weight, bias = _head(model)
    with torch.no_grad():
        own.classifier.weight.copy_(weight)
        own.classifier.bias.copy_(bias)
        if prompt is not None:
            own.prompt.copy_(prompt)
    return own.eval()


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


def _save_language_model(model: Any, encoder: Encoder, folder: Path) -> str:
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


def _tokens(model: Any, encoder: Encoder, label_names: Sequence[str]) -> Any:
    """A head on every token as transformers' own class; None where none gives our outputs."""
    import copy

    import torch
    from transformers import AutoModelForQuestionAnswering, AutoModelForTokenClassification

    body, prompt, _ = _plain_body(model)
    if prompt is not None or encoder.layers != "last":
        return None
    config = copy.deepcopy(body.config)
    config.architectures = None
    config.num_labels = model.head.out_features
    make = AutoModelForQuestionAnswering if model.spans else AutoModelForTokenClassification
    if not model.spans:
        for name, value in label_maps(label_names).items():
            setattr(config, name, value)
    try:
        native = make.from_config(config).eval()
        heads = [m for m in native.children() if isinstance(m, torch.nn.Linear)]
        if len(heads) != 1 or heads[0].bias is None:
            return None
        _copy(body, native.base_model)
        with torch.no_grad():
            heads[0].weight.copy_(model.head.weight.detach().cpu())
            heads[0].bias.copy_(model.head.bias.detach().cpu())
        rows = encoder.tokenize(["a probe", "a second, longer probe of the same model"])
        batch = encoder.tokenizer.pad(rows, return_tensors="pt", return_attention_mask=True)
        with torch.inference_mode():
            said = native(**batch)
            theirs = (
                torch.stack([said.start_logits, said.end_logits], -1)
                if model.spans
                else said.logits
            )
            ours = model.cpu()(**batch)["logits"]
            apart = (theirs - ours)[batch["attention_mask"] == 1].abs().max()
    except (ValueError, RuntimeError, TypeError, AttributeError):
        return None
    return native if float(apart) <= TOLERANCE else None


def _native(model: SequenceModel, encoder: Encoder, label_names: Sequence[str]) -> Any:
    """Our model as transformers' own class for the architecture; None where it answers otherwise.

    Tried only with pooling ``pooler``, ``cls`` or ``last_token``: no class of the kind takes the
    mean over tokens without further layers.
    """
    import copy

    import torch
    from transformers import AutoModelForSequenceClassification

    body, prompt, _ = _plain_body(model)
    if prompt is not None or encoder.pooling == "mean" or encoder.layers != "last":
        return None
    config = copy.deepcopy(body.config)
    config.architectures = None
    for name, value in _labels(model, label_names).items():
        setattr(config, name, value)
    try:
        native = AutoModelForSequenceClassification.from_config(config).eval()
        heads = [
            m
            for name, m in native.named_children()
            if isinstance(m, torch.nn.Linear) and name in ("classifier", "score")
        ]
        if len(heads) != 1 or heads[0].bias is None:
            return None
        _copy(body, native.base_model)
        weight, bias = _head(model)
        with torch.no_grad():
            heads[0].weight.copy_(weight)
            heads[0].bias.copy_(bias)
        ours = _own(model, encoder, label_names)
        rows = encoder.tokenize(["a probe", "a second, longer probe of the same model"])
        batch = encoder.tokenizer.pad(rows, return_tensors="pt", return_attention_mask=True)
        with torch.inference_mode():
            apart = (native(**batch).logits - ours(**batch).logits).abs().max()
    except (ValueError, RuntimeError, TypeError, AttributeError, TransferError):
        return None
    return native if float(apart) <= TOLERANCE else None


@dataclass
class LoadedModel:
    """A trained model, its tokenizer and its label names.

    Attributes
    ----------
    model
        A ``transformers`` model, in evaluation mode.
    tokenizer
        Its tokenizer; longer texts are cut to the length the model was trained with.
    label_names
        By class id; empty for regression.
    """

    model: Any
    tokenizer: Any
    label_names: tuple[str, ...]

    def outputs(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, batch_size: int = 32
    ) -> NDArray[np.float32]:
        """Logits (n × labels); for regression the values (n × 1)."""
        import torch

        out = []
        for i in range(0, len(texts), batch_size):
            batch = self.tokenizer(
                list(texts[i : i + batch_size]),
                None if pairs is None else list(pairs[i : i + batch_size]),
                truncation=True,
                padding=True,
                return_tensors="pt",
            )
            with torch.inference_mode():
                out.append(self.model(**batch).logits.float().numpy())
        width = max(len(self.label_names), 1)
        return np.concatenate(out) if out else np.empty((0, width), np.float32)

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Any]:
        """The label's name for each text, or the number where it is a regression."""
        outputs = self.outputs(texts, pairs)
        if not self.label_names:
            return [float(v) for v in outputs[:, 0]]
        return [self.label_names[i] for i in outputs.argmax(1)]


def load(folder: str | Path) -> LoadedModel:
    """Load a folder that ``taskscout train`` wrote; no code in the folder is run.

    Raises
    ------
    TransferError
        If it is no such folder.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    from taskscout.transfer.modeling_taskscout import (
        TaskscoutConfig,
        TaskscoutForSequenceClassification,
    )

    folder = Path(folder).expanduser()
    AutoConfig.register(TaskscoutConfig.model_type, TaskscoutConfig, exist_ok=True)
    AutoModelForSequenceClassification.register(
        TaskscoutConfig, TaskscoutForSequenceClassification, exist_ok=True
    )
    try:
        made = (AutoConfig.from_pretrained(folder, local_files_only=True).architectures or [""])[0]
        if not made.endswith("ForSequenceClassification"):
            raise TransferError(
                f"{folder} holds a {made}.",
                "taskscout.load reads models that give one answer to a text or a pair of texts.",
                f"Load it with transformers, as its README.md says: {made}.from_pretrained(...)",
            )
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise TransferError(
            f"{folder} cannot be loaded as a trained model ({str(error).splitlines()[0]}).",
            "It is not a folder that taskscout train wrote, or not whole.",
            "Give the folder named with --out.",
        ) from error
    names: tuple[str, ...] = ()
    if model.config.problem_type != "regression":
        names = tuple(model.config.id2label[i] for i in range(model.config.num_labels))
    return LoadedModel(model.eval(), tokenizer, names)
