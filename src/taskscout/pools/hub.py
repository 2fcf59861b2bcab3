"""Pools on the hub: a dataset repository of a packed pool and a card.

What is pushed is safetensors, Parquet and JSON; what is pulled is these kinds of files and no
others, and every file is compared with the checksum that the pool was written with.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

from taskscout.errors import PoolError
from taskscout.files import new_folder
from taskscout.pools.hub_files import PATTERNS, snapshot, upload
from taskscout.pools.own import folder_named
from taskscout.pools.pool import Pool
from taskscout.pools.texts import TEXTS

#: Tag by which pools are found on the hub.
TAG = "taskscout-pool"


def push(
    pool: Pool,
    repo_id: str,
    *,
    private: bool = False,
    with_texts: bool = False,
    message: str = "Push a taskscout pool",
) -> str:
    """Put a pool on the hub, packed, with a card that lists its sources and their licences.

    Files that an earlier push left there and this pool has no more are removed.

    Parameters
    ----------
    pool
        Any pool; it is not changed.
    repo_id
        ``owner/name`` of a dataset repository, made where it is missing.
    private
        Whether a repository that is made is private.
    with_texts
        Push the texts that the pool carries of its sources too. They are others' data: their
        licences say whether you may.
    message
        Of the commit.

    Returns
    -------
    The address of the commit.

    Raises
    ------
    TaskscoutError
        If the hub refuses, or cannot be reached.
    """
    keys = sorted({key for source in pool for key in source.headers} - {TEXTS})
    if with_texts and pool.described(TEXTS):
        keys = [*keys, TEXTS]
    with tempfile.TemporaryDirectory(prefix="taskscout-push-") as base:
        folder = Path(base) / "pool"
        packed = pool.pack(folder, keys=keys)
        (folder / "README.md").write_text(hub_card(packed, repo_id), encoding="utf-8")
        return upload(
            folder, repo_id, "dataset", private=private, message=message, replaces=PATTERNS
        )


def pull(repo_id: str, folder: str | Path | None = None, *, revision: str | None = None) -> Pool:
    """Get a pool from the hub, checked as a whole before it takes its place.

    Parameters
    ----------
    repo_id
        ``owner/name`` of the dataset repository.
    folder
        Where to put it; None for where rankings for its model look for it.
    revision
        A branch, tag or commit; None for the newest.

    Raises
    ------
    TaskscoutError
        If it cannot be had, is no pool, differs from its checksums, or the folder is taken.
    """
    here = snapshot(repo_id, revision)
    pool = Pool.open(here)
    problems = pool.verify()
    if problems:
        raise PoolError(
            f"The pool at {repo_id} is not what was written: {problems[0]}",
            "A ranking would rest on changed bytes.",
            "Ask its owner to push it again, or pull an earlier --revision.",
        )
    if folder is None:
        folder = folder_named(pool.encoder["model"], pool.encoder["fingerprint"])
    folder = Path(folder).expanduser()
    if folder.exists() and any(folder.iterdir()):
        raise PoolError(
            f"{folder} exists already.",
            "A pool is pulled whole, into a folder of its own.",
            "Name a new folder with --out, or remove this one first.",
        )
    with new_folder(folder) as temporary:
        for path in here.rglob("*"):
            if path.is_file():
                copy = temporary / path.relative_to(here)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)  # the content, where the cache keeps a link
    return Pool.open(folder)


def hub_card(pool: Pool, repo_id: str) -> str:
    """The card of a pool's repository: tags, the encoder, licences, and how to use it."""
    from huggingface_hub import DatasetCardData

    sources, encoder = list(pool), pool.encoder
    model = str(encoder["model"])
    if Path(model).is_absolute():  # a folder here says nothing elsewhere
        model = Path(model).name
    licences = Counter(s.card.licence.split(";")[0].strip() or "not stated" for s in sources)
    data = DatasetCardData(
        license="other",
        license_name="of-each-source",
        language=sorted({s.card.language for s in sources}),
        tags=[TAG, "taskscout", "transfer-learning", f"base_model:{model}"],
        pretty_name=repo_id.rpartition("/")[2],
    )
    rows = "\n".join(
        f"| {s.name} | {s.card.kind} | {_cell(s.card.licence) or 'not stated'} | "
        f"{_cell(s.card.load or s.card.homepage)} |"
        for s in sources
    )
    terms = "\n".join(f"- {_cell(name)}: {n}" for name, n in licences.most_common())
    return f"""---
{data.to_yaml()}
---

# {repo_id}: a taskscout pool

{len(pool)} sources tuned on `{model}`, pooling {encoder["pooling"]}, at most
{encoder["max_length"]} tokens. A ranking belongs to this model.

```bash
pip install taskscout
taskscout pool pull {repo_id}
taskscout rank my_data.csv --encoder {model}
```

## Licences

The pool holds adapters and descriptions of the sources, whose own licences are:

{terms}

| source | kind | licence | where to get it |
|---|---|---|---|
{rows}
"""


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
