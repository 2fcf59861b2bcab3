"""What all scores share of what a source makes of the target's texts."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from taskscout.errors import MethodError
from taskscout.methods.evidence_rows import EvidenceRows, evidence_rows
from taskscout.methods.labels import label_columns
from taskscout.methods.method import BaseMethod, Description, Material
from taskscout.methods.source_features import (
    Backend,
    MapBatch,
    SpaceMaps,
)
from taskscout.models.workbench import Workbench
from taskscout.tasks import KINDS, Kind, Task

Array = NDArray[np.float64]

#: Kinds of targets for scores that know classes only.
CLASSES: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "regression")


def label_columns_of(labels: NDArray[Any], *, compat: bool) -> Array:
    """Label columns; values, which are no integers, are standardised."""
    if labels.dtype.kind == "f" and not compat:
        labels = (labels - labels.mean()) / max(float(labels.std()), 1e-12)
    return label_columns(labels, compat=compat)


class FeatureScore(BaseMethod):
    """What all scores share of what a source makes of the target's texts.

    Parameters
    ----------
    backend
        Where the features come from: the sources' own models, or space maps in their place.
    """

    describes_from: Material = "tuned model"
    #: Name of the score on source models; a backend puts its prefix before it.
    plain: ClassVar[str]
    #: Whether features count about their means where rows do; not for what a head predicts.
    about_means: ClassVar[bool] = True
    #: What is to be known of the score on space maps.
    on_maps: ClassVar[str] = ""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.name = backend.prefix + self.plain
        self.key, self.cost, self.needs = backend.key, backend.cost, backend.needs
        if backend.paper:
            self.paper = "; ".join(dict.fromkeys((backend.paper, type(self).paper)))
        remark = self.on_maps if isinstance(backend, SpaceMaps) else ""
        parts = (inspect.getdoc(type(self)), remark, inspect.getdoc(type(backend)))
        #: What ``taskscout methods NAME`` shows: the score, then where its features come from.
        self.__doc__ = "\n\n".join(part for part in parts if part)

    def expect(self, bench: Workbench) -> None:
        """Announce what the backend will read."""
        self.backend.expect(bench)

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Keep the source's model, or its map; see the backend."""
        return self.backend.describe(source, bench)

    def none(self, bench: Workbench) -> Description | None:
        """Describe the untouched encoder."""
        return self.backend.none(bench)

    def rate(self, features: Array, labels: NDArray[Any], source: Description) -> float:
        """Score features (n × d) for labels; NaN where the source has no such score."""
        raise NotImplementedError

    def rate_rows(self, rows: EvidenceRows, features: Array, source: Description) -> float:
        """Score features (n × d) of rows, in the order of their content."""
        order = rows.order()
        features = rows.about_means(features) if self.about_means else features
        return self.rate(features[order], rows.labels[order], source)

    def rate_maps(
        self,
        rows: EvidenceRows,  # noqa: ARG002  # of the protocol
        batches: Iterable[tuple[NDArray[np.int64], MapBatch]],  # noqa: ARG002  # of the protocol
        bench: Workbench,  # noqa: ARG002  # of the protocol
    ) -> Iterator[tuple[NDArray[np.int64], Array]] | None:
        """Score space maps in batches, forming no features; None where a score has no such way."""
        return None

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """Score per source, by the target's rows of evidence.

        NaN for a target of another kind, a source of another encoder or pooling, one whose
        features are not finite, and one that has no such score.
        """
        if target.kind not in self.kinds:
            return np.full(len(sources), np.nan)
        return self.score_rows(evidence_rows(target, bench), sources, bench)

    def score_rows(
        self, rows: EvidenceRows, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """Score sources by rows made otherwise than by default."""
        out = np.full(len(sources), np.nan)
        if rows.has_classes:
            label_columns(rows.labels)  # one class is an error, whatever the score
        if isinstance(self.backend, SpaceMaps):
            at_once = self.rate_maps(rows, self.backend.batches(rows, sources, bench), bench)
            if at_once is not None:
                for positions, scores in at_once:
                    out[positions] = scores
                return out
        for i in range(len(sources)):
            source = sources[i]
            features = self.backend.features(rows, source, bench)
            if features is not None and np.isfinite(features).all():
                # On one thread: see evidence.one_thread.
                with threadpool_limits(1):
                    out[i] = self.rate_rows(rows, features.astype(np.float64), source)
        return out


def one_of(method: BaseMethod, option: str, value: object, allowed: Sequence[object]) -> None:
    """Refuse an option that is none of those allowed."""
    if value not in allowed:
        raise MethodError(
            f"{method.name} was given {option} {value!r}.",
            f"It knows {', '.join(map(str, allowed))}.",
            "Choose one of these.",
        )


def at_least(method: BaseMethod, least: float, **options: float | None) -> None:
    """Refuse numbers below the least; None stands for no number."""
    for option, value in options.items():
        if value is not None and not value >= least:
            raise MethodError(
                f"{method.name} was given {option} {value:g}.",
                f"It is {least:g} or more.",
                "Leave it out for the default.",
            )
