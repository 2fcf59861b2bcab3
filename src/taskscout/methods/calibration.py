"""From scores to points: what each source is expected to gain, how sure that is, what to do.

A :class:`Calibration` is fitted on a grid of real transfers
(:func:`taskscout.studies.calibration.calibrate`) and belongs to one model, some kinds and one
size of target. Of a source on a target it expects

    gain = a + Σ_m b_m z_m + c match + d facts + e_source + f_source pair + t + Σ_m u_m z_m + noise

with z_m a method's score, standardised within the target over the sources that the calibration
knows; match: whether source and target both have a second text, and are of one kind; facts: of
the target, standardised over the grid's; e and f: a source's own gain, and how much more it gives
where targets have a second text, both shrunk; t and u_m: what is particular to one target, unknown
for a new one, so that they widen its intervals and are learnt from trials. How far each term is
shrunk is said by the grid (:mod:`taskscout.methods.mixed_model`); how wide intervals are, by what
the forecasts of left-out targets missed (:mod:`taskscout.methods.conformal`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import DataError
from taskscout.files import write_atomically
from taskscout.methods.target_facts import fact_values
from taskscout.tasks import TaskCard

Array = NDArray[np.float64]

#: Fewer known sources with a score, and all sources say what a score's mean and spread are.
_LEAST_KNOWN = 5
#: Targets this many times smaller or larger than the grid's are named in a note.
_NEAR = 2.0
#: Facts further from the grid's mean count as so many deviations: a line goes on for ever.
_FARTHEST = 3.0
_FORMAT = "taskscout calibration 1"


def standardised(scores: Array, reference: NDArray[np.bool_]) -> Array:
    """Scores of one target in standard deviations from the mean, over the reference sources.

    0 where there is no score, and everywhere if they do not differ.
    """
    scored = ~np.isnan(scores)
    over = scored & reference
    if over.sum() < _LEAST_KNOWN:
        over = scored
    if not over.any():
        return np.zeros(len(scores))
    deviation = float(scores[over].std())
    if deviation <= 1e-12 * max(1.0, float(np.abs(scores[over]).max())):
        return np.zeros(len(scores))
    return np.where(scored, (scores - scores[over].mean()) / deviation, 0.0)


def match_columns(cards: Sequence[TaskCard | None], facts: Mapping[str, float]) -> Array:
    """Whether sources are like the target, sources × 2: a second text, and kind.

    1/2 where they are, -1/2 where not, 0 where a card or a fact does not say.
    """
    pair, regression = facts.get("pair", math.nan), facts.get("regression", math.nan)
    out = np.zeros((len(cards), 2))
    for i, card in enumerate(cards):
        if card is None:
            continue
        if card.pair is not None and not math.isnan(pair):
            out[i, 0] = 0.5 if card.pair == (pair > 0) else -0.5
        if not math.isnan(regression):
            out[i, 1] = 0.5 if (card.kind == "regression") == (regression > 0) else -0.5
    return out


def features(
    names: Sequence[str],
    known: Sequence[str],
    scores: Array,
    cards: Sequence[TaskCard | None],
    facts: Mapping[str, float],
    centres: Array,
    scales: Array,
) -> Array:
    """All columns of a forecast that a new target has, sources × q.

    Parameters
    ----------
    names, cards
        Of the sources.
    known
        Sources of the grid: each has two columns of its own.
    scores
        Methods × sources, NaN where there is none.
    facts
        Of the target; see :func:`target_facts`.
    centres, scales
        Mean and deviation of :func:`fact_values` over the grid's targets.
    """
    place = {name: j for j, name in enumerate(known)}
    reference = np.array([n in place for n in names], bool)
    z = np.array([standardised(row, reference) for row in scores]).reshape(len(scores), len(names))
    told = np.clip(np.nan_to_num((fact_values(facts) - centres) / scales), -_FARTHEST, _FARTHEST)
    own = np.zeros((len(names), len(known)))
    for i, name in enumerate(names):
        if name in place:
            own[i, place[name]] = 1.0
    pair = facts.get("pair", math.nan)
    side = 0.0 if math.isnan(pair) else (1.0 if pair > 0 else -1.0)
    return np.column_stack(
        [np.ones(len(names)), z.T, match_columns(cards, facts),
         np.tile(told, (len(names), 1)), own, side * own]
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Calibration:
    """What turns scores into points, fitted on a grid.

    Attributes
    ----------
    setting
        What it belongs to: ``encoder``, ``tuning``, ``recipe``, ``size``, ``kinds``, and whatever
        else identifies the grid.
    methods
        Whose scores it reads.
    sources
        Of the grid.
    level
        Share of results that intervals cover.
    seeds
        Runs behind each of the grid's gains.
    centres, scales
        Of the targets' facts.
    mean, covariance
        Weights of the columns of :func:`features`.
    own_variances
        Prior variances of a source's two effects, for sources that the grid does not have.
    target_variance, slope_variances
        Of what is particular to one target: in all gains, and per method in how much its score
        says.
    residual, run_variance
        Variance of what is left; of one run's gain between seeds.
    residuals, residual_targets
        Results minus forecasts of left-out targets in predicted standard deviations, one per
        cell; and the number of each one's target.
    pick_residuals
        The same of the first picks, one per target.
    report
        What was measured out of sample, as the study stored it.
    """

    setting: Mapping[str, Any]
    methods: tuple[str, ...]
    sources: tuple[str, ...]
    level: float
    seeds: int
    centres: Array
    scales: Array
    mean: Array
    covariance: Array
    own_variances: Array
    target_variance: float
    slope_variances: Array
    residual: float
    run_variance: float
    residuals: Array = field(default_factory=lambda: np.zeros(0))
    residual_targets: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    pick_residuals: Array = field(default_factory=lambda: np.zeros(0))
    report: Mapping[str, Any] = field(default_factory=dict)

    # -- use ----------------------------------------------------------------------------------

    def differs(self, **setting: Any) -> tuple[str, ...]:
        """Say in sentences how a use differs from what was measured; none where it does not.

        Parameters
        ----------
        setting
            ``encoder``, ``tuning``, ``kind`` and ``rows`` of the target, whichever are known.
        """
        notes = []
        for name in ("encoder", "tuning"):
            if name in setting and str(setting[name]) != str(self.setting.get(name)):
                notes.append(
                    f"This forecast was measured with {name} {self.setting.get(name)}, "
                    f"not {setting[name]}."
                )
        kinds = self.setting.get("kinds", ())
        if "kind" in setting and kinds and setting["kind"] not in kinds:
            notes.append(f"No target of kind {setting['kind']} was measured.")
        rows, size = setting.get("rows"), float(self.setting.get("size", math.nan))
        if rows and size > 0 and not 1 / _NEAR <= rows / size <= _NEAR:
            notes.append(
                f"This forecast was measured on targets of {size:.0f} examples, not {rows}."
            )
        return tuple(notes)

    # -- at rest ------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all."""
        from safetensors.numpy import save

        arrays = {k: np.ascontiguousarray(v) for k, v in vars(self).items()
                  if isinstance(v, np.ndarray)}  # fmt: skip
        header = {k: v for k, v in vars(self).items() if k not in arrays}
        text = json.dumps({"format": _FORMAT, **header}, sort_keys=True, default=dict)
        write_atomically(Path(path), save(arrays, metadata={"calibration": text}))

    @classmethod
    def load(cls, path: str | Path) -> Calibration:
        """Read what :meth:`save` wrote.

        Raises
        ------
        DataError
            If the file is missing, damaged or something else.
        """
        from safetensors import SafetensorError, safe_open

        advice = "Make it: taskscout study calibrate GRID --out FILE"
        try:
            with safe_open(str(path), framework="numpy") as opened:
                header = json.loads((opened.metadata() or {})["calibration"])
                arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # not a dict
            if header.pop("format") != _FORMAT:
                raise KeyError("format")
            for name in ("methods", "sources"):
                header[name] = tuple(header[name])
            return cls(**header, **arrays)
        except OSError as error:
            raise DataError(
                f"{path} cannot be read ({error}).", "A calibration is a file.", advice
            ) from error
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path} is no calibration that this version reads.",
                "It is damaged, or holds something else.",
                advice,
            ) from error
