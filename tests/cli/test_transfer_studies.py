"""``taskscout study multitask`` and ``taskscout study zero-shot`` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from taskscout.tasks.catalogue import Catalogue
from tests.cli import test_cli
from tests.cli.test_cli import Run, mistake

run = test_cli.run
pytestmark = pytest.mark.data


@pytest.fixture
def ours(catalogue: Catalogue, small_bench, tmp_path: Path, monkeypatch) -> list[str]:
    """The options that name the real tasks, a tiny encoder and little of both."""
    monkeypatch.setenv("TASKSCOUT_CACHE", str(tmp_path / "cache"))
    return [
        "--catalogue", str(catalogue.folder), "--encoder", str(small_bench.encoder.folder),
        "--max-length", "32", "--epochs", "1", "--examples", "32", "--test-examples", "20",
    ]  # fmt: skip


def test_zero_shot(run: Run, ours, tmp_path: Path):
    names = ("amazon_sentences", "imdb_sentences", "yelp_sentences")
    arguments = ("study", "zero-shot", "--domains", ",".join(names), "--out", tmp_path / "s",
                 "--method", "terms-jensen-shannon,embeddings-mmd", "--steps", "4", *ours)  # fmt: skip
    result = run(*arguments)
    assert result.code == 0, result.err
    assert "terms-jensen-shannon" in result.out
    assert "random order" in result.out
    data = json.loads((tmp_path / "s" / "results.json").read_text())
    assert data["domains"] == list(names)
    assert len((tmp_path / "s" / "rows.jsonl").read_text().splitlines()) == 6
    again = run(*arguments, "--json")
    assert json.loads(again.out)["scores"] == data["scores"]
    assert " > " not in again.err  # nothing was run again


def test_multitask(run: Run, ours, tmp_path: Path):
    result = run(
        "study", "multitask", "--targets", "cb", "--sources", "rte,subj,amazon_sentences",
        "--method", "size", "--top", "2", "--draws", "1", "--seeds", "1", "--target-examples", "32",
        "--out", tmp_path / "s", *ours,
    )  # fmt: skip
    assert result.code == 0, result.err
    data = json.loads((tmp_path / "s" / "results.json").read_text())
    types = [x["type"] for x in data["summary"]]
    assert types == ["none", "all", "group", "group", "related", "random"]
    costs = {x["type"]: x["examples"] for x in data["summary"]}
    assert (costs["none"], costs["all"], costs["related"]) == (0, 96, 64)
    assert "examples" in (tmp_path / "s" / "table.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["zero-shot", "--labels", "sweet,sour"], "--domains"),
        (["zero-shot", "--domains", "amazon_sentences,subj,imdb"], "one label scheme"),
        (["zero-shot", "--domains", "nothing"], "no task 'nothing'"),
        (["multitask", "--targets", "cb", "--sources", "rte,subj", "--top", "9"], "smaller --top"),
        (["multitask", "--targets", "cb", "--sources", "cb"], "at least two sources"),
    ],
)
def test_mistakes(run: Run, ours, tmp_path: Path, arguments, says):
    result = run("study", *arguments, "--method", "size", "--out", tmp_path / "s", *ours)
    assert says in " ".join(mistake(result).split())
