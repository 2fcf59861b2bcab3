"""A stand-in for the encoder: deterministic embeddings and token ids without a model."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings

from taskscout.models.cache import NoCache
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task

settings.register_profile(
    "methods",
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("methods")

DIMENSION = 12


class FakeTokenizer:
    """Words are tokens; ids are checksums."""

    size = 900
    pad_token_id = 0
    all_special_ids = (0, 1, 2)

    def __len__(self) -> int:
        return self.size

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w{1,4}", text.lower())

    def ids(self, text: str) -> list[int]:
        return [3 + zlib.crc32(w.encode()) % (self.size - 3) for w in text.lower().split()]


class FakeEncoder:
    """Embeds a text as the mean of its words' random vectors, another one per pooling."""

    model_id, is_default, batch_size = "fake", False, 32
    resolved_precision, weights_fingerprint = "fp32", "fake-weights"
    longest = 64

    def __init__(self) -> None:
        self.pooling, self.layers, self.max_length = "mean", "last", 16
        self.dimension = DIMENSION
        self.tokenizer = FakeTokenizer()
        self.passes = 0

    @property
    def fingerprint(self) -> str:
        return f"fake-{self.pooling}-{self.layers}-{self.max_length}"

    space = fingerprint

    @property
    def settings(self) -> dict[str, Any]:
        return {"pooling": self.pooling, "layers": self.layers, "max_length": self.max_length}

    def tokenize(
        self, texts: Sequence[str], pairs: Sequence[str] | None = None
    ) -> list[dict[str, list[int]]]:
        rows = []
        for i, text in enumerate(texts):
            ids = [1, *self.tokenizer.ids(text), 2]
            if pairs is not None:
                ids += [*self.tokenizer.ids(pairs[i]), 2]
            rows.append({"input_ids": ids[: self.max_length]})
        return rows

    def _vector(self, token: int) -> np.ndarray:
        seed = zlib.crc32(f"{token}-{self.pooling}-{self.layers}".encode())
        return np.random.default_rng(seed).standard_normal(self.dimension)

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        model: Any = None,
        middle: bool = False,
        progress: Any = None,
    ) -> np.ndarray:
        assert not middle, "it has one layer"
        del model, progress
        self.passes += len(texts)
        rows = self.tokenize(texts, pairs)
        return np.array(
            [np.mean([self._vector(t) for t in r["input_ids"]], axis=0) for r in rows], np.float32
        ).reshape(len(texts), self.dimension)

    def warm_up(self) -> None:
        """Nothing to load."""


@pytest.fixture
def bench() -> Workbench:
    """A workbench with the fake encoder and no cache."""
    return Workbench(FakeEncoder(), cache=NoCache())  # type: ignore[arg-type]


#: Words of some domains.
DOMAINS = {
    "film": [
        "film",
        "actor",
        "scene",
        "plot",
        "script",
        "camera",
        "director",
        "role",
        "screen",
        "cinema",
    ],
    "food": ["bread", "soup", "cheese", "cook", "taste", "dish", "salt", "oven", "sauce", "dinner"],
    "sport": [
        "goal",
        "team",
        "match",
        "player",
        "coach",
        "league",
        "score",
        "ball",
        "season",
        "win",
    ],
    "money": [
        "bank",
        "loan",
        "profit",
        "share",
        "market",
        "price",
        "stock",
        "tax",
        "cost",
        "budget",
    ],
}
FILLER = ["the", "a", "of", "and", "it", "was", "very", "this", "that", "with"]


def make_task(
    name: str = "task",
    *,
    domain: str | Sequence[str] = "film",
    n: int = 60,
    seed: int = 0,
    pairs: bool = False,
    foreign: float = 0.0,
    kind: str = "classification",
) -> Task:
    """A task whose texts are words of a domain among filler.

    ``foreign`` is the share of texts that are of the other domains instead; the texts of one
    ``seed`` are otherwise the same.
    """
    rng = np.random.default_rng(seed)
    other = np.random.default_rng(seed + 1000)
    words = DOMAINS[domain] if isinstance(domain, str) else list(domain)
    away = [w for d, ws in DOMAINS.items() if d != domain for w in ws]

    def text() -> str:
        picked = [*rng.choice(words, 5), *rng.choice(FILLER, 3)]
        replaced = [*other.choice(away, 5), *other.choice(FILLER, 3)]
        return " ".join(replaced if other.random() < foreign else picked)

    columns: dict[str, Any] = {"text": [text() for _ in range(n)]}
    if pairs:
        columns["text_pair"] = [text() for _ in range(n)]
    if kind == "regression":
        columns["label"] = rng.random(n)
        return Task(name, "regression", {"train": pa.table(columns)})
    columns["label"] = rng.integers(2, size=n)
    return Task(name, "classification", {"train": pa.table(columns)}, ("no", "yes"))


def permuted(task: Task, seed: int = 1) -> Task:
    """The same rows in another order."""
    n = task.tables["train"].num_rows
    return task.take({"train": np.random.default_rng(seed).permutation(n)})


@pytest.fixture(scope="session")
def published() -> Path:
    """Folder of the published TaskWeb results; tests that ask for it are marked ``data``."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "published"
    if not (folder / "taskweb_grid.parquet").is_file():
        pytest.skip("no published results beside the repository")
    return folder
