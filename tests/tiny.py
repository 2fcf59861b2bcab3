"""A tiny encoder and toy tasks: real code paths in milliseconds.

The encoder is a randomly initialised BERT (hidden 32, 2 layers) with a WordPiece vocabulary of
some dozens of words, written to a folder as ``save_pretrained`` would.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from taskscout.models.encoder import Encoder
from taskscout.tasks import Task

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FILLER = (
    *("the", "a", "film", "book", "plot", "was", "is", "it"),
    *("and", "but", "very", "so", "quite", "this", "that"),
)
GOOD = ("good", "great", "fine", "superb", "lovely", "warm", "bright")
BAD = ("bad", "awful", "poor", "dull", "weak", "cold", "grim")
TOPICS = ("cat", "dog", "horse", "cow", "bird"), ("car", "bus", "train", "ship", "plane")
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz0123456789.,!?'")
VOCABULARY = (
    *SPECIAL,
    *dict.fromkeys((*FILLER, *GOOD, *BAD, *TOPICS[0], *TOPICS[1], *LETTERS)),
    *(f"##{letter}" for letter in LETTERS),
)


def tiny_encoder(folder: Path, *, seed: int = 0, config: Any = None, **options: Any) -> Encoder:
    """Write a tiny encoder to a folder and open it.

    Parameters
    ----------
    folder
        Where to; made where it is missing.
    seed
        Of the weights.
    config
        Configuration of another architecture with this vocabulary's size; None for BERT.
    options
        Of :class:`Encoder`; ``max_length`` is 32, precision ``fp32`` and device ``cpu`` unless
        given.
    """
    import torch
    from transformers import AutoModel, BertConfig, BertTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(
        vocab={w: i for i, w in enumerate(VOCABULARY)}, model_max_length=256
    )
    tokenizer.save_pretrained(folder)
    if config is None:
        config = BertConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=256,
            initializer_range=0.05,
        )
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    AutoModel.from_config(config).save_pretrained(folder)
    torch.random.set_rng_state(state)
    return Encoder(folder, **{"max_length": 32, "precision": "fp32", "device": "cpu", **options})


def toy_task(
    name: str = "toy",
    *,
    n: int = 128,
    seed: int = 0,
    words: tuple[tuple[str, ...], ...] = (GOOD, BAD),
    shuffled: bool = False,
    pairs: bool = False,
    regression: bool = False,
) -> Task:
    """A task that a few words decide: three of a class's words among filler.

    Parameters
    ----------
    n
        Training rows; the test split has as many.
    words
        Words of each class.
    shuffled
        Permute the training labels: nothing can be learnt.
    pairs
        The label says whether both texts are of one class.
    regression
        The label is 0.5 for the second class, -1.5 for the first, and a little noise.
    """
    rng = np.random.default_rng(seed)
    tables = {}
    for split in ("train", "test"):
        of = rng.integers(len(words), size=(2, n))

        def text(label: int) -> str:
            chosen = [*rng.choice(FILLER, 4), *rng.choice(words[label], 3)]
            return " ".join(rng.permutation(chosen).tolist())

        columns: dict[str, Any] = {"text": [text(c) for c in of[0].tolist()]}
        label = of[0]
        if pairs:
            columns["text_pair"] = [text(c) for c in of[1].tolist()]
            label = (of[0] == of[1]).astype(np.int64)
        if shuffled and split == "train":
            label = rng.permutation(label)
        if regression:
            columns["label"] = 2.0 * label - 1.5 + rng.normal(0, 0.05, n)
        else:
            columns["label"] = label
        tables[split] = pa.table(columns)
    if regression:
        return Task(name, "regression", tables)
    classes = 2 if pairs else len(words)
    return Task(name, "classification", tables, tuple(f"class {i}" for i in range(classes)))
