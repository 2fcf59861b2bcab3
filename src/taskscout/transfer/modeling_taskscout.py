"""A transformer with a linear head, pooling where a text gets one answer, and a tuned prompt.

This file is copied into every model folder that needs it, so it stands alone: it reads torch and
transformers and nothing else. ``AutoModelForSequenceClassification`` of most architectures reads
the first token through further layers of its own; models trained by taskscout pool otherwise (by
default the mean over tokens), which no such class can express. Nor does a class for tokens read a
prompt, or the mean of all layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import (
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)


class TaskscoutConfig(PreTrainedConfig):  # type: ignore[misc]  # transformers is not typed
    """Configuration of the transformer inside, and how its output is read.

    Parameters
    ----------
    encoder
        The transformer's own configuration, ``model_type`` included.
    pooling
        ``mean`` over tokens, ``cls``, ``pooler`` or ``last_token``; not read by heads on tokens.
    layers
        ``last`` hidden layer, or the ``mean`` of all (embedding layer left out).
    hidden
        Width of what the head reads.
    prompt_length, prompt_place
        Vectors before the first layer's input (``prompt``) or keys and values in every layer
        (``prefix``); none at length 0.
    """

    model_type = "taskscout"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        pooling: str = "mean",
        layers: str = "last",
        hidden: int = 0,
        prompt_length: int = 0,
        prompt_place: str = "prompt",
        **others: Any,
    ) -> None:
        self.encoder = encoder
        self.pooling = pooling
        self.layers = layers
        self.hidden = hidden
        self.prompt_length = prompt_length
        self.prompt_place = prompt_place
        super().__init__(**others)


class _TaskscoutModel(PreTrainedModel):  # type: ignore[misc]  # transformers is not typed
    """The transformer, the prompt where there is one, and a linear head."""

    config_class = TaskscoutConfig
    base_model_prefix = "encoder"
    all_tied_weights_keys: dict[str, str] = {}  # noqa: RUF012  # as transformers has it

    def __init__(self, config: TaskscoutConfig) -> None:
        super().__init__(config)
        inner = dict(config.encoder or {})
        body = AutoModel.from_config(AutoConfig.for_model(inner.pop("model_type"), **inner))
        if getattr(body.config, "is_encoder_decoder", False):
            body = body.get_encoder()
        self.encoder = body
        self.classifier = nn.Linear(config.hidden, config.num_labels)
        if config.prompt_length:
            sizes = body.config
            width = sizes.hidden_size
            if config.prompt_place == "prefix":
                width *= 2 * sizes.num_hidden_layers
            self.prompt = nn.Parameter(torch.zeros(config.prompt_length, width))
        self.post_init()

    def _read(
        self, input_ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor | None
    ) -> tuple[Any, int]:
        """Run the transformer; also how many positions before the text are the prompt's."""
        options: dict[str, Any] = {"output_hidden_states": self.config.layers == "mean"}
        n, k = len(input_ids), self.config.prompt_length
        if k:
            mask = torch.cat([mask.new_ones(n, k), mask], 1)
        if k and self.config.prompt_place == "prompt":
            words = self.encoder.get_input_embeddings()(input_ids)
            prompt = self.prompt.to(words.dtype).expand(n, -1, -1)
            if types is not None:
                options["token_type_ids"] = torch.cat([types.new_zeros(n, k), types], 1)
            embedded = torch.cat([prompt, words], 1)
            return self.encoder(inputs_embeds=embedded, attention_mask=mask, **options), k
        if types is not None:
            options["token_type_ids"] = types
        if k:
            options["past_key_values"] = self._prefix(n)
        return self.encoder(input_ids=input_ids, attention_mask=mask, **options), 0

    def _prefix(self, n: int) -> DynamicCache:
        """Keys and values of the prefix for each layer."""
        sizes = self.encoder.config
        heads, layers = sizes.num_attention_heads, sizes.num_hidden_layers
        shape = (self.config.prompt_length, layers * 2, heads, sizes.hidden_size // heads)
        each = self.prompt.view(shape).permute(1, 2, 0, 3).unsqueeze(1).expand(-1, n, -1, -1, -1)
        cache = DynamicCache()
        for layer in range(layers):
            cache.update(each[2 * layer], each[2 * layer + 1], layer)
        return cache

    def _states(self, output: Any, skip: int) -> torch.Tensor:
        """States of the text's tokens, batch × tokens × hidden, of the layers that are read."""
        states: torch.Tensor
        if self.config.layers == "mean":
            states = torch.stack([h[:, skip:] for h in output.hidden_states[1:]]).float().mean(0)
        else:
            states = output.last_hidden_state[:, skip:].float()
        return states

    def _token_logits(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
    ) -> torch.Tensor:
        """The head on every token, batch × tokens × labels."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = self._states(*self._read(input_ids, mask, token_type_ids))
        logits: torch.Tensor = self.classifier(states.to(self.classifier.weight.dtype))
        return logits


class TaskscoutForSequenceClassification(_TaskscoutModel):
    """The transformer, pooled, with a linear head."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Logits (batch × labels; for regression the value itself), and the loss with labels."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = self._pooled(*self._read(input_ids, mask, token_type_ids), mask)
        logits = self.classifier(hidden.to(self.classifier.weight.dtype))
        loss = None
        if labels is not None:
            if self.config.num_labels == 1:
                loss = nn.functional.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
            else:
                loss = nn.functional.cross_entropy(logits, labels.long())
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _pooled(self, output: Any, skip: int, mask: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor
        if self.config.pooling == "pooler":
            last = output.last_hidden_state[:, skip:]
            pooled = self.encoder.pooler(last) if skip else output.pooler_output
            return pooled
        states = self._states(output, skip)
        if self.config.pooling == "cls":
            pooled = states[:, 0]
        elif self.config.pooling == "last_token":
            ends = mask.sum(1) - 1
            pooled = states[torch.arange(len(ends), device=ends.device), ends]
        else:
            weights = mask.unsqueeze(-1).to(states.dtype)
            pooled = (states * weights).sum(1) / weights.sum(1)
        return pooled


class TaskscoutForTokenClassification(_TaskscoutModel):
    """The transformer with a linear head on every token."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **_: Any,
    ) -> TokenClassifierOutput:
        """Logits (batch × tokens × labels); the loss over tokens whose label is not -100."""
        logits = self._token_logits(input_ids, attention_mask, token_type_ids)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.transpose(1, 2), labels.long())
        return TokenClassifierOutput(loss=loss, logits=logits)


class TaskscoutForQuestionAnswering(_TaskscoutModel):
    """The transformer with two outputs on every token: the answer's start and its end."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        **_: Any,
    ) -> QuestionAnsweringModelOutput:
        """Logits of starts and ends (batch × tokens each); the mean of both losses."""
        logits = self._token_logits(input_ids, attention_mask, token_type_ids)
        start, end = logits[..., 0], logits[..., 1]
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (
                nn.functional.cross_entropy(start, start_positions)
                + nn.functional.cross_entropy(end, end_positions)
            ) / 2
        return QuestionAnsweringModelOutput(loss=loss, start_logits=start, end_logits=end)
