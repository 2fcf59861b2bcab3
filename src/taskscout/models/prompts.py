"""Soft prompts: an encoder that reads tuned vectors before, or beside, its tokens.

``peft`` holds the vectors (:class:`peft.PromptEmbedding`, :class:`peft.PrefixEncoder`) and turns
a prefix into keys and values. Its own forward pass for feature extraction is not used: it drops
the token types, which tell a text from its pair, and returns the prompt's positions among the
tokens', which would be pooled.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from taskscout.errors import ModelError

if TYPE_CHECKING:
    from taskscout.models.encoder import Encoder

#: ``prompt``: vectors before the first layer's input. ``prefix``: keys and values in every layer.
Place = Literal["prompt", "prefix"]


def with_peft(body: nn.Module, config: Any) -> Any:
    """Wrap a body by ``peft``, without its warnings of what ``transformers`` will rename."""
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(body, config)


class PromptedBody(nn.Module):
    """A transformer with a soft prompt; called and read like the transformer alone.

    The prompt takes the first positions, as in the papers, so the text begins at position k.
    Hidden states that come out are those of the text's own tokens.

    Parameters
    ----------
    body
        The transformer; its own weights are frozen.
    length
        k, vectors in the prompt.
    place
        See :data:`Place`.
    """

    def __init__(self, body: nn.Module, length: int, place: Place) -> None:
        from peft import PrefixTuningConfig, PromptTuningConfig, TaskType

        super().__init__()
        make = PrefixTuningConfig if place == "prefix" else PromptTuningConfig
        sizes: Any = body.config
        config = make(
            task_type=TaskType.FEATURE_EXTRACTION,
            num_virtual_tokens=length,
            # peft knows only some configurations' names for these; transformers maps them.
            token_dim=sizes.hidden_size,
            num_layers=sizes.num_hidden_layers,
            num_attention_heads=sizes.num_attention_heads,
        )
        self.place: Place = place
        self.length = length
        self.peft = with_peft(body, config)

    @property
    def config(self) -> Any:
        """The transformer's own."""
        return self.base.config

    @property
    def base(self) -> Any:
        """The transformer."""
        return self.peft.get_base_model()

    @property
    def vectors(self) -> nn.Parameter:
        """The prompt: k × d, or k × (layers · 2 · d) for a prefix."""
        weight: nn.Parameter = self.peft.prompt_encoder["default"].embedding.weight
        return weight

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        **options: Any,
    ) -> Any:
        """Run the transformer; what comes out is of the text's own tokens."""
        n, k = len(input_ids), self.length
        prompt = self.peft.get_prompt(n)
        options["attention_mask"] = torch.cat([attention_mask.new_ones(n, k), attention_mask], 1)
        if self.place == "prefix":
            if token_type_ids is not None:
                options["token_type_ids"] = token_type_ids
            return self.base(input_ids=input_ids, past_key_values=prompt, **options)
        words = self.base.get_input_embeddings()(input_ids)
        if token_type_ids is not None:
            options["token_type_ids"] = torch.cat(
                [token_type_ids.new_zeros(n, k), token_type_ids], 1
            )
        embedded = torch.cat([prompt.to(words.dtype), words], 1)
        out = self.base(inputs_embeds=embedded, **options)
        out.last_hidden_state = out.last_hidden_state[:, k:]
        if getattr(out, "hidden_states", None) is not None:
            out.hidden_states = tuple(h[:, k:] for h in out.hidden_states)
        if getattr(out, "pooler_output", None) is not None:
            out.pooler_output = self.base.pooler(out.last_hidden_state)
        return out


def prompt_vocabulary(encoder: Encoder, length: int, seed: int) -> NDArray[np.int64]:
    """Draw the tokens whose embeddings a prompt begins as: the same for every task of a seed.

    Drawn without replacement from the whole vocabulary but its special tokens; with replacement
    where that is smaller than the prompt.
    """
    tokenizer = encoder.tokenizer
    special = set(tokenizer.all_special_ids)
    ids = np.array([i for i in range(len(tokenizer)) if i not in special], np.int64)
    rng = np.random.default_rng([seed, length])
    return rng.choice(ids, length, replace=length > len(ids))


def with_prompt(
    body: Any, encoder: Encoder, *, length: int, place: Place, seed: int
) -> PromptedBody:
    """Put a soft prompt before a body, at the start that all tasks of a seed share.

    Raises
    ------
    ModelError
        If the encoder has too few positions for prompt and text, or does not take such a prompt.
    """
    _check_positions(encoder, length)
    torch.manual_seed(seed)
    out = PromptedBody(body, length, place)
    _try(out)
    if place == "prompt":
        _begin_as_words(out, encoder, seed)
    return out


def _check_positions(encoder: Encoder, length: int) -> None:
    positions = encoder.longest
    if positions is not None and length + encoder.max_length > positions:
        raise ModelError(
            f"A prompt of {length} and texts of up to {encoder.max_length} tokens make "
            f"{length + encoder.max_length} positions.",
            f"{encoder.model_id} has {positions}.",
            f"Give a prompt_length and a max_length that sum to {positions} at most.",
        )


def _begin_as_words(body: PromptedBody, encoder: Encoder, seed: int) -> None:
    ids = torch.from_numpy(prompt_vocabulary(encoder, body.length, seed))
    with torch.no_grad():
        words = body.base.get_input_embeddings().weight
        body.vectors.copy_(words[ids.to(words.device)])


def _try(body: PromptedBody) -> None:
    """Read a few tokens: MPNet, DeBERTa, ALBERT and ModernBERT, for example, take no prefix."""
    training = body.training
    device = body.vectors.device
    tokens = torch.zeros(1, 3, dtype=torch.long, device=device)
    # With padding: without it no mask is made, and a prefix may be passed over in silence.
    mask = torch.tensor([[1, 1, 0]], device=device)
    try:
        with torch.inference_mode():
            body.eval()(input_ids=tokens, attention_mask=mask)
    except (RuntimeError, TypeError, ValueError) as error:
        name = type(body.base).__name__
        raise ModelError(
            f"{name} cannot be run with a {body.place} ({str(error).splitlines()[0]}).",
            "A prefix is keys and values for every layer, which few encoders take."
            if body.place == "prefix"
            else "A prompt is read as embeddings before those of the tokens.",
            "Use tuning 'prompt' or 'lora', or an encoder like BERT, RoBERTa or ELECTRA."
            if body.place == "prefix"
            else "Use tuning 'lora'.",
        ) from error
    body.train(training)


def is_language_model(body: Any) -> bool:
    """Whether a body makes text: it has an output layer over the vocabulary."""
    get = getattr(body, "get_output_embeddings", None)
    return get is not None and get() is not None


class PromptedLanguageModel(PromptedBody):
    """A causal or sequence-to-sequence language model with a soft prompt before its input.

    For a sequence-to-sequence model, before the input of its encoder, as in Lester et al. (2021).

    Parameters
    ----------
    body
        The language model; its own weights are frozen.
    length
        k, vectors in the prompt.
    """

    def __init__(self, body: nn.Module, length: int) -> None:
        super().__init__(body, length, "prompt")
        # peft freezes the transformer alone, not what stands on it.
        self.base.requires_grad_(False)

    def _embedded(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        words = self.base.get_input_embeddings()(input_ids)
        prompt = self.peft.get_prompt(len(input_ids)).to(words.dtype)
        ones = attention_mask.new_ones(len(input_ids), self.length)
        return {
            "inputs_embeds": torch.cat([prompt, words], 1),
            "attention_mask": torch.cat([ones, attention_mask], 1),
        }

    def forward(  # type: ignore[override]  # takes what encoders are given
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor | None = None,
        **options: Any,
    ) -> Any:
        """Run the language model; the logits of a causal one have the prompt's before them."""
        inputs = self._embedded(input_ids, attention_mask)
        if labels is not None and not self.base.config.is_encoder_decoder:
            none = labels.new_full((len(labels), self.length), -100)
            labels = torch.cat([none, labels], 1)
        return self.base(**inputs, labels=labels, **options)

    def generate(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **options: Any
    ) -> Any:
        """Go on after prompt and input. What comes out has neither of them."""
        return self.base.generate(**self._embedded(input_ids, attention_mask), **options)


def with_language_prompt(
    body: Any, encoder: Encoder, *, length: int, seed: int
) -> PromptedLanguageModel:
    """Put a soft prompt before a language model, at the start that all tasks of a seed share.

    Raises
    ------
    ModelError
        If the model has too few positions for prompt and text.
    """
    _check_positions(encoder, length)
    torch.manual_seed(seed)
    out = PromptedLanguageModel(body, length)
    _begin_as_words(out, encoder, seed)
    return out
