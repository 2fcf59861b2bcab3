"""The command line, typed as a user would."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import toy_task


def run(
    *words: str | Path, code: int = 0, cache: Path | None = None
) -> subprocess.CompletedProcess[str]:
    import os

    environment = dict(os.environ)
    if cache is not None:
        environment["TASKSCOUT_CACHE"] = str(cache)
    done = subprocess.run(
        [sys.executable, "-m", "taskscout", *map(str, words)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = toy_task("target", seed=9)
    path = tmp_path_factory.mktemp("data") / "target.csv"
    with path.open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["review", "verdict"])
        names = task.label_names
        for split in task.splits:
            labels = [names[i] for i in task.labels(split)]
            writer.writerows(zip(task.inputs(split)[0], labels, strict=True))
    return path


@pytest.fixture(scope="module")
def options(toy_pool: Path) -> list[str]:
    encoder = str(toy_pool.parent / "encoder")
    return ["--pool", str(toy_pool), "--encoder", encoder, "--max-length", "32"]


def test_rank_prints_a_table_and_what_was_read(
    file: Path, options: list[str], tmp_path: Path
) -> None:
    done = run("rank", file, *options, cache=tmp_path)
    for word in ("review", "verdict", "alpha", "beta", "gamma", "none", "CC BY 4.0", "embedded"):
        assert word in done.stdout
    again = run("rank", file, *options, cache=tmp_path)
    assert "embeddings from the cache" in again.stdout
    assert "embedded" not in again.stdout


def test_json_is_all_there_is_on_stdout(file: Path, options: list[str], tmp_path: Path) -> None:
    out = tmp_path / "ranking.csv"
    done = run("rank", file, *options, "--json", "--csv", out, "--precision", "fp32")
    rows = json.loads(done.stdout)["sources"]
    assert {r["name"] for r in rows} == {"alpha", "beta", "gamma", "none"}
    assert [r["score"] for r in rows] == sorted((r["score"] for r in rows), reverse=True)
    assert [r["name"] for r in csv.DictReader(out.open())] == [r["name"] for r in rows]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothere.csv"], "There is no file"),
        (["{file}", "--label", "nope"], "no column"),
        (["{file}", "--method", "nope"], "There is no method"),
        (["{file}", "--pool", "nowhere"], "no pool.json"),
        (["{file}", "--licence", "free"], "--licence"),
        (["{file}", "--pooling", "middle"], "pooling"),
        (["{file}", "--encoder", "/nowhere/model"], "neither a folder"),
        (["{file}", "--pool", "{pool}", "--kind", "regression"], "left to rank"),
        (["{file}", "--grid", "nothere.csv", "--method", "source-prior"], "nothere.csv"),
    ],
)
def test_mistakes_are_told_in_three_parts(
    words: list[str], said: str, file: Path, toy_pool: Path
) -> None:
    filled = [w.format(file=file, pool=toy_pool) for w in words]
    done = run("rank", *filled, code=2)
    assert said in done.stderr
    assert "why:" in done.stderr
    assert "do:" in done.stderr
    assert done.stdout == ""


def test_a_mistake_of_ours_ends_with_1(file: Path) -> None:
    code = (
        "import taskscout.ranking, taskscout.cli, sys\n"
        "def broken(*a, **k): raise RuntimeError('ours')\n"
        "taskscout.ranking.rank = broken\n"
        f"sys.argv = ['taskscout', 'rank', {str(file)!r}]\n"
        "taskscout.cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 1


def test_pool_verbs(toy_pool: Path, file: Path, tmp_path: Path) -> None:
    own = shutil.copytree(toy_pool, tmp_path / "own")
    assert "alpha" in run("pool", "list", "--pool", own).stdout
    listed = json.loads(run("pool", "list", "--pool", own, "--json").stdout)
    assert [s["name"] for s in listed["sources"]] == ["alpha", "beta", "gamma"]
    assert "CC BY 4.0" in run("pool", "show", "alpha", "--pool", own).stdout
    assert json.loads(run("pool", "show", "alpha", "--pool", own, "--json").stdout)["card"]
    assert "every checksum matches" in run("pool", "verify", "--pool", own).stdout
    added = run(
        "pool", "add", file, "--pool", own, "--name", "mine", "--examples", "32", cache=tmp_path
    )
    assert "added mine" in added.stderr
    assert "mine" in run("pool", "list", "--pool", own).stdout
    assert "already" in run("pool", "add", file, "--pool", own, "--name", "mine", code=2).stderr
    run("pool", "remove", "mine", "--pool", own)
    assert "mine" not in run("pool", "list", "--pool", own).stdout
    run("pool", "pack", "--pool", own, "--out", tmp_path / "packed")
    assert "3 sources" in run("pool", "verify", "--pool", tmp_path / "packed").stdout
    path = own / "sources" / "beta.safetensors"
    bad = bytearray(path.read_bytes())
    bad[-3] ^= 4
    path.write_bytes(bytes(bad))
    assert "beta" in run("pool", "verify", "--pool", own, code=2).stderr


def test_describing_needs_the_data_and_says_so(toy_pool: Path, tmp_path: Path) -> None:
    own = shutil.copytree(toy_pool, tmp_path / "own")
    done = run("pool", "describe", "--pool", own, "--method", "vocabulary", code=2)
    assert "not at hand" in done.stderr
    assert "--catalogue" in done.stderr


def test_cache_verbs(file: Path, options: list[str], tmp_path: Path) -> None:
    run("rank", file, *options, cache=tmp_path)
    shown = json.loads(run("cache", "--json", cache=tmp_path).stdout)
    assert shown["entries"] > 0
    assert "embeddings" in run("cache", cache=tmp_path).stdout
    assert "removed" in run("cache", "clear", cache=tmp_path).stdout
    assert json.loads(run("cache", "--json", cache=tmp_path).stdout)["entries"] == 0


def test_methods_are_listed_and_explained() -> None:
    listed = json.loads(run("methods", "--json").stdout)["methods"]
    names = {m["name"] for m in listed}
    assert {"esm-logme", "logme", "random", "size", "max", "task-embedding"} <= names
    explained = run("methods", "esm-logme").stdout
    assert "Schulte" in explained
    assert len(explained.splitlines()) > 8


@pytest.mark.parametrize("verb", [[], ["rank"], ["pool"], ["pool", "add"], ["cache"], ["methods"]])
def test_every_verb_has_help(verb: list[str]) -> None:
    assert "Usage" in run(*verb, "--help").stdout


def test_starting_imports_nothing_heavy() -> None:
    code = (
        "import sys, taskscout, taskscout.cli\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'sklearn', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_version() -> None:
    from taskscout import __version__

    assert run("--version").stdout.split() == ["taskscout", __version__]
