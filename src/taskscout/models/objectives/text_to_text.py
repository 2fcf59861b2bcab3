"""Text-to-text: a language model reads a prompt and learns, or writes, the completion."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from taskscout.errors import ModelError
from taskscout.models.encoder import Encoder
from taskscout.models.objectives.objective import IGNORED, Objective, Row, mean_error

#: Completions of so many words in the median are answers, scored by exact match; longer ones are
#: texts, scored by ROUGE-L.
SHORT = 3


class LanguageModel(nn.Module):
    """A language model as Trainer and objectives call it.

    Parameters
    ----------
    body
        The causal or sequence-to-sequence model (or made ready for tuning).
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, labels: torch.Tensor | None = None, **batch: Any) -> dict[str, torch.Tensor]:
        """Logits, and where labels are given their mean loss over tokens that are not ignored."""
        out = self.body(**batch, labels=labels)
        return (
            {"logits": out.logits} if labels is None else {"loss": out.loss, "logits": out.logits}
        )


class TextToText(Objective):
    """Predictions are the completions that greedy decoding writes.

    The loss is on the completion only. An input that is too long loses its end for a
    sequence-to-sequence model, as is usual, and its beginning for a causal one, which has to go on
    after its end.
    """

    metrics: ClassVar[tuple[str, ...]] = ("exact_match", "rouge_l")
    tunings: ClassVar[tuple[str, ...]] = ("full", "lora", "prompt", "bitfit")

    def usual_metric(self) -> str:
        """Name exact match where completions are short, else ROUGE-L."""
        words = [len(c.split()) for c in self.task.column("train", "completion")]
        return "exact_match" if np.median(words) <= SHORT else "rouge_l"

    def load_body(self) -> Any:
        """Load the language model."""
        return load_language_model(self.encoder)

    @cached_property
    def is_causal(self) -> bool:
        """Whether prompt and completion are one text to the model."""
        return not self.encoder.config.get("is_encoder_decoder", False)

    @cached_property
    def end(self) -> int:
        """The token that ends a completion.

        Raises
        ------
        ModelError
            If the tokenizer has none.
        """
        tokenizer = self.encoder.tokenizer
        for token in (tokenizer.eos_token_id, tokenizer.sep_token_id):
            if token is not None:
                return int(token)
        raise ModelError(
            f"The tokenizer of {self.encoder.model_id} has no token that ends a text.",
            "Without one a completion would never end.",
            "Give it an eos_token and save it with the model.",
        )

    def prompt_ids(self, prompt: str, room: int) -> list[int]:
        """Token ids of a prompt, cut to a number of tokens."""
        tokenizer = self.encoder.tokenizer
        ids: list[int]
        if not self.is_causal:
            ids = tokenizer(prompt, truncation=True, max_length=room)["input_ids"]
            return ids
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        begin = [tokenizer.bos_token_id] if begins_with_bos(tokenizer) else []
        kept = room - len(begin)
        return begin + (ids[-kept:] if len(ids) > kept else ids)

    def completion_ids(self, prompt: str, completion: str) -> list[int]:
        """Token ids of a completion and the end; at most half of the longest input."""
        glue = "" if not self.is_causal or prompt[-1:].isspace() or completion[:1] == " " else " "
        ids = self.encoder.tokenizer(glue + completion, add_special_tokens=False)["input_ids"]
        return [*ids[: self.encoder.max_length // 2 - 1], self.end]

    def rows(self, split: str) -> list[list[Row]]:
        """Make one row per example; a causal model's labels begin where the completion does."""
        out = []
        for prompt, completion in zip(
            self.task.column(split, "prompt"), self.task.column(split, "completion"), strict=True
        ):
            said = self.completion_ids(prompt, completion)
            room = self.encoder.max_length - (len(said) if self.is_causal else 0)
            read = self.prompt_ids(prompt, room)
            if self.is_causal:
                row = {"input_ids": read + said, "labels": [IGNORED] * len(read) + said}
            else:
                row = {"input_ids": read, "labels": said}
            out.append([row])
        return out

    def length(self, row: Row) -> int:
        """Count the tokens read and, by a sequence-to-sequence model, written."""
        return len(row["input_ids"]) + (0 if self.is_causal else len(row["labels"]))

    def collate(self, rows: list[Row]) -> dict[str, torch.Tensor]:
        """Make a batch, padded on the right."""
        padding = self.encoder.tokenizer.pad_token_id
        return {
            "input_ids": _padded([r["input_ids"] for r in rows], padding),
            "attention_mask": _padded([[1] * len(r["input_ids"]) for r in rows], 0),
            "labels": _padded([r["labels"] for r in rows], IGNORED),
        }

    def model(self, body: nn.Module, *, seed: int) -> nn.Module:  # noqa: ARG002
        """Wrap the language model, whose head is its own."""
        return LanguageModel(body)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest completion of the training split."""
        pairs = zip(
            self.task.column("train", "prompt"), self.task.column("train", "completion"),
            strict=True,
        )  # fmt: skip
        return max(len(self.completion_ids(p, c)) for p, c in pairs)

    def predict(self, model: Any, split: str) -> list[str]:
        """Write a completion for each prompt, greedily, no longer than any of the training split.

        Batches of a causal model are padded on the left, so that all go on from the last column.
        """
        tokenizer, encoder = self.encoder.tokenizer, self.encoder
        room = encoder.max_length - (self.longest if self.is_causal else 0)
        prompts = [
            {"input_ids": self.prompt_ids(p, room)} for p in self.task.column(split, "prompt")
        ]
        out = [""] * len(prompts)
        model.to(encoder.device).eval()
        with torch.inference_mode(), encoder.autocast():
            for chosen in encoder.batches(prompts):
                ids = [prompts[i]["input_ids"] for i in chosen.tolist()]
                batch = {
                    "input_ids": _padded(ids, tokenizer.pad_token_id, left=self.is_causal),
                    "attention_mask": _padded([[1] * len(r) for r in ids], 0, left=self.is_causal),
                }
                batch = {k: v.to(encoder.device) for k, v in batch.items()}
                made = model.body.generate(
                    **batch,
                    max_new_tokens=self.longest,
                    do_sample=False,
                    num_beams=1,
                    eos_token_id=self.end,
                    pad_token_id=tokenizer.pad_token_id,
                )
                width = batch["input_ids"].shape[1]
                if self.is_causal and made.shape[1] > self.longest:
                    made = made[:, width:]
                for i, tokens in zip(chosen.tolist(), made.tolist(), strict=True):
                    out[i] = tokenizer.decode(self._until_end(tokens), skip_special_tokens=True)
        return [text.strip() for text in out]

    def _until_end(self, tokens: list[int]) -> list[int]:
        return tokens[: tokens.index(self.end)] if self.end in tokens[1:] else tokens

    def _per_example(self, split: str, predictions: list[str]) -> dict[str, NDArray[np.float64]]:
        from rouge_score.rouge_scorer import RougeScorer

        rouge = RougeScorer(["rougeL"])
        wanted = [self._as_decoded(c) for c in self.task.column(split, "completion")]
        pairs = list(zip(wanted, predictions, strict=True))
        return {
            "exact_match": np.array([float(w == p.strip()) for w, p in pairs]),
            "rouge_l": np.array([rouge.score(w, p)["rougeL"].fmeasure for w, p in pairs]),
        }

    def _as_decoded(self, completion: str) -> str:
        """A completion as the tokenizer can write it: some lower the case or drop spaces."""
        tokenizer = self.encoder.tokenizer
        ids = tokenizer(completion, add_special_tokens=False)["input_ids"]
        text: str = tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()

    def measures(self, split: str, predictions: list[str]) -> dict[str, float]:
        """Exact match, and F of ROUGE-L (Lin 2004)."""
        return {k: float(v.mean()) for k, v in self._per_example(split, predictions).items()}

    def trivial(self, split: str) -> list[Any]:
        """Always write the most frequent completion of the training split."""
        counts = Counter(self._as_decoded(c) for c in self.task.column("train", "completion"))
        return [[counts.most_common(1)[0][0]] * self.task.tables[split].num_rows]

    def error(self, split: str, predictions: list[str]) -> float:
        """Standard error of the mean over examples."""
        return mean_error(self._per_example(split, predictions)[self.metric])

    def scores(self, split: str, predictions: list[str]) -> dict[str, float]:
        """Exact match and ROUGE-L, with score, baseline and error."""
        return super().scores(split, predictions)


def _padded(rows: list[list[int]], padding: int, *, left: bool = False) -> torch.Tensor:
    width = max(len(row) for row in rows)
    fill = [[padding] * (width - len(row)) for row in rows]
    return torch.tensor([f + r if left else r + f for f, r in zip(fill, rows, strict=True)])


def begins_with_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a beginning before a text."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]


def load_language_model(encoder: Encoder) -> Any:
    """A fresh copy of a causal or sequence-to-sequence language model, float32, on the CPU.

    Raises
    ------
    ModelError
        If the model makes no text, or its folder lacks the weights to do so.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.models.auto import modeling_auto as known

    kind = str(encoder.config.get("model_type", ""))
    seq2seq = kind in known.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    causal = (
        kind in known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and kind not in known.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )
    if not seq2seq and not causal:
        raise ModelError(
            f"{encoder.model_id} is a {kind} encoder, which makes no text.",
            "A text-to-text task needs a causal or sequence-to-sequence language model.",
            "Give one, such as google-t5/t5-small or HuggingFaceTB/SmolLM2-135M.",
        )
    make = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    try:
        model, loading = make.from_pretrained(
            encoder.folder,
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{encoder.folder} cannot be loaded as a language model.",
            str(error).partition("\n")[0],
            "Give a folder or hub id of a causal or sequence-to-sequence language model.",
        ) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        raise ModelError(
            f"{encoder.folder} lacks weights of its language model ({missing[0]}).",
            "It would write with weights drawn at random.",
            "Save the whole model, not its body alone.",
        )
    model.config.use_cache = True
    return model.float().eval()
