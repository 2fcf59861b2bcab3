"""Divergences as methods: what they read, what they keep, and what they must not depend on."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance

from taskscout.errors import MethodError
from taskscout.methods import (
    embedding_divergence,
    measures,
    sample_divergence,
    term_divergence,
)
from taskscout.methods.descriptions import sample_of, term_counts, unit_sample
from taskscout.methods.embedding_divergence import covariance_of, describe_moments
from taskscout.methods.method import Description, Method, resolve
from taskscout.methods.topics import LENGTH, TopicModel, digest, fingerprint_of

from .conftest import DIMENSION, make_task, permuted

METHODS = {
    name: method
    for family in (term_divergence, embedding_divergence, sample_divergence)
    for name, method in family.METHODS.items()
}
NAMES = sorted(METHODS)
EMBEDDINGS = [n for n in NAMES if n.startswith("embeddings")]
#: A target is not among the documents its topics are fitted on, so those are left out.
SYMMETRIC = [n for n in NAMES if "kl" not in n and "renyi" not in n and "topics" not in n]


@pytest.fixture
def copies():
    """Copies of one task, some of whose texts are of other domains."""
    return [make_task(f"copy {f}", foreign=f) for f in (0.6, 0.0, 0.3, 0.9)]


def options(name):
    return {"topics": 4} if name.startswith("topics") else {}


def test_measures_of_the_same_order_are_one_method():
    """Against the measures themselves, as SciPy or their definition has them."""
    draws = np.random.default_rng(5)
    p, q = draws.dirichlet(np.full(30, 0.3)), draws.dirichlet(np.full(30, 0.3), size=9)
    q += 1e-6
    for alias, name, measure, reference in (
        ("manhattan", "total-variation", measures.total_variation,
         lambda a, b: distance.cityblock(a, b)),
        ("bhattacharyya", "hellinger", measures.hellinger,
         lambda a, b: -np.log(np.sqrt(a * b).sum())),
    ):  # fmt: skip
        for over in ("terms", "topics"):
            assert resolve(f"{over}-{alias}") == f"{over}-{name}"
        ordered = np.argsort([reference(p, each) for each in q])
        np.testing.assert_array_equal(np.argsort(measure(p, q)), ordered)
    assert resolve("embeddings-cosine") == "sentence-embedding"


@pytest.mark.parametrize("name", NAMES)
def test_each_explains_itself(name):
    method = METHODS[name]()
    assert isinstance(method, Method)
    assert method.name == name
    text = inspect.getdoc(type(method))
    assert "score = -D" in text
    for part in ("Cost:", "fails", "Reference:"):
        assert part in text, part
    for option in inspect.signature(METHODS[name]).parameters:
        assert f"\n{option}\n" in text


@pytest.mark.parametrize("name", NAMES)
def test_a_target_is_nearest_to_its_own_copy(bench, copies, name):
    method, target = METHODS[name](**options(name)), make_task("target")
    described = [method.describe(c, bench) for c in copies]
    scores = method.score(target, described, bench)
    assert scores.argmax() == 1
    assert scores[1] == pytest.approx(0, abs=1e-6)
    assert scores[1] > np.delete(scores, 1).max()
    if not name.startswith("topics"):
        assert scores[2] > scores[3]


@pytest.mark.parametrize("name", NAMES)
def test_order_and_global_state_do_not_matter(bench, copies, name):
    method, target = METHODS[name](**options(name)), make_task("target")
    described = [method.describe(c, bench) for c in copies]
    np.random.seed(1)
    scores = method.score(target, described, bench)
    np.random.seed(2)
    bench._kept.clear()
    other = [method.describe(permuted(c), bench) for c in reversed(copies)]
    again = method.score(permuted(target), other, bench)[::-1]
    np.testing.assert_allclose(again, scores, atol=1e-6)


@pytest.mark.parametrize("name", SYMMETRIC)
def test_symmetry(bench, copies, name):
    method = METHODS[name]()
    a, b = copies[0], copies[3]
    there = method.score(a, [method.describe(b, bench)], bench)
    back = method.score(b, [method.describe(a, bench)], bench)
    np.testing.assert_allclose(there, back, atol=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_nan_where_it_does_not_apply(bench, copies, name):
    method, target = METHODS[name](**options(name)), make_task("target")
    described = [method.describe(c, bench) for c in copies]
    header = {**described[0].header, "vocabulary": "another", "encoder": "another"}
    stranger = Description(described[0].key, "stranger", header, described[0].arrays)
    scores = method.score(target, [stranger, *described], bench)
    assert np.isnan(scores[0])
    np.testing.assert_allclose(scores[1:], method.score(target, described, bench))
    assert np.isnan(method.score(target, [stranger], bench)).all()


def test_one_forward_pass_serves_all(bench, copies):
    target = make_task("target", seed=7)
    for name in EMBEDDINGS:
        method = METHODS[name]()
        method.score(target, [method.describe(c, bench) for c in copies], bench)
    assert bench.encoder.passes == sum(len(t) for t in (target, *copies))


def test_labels_play_no_part(bench):
    from dataclasses import replace

    import pyarrow as pa

    task = make_task()
    turned = pa.table({"text": task.tables["train"]["text"], "label": [0] * 60})
    other = replace(task, tables={"train": turned}, name="other")
    for name in NAMES:
        method = METHODS[name](**options(name))
        one, two = method.describe(task, bench), method.describe(other, bench)
        for array, value in one.arrays.items():
            np.testing.assert_array_equal(two.arrays[array], value)


def test_headers_are_json(bench, copies):
    for name in ("terms-kl", "embeddings-mmd", "embeddings-cmd"):
        described = METHODS[name]().describe(copies[0], bench)
        assert json.loads(json.dumps(described.header)) == described.header


# -- terms and topics -------------------------------------------------------------------------


def test_terms_are_what_scipy_says(bench, copies):
    target = make_task("target")

    def distribution(task):
        ids = [
            i
            for r in bench.encoder.tokenize(*task.inputs("train"))
            for i in r["input_ids"]
            if i > 2
        ]
        p = np.bincount(ids, minlength=900) / len(ids)
        return 0.9 * p + 0.1 / 900

    p = distribution(target)
    described = [METHODS["terms-kl"]().describe(c, bench) for c in copies]
    for name, reference in (
        ("terms-kl", lambda q: stats.entropy(p, q)),
        ("terms-kl-reverse", lambda q: stats.entropy(q, p)),
    ):
        scores = METHODS[name](smoothing=0.1).score(target, described, bench)
        np.testing.assert_allclose(scores, [-reference(distribution(c)) for c in copies])


def test_renyi_takes_an_order(bench, copies):
    target, described = (
        make_task("target"),
        [METHODS["terms-kl"]().describe(c, bench) for c in copies],
    )
    kl = METHODS["terms-kl"]().score(target, described, bench)
    np.testing.assert_allclose(
        METHODS["terms-renyi"](alpha=1.0).score(target, described, bench), kl
    )
    assert (METHODS["terms-renyi"](alpha=0.5).score(target, described, bench) >= kl - 1e-12).all()
    with pytest.raises(MethodError, match="alpha 2"):
        METHODS["topics-renyi"](alpha=2)


def test_the_fit_is_scikit_learns_on_documents_of_one_length(bench, copies):
    from scipy.sparse import csr_matrix
    from sklearn.decomposition import LatentDirichletAllocation

    described = [METHODS["topics-kl"]().describe(c, bench) for c in copies]
    model = TopicModel.fit(described, topics=3, seed=5)
    counts = np.stack([term_counts(d) for d in sorted(described, key=digest)])
    used = counts[:, (counts > 0).sum(0) >= 2]
    reference = LatentDirichletAllocation(3, learning_method="batch", random_state=5)
    reference.fit(csr_matrix(used * LENGTH / used.sum(1, keepdims=True)))
    np.testing.assert_allclose(model.weights, reference.components_, rtol=1e-9)
    again = TopicModel.fit(described[::-1], topics=3, seed=5)
    np.testing.assert_array_equal(again.weights, model.weights)
    assert fingerprint_of(described) == fingerprint_of(described[::-1])


def test_mixtures_of_a_known_model():
    from scipy.sparse import csr_matrix
    from sklearn.decomposition import LatentDirichletAllocation

    random = np.random.default_rng(0)
    documents = random.poisson(2.0, (12, 40)).astype(float)
    documents *= LENGTH / documents.sum(1, keepdims=True)
    reference = LatentDirichletAllocation(
        4, learning_method="batch", random_state=0, max_doc_update_iter=200, mean_change_tol=1e-4
    ).fit(csr_matrix(documents))
    model = TopicModel(reference.components_, np.arange(40), 0.25, "v")
    found = model.mixtures(documents)
    np.testing.assert_allclose(found, reference.transform(csr_matrix(documents)), atol=1e-8)
    # One document at a time gives the same.
    np.testing.assert_allclose(model.mixtures(documents[3:4])[0], found[3], atol=1e-12)


def test_topics_find_domains(bench):
    sources = [
        make_task(f"{d} {seed}", domain=d, seed=seed)
        for d in ("film", "food", "sport", "money")
        for seed in (1, 2, 3)
    ]
    method = METHODS["topics-jensen-shannon"](topics=4)
    described = [method.describe(s, bench) for s in sources]
    scores = method.score(make_task("target", domain="sport", seed=9), described, bench)
    assert {sources[i].name.split()[0] for i in np.argsort(-scores)[:3]} == {"sport"}


def test_a_kept_topic_model_does_not_depend_on_the_pool(bench, copies, tmp_path):
    target = make_task("target")
    described = [METHODS["topics-kl"]().describe(c, bench) for c in copies]
    TopicModel.fit(described, topics=3).save(tmp_path / "topics.safetensors")
    method = METHODS["topics-hellinger"](model=tmp_path / "topics.safetensors")
    scores = method.score(target, described, bench)
    np.testing.assert_allclose(method.score(target, described[:2], bench), scores[:2])
    read = TopicModel.read(tmp_path / "topics.safetensors")
    given = METHODS["topics-hellinger"](model=read).score(target, described, bench)
    np.testing.assert_allclose(given, scores)


def test_the_pool_s_topic_model_is_read_unless_another_is_asked_for(
    bench, copies, tmp_path, monkeypatch
):
    target, path = make_task("target"), tmp_path / "topics.safetensors"
    described = [METHODS["topics-kl"]().describe(c, bench) for c in copies]
    fitted = TopicModel.fit(described, topics=3, seed=5)
    fitted.save(path)
    read = TopicModel.read(path)
    assert (read.topics, read.seed, read.known.keys()) == (3, 5, fitted.known.keys())
    for one in described:
        np.testing.assert_array_equal(read.shares(one), fitted.shares(one))
        np.testing.assert_allclose(
            read.shares(one), read.mixtures(term_counts(one)[None])[0], atol=1e-3
        )
    explicit = METHODS["topics-hellinger"](model=path).score(target, described, bench)
    own = METHODS["topics-hellinger"](topics=3, seed=4).score(target, described, bench)
    foreign = tmp_path / "foreign.safetensors"
    TopicModel(np.ones((2, 3)), np.arange(3), 0.5, "another").save(foreign)
    anew = METHODS["topics-hellinger"]().score(target, described, bench)

    def score(pool_model=path, **options):
        method = METHODS["topics-hellinger"](pool_model=pool_model, **options)
        return method.score(target, described, bench)

    np.testing.assert_array_equal(score(topics=3, seed=4), own)
    np.testing.assert_array_equal(score(foreign), anew)
    monkeypatch.setattr(TopicModel, "fit", None)  # nothing is fitted from here on
    np.testing.assert_array_equal(score(), explicit)
    np.testing.assert_array_equal(score(topics=3, seed=5), explicit)


def test_topic_errors(bench, copies, tmp_path):
    described = [METHODS["topics-kl"]().describe(c, bench) for c in copies]
    (tmp_path / "no").write_bytes(b"nothing")
    for path in (tmp_path / "no", tmp_path / "missing"):
        with pytest.raises(MethodError, match="cannot be read as a topic model"):
            METHODS["topics-kl"](model=path).score(copies[0], described, bench)
    foreign = TopicModel(np.ones((2, 3)), np.arange(3), 0.5, "another")
    with pytest.raises(MethodError, match="another tokenizer"):
        METHODS["topics-kl"](model=foreign).score(copies[0], described, bench)
    with pytest.raises(MethodError, match="1 topics"):
        METHODS["topics-kl"](topics=1)
    with pytest.raises(MethodError, match="smoothing 1.5"):
        METHODS["terms-kl"](smoothing=1.5)


# -- embeddings -------------------------------------------------------------------------------


def test_samples_keep_three_digits(bench):
    task = make_task(n=300)
    described = METHODS["embeddings-mmd"]().describe(task, bench)
    assert described.arrays["rows"].shape == (100, DIMENSION)
    exact, kept = unit_sample(task, bench), sample_of(described)
    np.testing.assert_allclose(kept @ kept.T, exact @ exact.T, atol=0.01)
    assert described.size == 100 * (DIMENSION + 4)


def test_all_axes_give_the_exact_covariance(bench):
    from taskscout.methods.descriptions import unit_rows

    task = make_task(n=80)
    x = unit_rows(bench.embeddings(task))
    exact = np.cov(x.T, bias=True)
    np.testing.assert_allclose(covariance_of(describe_moments(task, bench, None)), exact, atol=1e-4)
    low = covariance_of(describe_moments(task, bench, 3))
    np.testing.assert_allclose(np.diag(low), np.diag(exact), atol=1e-7)
    assert np.linalg.eigvalsh(low).min() > -1e-4
    assert np.abs(low - exact).max() > 1e-3


def test_covariances_are_compared_at_the_rank_of_the_source(bench, copies):
    target = make_task("target")
    for name in ("embeddings-coral", "embeddings-frechet"):
        for rank in (2, 5, None):
            method = METHODS[name](rank=rank)
            own = method.describe(make_task("same"), bench)
            assert own.header["rank"] == (rank or DIMENSION)
            # Whatever the rank this method would describe at.
            score = METHODS[name](rank=4).score(target, [own], bench)[0]
            assert score == pytest.approx(0, abs=1e-6)
        mixed = [METHODS[name](rank=r).describe(c, bench) for r, c in enumerate(copies, 2)]
        one_by_one = [METHODS[name]().score(target, [m], bench)[0] for m in mixed]
        np.testing.assert_allclose(METHODS[name]().score(target, mixed, bench), one_by_one)


def test_frechet_with_all_axes_is_exact(bench, copies):
    from taskscout.methods.descriptions import unit_rows

    target = make_task("target")
    method = METHODS["embeddings-frechet"](rank=None)
    scores = method.score(target, [method.describe(c, bench) for c in copies], bench)
    x = unit_rows(bench.embeddings(target))
    for task, score in zip(copies, scores, strict=True):
        y = unit_rows(bench.embeddings(task))
        exact = measures.frechet(
            x.mean(0), np.cov(x.T, bias=True), y.mean(0)[None], np.cov(y.T, bias=True)[None]
        )
        assert -score == pytest.approx(exact[0], abs=2e-3)


def test_samples_of_different_sizes(bench):
    target = make_task("target", n=50)
    sources = [make_task("a", seed=1, n=8), make_task("b", seed=2, n=300), make_task("c", n=8)]
    for name in EMBEDDINGS:
        method = METHODS[name]()
        described = [method.describe(s, bench) for s in sources]
        scores = method.score(target, described, bench)
        alone = [method.score(target, [d], bench)[0] for d in described]
        np.testing.assert_allclose(scores, alone, atol=1e-9)
        assert np.isfinite(scores).all()


def test_many_sources_go_in_batches(bench, copies, monkeypatch):
    target = make_task("target")
    for name in NAMES:
        method = METHODS[name](**options(name))
        described = [method.describe(c, bench) for c in copies]
        whole = method.score(target, described, bench)
        with monkeypatch.context() as m:
            m.setattr("taskscout.methods.descriptions._NUMBERS", 1)
            np.testing.assert_allclose(method.score(target, described, bench), whole, atol=1e-9)


def test_options_that_make_no_sense():
    for name, wrong in (
        ("embeddings-mmd", {"rows": 1}),
        ("embeddings-sinkhorn", {"epsilon": 0.0}),
        ("embeddings-a-distance", {"penalty": 0.0}),
        ("embeddings-cmd", {"span": -1.0}),
        ("embeddings-coral", {"rank": 0}),
    ):
        with pytest.raises(MethodError):
            METHODS[name](**wrong)
