"""LoRA factors and products as task embeddings; see :mod:`taskscout.methods.tuned_parameters`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods.method import Description, Factory
from taskscout.methods.tuned_parameters import (
    Array,
    Form,
    Named,
    TunedParameters,
    forms,
    same_encoder,
    tuned_header,
)
from taskscout.models.tuned_model import TunedModel
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task


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

    def own(self, tuned: TunedModel, bench: Workbench) -> dict[str, Array]:  # noqa: ARG002  # of the protocol
        """Take the factors as they are: pools keep them so."""
        return self.keep(tuned.at(self.at))

    def shift(self, tuned: TunedModel, bench: Workbench) -> dict[str, Array] | None:  # noqa: ARG002  # of the protocol
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
            with_batch = products(batch, own, mean)
            with np.errstate(invalid="ignore", divide="ignore"):
                out[chosen] = with_batch.inner / np.sqrt(with_batch.squares * with_target.squares)
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
    factors: dict[str, list[tuple[int, str]]] = {}
    for i, adapter in enumerate(adapters):
        for name in adapter:
            if name.endswith(".lora_A"):
                factors.setdefault(name.removesuffix("A"), []).append((i, name))
    out = {}
    for stem, owners in factors.items():
        a = [np.asarray(adapters[i][f"{stem}A"], np.float64) for i, _ in owners]
        b = [np.asarray(adapters[i][f"{stem}B"], np.float64) for i, _ in owners]
        ranks = [len(x) for x in a]
        out[stem.removesuffix(".lora_")] = (
            np.concatenate(b, 1),
            np.concatenate(a, 0),
            np.repeat([i for i, _ in owners], ranks),
        )
    return out


METHODS: dict[str, Factory] = {
    **forms(Lora, get_args(Form)),
    **forms(LoraProduct, ("relative", "centred")),
}
