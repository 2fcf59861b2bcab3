"""Tuned prompts as task embeddings; see :mod:`taskscout.methods.tuned_parameters`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from taskscout.methods.method import Description, Factory
from taskscout.methods.tuned_parameters import Array, Form, Named, TunedParameters, forms, unit
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task


class PromptMethod(TunedParameters):
    """What all methods share that compare soft prompts; tokens have unit length first."""

    described = "prompt"
    tuning = "prompt"
    paper = "Lin et al. 2024"
    # Scaled to unit length, tokens are no longer linear in the parameters.
    need_initial: tuple[Form, ...] = ("raw", "centred")

    def keep(self, vector: Named) -> dict[str, Array]:
        """Keep the prompt, k × d."""
        return {"prompt": np.asarray(vector["prompt"], np.float32)}

    def kept(self, source: Description) -> dict[str, NDArray[Any]]:
        """Leave out the vocabulary the prompt began as."""
        return {"prompt": source.arrays["prompt"]}

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Tune a prompt for the source; keep how it moved, and the tokens it began as."""
        from dataclasses import replace

        from taskscout.models.prompts import prompt_vocabulary

        described = super().describe(source, bench)
        recipe = bench.recipe.with_tuning("prompt")
        ids = prompt_vocabulary(bench.encoder, recipe.prompt_length, recipe.seed)
        return replace(described, arrays={**described.arrays, "vocabulary": ids.astype(np.int32)})

    def vectors(self, kept: Mapping[str, Array]) -> Array:
        """Embed prompts whose tokens were scaled to unit length."""
        return self.embed(unit(kept["prompt"]))

    def embed(self, tokens: Array) -> Array:
        """Make vectors (n × m × D) of unit tokens (n × k × d)."""
        raise NotImplementedError


class TupatePrompt(PromptMethod):
    """TuPaTE with prompt tuning: the plain mean of a tuned prompt's tokens, by cosine.

    A soft prompt of k = 100 vectors p_i is tuned for the task while the encoder stays frozen.
    The tuned vectors say what the task asks of the encoder, and tasks whose prompts point the
    same way are taken to help one another:

        e = (1/k) sum_i p_i,    score = cos(e_source, e_target).

    Tokens are averaged as they stand, so long ones count more; ``prompt-mean`` scales each to
    unit length first. ``form="relative"`` (``tupate-prompt-relative``) takes the tuned prompt
    minus its beginning; ``form="centred"`` subtracts the mean embedding over the sources. The
    paper compares raw prompts. ``at`` reads the target's prompt after a fraction of its training.

    *Cost.* One prompt tuning per source, offline; one for the target; then one product per pair.
    77 kB per source in half precision with MiniLM, which every method of prompts shares.

    *Fails* where training hardly moves the prompt (few steps, a low learning rate): all tasks
    then look alike. Cosine is symmetric; transfer is not. Needs the target's labels.

    *Reference.* Zhou et al. 2022 (arXiv 2210.11705), ``prefix_encoder.weight.mean(0)`` in their
    code; so is the embedding of Vu et al. 2022 (SPoT, arXiv 2110.07904).
    """

    plain = "tupate-prompt"
    aliases = ("TuPaTE", "SPoT")
    paper = "Zhou et al. 2022"
    # The mean of tokens is linear in the parameters: centring takes the beginning away.
    need_initial: tuple[Form, ...] = ("raw",)

    def vectors(self, kept: Mapping[str, Array]) -> Array:
        """Average over tokens as they stand."""
        out: Array = kept["prompt"].mean(1, keepdims=True)
        return out


class PromptMean(PromptMethod):
    """The mean of a tuned prompt's tokens of unit length, by cosine.

    A soft prompt of k = 100 vectors p_i is tuned for the task while the encoder stays frozen,
    and its tokens are averaged after each was scaled to unit length:

        e = (1/k) sum_i p_i / |p_i|,    score = cos(e_source, e_target).

    ``tupate-prompt`` averages the tokens as they stand.

    Every task's prompt begins as the same vocabulary embeddings (one draw per seed).
    ``form="relative"`` (``prompt-mean-relative``) takes the tuned prompt minus its beginning;
    ``form="centred"`` subtracts the mean embedding over the sources. The papers compare raw
    prompts. With our recipe tokens move to some eight times the length they begin with, so raw
    and relative prompts order sources alike; where training moves them little, most of a raw
    prompt is what it began as, and raw cosines crowd just below 1. ``at`` reads the target's
    prompt after a fraction of its training.

    *Cost.* One prompt tuning per source, offline; one for the target; then one product per pair.
    77 kB per source in half precision with MiniLM.

    *Fails* where training hardly moves the prompt (few steps, a low learning rate): all tasks
    then look alike. Cosine is symmetric; transfer is not. Needs the target's labels.

    *Reference.* Lin et al. 2024 (arXiv 2407.16245), ``feature_mean`` in their code.
    """

    plain = "prompt-mean"

    def embed(self, tokens: Array) -> Array:
        """Average over tokens."""
        out: Array = tokens.mean(1, keepdims=True)
        return out


class PromptFlatten(PromptMethod):
    """All tokens of a tuned prompt side by side, by cosine.

    As ``prompt-mean``, but nothing is averaged away: with all tokens of unit length the cosine
    of the concatenations is the mean of the k position-aligned cosines,

        score = (1/k) sum_i cos(p_i^source, p_i^target).

    Only tokens at the same place are compared. That is meaningful because every prompt begins
    as the same vocabulary embeddings; prompts of another seed are not comparable (NaN). The
    forms ``relative`` and ``centred`` and the option ``at`` are those of ``prompt-mean``.

    *Cost.* As ``prompt-mean``; k d = 38,400 products per pair with MiniLM.

    *Fails* as ``prompt-mean`` does, and where two prompts learnt the same at different places:
    ``max`` matches tokens wherever they stand.

    *Reference.* Lin et al. 2024 (arXiv 2407.16245), FLATTEN.
    """

    plain = "prompt-flatten"
    aliases = ("FLATTEN",)

    def embed(self, tokens: Array) -> Array:
        """Join all tokens."""
        return tokens.reshape(len(tokens), 1, -1)


class PromptUnigram(PromptMethod):
    """The mean feature of every prompt token, by cosine over tokens.

    Each unit token is averaged over its d features; what is left is one number per position,

        u_i = (1/d) sum_j p_ij / |p_i|,    score = cos(u_source, u_target),  u of length k.

    It keeps where in the prompt something happened and drops what. The forms ``relative`` and
    ``centred`` and the option ``at`` are those of ``prompt-mean``.

    *Cost.* As ``prompt-mean``; k products per pair.

    *Fails* often: the mean feature of a token is close to noise, and positions have no meaning
    beyond their common beginning. It is here because the paper compares it.

    *Reference.* Lin et al. 2024 (arXiv 2407.16245), UNIGRAM.
    """

    plain = "prompt-unigram"
    aliases = ("UNIGRAM",)

    def embed(self, tokens: Array) -> Array:
        """Average over features."""
        out: Array = tokens.mean(2)[:, None, :]
        return out


class PromptBigram(PromptMethod):
    """Neighbouring prompt tokens joined in pairs, by position-aligned cosines.

    Unit tokens 2i and 2i + 1 are joined to one vector of 2d features (pairs do not overlap),

        score = (2/k) sum_i cos(b_i^source, b_i^target),   b_i = [p_2i; p_2i+1].

    With unit tokens and ``form="raw"`` or ``"relative"`` it equals ``prompt-flatten`` up to
    rounding for even k; they part when the pool's mean is subtracted (``centred``). An odd last
    token is left out.

    *Cost.* As ``prompt-flatten``.

    *Fails* as ``prompt-flatten`` does.

    *Reference.* Lin et al. 2024 (arXiv 2407.16245), BIGRAM.
    """

    plain = "prompt-bigram"
    aliases = ("BIGRAM",)

    def embed(self, tokens: Array) -> Array:
        """Join neighbours."""
        n, k, d = tokens.shape
        return tokens[:, : k - k % 2].reshape(n, -1, 2 * d)


METHODS: dict[str, Factory] = {
    name: factory
    for method in (TupatePrompt, PromptMean, PromptFlatten, PromptUnigram, PromptBigram)
    for name, factory in forms(method, get_args(Form)).items()
}
