"""Tuned parameters as task embeddings: tasks whose tuning moved alike are alike (TuPaTE)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, get_args

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

    def similarity(self, sources: Array, target: Array) -> NDArray[np.float64]:
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
            out[chosen] = self.similarity(vectors - mean, target_vector - mean)
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


def forms(factory: Callable[..., TunedParameters], forms: Sequence[Form]) -> dict[str, Factory]:
    """Make a factory per form, by the names the methods give themselves."""
    factories = [partial(factory, form=form) for form in forms]
    return {make().name: make for make in factories}


METHODS: dict[str, Factory] = {
    **forms(Prefix, get_args(Form)),
    **forms(BitFit, get_args(Form)),
    **forms(TaskVector, ("relative", "centred", "raw")),
}
