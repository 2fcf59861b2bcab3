"""What a source makes of a target's texts: by its own tuned model, or by its space map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods.evidence_rows import EvidenceRows
from taskscout.methods.method import Cost, Description, Need
from taskscout.methods.space_map import Moments, SpaceMap, fit_maps, identity_map
from taskscout.models.tuned_model import is_change
from taskscout.models.words import Words, words_of
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task
from taskscout.tasks.parts import choices

Array = NDArray[np.float64]
#: Scales (B), U and V (B × d × r each) and offsets (B × d) of maps of one rank.
MapBatch: TypeAlias = tuple[Array, NDArray[Any], NDArray[Any], NDArray[Any]]

#: Key of the description that keeps the tuned model itself: adapter and head.
TUNED = "tuned"
#: Sources scored at a time; bounds memory whatever the size of the pool.
_BATCH = 32
#: Arrays of a space map.
_MAP = ("inner", "outer", "offset")
#: What stands before the names of the arrays of a map of words, and its key in the header.
WORDS = "words"
#: Words that a map of words is fitted to, at most; as many more as a quarter choose the strength.
_WORDS = 8_000


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
        "center": getattr(model, "center", 0.0),
        "scale": getattr(model, "scale", 1.0),
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
        self, rows: EvidenceRows, source: Description, bench: Workbench
    ) -> NDArray[np.floating[Any]] | None:
        """Embed the target's rows as the source does, n × d; None if it cannot."""
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
        self, rows: EvidenceRows, source: Description, bench: Workbench
    ) -> NDArray[np.floating[Any]] | None:
        """Embed the target's rows with the source's model.

        None for one of another encoder, and for one tuned otherwise than by an adapter.
        """
        if source.header.get("encoder") != bench.encoder.fingerprint:
            return None
        arrays = source.arrays
        adapted = any(map(is_change, arrays))
        if not adapted and arrays and source.header.get("tuning") != "head":
            return None  # a head whose encoder was tuned in a way that is not kept
        return rows.source_features(bench, arrays, source.source)


class SpaceMaps(Backend):
    """*Space maps*: the features are map_s(F), in place of those of the source's own model.

    The target's base embeddings F are put through a small linear map per source, fitted once. One
    forward pass over the target's texts serves all sources and all methods that read its
    embeddings. A source keeps its map at rank 16 and its head: 26 KB at 384 dimensions; and as much
    again for a map of words, which serves targets whose rows are words (tags). It fails
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
        """Fit the maps from base to tuned embeddings of the source's own texts, and of its words.

        Texts are those that the source's model was tuned to read: choices behind their questions,
        contexts behind theirs. A target whose rows are words is put through the map of words.
        """
        # Long texts cost more and tell more: fewer of them do. The model is that of all rows.
        read = as_read(source)
        texts, pairs = read.sample(200).inputs("train")
        length = sum(len(r["input_ids"]) for r in bench.encoder.tokenize(texts, pairs)) / len(texts)
        rows = min(self.examples, max(8, int(self.tokens / length)))
        fitted = read.sample(rows)
        if "validation" in fitted.tables:
            fitted = fitted.sample(rows // 4, split="validation")
        header, arrays = self._fitted(source, fitted, bench, words=False)
        if bench.encoder.tokenizer.is_fast:
            header[WORDS], of_words = self._fitted(source, fitted, bench, words=True)
            arrays |= {f"{WORDS}.{name}": array for name, array in of_words.items()}
        if self.keeps_head:
            arrays |= head_arrays(source, bench)
        header |= {"kind": source.kind, "encoder": bench.encoder.fingerprint}
        return Description(self.key, source.name, header, arrays)

    def _fitted(
        self, source: Task, fitted: Task, bench: Workbench, *, words: bool
    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Fit a map of whole texts or of words; what its header says, and its arrays."""

        def embedded(split: str, most: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            chosen = _some_words(fitted, split, most) if words else None
            return (
                bench.embeddings(fitted, split, middle=self.middle, words=chosen),
                bench.tuned_embeddings(fitted, split, of=source, words=chosen),
            )

        if "validation" in fitted.tables:
            train = Moments.of(*embedded("train", _WORDS))
            held_out = Moments.of(*embedded("validation", _WORDS // 4))
        else:
            base, tuned = embedded("train", _WORDS)
            cut = max(1, len(base) // 5)
            held_out, train = (
                Moments.of(base[:cut], tuned[:cut]),
                Moments.of(base[cut:], tuned[cut:]),
            )
        low, full = fit_maps(train, held_out, ranks=(self.rank, None))
        space_map = low.half()
        header = {
            "scale": space_map.scale,
            "rank": space_map.rank,
            "strength": space_map.strength,
            "explained": round(space_map.explained(held_out), 4),
            "explained_by_full_map": round(full.explained(held_out), 4),
        }
        return header, {name: getattr(space_map, name) for name in _MAP}

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
        self, rows: EvidenceRows, source: Description, bench: Workbench
    ) -> NDArray[np.floating[Any]] | None:
        """Map the base embeddings of the target's rows; None for a map of another encoder."""
        if source.header.get("encoder") != bench.encoder.fingerprint:
            return None
        return _map_for(rows, source)(rows.features(bench, middle=self.middle))

    def batches(
        self, rows: EvidenceRows, sources: Sequence[Description], bench: Workbench
    ) -> Iterator[tuple[NDArray[np.int64], MapBatch]]:
        """Stack the maps of this encoder, those of one rank together, a batch at a time.

        Sources are read once, in their order; a map that holds numbers that are not finite is
        passed over. Where features count about means, maps have no offset.

        Yields
        ------
        Their positions among the sources; and their scales, U, V and offsets.
        """
        waiting: dict[int, list[tuple[int, SpaceMap]]] = {}

        def stacked(rank: int) -> tuple[NDArray[np.int64], MapBatch]:
            batch = waiting.pop(rank)
            inner, outer, offset = (np.stack([getattr(m, a) for _, m in batch]) for a in _MAP)
            scale = np.array([m.scale for _, m in batch])
            if rows.within:
                offset = np.zeros_like(offset)
            return np.array([i for i, _ in batch]), (scale, inner, outer, offset)

        for i in range(len(sources)):
            source = sources[i]
            if source.header.get("encoder") != bench.encoder.fingerprint:
                continue
            space_map = _map_for(rows, source)
            if all(_finite(getattr(space_map, a)) for a in _MAP):
                waiting.setdefault(space_map.rank, []).append((i, space_map))
                if len(waiting[space_map.rank]) == _BATCH:
                    yield stacked(space_map.rank)
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


def as_read(task: Task) -> Task:
    """Make the texts that a model of the task reads: choices one by one; others as they are."""
    if task.kind != "multiple_choice":
        return task
    tables = {}
    for split in task.splits:
        texts, offered, _ = choices(task, split)
        columns = {"text": texts, "text_pair": offered, "label": np.zeros(len(texts), np.int64)}
        tables[split] = pa.table(columns)
    return Task(task.name, "classification", tables, ("choice",))


def _some_words(task: Task, split: str, most: int) -> Words:
    """Choose words of a split's texts, spread over all of them; of the first text of a pair."""
    words = words_of(task.inputs(split)[0])
    if len(words) <= most:
        return words
    return words.take(np.linspace(0, len(words), most, endpoint=False).astype(np.int64))


def _map_for(rows: EvidenceRows, source: Description) -> SpaceMap:
    """Take a source's map of words for rows that are words, where it has one, else that of texts.

    The state of a word and the mean of states are in one space, so that a map of texts has an
    answer for words too, if a poorer one.
    """
    header, arrays, prefix = source.header, source.arrays, ""
    if rows.words is not None and WORDS in header:
        header, prefix = header[WORDS], f"{WORDS}."
    inner, outer, offset = (arrays[prefix + name] for name in _MAP)
    return SpaceMap(header["scale"], inner, outer, offset)


def _finite(array: NDArray[Any]) -> bool:
    """Whether all numbers are finite; half precision is looked at as bits, many times as fast."""
    if array.dtype == np.float16:
        return bool(((array.view(np.uint16) & 0x7C00) != 0x7C00).all())
    return bool(np.isfinite(array).all())
