"""Where a source comes from: its card, its tuned model and its data, as far as they are at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from taskscout.errors import TransferError
from taskscout.models.tuned_model import TunedModel
from taskscout.tasks import Task, TaskCard


@dataclass
class Origin:
    """A source of a transfer.

    Attributes
    ----------
    card
        What it is; its name is the origin's.
    made
        Its tuned model, or what makes it when it is first asked for; None where there is none.
    data
        Its task, or what loads it when it is first asked for; None where it is not at hand.
    fetch
        The command that gets the data; for the error where they are not at hand.
    tuning
        How its model was tuned, without making it: recipe as plain types, seconds, examples.
    """

    card: TaskCard
    made: TunedModel | Callable[[], TunedModel] | None = None
    data: Task | Callable[[], Task] | None = None
    fetch: str = ""
    tuning: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, task: Task) -> Origin:
        """A source whose data are at hand, to be tuned."""
        return cls(task.card, data=task)

    @property
    def name(self) -> str:
        """The card's name."""
        return self.card.name

    @property
    def has_model(self) -> bool:
        """Whether a tuned model is at hand."""
        return self.made is not None

    @property
    def has_data(self) -> bool:
        """Whether its data are at hand, or can be tried to be loaded."""
        return self.data is not None

    def model(self) -> TunedModel:
        """The tuned model.

        Raises
        ------
        TransferError
            If there is none.
        """
        if self.made is None:
            raise TransferError(
                f"Source {self.name!r} has no tuned model here.",
                "Only the data of a source, or a pool that holds its adapter, give one.",
                "Tune it from its data, or name a source of the pool: taskscout pool list",
            )
        if callable(self.made):
            self.made = self.made()
        return self.made

    def task(self) -> Task:
        """The data.

        Raises
        ------
        TransferError
            If they are not at hand; says where they are and how to get them.
        """
        if self.data is None:
            where = self.card.hub_id or self.card.homepage
            raise TransferError(
                f"The data of source {self.name!r} are not at hand"
                + (f"; they are at {where}." if where else ", and its card does not say where."),
                "Tuning it afresh needs them; a pool keeps adapters, not data.",
                self.fetch or "Give a file of the data in place of the name.",
            )
        if callable(self.data):
            self.data = self.data()
        return self.data
