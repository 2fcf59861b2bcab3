"""The default of ``rank``, chosen on one half of the targets and reported on the other.

    python -m benchmarks.forecast_inputs --block lora-200-full
    python -m benchmarks.default_method                    # or --block wide

The halves are every other target in the order of the study file. On the first half the candidate
whose first pick gains most is chosen (forecasts leave out the target they forecast); the second
half then reports every candidate, forecasts fitted on the first half alone.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks._grids import STUDIES
from benchmarks._report import markdown, publish
from benchmarks.forecast import BLOCK, READS, SINGLE, evidence, mean
from taskscout.methods import DEFAULT
from taskscout.methods.gains import Gains
from taskscout.studies import calibration as c
from taskscout.studies.study_file import read_study

#: Sources that maps leave for the real models of ``rank --refine``.
SHORT_LIST = 10


def refined(maps: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Scores of real models for the sources that maps put among the first, else NaN."""
    place = (-np.nan_to_num(maps, nan=-np.inf)).argsort(1).argsort(1)
    return np.where(place < SHORT_LIST, real, np.nan)


def first_gain(gains: Gains, predicted: np.ndarray) -> np.ndarray:
    """Gain of the source put first, among those that were run, for each target."""
    out = []
    for scores, points in zip(predicted, gains.points.T, strict=True):
        usable = ~np.isnan(scores) & ~np.isnan(points)
        out.append(points[np.where(usable, scores, -np.inf).argmax()] if usable.any() else np.nan)
    return np.array(out)


def candidates(name: str, chosen_on: list[str]) -> dict[str, np.ndarray]:
    """First-pick gains of each candidate, by target of the grid.

    Forecasts of targets that do not choose are fitted on those that do.
    """
    data = evidence(name, SINGLE)
    gains = data.gains
    orders = dict(data.scores)
    orders[f"{DEFAULT}, then {SHORT_LIST} real models"] = refined(orders[DEFAULT], orders["logme"])
    out = {m: first_gain(gains, scores) for m, scores in orders.items()}
    for reads, methods in READS.items():
        part = evidence(name, methods)
        choosing = part.without([t for t in gains.targets if t not in chosen_on])
        forecasts = dict(c.out_of_sample(choosing).forecasts)
        fitted = c.calibrate(choosing)
        for target in gains.targets:
            if target not in chosen_on:
                forecasts[target] = part.forecast(fitted, target, part.candidates(target))
        picks = [forecasts[t].names[forecasts[t].order[0]] for t in gains.targets]
        out[f"forecast, {reads}"] = np.array(
            [gains.points[gains.sources.index(s), j] for j, s in enumerate(picks)]
        )
    return out


def main() -> None:
    """Choose, report and publish."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--block", default=BLOCK)
    name = parser.parse_args().block
    gains = evidence(name, ()).gains
    ran = [t for t in read_study(STUDIES / f"{name}.yaml").targets if t in gains.targets]
    chosen_on, reported_on = ran[::2], ran[1::2]
    chooses = np.array([t in chosen_on for t in gains.targets])
    picks = candidates(name, chosen_on)
    order = sorted(picks, key=lambda m: -np.nanmean(picks[m][chooses]))
    chosen = order[0]
    oracle = c.honest_oracle(gains)[~chooses]
    any_source = np.nanmean(gains.points, 0)[~chooses]
    rows = [
        (m, f"{np.nanmean(picks[m][chooses]):.2f}", mean(picks[m][~chooses]),
         "–" if m == DEFAULT else mean((picks[m] - picks[DEFAULT])[~chooses]))
        for m in order
    ]  # fmt: skip
    reach = mean(oracle) if np.isfinite(oracle).any() else "unknown with one seed"
    text = (
        f"{len(chosen_on)} targets choose, {len(reported_on)} others report: "
        f"{', '.join(reported_on)}. Gain of the first pick in points, with 95% bootstrap intervals "
        f"over targets. On the second half a random source gains {mean(any_source)}, the honest "
        f"oracle {reach}. Chosen on the first half: **{chosen}**.\n\n"
        + markdown(("candidate", "first half (chooses)", "second half (reports)",
                    f"paired against {DEFAULT}"), rows)
    )  # fmt: skip
    stored = {
        "block": name, "targets": gains.targets, "chosen_on": chosen_on, "chosen": chosen,
        "picks": {m: p.tolist() for m, p in picks.items()}, "oracle": oracle.tolist(),
    }  # fmt: skip
    command = "default_method" + ("" if name == BLOCK else f" --block {name}")
    title = "The default, chosen on one half of the targets, reported on the other"
    publish("default_method", title, text, stored, command=command)


if __name__ == "__main__":
    main()
