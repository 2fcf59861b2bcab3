"""The tables of ``benchmarks.study``: one per set of targets, and an oracle that is honest."""

from __future__ import annotations

import numpy as np
from benchmarks.study import reachable, tables, value

from taskscout.methods.gains import Gains
from taskscout.studies.comparison import compare
from taskscout.studies.comparison_rows import ORACLE, PRIOR, RANDOM
from taskscout.studies.predictions import Predicted


def compared(n_seeds):
    """Nine targets, a method that serves them all and one that serves six."""
    rng = np.random.default_rng(0)
    scores = rng.normal(60, 4, (8, 9, 1)) + rng.normal(size=(8, 9, n_seeds))
    names = tuple(f"source{i}" for i in range(8)), tuple(f"target{i}" for i in range(9))
    gains = Gains(*names, scores, np.full((9, n_seeds), 58.0), tuple(range(n_seeds)))
    truth = gains.mean_scores.T
    some = np.where(np.arange(9)[:, None] < 6, truth, np.nan)
    predicted = [Predicted("some", some, gains.mean_alone), Predicted("all", truth, np.zeros(9))]
    return compare(gains, predicted, metrics=["pick-gain", "regret@1"])


def rows(table):
    """First and last cell of every row of a Markdown table below its head."""
    cells = [line.strip("| ").split(" | ") for line in table.splitlines()[2:] if "|" in line]
    return {c[0]: c[-1] for c in cells}


def test_methods_of_fewer_targets_have_a_table_of_their_own():
    c = compared(3)
    wide, said, narrow = tables(c, ["pick-gain"], {}).split("\n\n")
    assert "On 6 targets" in said
    assert rows(wide) == dict.fromkeys(("all", ORACLE, PRIOR, RANDOM), "9")
    assert rows(narrow) == dict.fromkeys(("some", "all", ORACLE, PRIOR, RANDOM), "6")
    assert value(c, "some", "pick-gain").endswith(" (6 targets)")
    assert value(c, "all", "pick-gain").endswith("]")


def test_the_head_says_what_choosing_by_other_seeds_gains():
    c = compared(3)
    oracle = c.row(ORACLE, "pick-gain").value
    assert f"gains {oracle:.2f} [" in reachable(c)
    assert oracle < np.nanmax(c.gains.points, 0).mean()  # the winner's curse is not in it
    assert reachable(compared(1)) == ""
