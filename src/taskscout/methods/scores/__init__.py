r"""Transferability scores of frozen features and predictions: arrays in, numbers out.

Every function takes what some source makes of the target's n examples (features, n × d, or
probabilities of the source's own classes, n × Z) and the target's labels, and returns one number,
higher for a source that suits the target better. LogME has a module of its own,
:mod:`taskscout.methods.evidence`.

Labels are integers or booleans for classes (any distinct numbers; only classes that occur count)
and floats for regression. Nothing here reads or sets a global random state: where chance plays a
part there is a ``seed``, and a result then depends on the order of the rows, which callers fix.
"""

from taskscout.methods.scores.class_separation import gbc, h_score, transrate
from taskscout.methods.scores.low_rank_h_score import h_scores_of_maps
from taskscout.methods.scores.neighbours import knn, parc
from taskscout.methods.scores.predictions import leep, nce, nleep
from taskscout.methods.scores.trained_head import frozen_transfer, linear_probe

__all__ = [
    "frozen_transfer",
    "gbc",
    "h_score",
    "h_scores_of_maps",
    "knn",
    "leep",
    "linear_probe",
    "nce",
    "nleep",
    "parc",
    "transrate",
]
