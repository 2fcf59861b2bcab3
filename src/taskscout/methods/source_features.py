"""What a source makes of a target's texts: by its own tuned model, or by its space map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods.method import Cost, Description, Need
from taskscout.methods.space_map import Moments, SpaceMap, fit_maps, identity_map
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task

Array = NDArray[np.float64]
#: Scales (B), U and V (B × d × r each) and offsets (B × d) of maps of one rank.
MapBatch: TypeAlias = tuple[Array, NDArray[Any], NDArray[Any], NDArray[Any]]

#: Key of the description that keeps the tuned model itself: adapter and head.
TUNED = "tuned"
#: Sources scored at a time; bounds memory whatever the size of the pool.
_BATCH = 32
#: Arrays of a space map.
_MAP = ("inner", "outer", "offset")


def head_arrays(task: Task, bench: Workbench) -> dict[str, NDArray[np.float16]]:
    """Take the head of a task's tuned model, in half precision."""
    head = bench.tuned(task).model.head
    arrays = {"head.weight": head.weight, "head.bias": head.bias}
    return {k: v.detach().cpu().numpy().astype(np.float16) for k, v in arrays.items()}


def describe_tuned(task: Task, bench: Workbench) -> Description:
    """Keep the tuned model itself: adapter and head in half precision."""
    tuned = bench.tuned(task)
    model = tuned.model
    arrays = {name: a.astype(np.float16) for name, a in tuned.adapter.items()}
    arrays.update(head_arrays(task, bench))
    header = {
        "kind": task.kind,
        "center": model.center,
        "scale": model.scale,
        "encoder": bench.encoder.fingerprint,
        "tuning": tuned.recipe.tuning,
    }
    return Description(TUNED, task.name, header, arrays)


class Backend:
    """Where a score's features come from. The docstring of each is shown below the score's."""

    #: What stands before the name of a score.
    prefix: str = ""
    #: Cited before the score's own paper.
    paper: str = ""
    key: str
    cost: Cost
    needs: frozenset[Need] = frozenset({"labels"})
    #: Whether the base encoder's middle layer is read beside its last.
    middle: bool = False

    def expect(self, bench: Workbench) -> None:
        """Announce that the middle layer will be read, where it will be."""
        if self.middle:
            bench.expect_middle()

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Describe a source."""
        raise NotImplementedError

    def none(self, bench: Workbench) -> Description:
        """Describe the untouched encoder."""
        raise NotImplementedError

    def features(
        self, target: Task, source: Description, bench: Workbench
    ) -> NDArray[np.floating[Any]] | None:
        """Embed the target's training texts as the source does, n × d; None if it cannot."""
        raise NotImplementedError


class SourceModels(Backend):
    """*Source models*: the features are those of each source's own tuned model.

    One forward pass over the target's texts per source, kept on disk. A source keeps adapter and
    head.
    """

    key = TUNED
    needs = frozenset({"labels", "tuned source"})
    cost: Cost = "source models"

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Tune the encoder on the source, and keep adapter and head.

        Raises
        ------
        MethodError
            If the workbench's recipe tunes otherwise than by an adapter.
        """
        tuning = bench.recipe.tuning
        if tuning not in ("lora", "head"):
            raise MethodError(
                f"A source tuned by {tuning!r} cannot be described by its model.",
                "The description keeps the source's model as an adapter.",
                "Use tuning 'lora'.",
            )
        return describe_tuned(source, bench)

    def none(self, bench: Workbench) -> Description:
        """Describe the untouched encoder: no adapter, no head."""
        return Description(TUNED, "none", {"encoder": bench.encoder.fingerprint})

    def features(
        self, target: Task, source: Description, bench: Workbench
    ) -> NDArray[np.floating[Any]] | None:
        """Embed the target with the source's model.

        None for one of another encoder, and for one tuned otherwise than by an adapter.
        """
        if source.header.get("encoder") != bench.encoder.fingerprint:
            return None
        arrays = source.arrays
        adapted = any(name.endswith(".lora_A") for name in arrays)
        if not adapted and arrays and source.header.get("tuning") != "head":
            return None  # a head whose encoder was tuned in a way that is not kept
        return bench.source_embeddings(target, arrays, source=source.source)


class SpaceMaps(Backend):
    """*Space maps*: the features are map_s(F), in place of those of the source's own model.

    The target's base embeddings F are put through a small linear map per source, fitted once. One
    forward pass over the target's texts serves all sources and all methods that read its
    embeddings. A source keeps its map at rank 16 and its head: 26 KB at 384 dimensions. It fails
    where tuning did what no linear map of the last layer can do, text pairs above all. Maps, and
    LogME on them: Schulte et al. 2024 (arXiv 2410.15148), here in closed form (see
    ``docs/benchmarks.md``); other scores on maps are ours.
    """

    prefix, key = "esm-", "space-map"
    cost: Cost = "embedding"
    paper = "Schulte et al. 2024"

    #: Rank of the maps made by :meth:`describe`.
    rank: int = 16
    #: Whether the source's head is kept beside the map: what scores of its predictions read.
    keeps_head: bool = True
    #: At most so many rows of the source are fitted on, and so many tokens; a quarter as many
    #: rows more choose the strength.
    examples: int = 800
    tokens: int = 40_000

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Fit the map from base to tuned embeddings of the source's own texts."""
        # Long texts cost more and tell more: fewer of them do. The model is that of all rows.
        texts, pairs = source.sample(200).inputs("train")
        length = sum(len(r["input_ids"]) for r in bench.encoder.tokenize(texts, pairs)) / len(texts)
        rows = min(self.examples, max(8, int(self.tokens / length)))
        fitted = source.sample(rows)
        if "validation" in fitted.tables:
            fitted = fitted.sample(rows // 4, split="validation")
            train, held_out = (
                Moments.of(
                    bench.embeddings(fitted, s, middle=self.middle),
                    bench.tuned_embeddings(fitted, s, of=source),
                )
                for s in ("train", "validation")
            )
        else:
            base = bench.embeddings(fitted, middle=self.middle)
            tuned = bench.tuned_embeddings(fitted, of=source)
            cut = max(1, len(base) // 5)
            held_out, train = (
                Moments.of(base[:cut], tuned[:cut]),
                Moments.of(base[cut:], tuned[cut:]),
            )
        low, full = fit_maps(train, held_out, ranks=(self.rank, None))
        space_map = low.half()
        return Description(
            self.key,
            source.name,
            {
                "kind": source.kind,
                "scale": space_map.scale,
                "rank": space_map.rank,
                "strength": space_map.strength,
                "explained": round(space_map.explained(held_out), 4),
                "explained_by_full_map": round(full.explained(held_out), 4),
                "encoder": bench.encoder.fingerprint,
            },
            {
                "inner": space_map.inner,
                "outer": space_map.outer,
                "offset": space_map.offset,
                **(head_arrays(source, bench) if self.keeps_head else {}),
            },
        )

    def none(self, bench: Workbench) -> Description:
        """Describe the untouched encoder: the identity map."""
        d = bench.encoder.dimension
        same = identity_map(d, (1 + self.middle) * d)
        return Description(
            self.key,
            "none",
            {"scale": same.scale, "rank": 0, "encoder": bench.encoder.fingerprint},
            {"inner": same.inner, "outer": same.outer, "offset": same.offset},
        )

    def features(
        self, target: Task, source: Description, bench: Workbench
    ) -> NDArray[np.floating[Any]] | None:
        """Map the target's base embeddings; None for a map of another encoder or pooling."""
        if source.header.get("encoder") != bench.encoder.fingerprint:
            return None
        arrays = source.arrays
        space_map = SpaceMap(
            source.header["scale"], arrays["inner"], arrays["outer"], arrays["offset"]
        )
        return space_map(bench.embeddings(target, middle=self.middle))

    def batches(
        self, sources: Sequence[Description], bench: Workbench
    ) -> Iterator[tuple[NDArray[np.int64], MapBatch]]:
        """Stack the maps of this encoder, those of one rank together, a batch at a time.

        Sources are read once, in their order; a map that holds numbers that are not finite is
        passed over.

        Yields
        ------
        Their positions among the sources; and their scales, U, V and offsets.
        """
        waiting: dict[int, list[tuple[int, Description]]] = {}

        def stacked(rank: int) -> tuple[NDArray[np.int64], MapBatch]:
            batch = waiting.pop(rank)
            inner, outer, offset = (np.stack([s.arrays[a] for _, s in batch]) for a in _MAP)
            scale = np.array([s.header["scale"] for _, s in batch])
            return np.array([i for i, _ in batch]), (scale, inner, outer, offset)

        for i in range(len(sources)):
            source = sources[i]
            if source.header.get("encoder") != bench.encoder.fingerprint:
                continue
            if all(_finite(source.arrays[a]) for a in _MAP):
                rank: int = source.header["rank"]
                waiting.setdefault(rank, []).append((i, source))
                if len(waiting[rank]) == _BATCH:
                    yield stacked(rank)
        for rank in sorted(waiting):
            yield stacked(rank)


class LayeredMaps(SpaceMaps):
    """*Layered maps*: the features are a map of two layers of the base encoder.

    map_s(f, g) = s f + V U'[f, g] + b, with f the last layer's embedding and g the middle one's,
    pooled alike. The last layer has forgotten part of what tuning brings to the fore, of text
    pairs above all; the middle layer, which the same forward pass gives, still has it. On other
    tasks' texts such maps explain more of what tuning did, and their scores agree more with those
    of the real source models, than space maps of any rank (``docs/benchmarks.md``). A source keeps
    its map at rank 8, 19 KB at 384 dimensions. Ours; after Schulte et al. 2024 (arXiv 2410.15148).
    """

    prefix, key = "layered-esm-", "layered-map"
    paper = "after Schulte et al. 2024"
    rank = 8
    middle = True
    keeps_head = False


def _finite(array: NDArray[Any]) -> bool:
    """Whether all numbers are finite; half precision is looked at as bits, many times as fast."""
    if array.dtype == np.float16:
        return bool(((array.view(np.uint16) & 0x7C00) != 0x7C00).all())
    return bool(np.isfinite(array).all())
