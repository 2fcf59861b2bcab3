"""Gains of one true score a pair and noise in every run."""

from __future__ import annotations

import numpy as np

from taskscout.methods.gains import Gains


def grid(n_sources=8, n_targets=5, n_seeds=4, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    real = rng.normal(60, 4, (n_sources, n_targets, 1))
    scores = real + noise * rng.normal(size=(n_sources, n_targets, n_seeds))
    alone = 58 + noise * rng.normal(size=(n_targets, n_seeds))
    names = tuple(f"s{i}" for i in range(n_sources)), tuple(f"t{i}" for i in range(n_targets))
    return Gains(*names, scores, alone, tuple(range(n_seeds)))
