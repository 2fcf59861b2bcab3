"""What a stranger's files may not do: run code, steer a terminal, become a formula."""

from __future__ import annotations

import csv
import io
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch

from taskscout.pools import Pool
from taskscout.tasks import TaskCard
from tests.cli import test_cli
from tests.cli.test_cli import Run, only_json, write
from tests.studies.conftest import STUDY, write_catalogue
from tests.tiny import tiny_encoder, toy_task

run, cache, target = test_cli.run, test_cli.cache, test_cli.target
tiny, ours = test_cli.tiny, test_cli.ours

SIGNS = "\x1b]0;mine\x07\x1b[2J\u202e[/][bold]<img src=x onerror=alert(1)>"


# -- no pickle ------------------------------------------------------------------------------


class Unpickled(Exception):
    """A pickle was read."""


_WATCHED = False


def _watch(event: str, _: Any) -> None:
    if _WATCHED and event == "pickle.find_class":
        raise Unpickled


sys.addaudithook(_watch)


@pytest.fixture
def no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever reads a pickle fails: by the usual names, and by any that loads a class."""

    def fail(*_: Any, **__: Any) -> None:
        raise Unpickled

    for module, name in ((pickle, "load"), (pickle, "loads"), (torch, "load"), (joblib, "load")):
        monkeypatch.setattr(module, name, fail)
    whole = np.load
    monkeypatch.setattr(
        np, "load", lambda f, *a, **k: fail() if k.get("allow_pickle") else whole(f)
    )
    monkeypatch.setattr(sys.modules[__name__], "_WATCHED", True)


def test_the_watch_notices(no_pickle: None, tmp_path: Path):
    data = pickle.dumps(Path("a"))
    with pytest.raises(Unpickled):
        pickle.loads(data)
    with pytest.raises(Unpickled):
        pickle.Unpickler(io.BytesIO(data)).load()
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(Unpickled):
        np.load(tmp_path / "a.npy", allow_pickle=True)


def test_no_verb_reads_a_pickle(
    run: Run, target: Path, ours: list[str], tiny: list[str], tmp_path: Path, no_pickle: None
):
    def done(*words: object) -> str:
        result = run(*words)
        assert result.code == 0, (words, result.err)
        return result.out

    pool, packed, out = tmp_path / "pool", tmp_path / "packed", tmp_path / "model"
    done("methods")
    done("rank", target, *ours, "--method", "esm-logme,logme,vocabulary", "--json")
    for seed, name in ((22, "one"), (23, "two")):
        file = write(tmp_path / f"{name}.csv", seed=seed, n=200)
        done("pool", "add", file, "--pool", pool, "--name", name, *tiny[:2], "--examples", "30")
    done("pool", "list", "--pool", pool)
    done("pool", "show", "one", "--pool", pool)
    done("pool", "describe", "--pool", pool, "--method", "vocabulary", "--engine", "here")
    done("pool", "pack", "--pool", pool, "--out", packed)
    done("pool", "verify", "--pool", packed)
    done("pool", "remove", "two", "--pool", pool)
    done("rank", target, "--pool", packed, *tiny[:2])
    done("cache")
    done(
        "train", target, "--sources", "reviews", "--seeds", "1", "--out", out, *ours,
        "--precision", "fp32", "--epochs", "1", "--batch-size", "64",
    )  # fmt: skip
    folder = tmp_path / "study"
    folder.mkdir()
    tiny_encoder(folder / "encoder")
    tasks = [toy_task(name, seed=i) for i, name in enumerate(("alpha", "beta", "twin", "gamma"))]
    write_catalogue(folder, [*tasks, toy_task("number", seed=5, regression=True)])
    text = STUDY.format(folder=folder, tunings="lora", sizes="16", recipe="{epochs: 1}")
    (folder / "study.yaml").write_text(text.replace("seeds: [0, 1]", "seeds: [0]"))
    grid = folder / "grid.sqlite"
    done("grid", "run", folder / "study.yaml", "--out", grid, "--engine", "here")
    done("grid", "show", grid)
    done("grid", "export", grid, folder / "grid.parquet")
    done("grid", "merge", folder / "grid.parquet", "--out", folder / "again.sqlite")


def test_code_of_a_repository_is_never_trusted():
    """The one place where code comes along is what the user's own model was exported with."""
    import taskscout

    folder = Path(taskscout.__file__).parent
    trusting = [
        (path.name, line.strip())
        for path in folder.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "trust_remote_code=True" in line
    ]
    assert {name for name, _ in trusting} <= {"model_card.py"}  # a text for the user to run


# -- what is shown ---------------------------------------------------------------------------


@pytest.fixture
def strange(small_pool: Pool, tmp_path: Path) -> Pool:
    """A pool whose cards say what steers terminals, spreadsheets and markup."""
    pool = Pool.create(tmp_path / "strange", encoder=small_pool.encoder)
    for name in ("reviews", "topics"):
        source = small_pool.source(name)
        parts = [small_pool.description(name, key) for key in source.headers]
        fields = {"domain": f"=1+1{SIGNS}", "licence": f"MIT {SIGNS}", "notes": SIGNS}
        fields |= {"load": f"@{SIGNS}", "category": f"-{SIGNS}", "citation": SIGNS}
        card: TaskCard = replace(source.card, **fields)
        pool.add(card, source.tuning, parts)
    pool.set_left_out({f"x{SIGNS}": f"because{SIGNS}"})
    return pool


@pytest.mark.parametrize(
    "words",
    [
        ("pool", "list"), ("pool", "show", "reviews"), ("pool", "verify"),
        ("pool", "show", f"other{SIGNS}"), ("rank",), ("rank", "--costs"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_texts_of_strangers_steer_no_terminal(
    run: Run, target: Path, strange: Pool, tiny: list[str], words: tuple[str, ...]
):
    options = ["--pool", strange.folder]
    result = run(words[0], target, *words[1:], *options, *tiny) if words[0] == "rank" else run(
        *words, *options
    )  # fmt: skip
    assert "Traceback" not in result.err
    assert result.code == (2 if SIGNS in words[-1] else 0), result.err
    shown = result.out + result.err
    assert not set(shown) & set("\x1b\x07\u202e"), shown


def test_a_text_of_a_file_steers_no_terminal(run: Run, tmp_path: Path, ours: list[str]):
    path = tmp_path / "a.csv"
    path.write_text(f"a{SIGNS},b{SIGNS}\n" + "".join(f"one {i},two {i}\n" for i in range(9)))
    result = run("rank", path, *ours)
    assert result.code == 2
    assert "\ufffd" in result.err
    assert not set(result.err) & set("\x1b\x07\u202e"), result.err


def test_no_cell_of_a_ranking_is_a_formula(
    run: Run, target: Path, strange: Pool, tiny: list[str], tmp_path: Path
):
    out = tmp_path / "out.csv"
    done = run("rank", target, "--pool", strange.folder, *tiny, "--csv", out, "--json")
    only_json(done)
    cells = [c for row in csv.DictReader(out.open(newline="")) for c in row.values() if c]
    assert any("=1+1" in c for c in cells)
    signs = ("=", "+", "@", "\t", "\r", "-")
    formulas = [c for c in cells if c.startswith(signs) and not _is_number(c)]
    assert not formulas


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
