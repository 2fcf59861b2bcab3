"""Tuned parameters as task embeddings: tasks whose tuning moved alike are alike (TuPaTE)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods.method import BaseMethod, Cost, Description, Factory, Material
from taskscout.models.recipe import Recipe, Tuning
from taskscout.models.tuned_model import TunedModel
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task
from taskscout.tasks.kinds import SOURCE_KINDS

#: ``raw``: the parameters as tuned. ``relative``: minus what they began as. ``centred``: minus
#: the mean over the sources.
Form = Literal["raw", "relative", "centred"]

Array = NDArray[np.float32]
Named = Mapping[str, NDArray[Any]]

#: Numbers held at a time while sources are compared; bounds memory whatever the pool.
_BATCH = 2**24


def cosines(rows: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """Cosines of vectors, along the last axis; NaN where one has no length."""
    a, b = np.asarray(rows, np.float64), np.asarray(others, np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        out: NDArray[np.float64] = np.einsum("...d,...d->...", a, b) / lengths
    return out


def unit(tokens: NDArray[Any]) -> Array:
    """Vectors scaled to unit length along the last axis; a vector of zeros stays one."""
    lengths = np.linalg.norm(tokens, axis=-1, keepdims=True)
    out: Array = (tokens / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return out


def half(arrays: Named) -> tuple[dict[str, NDArray[np.float16]], float]:
    """Arrays in half precision after division by a power of two, and that power.

    The power puts the largest number just below 2**14, so that the small differences of a full
    fine-tuning do not vanish below the least number of half precision.
    """
    largest = max((float(np.abs(a).max()) for a in arrays.values() if a.size), default=0.0)
    scale = 1.0 if largest == 0 else 2.0 ** (np.frexp(largest)[1] - 14)
    return {k: (a / scale).astype(np.float16) for k, a in arrays.items()}, float(scale)


class TunedParameters(BaseMethod):
    """What all methods share that compare tuned parameters.

    Parameters
    ----------
    form
        See :data:`Form`.
    at
        Fraction of the target's training after which its parameters are read.
    source_at
        The same for the sources; a fraction below 1 has a description key of its own.
    """

    kinds = SOURCE_KINDS
    needs = frozenset({"labels", "tuned target"})
    cost: Cost = "tuning"
    describes_from: Material = "own tuning"
    paper = "Zhou et al. 2022"

    #: Name of the method in its paper's form.
    plain: str = ""
    #: Key of the description of the end of training.
    described: str = ""
    tuning: Tuning = "prompt"
    #: Forms that need what the parameters began as to be what the target's began as.
    need_initial: tuple[Form, ...] = ("raw",)

    def __init__(self, *, form: Form = "raw", at: float = 1.0, source_at: float = 1.0) -> None:
        if form not in get_args(Form):
            raise MethodError(
                f"form is {form!r}.",
                f"Parameters are compared {', '.join(get_args(Form))}.",
                "Choose one of these.",
            )
        for name, value in (("at", at), ("source_at", source_at)):
            if not 0 < value <= 1:
                raise MethodError(
                    f"{name} is {value}.",
                    "It is a fraction of the training, above 0 and at most 1.",
                    "Give 1 for the end of training.",
                )
        self.form: Form = form
        self.at = float(at)
        self.source_at = float(source_at)
        self.name = self.plain if form == "raw" else f"{self.plain}-{form}"
        self.key = self.described if source_at == 1 else f"{self.described}@{source_at:g}"

    # -- what a subclass says ---------------------------------------------------------

    def keep(self, vector: Named) -> dict[str, Array]:
        """Say what a description keeps of a task vector; linear in it."""
        raise NotImplementedError

    def vectors(self, kept: Mapping[str, Array]) -> Array:
        """Make of kept arrays of n tasks (n × ...) what is compared: n × m × D."""
        raise NotImplementedError

    def compare(self, sources: Array, target: Array) -> NDArray[np.float64]:
        """Compare n sources (n × m × D) with the target (m × D): the mean of m cosines."""
        out: NDArray[np.float64] = cosines(sources, target).mean(1)
        return out

    def own(self, tuned: TunedModel, bench: Workbench) -> dict[str, Array]:
        """Make of the target's tuned model what descriptions keep of the sources'."""
        from taskscout.models.adapting import task_vector

        return self.keep(task_vector(tuned, bench.encoder, at=self.at))

    def shift(self, tuned: TunedModel, bench: Workbench) -> dict[str, Array] | None:
        """Make what is added to all before they are compared; None for nothing."""
        if self.form not in self.need_initial:
            return None
        if tuned.recipe.tuning != "full":
            return self.keep(tuned.initial)
        from taskscout.models.adapting import initial_parameters

        return self.keep(initial_parameters(bench.encoder, tuned.recipe))

    # -- what all do ------------------------------------------------------------------

    def recipe(self, bench: Workbench, at: float) -> Recipe:
        """How a task is tuned for this method."""
        from dataclasses import replace

        recipe = bench.recipe.with_tuning(self.tuning)
        return recipe if at == 1 else replace(recipe, checkpoints=(at,))

    def expect(self, bench: Workbench) -> None:
        """Tell the workbench which checkpoint of a target's tuning will be read."""
        bench.expect(self.recipe(bench, self.at))

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Tune the encoder on the source and keep what changed."""
        from taskscout.models.adapting import task_vector

        tuned = bench.tuned(source, self.recipe(bench, self.source_at))
        kept = self.keep(task_vector(tuned, bench.encoder, at=self.source_at))
        arrays, scale = half(kept)
        header = {**tuned_header(source, tuned, bench), "scale": scale}
        return Description(self.key, source.name, header, arrays)

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """Cosine with the target's parameters per source.

        NaN for a source tuned with another encoder, for arrays of another shape, and, where the
        form needs it, for another initialisation than the target's.
        """
        out = np.full(len(sources), np.nan)
        rows = same_encoder(sources, bench)
        if not rows:
            return out
        tuned = bench.tuned(target, self.recipe(bench, self.at))
        own = self.own(tuned, bench)
        initial = self.shift(tuned, bench)
        rows = [i for i in rows if self._fits(sources[i], own, tuned)]
        if not rows:
            return out
        target_vector = self._prepared([own], initial)[0]
        mean: Array = np.zeros(1, np.float32)
        if self.form == "centred":
            total = np.zeros(target_vector.shape)
            for _, batch in self._batches(sources, rows):
                total += self._prepared(batch, initial).sum(0, dtype=np.float64)
            mean = (total / len(rows)).astype(np.float32)
        for chosen, batch in self._batches(sources, rows):
            vectors = self._prepared(batch, initial)
            out[chosen] = self.compare(vectors - mean, target_vector - mean)
        return out

    def _fits(self, source: Description, own: Named, tuned: TunedModel) -> bool:
        shapes = {k: a.shape for k, a in self.kept(source).items()}
        if shapes != {k: a.shape for k, a in own.items()}:
            return False
        # A description that does not name its initialisation has the recipe's.
        initialisation = source.header.get("initialisation", tuned.initialisation)
        return self.form not in self.need_initial or initialisation == tuned.initialisation

    def kept(self, source: Description) -> dict[str, NDArray[Any]]:
        """Find what :meth:`keep` kept, as it stands in a description."""
        return dict(source.arrays)

    def _batches(
        self, sources: Sequence[Description], rows: Sequence[int]
    ) -> Iterator[tuple[list[int], list[dict[str, Array]]]]:
        """Read the given sources' arrays, some at a time."""
        size = sum(a.size for a in self.kept(sources[rows[0]]).values())
        count = max(1, _BATCH // max(size, 1))
        for start in range(0, len(rows), count):
            chosen = list(rows[start : start + count])
            yield chosen, [self._read(sources[i]) for i in chosen]

    def _read(self, source: Description) -> dict[str, Array]:
        scale = np.float32(source.header.get("scale", 1.0))
        return {k: a.astype(np.float32) * scale for k, a in self.kept(source).items()}

    def _prepared(
        self, batch: Sequence[Mapping[str, Array]], initial: Mapping[str, Array] | None
    ) -> Array:
        stacked = {k: np.stack([kept[k] for kept in batch]) for k in batch[0]}
        if initial is not None:
            stacked = {k: a + initial[k] for k, a in stacked.items()}
        return self.vectors(stacked)


def same_encoder(sources: Sequence[Description], bench: Workbench) -> list[int]:
    """Find the descriptions made with the workbench's encoder and pooling."""
    encoder = bench.encoder.fingerprint
    return [i for i, s in enumerate(sources) if s.header["encoder"] == encoder]


def tuned_header(task: Task, tuned: TunedModel, bench: Workbench) -> dict[str, Any]:
    """Say what every description of tuned parameters says of their making."""
    recipe = tuned.recipe
    return {
        "kind": task.kind,
        "encoder": bench.encoder.fingerprint,
        "tuning": recipe.tuning,
        "seed": recipe.seed,
        "recipe": recipe.to_dict(),
        "initialisation": tuned.initialisation,
        "trained_on": tuned.trained_on,
    }


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


class Prefix(TunedParameters):
    """The mean of a P-tuning v2 prefix, by cosine.

    P-tuning v2 puts q = 20 tuned keys and values into the attention of every layer and freezes
    the encoder. Their mean over the q positions, all layers' keys and values side by side
    (2 · layers · d numbers), embeds the task:

        e = (1/q) sum_i theta_i,    score = cos(e_source, e_target).

    A prefix begins as random numbers, the same for every task of a seed. ``form="relative"``
    (``prefix-relative``) subtracts them, ``form="centred"`` the sources' mean; raw cosines of
    hardly moved prefixes are all close to 1. ``at`` reads the target's prefix after a fraction
    of its training.

    *Cost.* One tuning per source and one for the target, each cheaper than a prompt's because
    the prefix lengthens only the keys; 9 kB per source with MiniLM.

    *Fails* for encoders that take no keys from outside (MPNet, DeBERTa, ALBERT, ModernBERT);
    between prefixes of different seeds or lengths, raw. Needs the target's labels.

    *Reference.* Zhou et al. 2022 (arXiv 2210.11705); Liu et al. 2022 (P-tuning v2).
    """

    plain = "prefix"
    aliases = ("P-tuning v2", "TuPaTE-P-tuning-v2")
    described = "prefix"
    tuning = "p-tuning-v2"

    def keep(self, vector: Named) -> dict[str, Array]:
        """Keep the mean over positions."""
        return {"mean": np.asarray(vector["prefix"].mean(0), np.float32)}

    def vectors(self, kept: Mapping[str, Array]) -> Array:
        """Take the mean as it is."""
        return kept["mean"][:, None, :]


class BitFit(TunedParameters):
    """All tuned biases side by side, by cosine.

    BitFit tunes the biases of every layer and freezes all weights. The biases, joined in the
    model's order, embed the task:

        e = [b_1; b_2; ...],    score = cos(e_source, e_target).

    The paper compares the biases as they stand, the pre-trained part included, which is most of
    them. ``form="relative"`` (``bitfit-relative``) compares what tuning changed,
    ``form="centred"`` subtracts the mean over the sources. ``at`` reads the target's biases
    after a fraction of its training.

    *Cost.* One tuning per source and one for the target (forward and backward through the whole
    encoder, few parameters); 51 kB per source with MiniLM.

    *Fails* for models without biases (most decoders, ModernBERT). Raw cosines lie within a
    hair of 1. Needs the target's labels.

    *Reference.* Zhou et al. 2022 (arXiv 2210.11705); Ben Zaken et al. 2022 (BitFit).
    """

    plain = "bitfit"
    aliases = ("TuPaTE-BitFit",)
    described = "bitfit"
    tuning = "bitfit"

    def keep(self, vector: Named) -> dict[str, Array]:
        """Keep all of it, joined."""
        return {"biases": _joined(vector)}

    def vectors(self, kept: Mapping[str, Array]) -> Array:
        """Take the biases as they are."""
        return kept["biases"][:, None, :]


class TaskVector(TunedParameters):
    """What full fine-tuning changed, by cosine.

    The whole encoder is fine-tuned on the task; the task vector is the difference to the
    pre-trained weights, and its direction embeds the task:

        tau = theta_tuned - theta_pretrained,    score = cos(tau_source, tau_target).

    Here the paper's form is ``relative``, and it is the default; ``form="centred"``
    (``task-vector-centred``) subtracts the mean over the sources, ``form="raw"`` compares the
    weights themselves, whose cosines are 1 to four digits.

    *Cost.* One full fine-tuning per source and one for the target, and a vector as large as the
    model: 45 MB per source with MiniLM in half precision. Not in the built-in pool; made on
    demand for a pool of your own. Sources are read one by one, ``centred`` reads them twice.

    *Fails* where the two tunings differ in length: a longer one moves further along directions
    that all tasks share. Word embeddings count too, so tasks of one vocabulary look alike. Needs
    the target's labels.

    *Reference.* Ilharco et al. 2023 (arXiv 2212.04089); as an embedding in the sense of Zhou et
    al. 2022.
    """

    plain = "task-vector"
    described = "task-vector"
    tuning = "full"
    paper = "Ilharco et al. 2023"

    def __init__(self, *, form: Form = "relative", at: float = 1.0, source_at: float = 1.0) -> None:
        super().__init__(form=form, at=at, source_at=source_at)
        self.name = self.plain if form == "relative" else f"{self.plain}-{form}"

    def keep(self, vector: Named) -> dict[str, Array]:
        """Keep all of it, joined."""
        return {"vector": _joined(vector)}

    def vectors(self, kept: Mapping[str, Array]) -> Array:
        """Take the vector as it is."""
        return kept["vector"][:, None, :]


def _joined(arrays: Named) -> Array:
    """Arrays flattened and joined, by the order of their names."""
    return np.concatenate([np.asarray(arrays[k], np.float32).ravel() for k in sorted(arrays)])


def _is_factor(name: str) -> bool:
    return name.endswith((".lora_A", ".lora_B"))


class LoraMethod(TunedParameters):
    """What both LoRA methods share: they read the adapter that a pool keeps of every source."""

    described = "tuned"
    describes_from = "tuned model"
    tuning = "lora"

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Keep adapter and head in half precision, as every pool does under this key."""
        tuned = bench.tuned(source, self.recipe(bench, self.source_at))
        head = tuned.model.head
        arrays = {
            **tuned.at(self.source_at),
            "head.weight": head.weight.detach().cpu().numpy(),
            "head.bias": head.bias.detach().cpu().numpy(),
        }
        header = {
            **tuned_header(source, tuned, bench),
            "center": tuned.model.center,
            "scale": tuned.model.scale,
        }
        halves = {k: a.astype(np.float16) for k, a in arrays.items()}
        return Description(self.key, source.name, header, halves)

    def kept(self, source: Description) -> dict[str, NDArray[Any]]:
        """Leave out the head."""
        return {k: a for k, a in source.arrays.items() if _is_factor(k)}

    def _read(self, source: Description) -> dict[str, Array]:
        # The header's ``scale`` is the head's.
        return {k: a.astype(np.float32) for k, a in self.kept(source).items()}


class Lora(LoraMethod):
    """The two factors of every adapted layer side by side, by cosine.

    LoRA tunes a product B A beside every adapted weight. Here all factors, as they are, are
    joined to one vector:

        e = [A_1; B_1; A_2; B_2; ...],    score = cos(e_source, e_target).

    The factors of one update are not unique (B R and R^-1 A give the same product), so this
    compares only tunings that began as the same factors: one seed, one rank. B begins as zero,
    A as random numbers; ``form="relative"`` (``lora-relative``) subtracts them,
    ``form="centred"`` the sources' mean. ``lora-product`` has none of these cares. ``at`` reads
    the target's factors after a fraction of its training.

    *Cost.* Nothing per source beyond the adapter that a pool keeps anyway (0.35 MB at rank 4
    with MiniLM); one LoRA tuning for the target.

    *Fails* between adapters of different seeds, ranks or layers (NaN). The A factors outweigh
    the B factors in length. Needs the target's labels.

    *Reference.* Zhou et al. 2022 (arXiv 2210.11705), who adapt query and value only
    (recipe ``modules="query-value"``).
    """

    plain = "lora"
    aliases = ("TuPaTE-LoRA",)
    need_initial = get_args(Form)

    def keep(self, vector: Named) -> dict[str, Array]:
        """Keep the factors."""
        return {k: np.asarray(a, np.float32) for k, a in vector.items()}

    def own(self, tuned: TunedModel, bench: Workbench) -> dict[str, Array]:  # noqa: ARG002
        """Take the factors as they are: pools keep them so."""
        return self.keep(tuned.at(self.at))

    def shift(self, tuned: TunedModel, bench: Workbench) -> dict[str, Array] | None:  # noqa: ARG002
        """Subtract what the factors began as, for the form that asks it."""
        return {k: -a for k, a in tuned.initial.items()} if self.form == "relative" else None

    def vectors(self, kept: Mapping[str, Array]) -> Array:
        """Join the factors."""
        n = len(next(iter(kept.values())))
        return np.concatenate([kept[k].reshape(n, -1) for k in sorted(kept)], 1)[:, None, :]


class LoraProduct(LoraMethod):
    """What LoRA adds to the weights, B A over all layers, by cosine.

    The update itself is compared, not its factors:

        score = sum_l <B_l A_l, B'_l A'_l> / (|BA| |B'A'|),
        <B A, B' A'> = tr(A' A^T B^T B') = sum of (B^T B') * (A A'^T),

    r × r' numbers per layer, so no product is ever formed. The score does not change when the
    factors are turned (B R, R^-1 A), nor with the seed's random A, and adapters of different
    ranks compare; a layer that one of them leaves alone counts as zero there. B begins as zero,
    so the product is relative to the initialisation already. ``form="centred"``
    (``lora-product-centred``) subtracts the mean product over the sources (it is formed, one
    layer beside the other: as many numbers as the adapted weights). ``at`` reads the target's
    factors after a fraction of its training.

    *Cost.* As ``lora``: the pool's adapters serve as they are; one LoRA tuning for the target.

    *Fails* where updates of low rank hardly overlap: cosines are small, and their order can be
    noise for short trainings. Needs the target's labels.

    *Reference.* Ours; the raw factors are Zhou et al. 2022 (arXiv 2210.11705).
    """

    plain = "lora-product"

    def __init__(
        self,
        *,
        form: Literal["relative", "centred"] = "relative",
        at: float = 1.0,
        source_at: float = 1.0,
    ) -> None:
        if form not in ("relative", "centred"):
            raise MethodError(
                f"form is {form!r}.",
                "A product B A is relative to its beginning already: B begins as zero.",
                "Use 'relative' or 'centred'.",
            )
        super().__init__(form=form, at=at, source_at=source_at)
        self.name = self.plain if form == "relative" else f"{self.plain}-{form}"

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """Cosine with the target's update per source; NaN for another encoder's."""
        out = np.full(len(sources), np.nan)
        rows = same_encoder(sources, bench)
        if not rows:
            return out
        own = bench.tuned(target, self.recipe(bench, self.at)).at(self.at)
        mean: dict[str, NDArray[np.float64]] = {}
        if self.form == "centred":
            for _, batch in self._batches(sources, rows):
                for layer, (b, a, _) in _stacked(batch).items():
                    mean[layer] = mean.get(layer, 0.0) + b @ a / len(rows)
        with_target = products([own], own, mean)
        for chosen, batch in self._batches(sources, rows):
            found = products(batch, own, mean)
            with np.errstate(invalid="ignore", divide="ignore"):
                out[chosen] = found.inner / np.sqrt(found.squares * with_target.squares)
        return out


class Products(NamedTuple):
    """Inner products of updates: with another's, and with themselves."""

    inner: NDArray[np.float64]
    squares: NDArray[np.float64]


def products(
    adapters: Sequence[Named], other: Named, mean: Mapping[str, NDArray[np.float64]]
) -> Products:
    """<X_i - M, Y - M> and |X_i - M|² for updates X_i = B_i A_i, Y, and a mean M by layer.

    Parameters
    ----------
    adapters
        Factors ``<layer>.lora_A`` (r × in) and ``<layer>.lora_B`` (out × r) of n adapters; ranks
        and layers may differ.
    other
        Factors of Y.
    mean
        M (out × in) by layer; empty for zero.
    """
    n = len(adapters)
    stacked, ys = _stacked(adapters), _stacked([other])
    inner, squares = np.zeros(n), np.zeros(n)
    for layer, m in mean.items():
        square = float((m**2).sum())
        inner += square
        squares += square
        if layer in ys:
            y_b, y_a, _ = ys[layer]
            inner -= float(((y_b.T @ m) * y_a).sum())
    for layer, (b, a, owner) in stacked.items():
        by_owner = partial(np.bincount, owner, minlength=n)
        # Only blocks of one owner count.
        same = owner[:, None] == owner
        squares += by_owner(((b.T @ b) * (a @ a.T) * same).sum(1))
        if layer in ys:
            y_b, y_a, _ = ys[layer]
            inner += by_owner(((b.T @ y_b) * (a @ y_a.T)).sum(1))
        if layer in mean:
            with_mean = by_owner(((b.T @ mean[layer]) * a).sum(1))
            inner -= with_mean
            squares -= 2 * with_mean
    return Products(inner, squares)


_Stacked = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]


def _stacked(adapters: Sequence[Named]) -> dict[str, _Stacked]:
    """By layer: all B side by side, all A one above the other, and whose each rank is."""
    found: dict[str, list[tuple[int, str]]] = {}
    for i, adapter in enumerate(adapters):
        for name in adapter:
            if name.endswith(".lora_A"):
                found.setdefault(name.removesuffix("A"), []).append((i, name))
    out = {}
    for stem, owners in found.items():
        a = [np.asarray(adapters[i][f"{stem}A"], np.float64) for i, _ in owners]
        b = [np.asarray(adapters[i][f"{stem}B"], np.float64) for i, _ in owners]
        ranks = [len(x) for x in a]
        out[stem.removesuffix(".lora_")] = (
            np.concatenate(b, 1),
            np.concatenate(a, 0),
            np.repeat([i for i, _ in owners], ranks),
        )
    return out


def _forms(factory: Callable[..., TunedParameters], forms: Sequence[Form]) -> dict[str, Factory]:
    """Make a factory per form, by the names the methods give themselves."""
    made = [partial(factory, form=form) for form in forms]
    return {make().name: make for make in made}


METHODS: dict[str, Factory] = {
    **_forms(TupatePrompt, get_args(Form)),
    **_forms(PromptMean, get_args(Form)),
    **_forms(PromptFlatten, get_args(Form)),
    **_forms(PromptUnigram, get_args(Form)),
    **_forms(PromptBigram, get_args(Form)),
    **_forms(Prefix, get_args(Form)),
    **_forms(Lora, get_args(Form)),
    **_forms(LoraProduct, ("relative", "centred")),
    **_forms(BitFit, get_args(Form)),
    **_forms(TaskVector, ("relative", "centred", "raw")),
}
