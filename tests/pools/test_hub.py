"""Pools on the hub: pushed and pulled by the real client, through a server of its protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskscout.models.workbench import Workbench
from taskscout.pools import Pool
from taskscout.pools.texts import describe_texts
from tests.hub_server import TOKEN, Hub
from tests.small import source_task
from tests.tiny import toy_task

REPO = "someone/small-pool"


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def typed(hub: Hub, tmp_path: Path) -> Any:
    """Type a command in a process that has this hub and no other."""

    def run(*arguments: Any, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": token,
            "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1",
            "TASKSCOUT_POOLS": str(tmp_path / "pools"),
        }  # fmt: skip
        return subprocess.run(
            [sys.executable, *map(str, arguments)], env=environment, text=True,
            capture_output=True, timeout=300,
        )  # fmt: skip

    return run


def command(typed: Any, *arguments: Any, **options: Any) -> subprocess.CompletedProcess[str]:
    return typed("-m", "taskscout", "pool", *arguments, **options)


def same(pool: Pool, other: Pool) -> None:
    assert pool.names == other.names
    assert dict(pool.encoder) == dict(other.encoder)
    for name in pool.names:
        assert pool.source(name).to_dict() == other.source(name).to_dict()
        for key in pool.source(name).headers:
            a, b = (p.description(name, key).arrays for p in (pool, other))
            assert {n: x.tobytes() for n, x in a.items()} == {n: x.tobytes() for n, x in b.items()}


def test_push_and_pull(hub: Hub, typed: Any, small_pool: Pool, tmp_path: Path):
    pool, reviews = small_pool.unpack(tmp_path / "with texts"), small_pool.source("reviews")
    described = [small_pool.description("reviews", key) for key in reviews.headers]
    described.append(describe_texts(source_task("reviews")))
    pool.add(reviews.card, reviews.tuning, described, replace=True)
    pushed = command(typed, "push", REPO, "--pool", pool.folder)
    assert pushed.returncode == 0, pushed.stderr
    assert f"{hub.url}/datasets/{REPO}/commit/" in pushed.stdout
    sha, files = hub.files(REPO)
    assert {Path(name).suffix for name in files} == {
        "", ".json", ".md", ".parquet", ".safetensors",
    }  # fmt: skip
    card = files["README.md"].decode()
    for said in ("taskscout-pool", "CC BY-NC 4.0", f"taskscout pool pull {REPO}", "| reviews |"):
        assert said in card
    pulled = command(typed, "pull", REPO)
    assert pulled.returncode == 0, pulled.stderr
    (folder,) = (tmp_path / "pools").iterdir()  # where rankings for its model look for it
    assert folder.name.endswith(f"-{small_pool.encoder['fingerprint'][:12]}")
    same(Pool.open(folder), small_pool)  # without the texts, which are others' data
    assert Pool.open(folder).verify() == []
    again = command(typed, "pull", REPO)
    assert (again.returncode, "exists already" in again.stderr) == (2, True)
    with_texts = command(typed, "push", "someone/open", "--pool", pool.folder, "--with-texts")
    assert with_texts.returncode == 0, with_texts.stderr
    assert "packed-texts.safetensors" in hub.files("someone/open")[1]
    # A second push replaces the first, and an earlier one is still there by its commit.
    other = small_pool.unpack(tmp_path / "fewer")
    other.remove("stars")
    assert command(typed, "push", REPO, "--pool", other.folder).returncode == 0
    assert command(typed, "pull", REPO, "--out", tmp_path / "new").returncode == 0
    assert "stars" not in Pool.open(tmp_path / "new")
    old = command(typed, "pull", REPO, "--revision", sha, "--out", tmp_path / "old")
    assert old.returncode == 0, old.stderr
    same(Pool.open(tmp_path / "old"), small_pool)
    code = (
        "from taskscout import Pool; "
        f"print(*Pool.from_hub({REPO!r}).names); print(len(Pool.from_hub({REPO!r}, {sha!r})))"
    )
    opened = typed("-c", code)
    assert opened.stdout.split() == [*other.names, "4"], opened.stderr


def test_a_trained_model_is_pushed(
    hub: Hub, typed: Any, small_pool: Pool, small_bench: Workbench, tmp_path: Path
):
    """With its card and adapter, after it is in its folder: a hub that refuses loses nothing."""
    lines = [f"{text},{label}" for text, label in zip(
        toy_task(n=60).inputs("train")[0], toy_task(n=60).labels("train"), strict=True)]  # fmt: skip
    data = tmp_path / "mine.csv"
    data.write_text("text,label\n" + "\n".join(lines))
    train = [
        "-m", "taskscout", "train", data, "--encoder", small_bench.encoder.folder, "--pool",
        small_pool.folder, "--max-length", "32", "--sources", "reviews", "--seeds", "1",
        "--epochs", "1", "--overwrite", "--out", tmp_path / "model", "--push-to-hub",
        "someone/model",
    ]  # fmt: skip
    refused = typed(*train, token="hf_wrong")
    assert refused.returncode == 2, refused.stderr
    assert (tmp_path / "model" / "README.md").is_file()
    pushed = typed(*train)
    assert pushed.returncode == 0, pushed.stderr
    files = hub.files("someone/model")[1]
    assert {"README.md", "result.json", "config.json", "model.safetensors"} <= files.keys()
    assert files["README.md"] == (tmp_path / "model" / "README.md").read_bytes()


def test_a_source_s_data_come_from_the_hub(hub: Hub, typed: Any):
    """By its card's loading line, through ``datasets``."""
    task = toy_task(n=30)
    files = {}
    for split, table in task.tables.items():
        rows = [{"text": r["text"], "label": f"class {r['label']}"} for r in table.to_pylist()]
        files[f"{split}.jsonl"] = "\n".join(map(json.dumps, rows)).encode()
    hub.commits["someone/films"] = [("a" * 40, files)]
    code = (
        "from taskscout.pools.source_data import data_of\n"
        "from taskscout.tasks import TaskCard\n"
        "line = 'datasets.load_dataset(\"someone/films\")'\n"
        "task = data_of(TaskCard('films', load=line, label_names=('class 0', 'class 1')))\n"
        "print(task.fingerprint)"
    )
    loaded = typed("-c", code)
    assert loaded.stdout.strip().endswith(task.fingerprint), loaded.stderr


def test_what_is_refused(hub: Hub, typed: Any, small_pool: Pool, tmp_path: Path):
    def mistake(*arguments: Any, **options: Any) -> str:
        result = command(typed, *arguments, **options)
        assert result.returncode == 2, result
        assert "Traceback" not in result.stderr
        assert not (tmp_path / "pools").exists()
        return result.stderr

    said = mistake("push", REPO, "--pool", small_pool.folder, token="hf_wrong")
    assert "401" in said
    assert "hf auth login" in said
    assert "nobody/nothing could not be pulled" in mistake("pull", "nobody/nothing")
    assert "could not be pulled" in mistake("pull", "not a name")
    assert command(typed, "push", REPO, "--pool", small_pool.folder, "--private").returncode == 0
    assert hub.private == {REPO}
    assert "could not be pulled" in mistake("pull", REPO, token="hf_other")
    hub.gated.add("someone/gated")
    hub.commits["someone/gated"] = [("a" * 40, {"config.json": b"{}"})]
    said = mistake("build", "--encoder", "someone/gated", "--like", "builtin")
    assert "GatedRepoError" in said
    assert "someone/gated" in said
    assert "hf auth login" in said
    # A file that was changed on the hub is found before the pool takes its place.
    _, files = hub.files(REPO)
    name = next(n for n in files if n.startswith("packed-tuned"))
    data = bytearray(files[name])
    data[-1] ^= 1
    hub.commits[REPO].append(("f" * 40, {**files, name: bytes(data)}))
    assert "not what was written" in mistake("pull", REPO)
    hub.commits[REPO].append(("e" * 40, {"pool.json": b"{}"}))
    assert "pool.json" in mistake("pull", REPO)
    hub.commits[REPO].append(("d" * 40, {"data.json": json.dumps([1]).encode()}))
    assert "holds no pool.json" in mistake("pull", REPO)
