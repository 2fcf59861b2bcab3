"""Text embeddings against plain loops, and under a real (tiny, random) encoder."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy.spatial.distance import cosine

from taskscout.errors import MethodError, ModelError
from taskscout.methods.descriptions import by_text, sample_of, unit_rows, with_choices
from taskscout.methods.method import Description, Method
from taskscout.methods.text_embedding import METHODS
from taskscout.models.cache import NoCache
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task
from tests.tiny import tiny_encoder

from .conftest import FakeEncoder, make_task, permuted

POOLING = {
    "text-embedding": ("mean", "last"),
    "text-embedding-pooler": ("pooler", "last"),
    "text-embedding-layers": ("mean", "mean"),
}


@pytest.fixture
def sources():
    return [
        make_task("a", seed=1),
        make_task("b", seed=2, domain="food", pairs=True),
        make_task("c", seed=3, domain="sport", n=9),
    ]


@pytest.mark.parametrize("name", POOLING)
def test_text_embedding_is_the_cosine_of_means(bench, sources, name):
    pooling, layers = POOLING[name]
    encoder = FakeEncoder()
    encoder.pooling, encoder.layers = pooling, layers
    target, method = make_task("target"), METHODS[name]()

    def mean(task):
        return encoder.encode(*task.inputs("train")).mean(0)

    expected = [1 - cosine(mean(target), mean(s)) for s in sources]
    described = [method.describe(s, bench) for s in sources]
    np.testing.assert_allclose(method.score(target, described, bench), expected, rtol=1e-5)
    assert bench.encoder.pooling == "mean"  # the bench's own encoder is left as it is
    assert described[0].header["encoder"] == encoder.fingerprint
    assert described[0].size == 4 * encoder.dimension


def test_forward_passes_are_shared_and_counted(bench, sources):
    target = make_task("target")
    for name in METHODS:
        method = METHODS[name]()
        described = [method.describe(s, bench) for s in sources]
        method.score(target, described, bench)
        method.score(target, described, bench)
    texts = sum(len(t) for t in (target, *sources))
    shown = sum(min(len(s), 100) for s in sources) + min(len(target), 32)
    assert bench.embedded == 3 * texts + shown  # mean, pooler, layers; texts with choices


def test_sentence_embedding(bench, sources):
    target, method = make_task("target"), METHODS["sentence-embedding"]()

    def mean(task):
        x = bench.encoder.encode(*task.inputs("train"))
        return np.mean([e / np.linalg.norm(e) for e in x], axis=0)

    expected = [1 - cosine(mean(target), mean(s)) for s in sources]
    described = [method.describe(s, bench) for s in sources]
    np.testing.assert_allclose(method.score(target, described, bench), expected, rtol=1e-5)


def _drawn(task, bench, n):
    texts, pairs = task.inputs("train")
    rows = by_text(texts, pairs)[:n]
    return unit_rows(bench.encoder.encode(texts, pairs))[rows]


@pytest.mark.parametrize("name", ["nearest-example", "nearest-example-reverse"])
def test_nearest_example(bench, name):
    target, source = make_task("target", n=90), make_task("source", seed=1, n=150)
    method = METHODS[name]()
    x, y = _drawn(target, bench, 32), _drawn(source, bench, 100)
    if name == "nearest-example":
        slow = np.mean([max(float(a @ b) for b in y) for a in x])
    else:
        slow = np.mean([max(float(a @ b) for a in x) for b in y])
    described = [method.describe(source, bench)]
    assert method.score(target, described, bench)[0] == pytest.approx(slow, abs=0.005)
    stored = sample_of(described[0])
    exact = (x @ stored.T).max(1 if name == "nearest-example" else 0).mean()
    assert method.score(target, described, bench)[0] == pytest.approx(exact)
    few = METHODS[name](target_examples=3, source_examples=5)
    exact = (x[:3] @ stored[:5].T).max(1 if name == "nearest-example" else 0).mean()
    assert few.score(target, described, bench)[0] == pytest.approx(exact)


def test_retrieval_of_experts_reads_choices(bench):
    target, source = make_task("target", n=90), make_task("source", seed=1, n=150)
    method = METHODS["retrieval-of-experts"]()
    encoder = FakeEncoder()
    encoder.max_length = encoder.longest  # the released code reads 512 tokens; this one has 64

    def drawn(task, n):
        texts, _ = task.inputs("train")
        rows = by_text(texts, None)[:n]
        return unit_rows(encoder.encode([f"no, yes</s>{texts[i]}" for i in rows]))

    x, y = drawn(target, 32), drawn(source, 100)
    slow = np.mean([max(float(a @ b) for b in y) for a in x])
    described = method.describe(source, bench)
    assert described.key == "sample-with-choices"
    assert described.header["encoder"] == encoder.fingerprint
    assert method.score(target, [described], bench)[0] == pytest.approx(slow, abs=0.005)
    # A sample without choices is another description, and gets no score.
    plain = METHODS["nearest-example"]()
    assert np.isnan(method.score(target, [plain.describe(source, bench)], bench)).all()


def test_only_retrieval_of_experts_tells_tasks_over_the_same_texts_apart(bench):
    target = make_task("target", n=32)
    same = replace(target, name="same")
    other = replace(target, name="other", label_names=("rising", "falling"))
    assert [len(t.tables["train"]) for t in (same, other)] == [32, 32]

    def scores(name):
        method = METHODS[name]()
        return method.score(target, [method.describe(s, bench) for s in (same, other)], bench)

    np.testing.assert_allclose(scores("nearest-example"), 1, atol=0.001)
    apart = scores("retrieval-of-experts")
    assert apart[0] == pytest.approx(1, abs=0.001)
    assert apart[1] < 0.95


def test_what_stands_before_the_input():
    rows = {"text": ["a b"], "text_pair": ["c"], "choices": [["one", "two"]], "label": [1]}
    choice = Task("m", "multiple_choice", {"train": pa.table(rows)})
    assert with_choices(choice, "train") == ["one, two</s>a b\nc"]
    number = Task("r", "regression", {"train": pa.table({"text": ["a"], "label": [0.5]})})
    assert with_choices(number, "train") == ["a"]
    asked = pa.table(
        {"question": ["q"], "context": ["c"], "answer_text": ["a"], "answer_start": [0]}
    )
    assert with_choices(Task("s", "span_qa", {"train": asked}), "train") == ["q\nc"]


def test_samples_are_drawn_by_text(bench):
    texts = [f"text {i}" for i in range(50)]
    rows = by_text(texts, None)
    assert sorted(rows) == list(range(50))
    turned = by_text(texts[::-1], None)
    assert [texts[i] for i in rows] == [texts[::-1][i] for i in turned]
    assert list(rows) != list(by_text(texts, texts))
    assert abs(np.corrcoef(rows, np.arange(50))[0, 1]) < 0.5


@pytest.mark.parametrize("name", METHODS)
def test_properties(bench, name):
    method, target = METHODS[name](), make_task("target")
    assert isinstance(method, Method)
    assert method.name == name
    assert "Cost:" in inspect.getdoc(type(method))
    copies = [make_task(f"copy {f}", foreign=f) for f in (0.6, 0.0, 0.3, 0.9)]
    described = [method.describe(c, bench) for c in copies]
    scores = method.score(target, described, bench)
    assert scores.argmax() == 1
    if name != "nearest-example-reverse":  # 32 target texts for all of the source's
        assert scores[1] == pytest.approx(1, abs=0.001)
    np.testing.assert_allclose(method.score(target, described[::-1], bench), scores[::-1])
    np.random.seed(0)
    bench._kept.clear()
    again = [method.describe(permuted(c), bench) for c in copies]
    np.testing.assert_allclose(method.score(permuted(target), again, bench), scores, atol=1e-6)
    bench._kept.clear()
    stranger = Description(described[0].key, "s", {"encoder": "another"}, described[0].arrays)
    mixed = method.score(target, [stranger, described[0]], bench)
    assert np.isnan(mixed[0])
    assert mixed[1] == pytest.approx(scores[0])


def test_options():
    with pytest.raises(MethodError, match="0 target examples"):
        METHODS["nearest-example"](target_examples=0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.mark.parametrize("name", POOLING)
def test_under_a_real_encoder(tiny, name):
    bench = Workbench(tiny, cache=NoCache())
    pooling, layers = POOLING[name]
    other = tiny_encoder(tiny.folder, pooling=pooling, layers=layers)
    target, source = make_task("target", n=12), make_task("source", domain="food", n=8)
    method = METHODS[name]()
    means = [other.encode(*t.inputs("train")).mean(0) for t in (target, source)]
    score = method.score(target, [method.describe(source, bench)], bench)[0]
    assert score == pytest.approx(1 - cosine(*means), abs=1e-5)


def test_an_encoder_without_a_pooler_says_so(tmp_path):
    from transformers import GPT2Config

    from tests.tiny import VOCABULARY

    config = GPT2Config(
        vocab_size=len(VOCABULARY), n_embd=16, n_layer=1, n_head=2, n_positions=64,
        bos_token_id=2, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    bench = Workbench(tiny_encoder(tmp_path / "gpt", config=config), cache=NoCache())
    with pytest.raises(ModelError, match="no pooler"):
        METHODS["text-embedding-pooler"]().describe(make_task(n=4), bench)
