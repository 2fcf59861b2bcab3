"""Descriptions that methods of several families read: term counts and a sample of embeddings.

Both need the source's texts only. Everything here is the same whatever the order of the rows.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from taskscout.methods.method import Description
from taskscout.models.encoder import Layers, Pooling
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task

Array = NDArray[np.float64]
T = TypeVar("T")

#: Keys of the descriptions made here.
TERMS, SAMPLE, EXPERTS = "terms", "sample", "sample-with-choices"

#: Training rows whose words are counted, at most.
TEXTS = 10_000
#: Training rows that are embedded, at most; as many as space maps are fitted on, and the same.
EXAMPLES = 3_000
#: Rows of a sample of embeddings, at most.
SAMPLE_ROWS = 100
#: Tokens, at most, of a text with its choices: what the released code of TaskWeb reads.
EXPERT_TOKENS = 512

#: Numbers of one array held at a time while sources are compared (32 MB in float64).
_NUMBERS = 2**22

# Counts are kept divided by this, so that half precision holds up to four million.
_COUNT_UNIT = 64.0


def once(bench: Workbench, task: Task, what: tuple[object, ...], make: Callable[[], T]) -> T:
    """Make something once per task and workbench; ``bench.forget`` drops it."""
    out: T = bench.once((task.fingerprint, task.name, *what), make)
    return out


def by_text(texts: Sequence[str], pairs: Sequence[str] | None) -> NDArray[np.int64]:
    """Shuffle row numbers into an order that depends on the texts alone.

    Labels and the order of the rows play no part, so the first m are a random sample of the
    texts that is the same wherever it is drawn.
    """
    digests = [
        hashlib.blake2b(
            text.encode("utf-8", "surrogatepass")
            + (b"" if pairs is None else b"\0" + pairs[i].encode("utf-8", "surrogatepass")),
            digest_size=8,
            key=b"rows",
        ).digest()
        for i, text in enumerate(texts)
    ]
    return np.array(sorted(range(len(texts)), key=digests.__getitem__), np.int64)


def unit_rows(x: NDArray[np.floating]) -> Array:
    """Scale rows to unit length, in float64; a row of zeros stays one."""
    x = np.asarray(x, np.float64)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-300))


# -- terms --------------------------------------------------------------------------------


def vocabulary_fingerprint(bench: Workbench) -> str:
    """Identify tokenizer and truncation, which two counts must share to be comparable."""
    return f"{bench.encoder.weights_fingerprint}-{bench.encoder.max_length}"


def describe_terms(task: Task, bench: Workbench, examples: int = TEXTS) -> Description:
    """Count the encoder's token ids in a task's training texts.

    The encoder's vocabulary is the shared vocabulary, so no words are stored. Texts are
    tokenized as the encoder does it: pairs together, cut at its ``max_length`` tokens, special
    tokens included; padding counts as present where any text is shorter than ``max_length``,
    as in the released code of Schulte et al.

    Parameters
    ----------
    task
        Its ``train`` split is read, at most ``examples`` rows.
    bench
        Whose encoder's tokenizer is used; counts are kept in memory.

    Returns
    -------
    Arrays ``mask`` (packed bits, one per token id, set where the id occurs) and ``counts``
    (float16, one per set bit, in units of 64: exact up to 2,048 occurrences, then to 11 bits).
    """

    def make() -> Description:
        encoder = bench.encoder
        tokenizer = encoder.tokenizer
        rows = encoder.tokenize(*task.sample(examples).inputs("train"))
        ids = np.fromiter(chain.from_iterable(r["input_ids"] for r in rows), np.int64)
        counts = np.bincount(ids, minlength=len(tokenizer))
        if any(len(r["input_ids"]) < encoder.max_length for r in rows):
            counts[tokenizer.pad_token_id] = max(counts[tokenizer.pad_token_id], 1)
        header = {
            "vocabulary": vocabulary_fingerprint(bench),
            "size": len(counts),
            "special": sorted({int(i) for i in tokenizer.all_special_ids}),
            "tokens": len(ids),
            "terms": int((counts > 0).sum()),
        }
        kept = (counts[counts > 0] / _COUNT_UNIT).astype(np.float16)
        return Description(
            TERMS, task.name, header, {"mask": np.packbits(counts > 0), "counts": kept}
        )

    return once(bench, task, (TERMS, examples), make)


def term_mask(description: Description) -> NDArray[np.bool_]:
    """Tell which token ids occur, special ones included; one boolean per id."""
    size: int = description.header["size"]
    return np.unpackbits(description.arrays["mask"], count=size).astype(bool)


def term_counts(description: Description) -> Array:
    """Unpack how often each token id occurs, special tokens at 0."""
    counts = np.zeros(description.header["size"])
    counts[term_mask(description)] = description.arrays["counts"].astype(np.float64) * _COUNT_UNIT
    counts[description.header["special"]] = 0.0
    return counts


# -- a sample of embeddings -----------------------------------------------------------------


def embedded(task: Task, bench: Workbench, examples: int = EXAMPLES) -> NDArray[np.float32]:
    """Embed at most ``examples`` training rows with the base model, n × d."""
    return bench.embeddings(task.sample(examples))


def unit_sample(task: Task, bench: Workbench, rows: int = SAMPLE_ROWS) -> Array:
    """Draw at most ``rows`` training rows by their texts; their unit embeddings, m × d."""
    chosen = task.sample(EXAMPLES)
    order = by_text(*chosen.inputs("train"))[:rows]
    return unit_rows(bench.embeddings(chosen)[order])


def describe_sample(task: Task, bench: Workbench, rows: int = SAMPLE_ROWS) -> Description:
    """Keep a sample of a task's unit embeddings, eight bits per number.

    Returns
    -------
    Arrays ``rows`` (m × d, int8) and ``scale`` (m, float32). Rounding moves a cosine of two
    embeddings of 384 dimensions by about 0.0005.
    """
    return once(
        bench,
        task,
        (SAMPLE, rows),
        lambda: _rounded(SAMPLE, task, unit_sample(task, bench, rows), bench),
    )


def _rounded(key: str, task: Task, x: Array, bench: Workbench) -> Description:
    """Keep unit rows, eight bits per number, with the encoder that made them."""
    scale = np.maximum(np.abs(x).max(1), 1e-30) / 127.0
    arrays = {
        "rows": np.rint(x / scale[:, None]).astype(np.int8),
        "scale": scale.astype(np.float32),
    }
    header = {"encoder": bench.encoder.fingerprint, "rows": len(x)}
    return Description(key, task.name, header, arrays)


def sample_of(description: Description) -> Array:
    """Unpack the sample of :func:`describe_sample`: unit rows, m × d."""
    arrays = description.arrays
    return unit_rows(arrays["rows"] * arrays["scale"].astype(np.float64)[:, None])


# -- a sample of embeddings of texts with their answer choices ---------------------------------


def with_choices(task: Task, split: str) -> list[str]:
    """Write every example of a split as ``choices</s>input``, as retrieval of experts reads it.

    Choices are the example's own where the kind is multiple choice, and else the names of the
    classes; they are joined by commas. Kinds without choices have the input alone. A second text
    stands in the line after the first. What is right among the choices is not said.

    Parameters
    ----------
    task
        Of any kind.
    split
        One of its splits.
    """
    if task.kind == "multiple_choice":
        choices = [", ".join(c) for c in task.column(split, "choices")]
        table = task.tables[split]
        texts, pairs = task.column(split, "text"), None
        if "text_pair" in table.column_names:
            pairs = [p or "" for p in task.column(split, "text_pair")]
    else:
        texts, pairs = task.inputs(split)
        choices = [", ".join(task.label_names)] * len(texts)
    if pairs is not None:
        texts = [f"{text}\n{pair}" for text, pair in zip(texts, pairs, strict=True)]
    return [f"{c}</s>{text}" if c else text for c, text in zip(choices, texts, strict=True)]


def expert_sample(task: Task, bench: Workbench, rows: int = SAMPLE_ROWS) -> tuple[Array, Workbench]:
    """Draw the rows that :func:`unit_sample` draws; their unit embeddings with choices, m × d.

    Returns
    -------
    The embeddings, and the workbench whose encoder made them: that of ``bench``, reading up to
    512 tokens, or as many as the model has positions for.
    """
    longest = bench.encoder.longest
    tokens = EXPERT_TOKENS if longest is None else min(EXPERT_TOKENS, longest)
    reader = read_otherwise(bench, max_length=tokens)

    def make() -> Array:
        chosen = task.sample(EXAMPLES)
        order = by_text(*chosen.inputs("train"))[:rows]
        texts = with_choices(chosen, "train")
        before = reader.embedded
        x = reader.embed([texts[i] for i in order.tolist()], what=f"embedding {task.name}")
        if reader is not bench:
            bench.embedded += reader.embedded - before
        return unit_rows(x)

    x: Array = once(bench, task, (EXPERTS, "unit rows", rows), make)
    return x, reader


def describe_experts(task: Task, bench: Workbench, rows: int = SAMPLE_ROWS) -> Description:
    """Keep a sample of a task's unit embeddings of ``choices</s>input``, eight bits per number.

    Returns
    -------
    Arrays as those of :func:`describe_sample`.
    """
    x, reader = expert_sample(task, bench, rows)
    return once(bench, task, (EXPERTS, rows), lambda: _rounded(EXPERTS, task, x, reader))


# -- the same encoder, pooled otherwise -------------------------------------------------------


def pooled_otherwise(bench: Workbench, pooling: Pooling, layers: Layers = "last") -> Workbench:
    """Get a workbench whose encoder is the same model with another pooling.

    It shares the cache, and the model where it is loaded already; it is made once per
    workbench, and is the workbench itself where the pooling is the same.
    """
    return read_otherwise(bench, pooling=pooling, layers=layers)


def read_otherwise(bench: Workbench, **settings: Pooling | Layers | int) -> Workbench:
    """Get a workbench whose encoder is the same model with other settings.

    As :func:`pooled_otherwise`; a setting is ``pooling``, ``layers`` or ``max_length``.
    """
    encoder = bench.encoder
    if {**encoder.settings, **settings} == encoder.settings:
        return bench

    def make() -> Workbench:
        other = copy.copy(encoder)
        for name, value in settings.items():
            setattr(other, name, value)
        made = Workbench(other, cache=bench.cache)
        # What it spends is spent by the bench, and what it recalls is recalled by the bench.
        made.seconds, made._recalled = bench.seconds, bench._recalled
        return made

    out: Workbench = bench.once(("read otherwise", *sorted(settings.items())), make)
    return out


def embedded_otherwise(
    task: Task,
    bench: Workbench,
    pooling: Pooling,
    layers: Layers = "last",
    examples: int = EXAMPLES,
) -> NDArray[np.float32]:
    """Embed as :func:`embedded` does, under another pooling; counted by ``bench`` as its own."""
    other = pooled_otherwise(bench, pooling, layers)
    before = other.embedded
    out = embedded(task, other, examples)
    if other is not bench:
        bench.embedded += other.embedded - before
    return out


def batches(
    sources: Sequence[Description], head: str, value: str, numbers: int
) -> Iterator[tuple[list[int], list[Description]]]:
    """Positions and descriptions whose header has a value, each read once, some at a time."""
    most = max(1, _NUMBERS // numbers)
    at: list[int] = []
    batch: list[Description] = []
    for i in range(len(sources)):
        source = sources[i]
        if source.header.get(head) == value:
            at.append(i)
            batch.append(source)
        if len(batch) == most:
            yield at, batch
            at, batch = [], []
    if batch:
        yield at, batch
