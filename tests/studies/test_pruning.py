"""Pruning curves against hand counts."""

from __future__ import annotations

import numpy as np
import pytest

from taskscout.studies.pruning import pruning_curve


def test_pruning():
    truth = np.array([[50.0, 60.0, 70.0, 40.0]])
    curve = pruning_curve(truth, truth, steps=4)
    assert curve.dropped.tolist() == [0, 25, 50, 75]
    assert curve.kept.tolist() == pytest.approx([100, 100, 100, 100])
    assert curve.saved.tolist() == pytest.approx([0, 25, 50, 75])
    assert curve.saving() == pytest.approx(75)
    wrong = pruning_curve(-truth, truth, steps=4)
    assert wrong.kept.tolist() == pytest.approx([100, 100 * 60 / 70, 100 * 50 / 70, 100 * 40 / 70])
    assert wrong.same_best.tolist() == pytest.approx([100, 0, 0, 0])
    assert wrong.saving() == pytest.approx(0)
    assert wrong.saving(tolerance=15) == pytest.approx(25)
    # Times of the pairs, and the method's own.
    seconds = np.array([[1.0, 1.0, 1.0, 7.0]])
    timed = pruning_curve(truth, truth, seconds=seconds, cost=1.0, steps=4)
    assert timed.saved.tolist() == pytest.approx([-10, 60, 70, 80])
    assert timed.saving() == pytest.approx(80)
    # A constant prediction keeps a random half.
    even = pruning_curve(np.zeros((1, 4)), truth, steps=2)
    pairs = [max(a, b) for i, a in enumerate(truth[0]) for b in truth[0][i + 1 :]]
    assert even.kept[1] == pytest.approx(100 * np.mean(pairs) / 70)
    assert even.same_best[1] == pytest.approx(50)
