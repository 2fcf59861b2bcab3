"""Pools that were made for a model: under the user's data folder, found by its fingerprint."""

from __future__ import annotations

import os
import re
from pathlib import Path

from taskscout.models.encoder import DEFAULT_HUB_ID, Encoder
from taskscout.models.workbench import Workbench
from taskscout.pools.pool import Pool

#: Names another folder for the pools of models.
ENVIRONMENT_VARIABLE = "TASKSCOUT_POOLS"
#: How what :func:`only_a_hint` says begins.
HINT = "only a hint:"
#: How far the order of one encoder has carried over to another (``benchmarks.encoders``).
CARRIED_OVER = (
    "such orders have agreed with another encoder's own by 0.19 (rank correlation of 12 sources, "
    "mean of 6 targets; two seeds of one encoder agree by 0.31 and 0.15); choosing by them lost "
    "1.1 points against that encoder's best source, choosing at random 1.8"
)


def pools_folder() -> Path:
    """``TASKSCOUT_POOLS``, else ``pools`` in the user's data folder of this system."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        return Path(named).expanduser()
    from platformdirs import user_data_dir

    return Path(user_data_dir("taskscout")) / "pools"


def folder_for(encoder: Encoder) -> Path:
    """Where the pool of a model lies: named by the model, known by its fingerprint."""
    return folder_named(encoder.model_id, encoder.fingerprint)


def folder_named(model: str, fingerprint: str) -> Path:
    """Where the pool of a model of a name and fingerprint lies."""
    name = re.sub(r"[^\w.-]+", "-", Path(model).name).strip(".-") or "model"
    return pools_folder() / f"{name}-{fingerprint[:12]}"


def own_pool(encoder: Encoder) -> Pool | None:
    """The pool made for a model with its pooling and length, whatever the model's folder is called.

    Raises
    ------
    PoolError
        If it is damaged.
    """
    for folder in sorted(pools_folder().glob(f"*-{encoder.fingerprint[:12]}")):
        if (folder / "pool.json").exists():
            pool = Pool.open(folder)
            if pool.encoder["fingerprint"] == encoder.fingerprint:
                return pool
    return None


def pool_for(encoder: Encoder) -> Pool | None:
    """The pool that rankings for a model read: the built-in one where it fits, else its own.

    None where there is neither.
    """
    builtin = Pool.builtin()
    fits = builtin.encoder["fingerprint"] == encoder.fingerprint
    return builtin if fits else own_pool(encoder)


def pool_or_hint(pool: Pool | None, bench: Workbench) -> tuple[Pool, Workbench, list[str]]:
    """What a ranking reads: pool and workbench, and a note where they are another model's.

    Parameters
    ----------
    pool
        The one that was named; None for that of the workbench's encoder, and where it has none, the
        built-in pool with the default encoder.
    bench
        Its encoder is the user's model.
    """
    if pool is None:
        pool = pool_for(bench.encoder)
    if pool is not None:
        return pool, bench, []
    default = Encoder(precision=bench.encoder.precision)
    return Pool.builtin(), bench.with_encoder(default), [only_a_hint(bench.encoder)]


def only_a_hint(encoder: Encoder) -> str:
    """What a user is told who ranks for a model that has no pool, and what to do."""
    model = encoder.model_id
    differently = ""
    if encoder.is_default:  # the model itself has a pool
        differently = f" with pooling {encoder.pooling}, {encoder.max_length} tokens"
    return (
        f"{HINT} no pool was made for {model}{differently}, so this is the order for "
        f"{DEFAULT_HUB_ID.rpartition('/')[2]}. A ranking belongs to its model: {CARRIED_OVER}. "
        f"Make {model} a pool of its own: taskscout pool build --encoder {model} --like builtin; "
        "or let short runs of it on your own rows decide between the first: "
        f"taskscout train FILE --encoder {model} --trial 3 --out FOLDER"
    )
