"""The register: every method is found by its name, a paper's name, in any case."""

from __future__ import annotations

import pytest

from taskscout.errors import MethodError
from taskscout.methods.expression import parse_method
from taskscout.methods.method import method_aliases, method_names, options_of, resolve

PAPERS = {
    "TaskEmb": "task-embedding",
    "Fisher": "task-embedding",
    "TextEmb": "text-embedding",
    "SEmb": "sentence-embedding",
    "RoE": "retrieval-of-experts",
    "TuPaTE": "tupate-prompt",
    "TuPaTE-prompt": "tupate-prompt",
    "TuPaTE-P-tuning-v2": "prefix",
    "TuPaTE-LoRA": "lora",
    "TuPaTE-BitFit": "bitfit",
    "P-tuning v2": "prefix",
    "FLATTEN": "prompt-flatten",
    "UNIGRAM": "prompt-unigram",
    "BIGRAM": "prompt-bigram",
    "MAX": "max",
    "Jaccard": "vocabulary",
    "ESM-LogME": "esm-logme",
    "LogME": "logme",
    "TaskShop": "taskshop",
}


@pytest.mark.parametrize("write", [str, str.upper, str.lower, lambda n: f" {n.title()} "])
@pytest.mark.parametrize("name", PAPERS)
def test_papers_names_in_any_case(name: str, write):
    assert resolve(write(name)) == PAPERS[name]


def test_names_in_any_case_with_spaces_or_hyphens():
    assert resolve("Text Embedding Pooler") == "text-embedding-pooler"
    assert resolve("source_prior") == "source-prior"


def test_aliases_stand_where_methods_are_written():
    assert parse_method("rrf(RoE:2, TextEmb)").name == "rrf(retrieval-of-experts:2,text-embedding)"
    assert parse_method("Jaccard>P-tuning v2").name == "vocabulary>prefix"
    assert options_of("MAX") == options_of("max")


def test_an_alias_stands_for_one_method_and_hides_none():
    aliases = [a.casefold() for several in method_aliases().values() for a in several]
    assert len(aliases) == len(set(aliases))
    for name in method_names():
        assert resolve(name) == name
    # A class that several methods are made of gives its aliases to the first of them alone,
    # and a class made of another does not take over its aliases.
    assert not {"prompt-flatten-relative", "max-reverse", "task-embedding-outputs"} & set(
        method_aliases()
    )


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("wasserstein", ["embeddings-wasserstein", "embeddings-sliced-wasserstein"]),
        ("prior", ["source-prior"]),
        ("tupate-l", ["lora (TuPaTE-LoRA)"]),
        ("semd", ["sentence-embedding (SEmb)"]),
    ],
)
def test_an_unknown_name_is_answered_with_like_names(name: str, answers: list[str]):
    with pytest.raises(MethodError) as caught:
        resolve(name)
    for answer in answers:
        assert answer in caught.value.why


@pytest.mark.parametrize("name", ["", " ", "qqqqqq"])
def test_a_name_like_none(name: str):
    with pytest.raises(MethodError, match="No name is close"):
        resolve(name)
