"""Tasks: datasets with a kind, canonical columns, splits, a card and a fingerprint."""

from taskscout.tasks.card import TaskCard
from taskscout.tasks.kinds import KINDS, Kind
from taskscout.tasks.task import Task

__all__ = ["KINDS", "Kind", "Task", "TaskCard"]
