"""Zero-shot: answering for a target that nothing was trained on.

Either the head of a model tuned on a source answers, where the source's label names are the
target's; or, for any classification target, the label whose name is nearest to the text in the
encoder's space (Yin et al. 2019, "Benchmarking Zero-shot Text Classification", section 4, call
this the label-partially- or fully-unseen setting with embeddings as the scorer).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import TransferError
from taskscout.models.recipe import Recipe
from taskscout.models.tuned_model import TunedModel
from taskscout.tasks import Task
from taskscout.transfer.origin import Origin
from taskscout.transfer.result import Transfer

if TYPE_CHECKING:
    from taskscout.models.workbench import Workbench

Array = NDArray[np.float64]

#: What a label's name is put into before it is embedded.
TEMPLATE = "{}"
_SEPARATORS = re.compile(r"[\W_]+")


def plain(name: str) -> str:
    """A label's name in small letters, words separated by single spaces."""
    return _SEPARATORS.sub(" ", name).strip().casefold()


def match_labels(
    source: Sequence[str],
    target: Sequence[str],
    labels: Mapping[str, str] | None = None,
    *,
    name: str = "the source",
) -> Array:
    """Which source label answers for which target label, S × T, of zeros and ones.

    Parameters
    ----------
    source, target
        Label names.
    labels
        Target label by source label; it comes before the names, which match where they are the
        same but for capitals, spaces and punctuation. Several source labels may answer for one.
    name
        Of the source, for errors.

    Raises
    ------
    TransferError
        If a target label has no source label, or the mapping names labels that are not there.
    """
    at_target = {plain(n): i for i, n in enumerate(target)}
    at_source = {plain(n): i for i, n in enumerate(source)}
    out = np.zeros((len(source), len(target)))
    given = {plain(k): plain(v) for k, v in (labels or {}).items()}
    for key, value in given.items():
        for label, known, whose in (
            (key, at_source, f"{name} has {', '.join(source)}"),
            (value, at_target, f"the target has {', '.join(target)}"),
        ):
            if label not in known:
                raise TransferError(
                    f"The mapping of labels names {label!r}.",
                    f"There is no such label: {whose}.",
                    "Write SOURCE=TARGET with the names as they are.",
                )
    for i, label in enumerate(source):
        wanted = given.get(plain(label), plain(label))
        if wanted in at_target:
            out[i, at_target[wanted]] = 1.0
    missing = [n for n, found in zip(target, out.sum(0), strict=True) if not found]
    if missing:
        raise TransferError(
            f"No label of {name} ({', '.join(source[:8])}{', …' if len(source) > 8 else ''}) "
            f"answers for {', '.join(map(repr, missing[:5]))} of the target.",
            "Without training, the source's labels have to be the target's.",
            "Say which is which with --map SOURCE=TARGET, name another source, or leave the "
            "sources out: the labels' own names are then compared with the texts.",
        )
    return out


def softmax(logits: NDArray[np.floating]) -> Array:
    """Probabilities of logits, by row."""
    shifted = np.asarray(logits, np.float64)
    shifted = np.exp(shifted - shifted.max(1, keepdims=True))
    return np.asarray(shifted / shifted.sum(1, keepdims=True))


def answers(
    tuned: TunedModel,
    source_labels: Sequence[str],
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    target_labels: Sequence[str],
    bench: Workbench,
    *,
    labels: Mapping[str, str] | None = None,
    name: str = "the source",
) -> Array:
    """Probabilities of the target's labels under a source's model and head, n × T.

    The probabilities of source labels that answer for one target label are added; those of source
    labels that answer for none are left out, and the rest made to sum to 1.
    """
    matched = match_labels(source_labels, target_labels, labels, name=name)
    features = bench.encoder.encode(texts, pairs, model=tuned.model.body)
    mass = softmax(tuned.model.predict(features)) @ matched
    return np.asarray(mass / np.maximum(mass.sum(1, keepdims=True), 1e-12))


def label_similarity(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    label_names: Sequence[str],
    bench: Workbench,
    *,
    template: str = TEMPLATE,
) -> Array:
    """Cosine of each text with each label's name under the encoder, n × T."""
    names = [template.format(_SEPARATORS.sub(" ", n).strip()) for n in label_names]
    x = bench.embed(texts, pairs).astype(np.float64)
    y = bench.embed(names, what="embedding label names").astype(np.float64)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    y /= np.maximum(np.linalg.norm(y, axis=1, keepdims=True), 1e-12)
    return np.asarray(x @ y.T)


def zero_shot_outputs(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    label_names: Sequence[str],
    origins: Sequence[Origin],
    models: Sequence[TunedModel],
    bench: Workbench,
    *,
    labels: Mapping[str, str] | None = None,
) -> Array:
    """Outputs per label (n × T, higher is more likely).

    Several sources answer by the mean of their probabilities. Without any, labels' names are
    compared with the texts.
    """
    if not origins:
        return label_similarity(texts, pairs, label_names, bench)
    total = np.zeros((len(texts), len(label_names)))
    for origin, tuned in zip(origins, models, strict=True):
        names = origin.card.label_names or origin.task().label_names
        total += answers(
            tuned, names, texts, pairs, label_names, bench, labels=labels,
            name=f"source {origin.name!r}",
        )  # fmt: skip
    return total / len(origins)


def model_of(
    origin: Origin, bench: Workbench, recipe: Recipe | None = None, *, fresh: bool = False
) -> TunedModel:
    """The source's tuned model: the one at hand, or one tuned from its data."""
    if origin.has_model and not fresh:
        return origin.model()
    return bench.tuned(origin.task(), recipe)


def zero_shot(
    target: Task,
    origins: Sequence[Origin],
    bench: Workbench,
    *,
    source_recipe: Recipe | None = None,
    fresh: bool = False,
    labels: Mapping[str, str] | None = None,
    tuning: str = "lora",
    seed: int = 0,
) -> Transfer:
    """Score a target's test split without training on the target.

    Raises
    ------
    TransferError
        If the target is of a kind that has no such answer, or label spaces do not match.
    """
    if target.kind not in ("classification", "regression"):
        raise TransferError(
            f"Target {target.name!r} is of kind {target.kind}.",
            "Zero-shot transfer answers with one label or number per example.",
            "Use --strategy sequential.",
        )
    if target.kind == "regression" and len(origins) != 1:
        raise TransferError(
            f"Target {target.name!r} is a regression, and {len(origins)} sources were named.",
            "Its numbers have no names that a text could be compared with, and the scales of "
            "several sources cannot be averaged.",
            "Name one regression source.",
        )
    if target.kind == "classification":
        for origin in origins:
            names = origin.card.label_names or origin.task().label_names
            match_labels(names, target.label_names, labels, name=f"source {origin.name!r}")
    models = [model_of(o, bench, source_recipe, fresh=fresh) for o in origins]
    begun = time.perf_counter()
    outputs: NDArray[np.floating]
    texts, pairs = target.inputs("test")
    if target.kind == "regression":
        features = bench.encoder.encode(texts, pairs, model=models[0].model.body)
        outputs = models[0].model.predict(features)
    else:
        outputs = zero_shot_outputs(
            texts, pairs, target.label_names, origins, models, bench, labels=labels
        )
    scoring = time.perf_counter() - begun
    handed = _model_for_target(target, origins, models, bench, labels)
    trained = [m for o, m in zip(origins, models, strict=True) if fresh or not o.has_model]
    notes = () if origins else ("no source: the labels' names were compared with the texts",)
    return Transfer(
        target=target.name,
        sources=tuple(o.name for o in origins),
        strategy="zero_shot",
        tuning=models[0].recipe.tuning if models else tuning,
        seed=seed,
        scores=_scores(target, outputs),
        seconds=scoring,
        source_seconds=sum(m.seconds for m in trained),
        source_examples=sum(m.trained_on for m in trained),
        notes=notes,
        outputs=outputs.astype(np.float32),
        tuned=handed,
    )


def _model_for_target(
    target: Task,
    origins: Sequence[Origin],
    models: Sequence[TunedModel],
    bench: Workbench,
    labels: Mapping[str, str] | None,
) -> TunedModel | None:
    """One model that answers in the target's labels; None where no linear head does.

    One source with a label for each of the target's: the source's head with its rows in the
    target's order; leaving rows out is what leaving labels out and making the rest sum to 1 does.
    No source: a head whose rows are the unit embeddings of the labels' names, which orders labels
    as the cosine does.
    """
    import torch

    from taskscout.models.heads import SequenceModel

    if target.kind == "regression":
        return models[0]
    if not models:
        names = [TEMPLATE.format(_SEPARATORS.sub(" ", n).strip()) for n in target.label_names]
        rows = bench.embed(names, what="embedding label names").astype(np.float64)
        weight = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        body, bias = bench.encoder.load_model(), np.zeros(len(names))
    elif len(models) == 1:
        known = origins[0].card.label_names or origins[0].task().label_names
        matched = match_labels(known, target.label_names, labels)
        if (matched.sum(0) != 1).any():
            return None
        order = matched.argmax(0)
        head = models[0].model.head
        weight = head.weight.detach().cpu().numpy()[order]
        bias = head.bias.detach().cpu().numpy()[order]
        body = models[0].model.body
    else:
        return None
    made = SequenceModel(body, bench.encoder, target.n_classes)
    with torch.no_grad():
        made.head.weight.copy_(torch.from_numpy(np.asarray(weight, np.float32)))
        made.head.bias.copy_(torch.from_numpy(np.asarray(bias, np.float32)))
    recipe = models[0].recipe if models else bench.recipe
    return TunedModel(made.eval(), recipe, {}, {}, "", {}, 0.0, 0)


def _scores(target: Task, outputs: NDArray[np.floating]) -> dict[str, float]:
    """Scores against the test labels, none where these are missing.

    The trivial baseline of a target without training rows is that of its test rows.
    """
    from taskscout.models.heads import score_of

    if target.tables["test"]["label"].null_count:
        return {}
    if "train" not in target.tables or not target.tables["train"].num_rows:
        target = replace(target, tables={**target.tables, "train": target.tables["test"]})
    return score_of(target, "test", outputs)
