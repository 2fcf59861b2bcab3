"""Vocabulary overlap against sets, and against a transcription of the released n-gram code."""

from __future__ import annotations

import string
from collections import Counter

import numpy as np
import pytest

from taskscout.errors import MethodError
from taskscout.methods.descriptions import describe_terms, term_counts, term_mask
from taskscout.methods.method import Description, Method
from taskscout.methods.vocabulary import METHODS, STOP_WORDS

from .conftest import DOMAINS, make_task, permuted

SOURCES = [
    make_task("same domain", seed=1),
    make_task("pairs", seed=2, domain="food", pairs=True),
    make_task("half", seed=0, foreign=0.5),
    make_task("sport", seed=3, domain="sport", n=17),
]


def token_set(task, encoder):
    ids = [r["input_ids"] for r in encoder.tokenize(*task.inputs("train"))]
    return {i for row in ids for i in row} | ({0} if min(map(len, ids)) < 16 else set())


def test_jaccard_of_token_sets(bench):
    target, method = make_task("target"), METHODS["vocabulary"]()
    described = [method.describe(s, bench) for s in SOURCES]
    own = token_set(target, bench.encoder)
    expected = []
    for source in SOURCES:
        theirs = token_set(source, bench.encoder)
        expected.append(len(own & theirs) / len(own | theirs))
    np.testing.assert_allclose(method.score(target, described, bench), expected)


def test_term_counts(bench):
    task = make_task(pairs=True, n=200)
    described = describe_terms(task, bench)
    counted = Counter(
        i for r in bench.encoder.tokenize(*task.inputs("train")) for i in r["input_ids"]
    )
    counts = term_counts(described)
    for i in range(len(counts)):
        assert counts[i] == (0 if i < 3 else counted[i])
    mask = term_mask(described)
    assert mask[0] == any(
        len(r["input_ids"]) < 16 for r in bench.encoder.tokenize(*task.inputs("train"))
    )
    assert all(mask[i] == (counted[i] > 0) for i in range(1, len(mask)))
    assert described.header["tokens"] == sum(counted.values())


def test_large_counts_keep_three_digits(bench):
    described = describe_terms(make_task(), bench)
    counts = np.array([1, 2047, 2048, 60_001, 3_999_999])
    mask = np.zeros(900, bool)
    mask[10:15] = True
    arrays = {"mask": np.packbits(mask), "counts": (counts / 64).astype(np.float16)}
    read = term_counts(Description("terms", "s", described.header, arrays))[10:15]
    np.testing.assert_array_equal(read[:3], counts[:3])
    np.testing.assert_allclose(read, counts, rtol=5e-4)


def released(task, n, size, tokens=str.split):
    """The released code's counting, on whole inputs; ties by the alphabet."""
    texts, pairs = task.inputs("train")
    counter = Counter()
    for i, text in enumerate(texts):
        sentence = text if pairs is None else f"{text} {pairs[i]}"
        words = tokens(sentence.translate(str.maketrans("", "", string.punctuation)))
        words = [w for w in words if w.lower() not in STOP_WORDS]
        counter.update(" ".join(words[j : j + n]) for j in range(len(words) - n + 1))
    return set(sorted(counter, key=lambda g: (-counter[g], g))[:size])


@pytest.mark.parametrize(("name", "n"), [("vocabulary-unigrams", 1), ("vocabulary-bigrams", 2)])
@pytest.mark.parametrize("unit", ["word", "subword"])
def test_top_ngrams(bench, name, n, unit):
    method, target = METHODS[name](top=30, unit=unit), make_task("target", n=90)
    tokens = str.split if unit == "word" else bench.encoder.tokenizer.tokenize
    own = released(target, n, 30, tokens)
    expected = [len(own & released(s, n, 30, tokens)) / 30 for s in SOURCES]
    described = [method.describe(s, bench) for s in SOURCES]
    np.testing.assert_allclose(method.score(target, described, bench), expected)
    assert sum(a.nbytes for a in described[0].arrays.values()) <= 2 * 4 * 30


def test_capitals_and_punctuation(bench):
    one = make_task("one", domain=["Don't", "U.S.", "the", "Film!"])
    words = released(one, 1, 10)
    assert words <= {"Dont", "US", "Film"}
    same = make_task("two", domain=["Dont", "US", "The", "Film"])
    method = METHODS["vocabulary-unigrams"](top=3)
    assert method.score(one, [method.describe(same, bench)], bench)[0] == 1


@pytest.mark.parametrize("name", METHODS)
def test_properties(bench, name):
    # Of the fake tasks' few words not all, so that not all are shared.
    method = METHODS[name](**({} if name == "vocabulary" else {"top": 10}))
    assert isinstance(method, Method)
    assert method.name == name
    target = make_task("target")
    copies = [make_task(f"copy {f}", foreign=f) for f in (0.7, 0.0, 0.3)]
    described = [method.describe(c, bench) for c in copies]
    scores = method.score(target, described, bench)
    assert scores[1] == scores.max()
    assert scores[0] < scores[1]
    np.testing.assert_array_equal(method.score(target, described[::-1], bench), scores[::-1])
    np.testing.assert_array_equal(method.score(permuted(target), described, bench), scores)
    again = method.describe(permuted(copies[0]), bench)
    for array, value in described[0].arrays.items():
        np.testing.assert_array_equal(again.arrays[array], value)
    assert scores[1] == 1


@pytest.mark.parametrize("name", METHODS)
def test_nan_where_it_does_not_apply(bench, name):
    method, target = METHODS[name](), make_task("target")
    described = method.describe(make_task("s"), bench)
    header = {**described.header, "vocabulary": "another", "unit": "another"}
    other = Description(described.key, "other", header, described.arrays)
    scores = method.score(target, [other, described], bench)
    assert np.isnan(scores[0])
    assert not np.isnan(scores[1])


def test_options():
    with pytest.raises(MethodError, match="unit 'letter'"):
        METHODS["vocabulary-unigrams"](unit="letter")
    assert len(DOMAINS) == 4


def test_fewer_kept_than_asked_for(bench):
    short = METHODS["vocabulary-unigrams"](top=5).describe(make_task("s"), bench)
    long = METHODS["vocabulary-unigrams"](top=50).describe(make_task("s"), bench)
    scores = METHODS["vocabulary-unigrams"](top=10).score(make_task(), [short, long], bench)
    assert np.isnan(scores[0])
    assert scores[1] > 0
