"""Trained models, read back from the folders that training wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import TransferError


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

    def predict_proba(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> NDArray[np.float64]:
        """Probability of each label for each text (n × labels), in the order of ``label_names``.

        Raises
        ------
        TransferError
            If the model gives numbers, which have no probabilities.
        """
        from scipy.special import softmax

        if not self.label_names:
            raise TransferError(
                "The model gives one number for each text.",
                "Only labels have probabilities.",
                "Use predict for the numbers.",
            )
        return np.asarray(softmax(self.outputs(texts, pairs).astype(np.float64), axis=1))

    def __repr__(self) -> str:
        name = type(self.model).__name__
        if not self.label_names:
            return f"LoadedModel({name}, regression)"
        few = ", ".join(map(repr, self.label_names[:5]))
        more = ", …" if len(self.label_names) > 5 else ""
        return f"LoadedModel({name}, {len(self.label_names)} labels: {few}{more})"

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
