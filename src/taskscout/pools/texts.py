"""Some texts of a pool's sources, kept with it: what maps of models without data are fitted on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskscout.methods.method import Description
from taskscout.pools.pool import Pool
from taskscout.tasks import Task

#: Key of the description that holds them; it belongs to no method.
TEXTS = "texts"
#: Rows taken of a source, and characters of a text, at most.
_ROWS, _CHARACTERS = 32, 600


def describe_texts(task: Task) -> Description:
    """Keep some training texts of a source, those of a pair each for itself."""
    texts, pairs = task.sample(_ROWS).inputs("train")
    said = [t[:_CHARACTERS].encode("utf-8", "replace") for t in (*texts, *(pairs or ()))]
    arrays: dict[str, NDArray[Any]] = {
        "bytes": np.frombuffer(b"".join(said), np.uint8),
        "ends": np.cumsum([len(t) for t in said], dtype=np.int64),
    }
    return Description(TEXTS, task.name, {"texts": len(said)}, arrays)


def texts_of(pool: Pool) -> list[str]:
    """The texts that a pool carries of its sources."""
    out: list[str] = []
    for each in pool.descriptions(TEXTS):
        data, ends = each.arrays["bytes"].tobytes(), each.arrays["ends"].tolist()
        starts = [0, *ends[:-1]]
        out += [data[a:b].decode(errors="replace") for a, b in zip(starts, ends, strict=True)]
    return out
