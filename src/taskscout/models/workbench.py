"""The workbench: hands out, once, whatever is costly."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from taskscout.models.cache import EmbeddingCache, NoCache
from taskscout.models.encoder import Encoder, Progress
from taskscout.models.recipe import Recipe
from taskscout.models.tuned_model import TunedModel, is_change
from taskscout.models.words import Words, encode_words
from taskscout.tasks import Task

if TYPE_CHECKING:
    from taskscout.models.tuned_store import TunedStore


class Sums(Protocol):
    """Sums over embeddings, as a workbench keeps them: one vector of numbers."""

    def to_vector(self) -> NDArray[np.float64]:
        """All numbers in one vector."""


_Sums = TypeVar("_Sums", bound=Sums)

#: Bytes of embeddings under sources' models that a workbench holds in memory.
_SOURCE_BYTES = 256 * 2**20


class Workbench:
    """Embeddings and tuned models of tasks, each made once.

    Base embeddings are kept on disk per text (:class:`EmbeddingCache`), tuned models beside them
    (:class:`taskscout.models.tuned_store.TunedStore`), all else in memory for the workbench's
    life. Ten methods that need a target's embeddings cause one forward pass.

    Parameters
    ----------
    encoder
        The pre-trained model everything starts from; None for the embedded default.
    cache
        Where embeddings and tuned models are kept; None for the user's cache, ``NoCache()``
        for memory alone.
    recipe
        How tasks are tuned; None for the default recipe.
    progress
        Called with (what, done, total) on long work.
    """

    def __init__(
        self,
        encoder: Encoder | None = None,
        *,
        cache: EmbeddingCache | NoCache | None = None,
        recipe: Recipe | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self.encoder = encoder or Encoder()
        self.cache = cache if cache is not None else EmbeddingCache()
        self._recipe = recipe
        self._progress = progress
        self._kept: dict[tuple[Any, ...], Any] = {}
        self._expected: dict[Recipe, set[float]] = {}
        self._middle_expected = False
        #: Texts embedded by a forward pass.
        self.embedded = 0
        self._recalled: dict[tuple[str, int], int] = {}
        #: Models tuned by this workbench, without those found on disk.
        self.tunings = 0
        #: Seconds spent on ``loading`` the encoder (imports included) and on ``embedding``.
        self.seconds: dict[str, float] = {"loading": 0.0, "embedding": 0.0}

    def with_encoder(self, encoder: Encoder) -> Workbench:
        """Make a workbench for another encoder, with the same cache and reports."""
        return Workbench(encoder, cache=self.cache, recipe=self._recipe, progress=self._progress)

    @property
    def recipe(self) -> Recipe:
        """How tasks are tuned."""
        return self._recipe or Recipe()

    @property
    def recalled(self) -> int:
        """Texts whose embedding the cache had, counted once however many methods read them."""
        return sum(self._recalled.values())

    def _count_recalled(self, space: str, keys: Sequence[bytes], texts: int) -> None:
        """Note that the cache had the embeddings, or sums over them, of so many of these texts."""
        self._recalled[space, hash(tuple(keys))] = texts

    def once(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        """Make something the first time it is asked for, and hand out the same thing after that.

        Parameters
        ----------
        key
            Whose it is and what it is. What belongs to a task begins with its fingerprint, and
            :meth:`forget` drops it.
        make
            Makes it.
        """
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def _progress_for(self, what: str) -> Progress | None:
        report = self._progress
        return None if report is None else lambda done, total: report(what, done, total)

    def forget(self, task: Task) -> None:
        """Drop what is kept in memory for a task, its tuned model above all."""
        for key in [k for k in self._kept if k[0] == task.fingerprint]:
            del self._kept[key]

    def embeddings(
        self,
        task: Task,
        split: str = "train",
        *,
        middle: bool = False,
        words: Words | None = None,
    ) -> NDArray[np.float32]:
        """Get base embeddings of a split, n × d; n × 2d with those of the middle layer beside.

        One of each example, or of each of the ``words`` that stand in its texts.
        """

        def make() -> NDArray[np.float32]:
            return self.embed(
                *task.inputs(split), middle=middle, what=f"embedding {task.name}", words=words
            )

        order = _order(task, split, words)
        both = (task.fingerprint, split, "base and middle", order)
        if not middle and (both in self._kept or self._middle_expected):
            both_layers = self.embeddings(task, split, middle=True, words=words)
            return both_layers[:, : self.encoder.dimension]
        key = both if middle else (task.fingerprint, split, "base", order)
        out: NDArray[np.float32] = self.once(key, make)
        return out

    def expect_middle(self) -> None:
        """Take the middle layer along in whatever pass comes first, also where others ask first."""
        self._middle_expected = True

    def embed(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        middle: bool = False,
        what: str = "embedding",
        words: Words | None = None,
    ) -> NDArray[np.float32]:
        """Embed texts with the base encoder (n × d), from the cache where it has them.

        With ``middle``, the middle layer's embeddings stand beside the last's, n × 2d; with
        ``words``, there is a row for each of them. New embeddings reach the disk in blocks, so a
        run that is killed loses little.
        """
        label = f"{self.encoder.model_id} {self.encoder.pooling}"
        spaces = {self.encoder.space: label}
        if middle:
            spaces[f"{self.encoder.space}+middle"] = f"{label}, middle layer"
        return self._embed(texts, pairs, spaces, self._base_model, what, words)

    def _embed(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        spaces: Mapping[str, str],
        model: Callable[[], AbstractContextManager[Any]],
        what: str,
        words: Words | None,
    ) -> NDArray[np.float32]:
        """Embed texts, or words of them, by a model made ready only if the cache lacks some.

        ``spaces`` are those of the last layer and, where there is a second, of the middle one,
        each with its label in the cache.
        """
        d = self.encoder.dimension
        keys = row_keys(texts, pairs, words)
        owners = np.arange(len(texts)) if words is None else words.owners
        out = np.empty((len(keys), len(spaces) * d), np.float32)
        if not len(keys):
            return out
        lacking = np.zeros((len(spaces), len(keys)), bool)
        for i, space in enumerate(spaces):
            cached, is_cached = self.cache.get(space, keys)
            if cached is not None:
                out[:, i * d : (i + 1) * d] = cached
            lacking[i] = ~is_cached
        missing = np.flatnonzero(lacking.any(0))
        read = len(np.unique(owners[missing]))
        if read < len(np.unique(owners)):
            self._count_recalled(next(iter(spaces)), keys, len(np.unique(owners)) - read)
        self.embedded += read
        if not len(missing):
            return out
        for space, label in spaces.items():
            self.cache.label(space, label)
        # Longest first over all blocks, so that a block pads little.
        lengths = np.array(
            [len(text) + (len(pairs[i]) if pairs else 0) for i, text in enumerate(texts)]
        )
        missing = missing[np.lexsort((owners[missing], -lengths[owners[missing]]))]
        progress = self._progress_for(what)
        block = 64 * self.encoder.batch_size
        begun = time.perf_counter()
        with model() as ready:
            loaded = time.perf_counter()
            self.seconds["loading"] += loaded - begun
            for start in range(0, len(missing), block):
                rows = missing[start : start + block]

                def report(done: int, _: int, start: int = start) -> None:
                    if progress is not None:
                        progress(start + done, len(missing))

                embeddings = self._encoded(
                    texts, pairs, words, rows, model=ready, middle=len(spaces) > 1, progress=report
                )
                for i, space in enumerate(spaces):
                    new, part = lacking[i, rows], slice(i * d, (i + 1) * d)
                    out[rows[new], part] = embeddings[new, part]
                    new_keys = [keys[j] for j in rows[new].tolist()]
                    self.cache.put(space, new_keys, embeddings[new, part])
        self.seconds["embedding"] += time.perf_counter() - loaded
        return out

    def _encoded(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        words: Words | None,
        rows: NDArray[np.int64] | None = None,
        **options: Any,
    ) -> NDArray[np.float32]:
        """Embed the given rows, all by default: texts, or the words of some texts."""
        if words is not None:
            words = words if rows is None else words.take(rows)
            return encode_words(self.encoder, texts, pairs, words, **options)
        if rows is not None:
            pairs = None if pairs is None else [pairs[i] for i in rows.tolist()]
            texts = [texts[i] for i in rows.tolist()]
        return self.encoder.encode(texts, pairs, **options)

    @contextmanager
    def _base_model(self) -> Iterator[None]:
        """Load the encoder's own model; None is what :meth:`Encoder.encode` knows it by."""
        self.encoder.warm_up()
        yield None

    def statistics(
        self,
        task: Task,
        columns: NDArray[np.float64],
        make: Callable[[], _Sums],
        read: Callable[[NDArray[np.float64]], _Sums],
        *,
        middle: bool = False,
        words: Words | None = None,
        grouping: bytes = b"",
        what: str = "statistics",
    ) -> _Sums:
        """Get sums over a task's training embeddings and label columns, made once.

        They are kept on disk where embeddings are, in a space of their own, under a key of the
        encoder, the texts and the label columns; dropping the embeddings drops them too.

        Parameters
        ----------
        task
            Whose training rows.
        columns
            Label columns, n × C, in the order of the rows.
        make
            Computes the sums, where neither memory nor disk has them.
        read
            The inverse of the sums' ``to_vector``. A ValueError says that a vector is not theirs,
            as of an encoder that has changed under the same name; they are made again then.
        middle
            Whether the middle layer's embeddings are summed too.
        words
            Words that are embedded in place of whole texts.
        grouping
            Further content that the sums depend on.
        what
            Names the space that they are kept in; all vectors of one have one length.
        """
        texts, pairs = task.inputs("train")
        keys = row_keys(texts, pairs, words)
        digest = hashlib.blake2b(np.ascontiguousarray(columns).tobytes(), digest_size=16)
        digest.update(b"".join(keys) + grouping)
        key = digest.digest()
        space = f"{self.encoder.space}{'+middle' * middle}+{what}-{columns.shape[1]}"

        def recall_or_make() -> _Sums:
            rows, is_cached = self.cache.get(space, [key])
            if rows is not None and is_cached[0]:
                try:
                    # The cache keeps rows of float32; here two of them are a float64.
                    sums = read(np.ascontiguousarray(rows[0]).view("<f8").astype(np.float64))
                except ValueError:
                    pass
                else:
                    self._count_recalled(self.encoder.space, keys, len(texts))
                    return sums
            sums = make()
            vector = sums.to_vector()
            if np.isfinite(vector).all():
                row: NDArray[Any] = vector.astype("<f8").view("<f4")[None]
                self.cache.put(space, [key], row)
                self.cache.label(space, f"{what} of targets under {self.encoder.model_id}")
            return sums

        which = (task.fingerprint, "train", what, middle, key)
        sums: _Sums = self.once(which, recall_or_make)
        return sums

    def source_embeddings(
        self,
        task: Task,
        adapter: Mapping[str, NDArray[Any]],
        split: str = "train",
        *,
        source: str = "a source",
        words: Words | None = None,
    ) -> NDArray[np.float32]:
        """Embed a split with the encoder as a source's adapter changes it, n × d.

        They are kept on disk under a key of their own, made of the encoder's and the adapter's
        content, so a second run makes no forward pass; and in memory as far as a fixed budget
        goes.

        Parameters
        ----------
        task
            The target.
        adapter
            LoRA factors and differences as
            :class:`taskscout.models.tuned_model.TunedModel` keeps them; arrays of
            other names, such as a head's, are passed over. Without any, the base embeddings.
        split
            Of the target.
        source
            Its name, for progress.
        words
            Words to embed in place of whole texts.
        """
        adapter = {k: a for k, a in adapter.items() if is_change(k)}
        if not adapter:
            return self.embeddings(task, split, words=words)
        digest = hashlib.blake2b(digest_size=16)
        for name in sorted(adapter):
            array = np.ascontiguousarray(adapter[name])
            digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
            digest.update(array.tobytes())
        texts, pairs = task.inputs(split)
        key = (task.fingerprint, split, "source", digest.hexdigest(), _order(task, split, words))
        if key in self._kept:
            in_memory: NDArray[np.float32] = self._kept[key]
            return in_memory
        out = self._embed(
            texts,
            pairs,
            {
                f"{self.encoder.space}+{digest.hexdigest()}": (
                    f"{self.encoder.model_id} {self.encoder.pooling}, tuned on {source}"
                )
            },
            lambda: self._adapted_model(adapter),
            f"embedding {task.name} as {source} does",
            words,
        )
        held = sum(a.nbytes for k, a in self._kept.items() if k[2:3] == ("source",))
        if held + out.nbytes <= _SOURCE_BYTES:
            self._kept[key] = out
        return out

    @cached_property
    def _carrier(self) -> Any:
        """Keep one copy of the base model to put adapters into, one at a time."""
        return self.encoder.load_model().to(self.encoder.device)

    @contextmanager
    def _adapted_model(self, adapter: Mapping[str, NDArray[Any]]) -> Iterator[Any]:
        """Lend the base model with an adapter merged in; its own weights come back untouched."""
        from taskscout.models.adapting import apply_adapter, changed_parameters

        parameters = changed_parameters(self._carrier, adapter)
        own = [p.data for p in parameters]
        try:
            for parameter in parameters:
                parameter.data = parameter.data.clone()
            yield apply_adapter(self._carrier, adapter)
        finally:
            for parameter, data in zip(parameters, own, strict=True):
                parameter.data = data

    def expect(self, recipe: Recipe) -> None:
        """Keep a recipe's checkpoints in whatever runs it has, also where others ask first."""
        plain = replace(recipe, checkpoints=())
        self._expected.setdefault(plain, set()).update(recipe.checkpoints)

    def tuned(self, task: Task, recipe: Recipe | None = None) -> TunedModel:
        """Tune the encoder on a task: once per task, tuning and seed.

        It is kept in memory, and on disk beside the embeddings where there is a cache.
        Checkpoints make no new run: a run that kept too few of them is made again, with those
        it had and those now asked for, and ends with the same parameters. Those of
        :meth:`expect` are kept from the first run on.

        Parameters
        ----------
        task
            A task of any kind; language models tuned on text-to-text are kept in memory only.
        recipe
            None for the workbench's own.
        """
        from taskscout.models.tuned_store import from_bytes, to_bytes
        from taskscout.models.tuning import tune

        recipe = recipe or self.recipe
        plain = replace(recipe, checkpoints=())
        key = (task.fingerprint, "tuned", plain)
        model: TunedModel | None = self._kept.get(key)
        # On disk are bodies with a head of ours only.
        has_head = task.kind != "text_to_text"
        store = self._store if has_head else None
        if model is None and store is not None:
            model = store.get(task, self.encoder, recipe)
        checkpoints = () if model is None else tuple(model.checkpoints)
        if model is None or not set(recipe.checkpoints) <= set(checkpoints):
            expected = self._expected.get(plain, ())
            recipe = replace(recipe, checkpoints=(*checkpoints, *recipe.checkpoints, *expected))
            model = tune(task, self.encoder, recipe)
            self.tunings += 1
            if has_head:
                # As it comes back from disk: a body that was just trained computes attention by
                # another route, and a run that was killed would end with other numbers.
                model = from_bytes(to_bytes(model), self.encoder)
            if store is not None:
                store.put(task, self.encoder, model)
        self._kept[key] = model
        return model

    def adopt(self, task: Task, tuned: TunedModel) -> None:
        """Take a model tuned elsewhere, such as a pool's, for the one :meth:`tuned` would make."""
        self._kept[(task.fingerprint, "tuned", replace(tuned.recipe, checkpoints=()))] = tuned

    @cached_property
    def _store(self) -> TunedStore | None:
        folder = self.cache.folder
        if folder is None:
            return None
        from taskscout.models.tuned_store import FOLDER, TunedStore

        return TunedStore(Path(folder) / FOLDER)

    def tuned_embeddings(
        self,
        task: Task,
        split: str = "train",
        *,
        of: Task | None = None,
        recipe: Recipe | None = None,
        words: Words | None = None,
    ) -> NDArray[np.float32]:
        """Get embeddings of a split under a tuned model, n × d.

        Parameters
        ----------
        task, split
            Whose rows.
        of
            The task that the model is tuned on; None for ``task``. Rows chosen of a task are a
            task of their own: its model is not that of the whole.
        recipe
            None for the workbench's own.
        words
            Words to embed in place of whole texts.
        """
        recipe, of = recipe or self.recipe, of or task

        def make() -> NDArray[np.float32]:
            return self._encoded(
                *task.inputs(split),
                words,
                model=self.tuned(of, recipe).model.body,
                progress=self._progress_for(f"embedding {task.name}, tuned"),
            )

        key = (
            task.fingerprint,
            split,
            "tuned",
            of.fingerprint,
            replace(recipe, checkpoints=()),
            _order(task, split, words),
        )
        out: NDArray[np.float32] = self.once(key, make)
        return out


def text_key(text: str, pair: str | None = None) -> bytes:
    """Make the sixteen bytes by which the cache knows a text, or a text and its pair.

    No two inputs share them: not a text with a NUL in it and a pair, nor two pairs cut at
    different places. A plain text is known by its own bytes alone; all else is hashed apart,
    with the length of the first part, so that what was once kept under the bytes joined by a
    NUL is not found.
    """
    first = text.encode("utf-8", "surrogatepass")
    if pair is None and b"\0" not in first:
        return hashlib.blake2b(first, digest_size=16).digest()
    kind = b"text" if pair is None else b"pair"
    second = b"" if pair is None else pair.encode("utf-8", "surrogatepass")
    joined = len(first).to_bytes(8, "little") + first + second
    return hashlib.blake2b(joined, digest_size=16, person=kind).digest()


def row_keys(
    texts: Sequence[str], pairs: Sequence[str] | None = None, words: Words | None = None
) -> list[bytes]:
    """Make the keys by which the cache knows texts, or the given words of them."""
    keys = [text_key(text, None if pairs is None else pairs[i]) for i, text in enumerate(texts)]
    return keys if words is None else words.keys(keys)


def _order(task: Task, split: str, words: Words | None) -> int:
    """A key of the order of a split's rows, which a fingerprint does not tell, and of words."""
    texts, pairs = task.inputs(split)
    of_words = None if words is None else words.key
    return hash((tuple(texts), None if pairs is None else tuple(pairs), of_words))
