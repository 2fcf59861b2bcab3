"""Words in texts: the states of single words, where a pooled embedding stands for a whole text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskscout.models.encoder import Encoder, Progress


@dataclass(frozen=True, eq=False)
class Words:
    """Where words stand in some texts.

    Attributes
    ----------
    owners
        Row of the text that each word stands in (n).
    starts
        Its first character in that text (n).
    second
        Whether they stand in the second texts of pairs.
    """

    owners: NDArray[np.int64]
    starts: NDArray[np.int64]
    second: bool = False

    def __len__(self) -> int:
        return len(self.owners)

    @cached_property
    def key(self) -> bytes:
        """Sixteen bytes that identify them."""
        parts = self.owners.tobytes() + self.starts.tobytes() + bytes([self.second])
        return hashlib.blake2b(parts, digest_size=16).digest()

    def take(self, rows: NDArray[np.int64]) -> Words:
        """The given words, in that order."""
        return Words(self.owners[rows], self.starts[rows], self.second)

    def keys(self, of_texts: Sequence[bytes]) -> list[bytes]:
        """Make the sixteen bytes by which a cache knows each word, of those of the texts."""
        kind = b"second" if self.second else b"word"
        return [
            hashlib.blake2b(
                of_texts[owner] + start.to_bytes(8), digest_size=16, person=kind
            ).digest()
            for owner, start in zip(self.owners.tolist(), self.starts.tolist(), strict=True)
        ]


def words_of(texts: Sequence[str]) -> Words:
    """Find all words of some texts, as spaces part them."""
    owners, starts = [], []
    for row, text in enumerate(texts):
        at = 0
        for word in text.split(" "):
            if word.strip():
                owners.append(row)
                starts.append(at)
            at += len(word) + 1
    return Words(np.asarray(owners, np.int64), np.asarray(starts, np.int64))


def encode_words(
    encoder: Encoder,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    words: Words,
    *,
    model: Any = None,
    middle: bool = False,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Embed words: each is the state of its first sub-word, which is what taggers learn at.

    A word behind the point where a long text is cut, or of which the tokenizer leaves nothing, has
    the state of the last token before it that is read.

    Parameters
    ----------
    encoder
        Its pooling plays no part, its layers do.
    texts, pairs
        First and second texts.
    words
        Which of their words, n.
    model
        A tuned copy of the encoder's model to use in its place.
    middle
        Give the middle layer's states too.
    progress
        Called with (done, total) after each batch, in words.

    Returns
    -------
    n × d float32 array; n × 2d with ``middle``, the last layer first.

    Raises
    ------
    ModelError
        If the tokenizer does not tell where its tokens begin.
    """
    import torch

    from taskscout.models.objectives.objective import fast_tokenizer

    out = np.empty((len(words), (1 + middle) * encoder.dimension), np.float32)
    if not len(words):
        return out
    model = encoder._model if model is None else model.to(encoder.device).eval()
    owners, row_of = np.unique(words.owners, return_inverse=True)
    read = fast_tokenizer(encoder, "tagging")(
        [texts[i] for i in owners.tolist()],
        None if pairs is None else [pairs[i] for i in owners.tolist()],
        truncation=True,
        max_length=encoder.max_length,
        return_attention_mask=False,
        return_offsets_mapping=True,
    )
    offsets = read.pop("offset_mapping")
    rows = [dict(zip(read, values, strict=True)) for values in zip(*read.values(), strict=True)]
    by_text = np.split(
        np.argsort(row_of, kind="stable"), np.cumsum(np.bincount(row_of))[:-1]
    )  # words of each text
    done = 0
    with torch.inference_mode(), encoder.autocast():
        for chosen in encoder.batches(rows):
            output = model(
                **encoder.pad([rows[i] for i in chosen]),
                output_hidden_states=middle or encoder.layers == "mean",
            )
            states = encoder.states_of(output)
            if middle:
                layers = output.hidden_states
                states = torch.cat([states, layers[(len(layers) - 1) // 2].float()], -1)
            states_here = states.cpu().numpy()
            for row, text in enumerate(chosen.tolist()):
                of_text = by_text[text]
                tokens = _tokens(
                    offsets[text],
                    read.sequence_ids(text),
                    words.starts[of_text],
                    second=words.second,
                )
                out[of_text] = states_here[row, tokens]
                done += len(of_text)
            if progress is not None:
                progress(done, len(words))
    return out


def _tokens(
    offsets: Sequence[tuple[int, int]],
    sequences: Sequence[int | None],
    starts: NDArray[np.int64],
    *,
    second: bool,
) -> NDArray[np.int64]:
    """Find the last token that begins at or before each of some characters, or the first of all.

    A token may begin with the space before its word.
    """
    at = [
        i
        for i, ((start, end), sequence) in enumerate(zip(offsets, sequences, strict=True))
        if sequence == int(second) and end > start
    ]
    if not at:
        return np.zeros(len(starts), np.int64)
    begins = np.array([offsets[i][0] for i in at])
    return np.asarray(at)[np.maximum(np.searchsorted(begins, starts, side="right") - 1, 0)]
