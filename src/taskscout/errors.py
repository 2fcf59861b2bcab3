"""The one error type for everything a user can mend."""

from __future__ import annotations


def first_line(error: Exception) -> str:
    """What an error says in its first line, or its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


class TaskscoutError(Exception):
    """Something the user can mend, said in three parts.

    Parameters
    ----------
    found
        What was found, with its place (file, column, row).
    why
        Why it cannot work.
    remedy
        What to do about it.
    """

    def __init__(self, found: str, why: str, remedy: str) -> None:
        super().__init__(f"{found} {why} {remedy}")
        self.found = found
        self.why = why
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[TaskscoutError], tuple[str, str, str]]:
        # Worker processes hand their errors back by value.
        return type(self), (self.found, self.why, self.remedy)


class DataError(TaskscoutError):
    """The user's data cannot be used as they are."""


class ModelError(TaskscoutError):
    """A model cannot be found, loaded or used as asked."""


class PoolError(TaskscoutError):
    """A pool is missing, damaged or does not fit what was asked of it."""


class MethodError(TaskscoutError):
    """A selection method is unknown or does not apply."""


class EngineError(TaskscoutError):
    """Work cannot be done where it was to be done."""


class StudyError(TaskscoutError):
    """A study's file, grid or question cannot be used as it is."""


class TransferError(TaskscoutError):
    """A transfer cannot be run as it was asked for."""
