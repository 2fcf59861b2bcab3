"""Kinds of tasks: alignment, windows, spans, choices and metrics against references."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taskscout.errors import ModelError
from taskscout.models.encoder import Encoder
from taskscout.models.heads import score_of
from taskscout.models.objectives import ChoiceModel, TokenModel, objective_of, predict
from taskscout.models.objectives.multiple_choice import MultipleChoice
from taskscout.models.objectives.objective import mean_error, ratio_error
from taskscout.models.objectives.span_qa import (
    SpanQA,
    best_span,
    normalised,
    span_of,
    word_f1,
)
from taskscout.models.objectives.tagging import Tagging, are_entities, first_tokens
from taskscout.models.recipe import Recipe, Tuning
from taskscout.models.tuning import tune
from taskscout.tasks import Task
from taskscout.tasks.parts import choices
from tests.models.test_tuning import RATES
from tests.tiny import BAD, FILLER, GOOD, TOPICS, tiny_encoder, toy_task

RECIPE = Recipe(learning_rate=1e-2, head_learning_rate=1e-2, batch_size=16, least_steps=40)
FULL = replace(
    RECIPE, tuning="full", learning_rate=3e-3, least_steps=60, dropout=0.0, test_examples=60
)


def words(rng: np.random.Generator, n: int) -> list[str]:
    return rng.choice([*FILLER, *GOOD, *BAD, *TOPICS[0]], n).tolist()


def toy_tags(n: int = 96, *, shuffled: bool = False, named: bool = True) -> Task:
    """Animals are entities; two in a row are one."""
    rng = np.random.default_rng(0)
    tables = {}
    for split in ("train", "test"):
        tokens = [words(rng, int(rng.integers(4, 9))) for _ in range(n)]
        marked = [[int(w in TOPICS[0]) for w in row] for row in tokens]
        labels = [[2 if m and i and row[i - 1] else m for i, m in enumerate(row)] for row in marked]
        if shuffled and split == "train":
            labels = [rng.permutation(row).tolist() for row in labels]
        tables[split] = pa.table({"tokens": tokens, "label": labels})
    names = ("O", "B-animal", "I-animal") if named else ("other", "first", "more")
    return Task("animals", "tagging", tables, names)


def toy_spans(n: int = 96, *, unanswerable: bool = False, shuffled: bool = False) -> Task:
    """The answer is the animal of the context."""
    rng = np.random.default_rng(1)
    tables = {}
    for split in ("train", "test"):
        rows: dict[str, list[Any]] = {
            "question": [], "context": [], "answer_text": [], "answer_start": []
        }  # fmt: skip
        for i in range(n):
            before, after = (rng.choice([*FILLER, *GOOD], int(k)).tolist()
                             for k in rng.integers(2, 9, 2))  # fmt: skip
            answer = str(rng.choice(TOPICS[0])) if not unanswerable or i % 3 else ""
            context = " ".join([*before, *([answer] if answer else []), *after])
            start = len(" ".join(before)) + 1 if answer else -1
            if shuffled and split == "train":
                pieces = list(re.finditer(r"\S+", context))
                piece = pieces[int(rng.integers(len(pieces)))]
                answer, start = piece.group(), piece.start()
            for name, value in zip(rows, ("it is", context, answer, start), strict=True):
                rows[name].append(value)
        tables[split] = pa.table(rows)
    return Task("where", "span_qa", tables)


def toy_choices(n: int = 96, *, shuffled: bool = False) -> Task:
    """The right choice is the one with an animal; two to four choices."""
    rng = np.random.default_rng(2)
    tables = {}
    for split in ("train", "test"):
        choices, labels = [], []
        for _ in range(n):
            k = int(rng.integers(2, 5))
            label = int(rng.integers(k))
            choices.append(
                [str(rng.choice(TOPICS[0] if i == label else TOPICS[1])) for i in range(k)]
            )
            labels.append(int(rng.integers(k)) if shuffled and split == "train" else label)
        tables[split] = pa.table({"text": ["it was the"] * n, "choices": choices, "label": labels})
    return Task("choices", "multiple_choice", tables)


TOYS = {"tagging": toy_tags, "span_qa": toy_spans, "multiple_choice": toy_choices}


# -- learning ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TOYS)
def test_what_can_be_learnt_is_learnt_and_nothing_else(tiny: Encoder, kind: str) -> None:
    task = TOYS[kind]()
    made = tune(task, tiny, FULL)
    assert made.scores["score"] > made.scores["baseline"] + 0.4
    assert 0 <= made.scores["error"] < 0.1
    blind = tune(TOYS[kind](shuffled=True), tiny, FULL).scores
    assert blind["score"] < blind["baseline"] + 0.25


@pytest.mark.parametrize("kind", TOYS)
@pytest.mark.parametrize("tuning", ["full", "prompt", "p-tuning-v2", "bitfit", "head"])
def test_every_tuning_serves_every_kind(tiny: Encoder, kind: str, tuning: Tuning) -> None:
    length = {"prompt": 8, "p-tuning-v2": 4}.get(tuning, 0)
    steps = replace(
        RECIPE.with_tuning(tuning), least_steps=1, epochs=1, prompt_length=length,
        learning_rate=RATES[tuning],
    )  # fmt: skip
    made = tune(TOYS[kind](n=32), tiny, steps)
    assert np.isfinite(made.scores["score"])
    before = tiny.load_model().state_dict()
    moved = [n for n, p in made.model.body.state_dict().items()
             if n in before and not torch.equal(p, before[n])]  # fmt: skip
    if tuning == "full":
        assert len(moved) > 10
    elif tuning == "bitfit":
        assert moved
        assert all(n.endswith("bias") for n in moved)
    else:
        assert not moved


def test_unanswerable_questions_are_left_unanswered(tiny: Encoder) -> None:
    task = toy_spans(unanswerable=True)
    made = tune(task, tiny, replace(FULL, least_steps=90, test_examples=500))
    answers, scores = predict(made, task, tiny)
    assert scores == made.scores
    assert scores["exact_match"] > scores["baseline"] + 0.3
    empty = [not a for a in answers]
    wanted = [not a for a in task.column("test", "answer_text")]
    assert np.mean(np.array(empty) == wanted) > 0.8
    # Where training has no such question, none is left out.
    short = replace(FULL, least_steps=1, epochs=1)
    assert all(predict(tune(toy_spans(n=16), tiny, short), toy_spans(n=16), tiny)[0])


# -- tagging --------------------------------------------------------------------------------------


def test_labels_stand_at_first_sub_words(tiny: Encoder) -> None:
    tokens = [["good", "zebra", "cat"], ["q1", "cat"]]
    table = pa.table({"tokens": tokens, "label": [[0, 1, 2], [1, 0]]})
    task = Task("t", "tagging", {"train": table}, ("O", "B-x", "I-x"))
    for rows, given_words, labels in zip(
        Tagging(task, tiny, RECIPE).rows("train"), tokens, table["label"].to_pylist(), strict=True
    ):
        (row,) = rows
        pieces = tiny.tokenizer.convert_ids_to_tokens(row["input_ids"])
        assert len(pieces) == len(row["labels"])
        begins = [i for i, p in enumerate(pieces) if p not in ("[CLS]", "[SEP]") and p[:2] != "##"]
        assert len(begins) == len(given_words)
        assert len(pieces) > len(begins) + 2
        assert [row["labels"][i] for i in begins] == labels
        assert all(x == -100 for i, x in enumerate(row["labels"]) if i not in begins)


def test_tokens_may_begin_with_a_space_and_words_may_have_none() -> None:
    # " cat" as GPT-2 has it, a word that was dropped, and one beyond the cut.
    offsets = [(0, 0), (0, 3), (3, 5), (5, 7), (10, 13), (0, 0)]
    assert first_tokens(["the", "cats", "\u200b", "dog", "ran"], offsets).tolist() == [
        1,
        2,
        -1,
        4,
        -1,
    ]
    assert first_tokens(["a"], [(0, 1)]).tolist() == [0]


def test_words_beyond_the_cut_count_as_the_most_frequent_tag(tiny: Encoder) -> None:
    tokens = [["cat"] * 60]
    table = pa.table({"tokens": tokens, "label": [[1] * 59 + [0]]})
    task = Task("t", "tagging", {"train": table, "test": table}, ("O", "B-x", "I-x"))
    objective = Tagging(task, tiny, RECIPE)
    model = objective.model(tiny.load_model(), seed=0)
    (tags,) = objective.predict(model, "test")
    assert len(tags) == 60
    assert (tags[30:] == 1).all()


def test_entities_are_scored_as_seqeval_does(tiny: Encoder) -> None:
    from seqeval.metrics import f1_score

    names = ("O", "B-a", "I-a", "B-b", "I-b")
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 12, 80)
    wanted = [rng.integers(0, 5, n).tolist() for n in lengths]
    said = [np.where(rng.random(len(w)) < 0.7, w, rng.integers(0, 5, len(w))) for w in wanted]
    table = pa.table({"tokens": [["x"] * len(w) for w in wanted], "label": wanted})
    task = Task("t", "tagging", {"train": table, "test": table}, names)
    scores = objective_of(task, tiny, RECIPE).scores("test", said)
    named = [[[names[t] for t in row] for row in rows] for rows in (wanted, said)]
    assert scores["score"] == pytest.approx(f1_score(*named), abs=1e-12)
    # Worked by hand: entities (a, 0-1), (b, 3) wanted; (a, 0-1), (b, 2-3) found.
    table = pa.table({"tokens": [["x"] * 4], "label": [[1, 2, 0, 3]]})
    task = Task("t", "tagging", {"train": table, "test": table}, names)
    assert objective_of(task, tiny, RECIPE).scores("test", [np.array([1, 2, 3, 4])])["score"] == 0.5


def test_parts_of_speech_are_scored_by_word(tiny: Encoder) -> None:
    assert are_entities(("O", "B-x", "I-x"))
    assert not are_entities(("NOUN", "VERB"))
    task = toy_tags(n=4, named=False)
    objective = objective_of(task, tiny, RECIPE)
    labels = task.column("test", "label")
    assert objective.scores("test", [np.array(row) for row in labels])["score"] == 1
    trivial = objective.scores("test", objective.trivial("test")[0])
    flat = [t for row in labels for t in row]
    assert trivial["accuracy"] == flat.count(0) / len(flat)
    assert trivial["score"] == trivial["baseline"]


# -- span QA ----------------------------------------------------------------------------------------


def test_windows_cover_the_context_and_each_answer(tiny: Encoder) -> None:
    rng = np.random.default_rng(0)
    context = " ".join(words(rng, 90))
    marks = list(re.finditer(r"\S+", context))
    rows = {
        "question": ["is it good"] * len(marks),
        "context": [context] * len(marks),
        "answer_text": [m.group() for m in marks],
        "answer_start": [m.start() for m in marks],
    }
    task = Task("t", "span_qa", {"train": pa.table(rows)})
    objective = SpanQA(task, tiny, RECIPE)
    for mark, windows, made in zip(
        marks, objective.windows("train"), objective.rows("train"), strict=True
    ):
        assert len(windows) == len(made) > 4
        found = 0
        for window, row in zip(windows, made, strict=True):
            assert len(row["input_ids"]) <= tiny.max_length
            first, last = row["labels"]
            if first:
                found += 1
                a, b = window.offsets[first, 0], window.offsets[last, 1]
                assert (a, b) == mark.span()
        assert 1 <= found <= 3
    covered = {i for w in objective.windows("train")[0] for a, b in w.offsets for i in range(a, b)}
    assert {i for i, c in enumerate(context) if c != " "} <= covered
    # Windows overlap by a third of the input or so.
    of_windows = [
        {i for a, b in w.offsets for i in range(a, b)} for w in objective.windows("train")[0]
    ]
    assert all(a & b for a, b in itertools.pairwise(of_windows))


def test_a_long_question_leaves_room_for_the_context(tiny: Encoder) -> None:
    rng = np.random.default_rng(0)
    rows = {
        "question": [" ".join(words(rng, 80)), ""], "context": ["cat dog", "cat dog"],
        "answer_text": ["dog", "dog"], "answer_start": [4, 4],
    }  # fmt: skip
    task = Task("t", "span_qa", {"train": pa.table(rows)})
    for (row,), (window,) in zip(
        SpanQA(task, tiny, RECIPE).rows("train"),
        SpanQA(task, tiny, RECIPE).windows("train"),
        strict=True,
    ):
        assert window.offsets[row["labels"][0]].tolist() == [4, 7]


def test_an_answer_that_is_cut_is_not_in_the_window() -> None:
    offsets = np.array([[-1, -1], [0, 3], [4, 7], [8, 12], [-1, -1]])
    assert span_of(offsets, 4, 7) == [2, 2]
    assert span_of(offsets, 4, 12) == [2, 3]
    assert span_of(offsets, 5, 7) == [2, 2]
    assert span_of(offsets, 8, 15) == [0, 0]
    assert span_of(offsets[[0, 3, 4]], 4, 12) == [0, 0]
    assert span_of(offsets, -1, -1) == [0, 0]


@given(st.integers(0, 10_000), st.integers(1, 14), st.integers(1, 6))
def test_the_best_span_is_the_best_of_all(seed: int, n: int, longest: int) -> None:
    rng = np.random.default_rng(seed)
    starts, ends = rng.normal(size=(2, n))
    allowed = rng.random(n) < 0.7
    every = [
        (starts[i] + ends[j], i, j)
        for i in range(n)
        for j in range(i, min(n, i + longest))
        if allowed[i] and allowed[j]
    ]
    score, first, last = best_span(starts, ends, allowed, longest)
    if not every:
        assert score == -np.inf
        return
    best = max(every)
    assert score == pytest.approx(best[0])
    assert starts[first] + ends[last] == pytest.approx(best[0])
    assert allowed[first]
    assert allowed[last]
    assert 0 <= last - first < longest


def test_answers_are_compared_as_squad_does() -> None:
    # The values of evaluate-v1.1.py on these answers.
    assert normalised("The  Cat, (a) dog!") == "cat dog"
    assert normalised("U.S.A.") == "usa"
    assert word_f1("the black cat", "black cats") == pytest.approx(0.5)
    assert word_f1("a dog and a dog", "dog") == pytest.approx(0.5)
    assert word_f1("the", "a") == 1.0
    assert word_f1("", "cat") == 0.0
    assert word_f1("cat", "") == 0.0
    assert word_f1("in 1920", "1920") == pytest.approx(2 / 3)


def test_the_loss_points_to_start_and_end(tiny: Encoder) -> None:
    torch.manual_seed(0)
    model = TokenModel(tiny.load_model(), tiny, 2, spans=True).eval()
    rows = [
        {"input_ids": [2, 9, 8, 7, 3], "labels": [1, 3]},
        {"input_ids": [2, 9, 3], "labels": [0, 0]},
    ]
    batch = SpanQA(toy_spans(n=4), tiny, RECIPE).collate(rows)
    out = model(**batch)
    losses = []
    for row, logits in zip(rows, out["logits"], strict=True):
        real = logits[: len(row["input_ids"])].log_softmax(0)
        losses += [-real[row["labels"][0], 0], -real[row["labels"][1], 1]]
    assert float(out["loss"]) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


# -- multiple choice --------------------------------------------------------------------------------


def test_choices_that_are_not_there_take_no_part(tiny: Encoder) -> None:
    task = toy_choices(n=12)
    objective = MultipleChoice(task, tiny, RECIPE)
    rows = [row for each in objective.rows("train") for row in each]
    counts = [len(row["choices"]) for row in rows]
    assert len(set(counts)) > 1
    torch.manual_seed(0)
    model = ChoiceModel(tiny.load_model(), tiny).eval()
    with torch.no_grad():
        out = model(**objective.collate(rows))
        alone = [float(model(**objective.collate([row]))["loss"]) for row in rows]
    assert float(out["loss"]) == pytest.approx(float(np.mean(alone)), rel=1e-4)
    predicted = objective.predict(model, "train")
    for logits, scores, k in zip(out["logits"], predicted, counts, strict=True):
        assert torch.isinf(logits[k:]).all()
        own = logits[:k].numpy() - float(model.head.bias.detach())
        np.testing.assert_allclose(scores, own, atol=1e-4)


def test_guessing_is_right_once_in_as_many_times_as_there_are_choices(tiny: Encoder) -> None:
    rows = {
        "text": ["x"] * 4, "choices": [["a", "b"], ["a", "b"], ["a", "b", "c", "d"], ["a", "b"]],
        "label": [0, 1, 2, 1],
    }  # fmt: skip
    task = Task("t", "multiple_choice", {"train": pa.table(rows), "test": pa.table(rows)})
    objective = objective_of(task, tiny, RECIPE)
    guess, place = objective.trivial("test")
    assert objective.measures("test", guess)["accuracy"] == pytest.approx((3 * 0.5 + 0.25) / 4)
    assert objective.measures("test", place)["accuracy"] == 0.5
    # A second text comes first, so that a long passage is cut and not the question.
    paired = {"text": ["passage"], "text_pair": ["question"], "choices": [["a", "b"]], "label": [0]}
    task = Task("t", "multiple_choice", {"train": pa.table(paired)})
    assert set(choices(task, "train")[0]) == {"question passage"}


# -- metrics ----------------------------------------------------------------------------------------


def test_a_metric_can_be_named(tiny: Encoder) -> None:
    task = toy_task(n=50)
    labels = task.labels("test")
    outputs = np.eye(2)[np.where(np.arange(50) % 5, labels, 1 - labels)]
    usual = score_of(task, "test", outputs)
    for metric in ("accuracy", "macro_f1", "matthews"):
        named = score_of(task, "test", outputs, metric=metric)
        assert named["score"] == named[metric]
        assert {k: named[k] for k in usual if k not in ("score", "baseline")} == {
            k: v for k, v in usual.items() if k not in ("score", "baseline")
        }
    assert named["matthews"] == pytest.approx(np.corrcoef(labels, outputs.argmax(1))[0, 1])
    made = tune(toy_spans(n=16), tiny, replace(RECIPE, least_steps=1, metric="exact_match"))
    assert made.scores["score"] == made.scores["exact_match"]
    numbers = toy_task(n=20, regression=True)
    values = numbers.labels("test")[:, None] ** 3
    assert score_of(numbers, "test", values, metric="spearman")["score"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("task", "metric"),
    [(toy_task(n=8), "f1"), (toy_choices(n=8), "macro_f1"), (toy_tags(n=8), "rouge_l")],
)
def test_a_metric_of_another_kind_is_refused(tiny: Encoder, task: Task, metric: str) -> None:
    with pytest.raises(ModelError, match=f"metric is '{metric}'"):
        tune(task, tiny, replace(RECIPE, metric=metric))


def test_standard_errors_are_those_of_a_bootstrap() -> None:
    rng = np.random.default_rng(0)
    wholes = rng.integers(1, 9, 400).astype(float)
    parts = rng.binomial(wholes.astype(int), 0.6).astype(float)
    draws = rng.integers(400, size=(4000, 400))
    ratios = parts[draws].sum(1) / wholes[draws].sum(1)
    assert ratio_error(parts, wholes) == pytest.approx(ratios.std(), rel=0.05)
    assert mean_error(parts) == pytest.approx(parts[draws].mean(1).std(), rel=0.05)
    assert ratio_error(np.zeros(3), np.zeros(3)) == 0


def test_other_encoders_serve_too(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    from tests.tiny import VOCABULARY

    config = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=32, max_position_embeddings=256, bos_token_id=2,
        eos_token_id=3,
    )  # fmt: skip
    llama = tiny_encoder(tmp_path / "llama", config=config, layers="mean")
    for make in TOYS.values():
        assert tune(make(n=8), llama, replace(RECIPE, least_steps=1, epochs=1)).scores
