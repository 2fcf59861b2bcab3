"""Tasks: datasets with a kind, canonical columns, splits, a card and a fingerprint."""

from taskscout.tasks.task import KINDS, Kind, Task, TaskCard

__all__ = ["KINDS", "Kind", "Task", "TaskCard"]
