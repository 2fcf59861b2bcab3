"""taskscout: which dataset to fine-tune on first.

The names below are imported when first used, so ``import taskscout`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskscout.errors import TaskscoutError
    from taskscout.methods.forecast import Advice
    from taskscout.models.encoder import Encoder
    from taskscout.models.workbench import Workbench
    from taskscout.pools import Pool
    from taskscout.ranking import Ranking, rank
    from taskscout.tasks import Task
    from taskscout.transfer.choosing import advise
    from taskscout.transfer.loaded import load
    from taskscout.transfer.train import TrainResult, train

__version__ = "0.1.0"

__all__ = [
    "Advice", "Encoder", "Pool", "Ranking", "Task", "TaskscoutError", "TrainResult", "Workbench",
    "advise", "load", "rank", "train",
]  # fmt: skip

_HOME = {
    "Advice": "taskscout.methods.forecast",
    "Encoder": "taskscout.models.encoder",
    "Pool": "taskscout.pools",
    "Ranking": "taskscout.ranking",
    "Task": "taskscout.tasks",
    "TaskscoutError": "taskscout.errors",
    "TrainResult": "taskscout.transfer.train",
    "Workbench": "taskscout.models.workbench",
    "advise": "taskscout.transfer.choosing",
    "load": "taskscout.transfer.loaded",
    "rank": "taskscout.ranking",
    "train": "taskscout.transfer.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'taskscout' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
