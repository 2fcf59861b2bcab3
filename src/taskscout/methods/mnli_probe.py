"""Strength instead of match: how well a linear probe reads MNLI off a source's tuned model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import DataError, MethodError
from taskscout.methods.method import BaseMethod, Cost, Description, Factory, Material
from taskscout.methods.scores import linear_probe
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task

#: Name of the probe's task in a catalogue.
MNLI = "mnli"


class MNLIProbe(BaseMethod):
    """MNLI probe: a source is strong where a linear head reads entailment off its tuned model.

    score(s) = accuracy of a linear probe on MNLI, on the frozen encoder as source s tuned it

    Premise and hypothesis are encoded together, as all pairs are. The probe is a logistic
    regression on standardised features, its accuracy that of five-fold cross-validation over 800
    rows. It is measured once per source; the target plays no part, so every target gets the same
    order. The claim behind it: a source's gain hardly depends on the target, and MNLI shows which
    sources gain.

    *Options*, for describing sources: ``probe``, a classification task that stands for MNLI; None
    takes the task ``mnli`` of the catalogue that ``TASKSCOUT_DATA`` names. The rows are those of
    its ``validation`` split where it has one, so that the source MNLI is not probed on what it
    was tuned on, and never test rows. ``rows``; ``strength``, the L2 penalty, strong because
    there are hardly more rows than features: of penalties from 1 to a million, those about 10,000
    read most off the untouched encoder. No transfer result chose it.

    *Cost.* Nothing at ranking time. A source costs one forward pass over 800 pairs and five heads,
    once it is tuned, and keeps one number, which the built-in pool has of every source.

    *Fails* where sources match some targets and not others, which on our grid is most of what
    tells them apart (``docs/benchmarks/strength-or-match.md``). Sources about inference come first
    for every target. An accuracy over 800 rows has a standard error of 1.8 points.

    *Reference.* Choshen et al. 2023 (arXiv 2211.00107). Theirs is a probe trained on MNLI by
    gradient, of base-size encoders tuned in full.
    """

    name = key = "mnli-probe"
    describes_from: Material = "tuned model"
    cost: Cost = "card"
    paper = "Choshen et al. 2023"

    def __init__(
        self, *, probe: Task | None = None, rows: int = 800, strength: float = 10_000.0
    ) -> None:
        if probe is not None and probe.kind != "classification":
            raise MethodError(
                f"The probe's task {probe.name!r} is of kind {probe.kind}.",
                "The score is an accuracy, so it needs classes.",
                "Give a classification task such as MNLI.",
            )
        if rows < 10 or not strength > 0:
            raise MethodError(
                f"rows is {rows} and strength {strength}.",
                "Five folds need rows to learn from, and a penalty is above 0.",
                "Give at least 10 rows and a strength above 0.",
            )
        self.probe, self.rows, self.strength = probe, rows, strength

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Probe the source's tuned model, and keep the accuracy.

        Raises
        ------
        MethodError
            Where there are no rows of MNLI.
        """
        probe = bench.once((self.key, self.rows), self._found) if self.probe is None else self.probe
        split = "validation" if "validation" in probe.tables else "train"
        sample = probe.sample(self.rows, split=split)
        features = bench.tuned_embeddings(sample, split, of=source)
        labels = sample.labels(split)
        accuracy = linear_probe(features, labels, strength=self.strength)
        header = {
            "accuracy": round(accuracy, 6),
            "probe": f"{probe.fingerprint}:{split}:{len(labels)}:{self.strength:g}",
            "encoder": bench.encoder.fingerprint,
        }
        return Description(self.key, source.name, header)

    def _found(self) -> Task:
        """Take MNLI from the user's catalogue."""
        from taskscout.tasks.catalogue import ENVIRONMENT_VARIABLE, Catalogue

        try:
            return Catalogue.find().task(MNLI)
        except DataError as error:
            raise MethodError(
                f"There are no rows of MNLI to probe with: {error.found}",
                f"{self.name} describes a source by the accuracy of a linear probe on MNLI, whose "
                "rows are not part of taskscout.",
                f"Set {ENVIRONMENT_VARIABLE} to the folder of a catalogue (tasks.json) with a task "
                f"{MNLI!r}, or give the rows in Python: get_method({self.name!r}, probe=task).",
            ) from error

    def score(
        self,
        target: Task,  # noqa: ARG002
        sources: Sequence[Description],
        bench: Workbench,
    ) -> NDArray[np.float64]:
        """Accuracy per source, 0 to 1.

        NaN for a source without the number, of another encoder, or probed on other rows than most.
        """
        headers = [
            s.header if s.header.get("encoder") == bench.encoder.fingerprint else {}
            for s in sources
        ]
        probes = Counter(h["probe"] for h in headers if "accuracy" in h)
        usual = probes.most_common(1)[0][0] if probes else None
        return np.array(
            [h["accuracy"] if "accuracy" in h and h["probe"] == usual else np.nan for h in headers],
            np.float64,
        )


METHODS: dict[str, Factory] = {"mnli-probe": MNLIProbe}
