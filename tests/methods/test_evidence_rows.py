"""Rows of evidence of every kind: what they are, and that all scores have them, on a tiny encoder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.linalg import null_space

from taskscout.errors import MethodError
from taskscout.methods.evidence import logme
from taskscout.methods.evidence_rows import (
    TEXT_ROWS,
    WORD_ROWS,
    EvidenceRows,
    evidence_rows,
)
from taskscout.methods.feature_score import label_columns_of
from taskscout.methods.method import Description, get_method
from taskscout.methods.scores import linear_probe
from taskscout.methods.transferability import METHODS
from taskscout.models.cache import EmbeddingCache, NoCache
from taskscout.models.encoder import Encoder
from taskscout.models.words import Words, words_of
from taskscout.models.workbench import Workbench
from taskscout.pools import Pool
from taskscout.pools.build import add_source, encoder_header, tuned_model
from taskscout.ranking import rank
from taskscout.tasks import Task
from taskscout.tasks.parts import LONGEST_SENTENCE, sentences
from tests.models.test_objectives import toy_choices, toy_spans, toy_tags
from tests.small import RECIPE
from tests.tiny import BAD, FILLER, GOOD, TOPICS, tiny_encoder, toy_task


def toy_questions(n: int = 60, seed: int = 0) -> Task:
    """Three sentences, one of which names the animal that answers."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list] = {"question": [], "context": [], "answer_text": [], "answer_start": []}
    for _ in range(n):
        parts = [" ".join(rng.choice([*FILLER, *GOOD], 4)) for _ in range(2)]
        answer = str(rng.choice(TOPICS[0]))
        parts.insert(int(rng.integers(3)), f"the {answer} was {rng.choice(BAD)}")
        context = ". ".join(parts) + "."
        start = context.index(answer)
        for name, value in zip(rows, ("it is", context, answer, start), strict=True):
            rows[name].append(value)
    return Task("questions", "span_qa", {"train": pa.table(rows), "test": pa.table(rows)})


def toy_outputs(n: int = 60) -> Task:
    task = toy_task("outputs", n=n)
    names = np.array(["yes", "no "])
    tables = {
        s: pa.table({"prompt": t["text"], "completion": names[task.labels(s)].tolist()})
        for s, t in task.tables.items()
    }
    return Task("outputs", "text_to_text", tables)


TARGETS = {
    "tagging": toy_tags(60),
    "span_qa": toy_questions(),
    "multiple_choice": toy_choices(60),
    "text_to_text": toy_outputs(),
}
SOURCES = (
    replace(toy_tags(), name="animals"),
    replace(toy_spans(), name="where"),
    replace(toy_choices(), name="choices"),
    toy_task("sentiment", n=96),
    toy_task("value", n=96, regression=True),
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return tiny_encoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def bench(encoder: Encoder) -> Workbench:
    return Workbench(encoder, cache=NoCache(), recipe=RECIPE)


@pytest.fixture(scope="module")
def pool(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    pool = Pool.create(tmp_path_factory.mktemp("pool"), encoder=encoder_header(bench.encoder))
    for task in SOURCES:
        add_source(pool, task, bench)
    return pool


def described(pool: Pool, key: str) -> list[Description]:
    return [pool.description(task.name, key) for task in SOURCES]


# -- what rows are -------------------------------------------------------------------------------


def test_tags_are_words_with_as_many_outside_as_others() -> None:
    target = TARGETS["tagging"]
    rows = evidence_rows(target)
    texts, _ = rows.task.inputs("train")
    tags = rows.task.column("train", "label")
    assert rows.words is not None
    for owner, start, label in zip(rows.words.owners, rows.words.starts, rows.labels, strict=True):
        word = texts[owner][start:].split(" ")[0]
        place = len(texts[owner][:start].split(" ")) - 1
        assert tags[owner][place] == label
        assert (word in TOPICS[0]) == (label > 0)
    assert (rows.labels == 0).sum() == (rows.labels > 0).sum()
    everything = evidence_rows(target, outside="all")
    assert len(everything) == sum(len(row) for row in target.column("train", "tokens"))
    assert set(evidence_rows(target, outside="none").labels) == {1, 2}


def test_words_are_bounded_and_come_from_all_sentences() -> None:
    many = pa.table({"tokens": [["a", "b"] * 50] * 200, "label": [[0, 1] * 50] * 200})
    rows = evidence_rows(Task("t", "tagging", {"train": many}, ("X", "Y")))
    assert len(rows) == WORD_ROWS
    assert len(np.unique(rows.examples)) == 200


def test_choices_are_read_behind_their_question() -> None:
    target = TARGETS["multiple_choice"]
    rows = evidence_rows(target)
    texts, seconds = rows.task.inputs("train")
    assert set(texts) == {"it was the"}
    assert seconds is not None
    assert [s in TOPICS[0] for s in seconds] == (rows.labels == 1).tolist()
    assert len(rows) == sum(len(c) for c in target.column("train", "choices"))
    assert rows.within
    long = pa.table({"text": ["q"] * 900, "choices": [["a", "b", "c"]] * 900, "label": [1] * 900})
    assert len(evidence_rows(Task("t", "multiple_choice", {"train": long}))) == TEXT_ROWS // 3 * 3


def test_the_sentence_with_the_answer_is_right() -> None:
    rows = evidence_rows(TARGETS["span_qa"])
    _, seconds = rows.task.inputs("train")
    assert seconds is not None
    assert len(rows) == 180
    for sentence, label in zip(seconds, rows.labels.tolist(), strict=True):
        assert any(w in TOPICS[0] for w in sentence.rstrip(".").split()) == bool(label)
    ends = evidence_rows(TARGETS["span_qa"], spans="words")
    assert ends.words is not None
    assert ends.words.second
    _, contexts = ends.task.inputs("train")
    assert contexts is not None
    for owner, start, label in zip(ends.words.owners, ends.words.starts, ends.labels, strict=True):
        word = contexts[owner][start:].split(" ")[0].rstrip(".")
        assert (word in TOPICS[0]) == (label == 3)


def test_sentences_end_at_stops_and_lines_and_are_not_endless() -> None:
    text = 'One. Mr X said "no." Then?\n\nA line without a stop ' + "word " * 100
    found = [text[a:b] for a, b in sentences(text)]
    assert found[:3] == ["One.", 'Mr X said "no."', "Then?"]
    assert max(len(s.split()) for s in found) == LONGEST_SENTENCE
    assert " ".join(found).split() == text.split()
    assert sentences("") == sentences("  \n ") == []


def test_few_outputs_are_classes() -> None:
    rows = evidence_rows(TARGETS["text_to_text"])
    assert rows.task.label_names == ("no", "yes")
    assert rows.groups(rows.order()) is None


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_texts_with_one_label_are_rows_as_they_are(kind: str) -> None:
    target = toy_task(n=30, regression=kind == "regression")
    rows = evidence_rows(target)
    assert rows.task is target
    np.testing.assert_array_equal(rows.labels, target.labels("train"))


# -- targets that have none -----------------------------------------------------------------------


def unusable() -> dict[str, Task]:
    questions = TARGETS["span_qa"].tables["train"]
    no_answer = questions.set_column(2, "answer_text", pa.array([""] * 60)).set_column(
        3, "answer_start", pa.array([-1] * 60)
    )
    one = pa.table({"text": ["q"] * 9, "choices": [["a"]] * 9, "label": [0] * 9})
    free = pa.table({"prompt": list("abcdef"), "completion": list("uvwxyz")})
    outside = pa.table({"tokens": [["a", "b"]] * 9, "label": [[0, 0]] * 9})
    return {
        "unanswerable": Task("t", "span_qa", {"train": no_answer}),
        "one choice": Task("t", "multiple_choice", {"train": one}),
        "free text": Task("t", "text_to_text", {"train": free}),
        "nothing but O": Task("t", "tagging", {"train": outside}, ("O", "B-x")),
    }


@pytest.mark.parametrize("name", unusable())
def test_what_has_no_rows_is_ranked_without_labels(name: str, pool: Pool, bench: Workbench) -> None:
    target = unusable()[name]
    ranking = rank(target, pool, bench=bench)
    assert ranking.methods == ("format",)  # a pool of one's own has no terms and no means of texts
    assert any("which reads no labels, orders" in note for note in ranking.notes)
    with pytest.raises(MethodError) as caught:  # named, a method is not replaced
        rank(target, pool, "esm-logme", bench=bench)
    assert caught.value.remedy


def test_the_built_in_pool_stands_in_with_words() -> None:
    ranking = rank(unusable()["free text"], bench=Workbench(cache=NoCache()))
    assert ranking.methods == ("terms-kl-reverse",)


# -- contrasts ------------------------------------------------------------------------------------


def grouped(seed: int = 0, sizes: tuple[int, ...] = (2, 2, 3, 4, 2, 5)) -> EvidenceRows:
    examples = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.concatenate([np.eye(k, dtype=np.int64)[0] for k in sizes])
    table = pa.table({"text": ["x"] * len(labels), "label": labels})
    task = Task("t", "classification", {"train": table}, ("wrong", "right"))
    return EvidenceRows(task, labels, examples, within=True, said="choices")


def test_contrasts_are_what_an_orthonormal_basis_leaves() -> None:
    rows = grouped()
    x = np.random.default_rng(0).normal(size=(len(rows), 3))
    one = (rows.examples[:, None] == np.unique(rows.examples)).astype(float)
    basis = null_space(one.T)  # all that is free within examples
    assert rows.contrasts(x).shape == (len(rows) - 6, 3) == (basis.shape[1], 3)
    np.testing.assert_allclose(
        rows.contrasts(x).T @ rows.contrasts(x), (basis.T @ x).T @ basis.T @ x
    )
    np.testing.assert_allclose(rows.about_means(x), basis @ basis.T @ x, atol=1e-12)
    y = label_columns_of(rows.labels, compat=False)
    # The evidence does not depend on which basis is taken.
    np.testing.assert_allclose(
        logme(rows.contrasts(x), rows.contrasts(y), unit_norm=True),
        logme(basis.T @ x, basis.T @ y, unit_norm=True),
        rtol=1e-9,
    )


def test_a_probe_keeps_an_example_in_one_fold() -> None:
    rows = grouped(sizes=(2,) * 60)
    noise = rows.about_means(np.random.default_rng(0).normal(size=(120, 80)))
    # Two choices about their mean are each other's mirror: one in training gives the other away.
    assert linear_probe(noise, rows.labels) > 0.75
    held = linear_probe(noise, rows.labels, groups=rows.examples)
    assert 0.3 < held < 0.7


# -- words ----------------------------------------------------------------------------------------


def test_a_word_is_the_state_of_its_first_sub_word(bench: Workbench, encoder: Encoder) -> None:
    task = Task("t", "tagging", {"train": pa.table({"tokens": [["the", "zebra", "cat"]],
                                                     "label": [[0, 1, 1]]})}, ("O", "B"))  # fmt: skip
    words = words_of(task.inputs("train")[0])
    assert words.starts.tolist() == [0, 4, 10]
    found = bench.embeddings(task, words=words, middle=True)
    read = encoder.tokenizer("the zebra cat", return_tensors="pt")
    tokens = encoder.tokenizer.convert_ids_to_tokens(read["input_ids"][0])
    assert tokens[3].startswith("##")  # zebra is several
    with torch.inference_mode():
        output = encoder.load_model()(**read, output_hidden_states=True)
    at = [1, 2, len(tokens) - 2]
    wanted = torch.cat([output.last_hidden_state, output.hidden_states[1]], -1)[0, at]
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)


def test_words_behind_the_cut_have_the_last_state_read(bench: Workbench) -> None:
    text = " ".join(["the", "cat"] * 40)  # 80 words, 30 of which are read
    found = bench.embed([text], words=words_of([text]))
    assert found.shape == (80, 32)
    np.testing.assert_array_equal(found[30:], np.repeat(found[29:30], 50, axis=0))
    assert not np.allclose(found[28], found[29])


def test_words_of_second_texts_and_the_cache(encoder: Encoder, tmp_path) -> None:
    texts, pairs = ["the cat", "a dog"], ["film was good", "book was bad"]
    words = Words(np.array([0, 1, 1]), np.array([5, 0, 9]), second=True)
    bench = Workbench(encoder, cache=EmbeddingCache(tmp_path), recipe=RECIPE)
    found = bench.embed(texts, pairs, words=words)
    assert bench.embedded == 2
    again = Workbench(encoder, cache=EmbeddingCache(tmp_path), recipe=RECIPE)
    np.testing.assert_array_equal(again.embed(texts, pairs, words=words), found)
    assert (again.embedded, again.recalled) == (0, 2)
    read = encoder.tokenizer(texts[1], pairs[1], return_tensors="pt")
    with torch.inference_mode():
        states = encoder.load_model()(**read).last_hidden_state[0]
    np.testing.assert_allclose(found[1], states[4], atol=1e-5)  # [CLS] a dog [SEP] book
    np.testing.assert_allclose(found[2], states[6], atol=1e-5)


# -- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("name", METHODS)
def test_every_score_serves_every_kind_from_every_kind(
    name: str, kind: str, pool: Pool, bench: Workbench
) -> None:
    target, method = TARGETS[kind], get_method(name)
    sources = described(pool, method.key)
    scores = method.score(target, sources, bench)
    of_predictions = name.rpartition("esm-")[2] in ("leep", "nce")
    for source, score in zip(SOURCES, scores, strict=True):
        has_classes = source.kind in ("tagging", "classification")
        assert np.isfinite(score) == (has_classes or not of_predictions), source.name
    turned = target.take({"train": np.arange(60)[::-1]})
    np.testing.assert_allclose(method.score(turned, sources, bench), scores, rtol=1e-5)


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("name", ["esm-logme", "layered-esm-logme", "esm-h-score"])
def test_maps_scored_at_once_are_maps_scored_one_by_one(
    name: str, kind: str, pool: Pool, bench: Workbench
) -> None:
    target, method = TARGETS[kind], get_method(name)
    rows = evidence_rows(target)
    sources = described(pool, method.key)
    at_once = method.score(target, sources, bench)
    for source, score in zip(sources, at_once, strict=True):
        features = method.backend.features(rows, source, bench)
        assert method.rate_rows(rows, features, source) == pytest.approx(score, rel=1e-6)


def test_a_map_of_words_is_read_where_rows_are_words(pool: Pool, bench: Workbench) -> None:
    method = get_method("esm-logme")
    rows = evidence_rows(TARGETS["tagging"])
    (source, *_) = described(pool, "space-map")
    assert 0 < source.header["words"]["explained"] <= 1
    real = rows.source_features(bench, pool.description("animals", "tuned").arrays, "animals")

    def error(description: Description) -> float:
        mapped = method.backend.features(rows, description, bench)
        return float(((mapped - real) ** 2).mean())

    bare = {k: v for k, v in source.header.items() if k != "words"}
    of_texts = Description(source.key, source.source, bare, source.arrays)
    assert error(source) < error(of_texts)
    assert np.isfinite(method.score(TARGETS["tagging"], [of_texts], bench)).all()
    ranking = rank(TARGETS["tagging"], pool, bench=bench)
    assert any(note.startswith("read as ") and "by their tags" in note for note in ranking.notes)
    assert not any("map of whole texts" in note for note in ranking.notes)


def test_a_source_that_knows_the_choices_stands_first(pool: Pool, bench: Workbench) -> None:
    assert rank(TARGETS["multiple_choice"], pool, "logme", bench=bench)[0].name == "choices"


# -- sources in pools -----------------------------------------------------------------------------


@pytest.mark.parametrize("task", SOURCES, ids=lambda t: t.kind)
def test_a_pool_gives_back_the_model_it_was_given(task: Task, pool: Pool, bench: Workbench) -> None:
    from taskscout.models.objectives import predict

    source = pool.source(task.name)
    kept = tuned_model(pool.description(task.name, "tuned"), source.tuning, bench.encoder)
    _, scores = predict(kept, task, bench.encoder)
    assert scores["score"] == pytest.approx(source.tuning["scores"]["score"], abs=0.02)
    assert source.tuning["scores"]["score"] > source.tuning["scores"]["baseline"]


def test_tuned_models_of_every_kind_come_back_from_disk(encoder: Encoder, tmp_path) -> None:
    task = toy_tags(30)
    first = Workbench(encoder, cache=EmbeddingCache(tmp_path), recipe=RECIPE)
    head = first.tuned(task).model.head.weight.detach().numpy()
    again = Workbench(encoder, cache=EmbeddingCache(tmp_path), recipe=RECIPE)
    np.testing.assert_array_equal(again.tuned(task).model.head.weight.detach().numpy(), head)
    assert again.tunings == 0
