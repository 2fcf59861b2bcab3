"""``taskscout train`` as a user meets it."""

from __future__ import annotations

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import taskscout
from taskscout.cli.train import parse_mapping
from taskscout.errors import TransferError
from taskscout.models.workbench import Workbench
from taskscout.pools import Pool
from taskscout.transfer import export, strategies, workspace
from taskscout.transfer.result import Budget
from tests.cli import test_cli
from tests.cli.test_cli import Run, mistake, write
from tests.tiny import TOPICS, toy_task

run = test_cli.run


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TASKSCOUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TASKSCOUT_DATA", raising=False)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return write(tmp_path / "target.csv", n=60)


@pytest.fixture
def ours(small_pool: Pool, small_bench: Workbench) -> list[str]:
    """The options that name the small pool and its encoder, and keep training short."""
    return [
        "--pool", str(small_pool.folder), "--encoder", str(small_bench.encoder.folder),
        "--max-length", "32", "--precision", "fp32", "--epochs", "1", "--batch-size", "64",
    ]  # fmt: skip


def left(folder: Path) -> list[str]:
    """What a training left beside its folder."""
    return sorted(p.name for p in folder.iterdir() if p.name.endswith((".partial", ".old", ".tmp")))


def test_train_through_a_source_of_the_pool(run: Run, target: Path, ours, tmp_path: Path):
    out = tmp_path / "model"
    result = run("train", target, "--sources", "reviews", "--seeds", "2", "--out", out, *ours)
    assert result.code == 0, result.err
    assert "sequential" in result.out
    assert "none" in result.out
    assert "sequential, seed 0:" in result.err
    assert left(tmp_path) == []
    data = json.loads((out / "result.json").read_text())
    assert {(r["strategy"], r["seed"]) for r in data["runs"]} == {
        ("sequential", 0), ("sequential", 1), ("none", 0), ("none", 1),
    }  # fmt: skip
    assert data["comparison"]["interval"] is not None
    assert data["comparison"]["verdict"] in result.out
    card = (out / "README.md").read_text()
    for part in ("reviews", "MIT", "example/reviews", data["command"], "taskscout.load", "`good`"):
        assert part in card, part
    for r in data["runs"]:
        assert f"| {r['strategy']} | {r['seed']} | {r['scores']['accuracy']:.4f}" in card
    mask = os.umask(0)
    os.umask(mask)
    files = [p for p in out.rglob("*") if p.is_file()]
    assert {oct(p.stat().st_mode & 0o777) for p in files} == {oct(0o666 & ~mask)}
    assert (out / "adapter" / "adapter_config.json") in files
    assert "PeftModel" in card
    model = taskscout.load(out)
    assert model.label_names == ("bad", "good")
    assert set(model.predict(["a good film", "a dull plot"])) <= {"bad", "good"}


def test_what_is_handed_over_is_what_was_scored(run: Run, tmp_path: Path, ours):
    """The scores in the card are those of the model in the folder, counted anew."""
    rows = toy_task(n=60, seed=21)
    lines = ["text,label,split"]
    for split in ("train", "test"):
        for r in rows.tables[split].to_pylist():
            lines.append(f"{r['text']},{('bad', 'good')[r['label']]},{split}")
    file = tmp_path / "t.csv"
    file.write_text("\n".join(lines) + "\n")
    out = tmp_path / "model"
    page = tmp_path / "page.html"
    command = ("train", file, "--sources", "reviews", "--seeds", "1", "--out", out, *ours)
    assert run(*command, "--report", page).code == 0
    data = json.loads((out / "result.json").read_text())
    assert data["comparison"]["verdict"] in page.read_text()
    assert data["comparison"]["interval"] is None  # one seed only
    chosen = data["chosen"]
    (of,) = (r for r in data["runs"] if r["strategy"] == chosen["strategy"])
    test = [r for r in csv.DictReader(file.open()) if r["split"] == "test"]
    said = taskscout.load(out).predict([r["text"] for r in test])
    right = np.mean([a == r["label"] for a, r in zip(said, test, strict=True)])
    assert right == pytest.approx(of["scores"]["accuracy"])


def test_kinds_without_a_label_column(run: Run, ours, tmp_path: Path):
    """Tags through a source of sentences, and spans alone: one body, other heads."""
    tags = [{"tokens": ["good", "film", str(i)], "tags": ["B-GOOD", "O", "O"]} for i in range(40)]
    spans = [{"question": f"was film {i} good", "context": f"the film {i} was good", "answer": "good"}
             for i in range(40)]  # fmt: skip
    for name, rows, strategies_run, more in (
        ("tags", tags, ["sequential", "none"], ["--sources", "reviews"]),
        ("spans", spans, ["none"], ["--strategy", "none", "--task-kind", "span_qa", "--text", "question",
                          "--pair", "context", "--label", "answer"]),
    ):  # fmt: skip
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps(r) + "\n" for r in rows))
        result = run(
            "train", file, *more, "--seeds", "1", "--out", tmp_path / name, "--json", *ours
        )
        assert result.code == 0, result.err
        data = json.loads(result.out)
        assert [r["strategy"] for r in data["runs"]] == strategies_run
        assert all({"score", "baseline", "error"} <= r["scores"].keys() for r in data["runs"])
        assert "AutoModelFor" in (tmp_path / name / "README.md").read_text()


def test_a_failed_export_does_not_lose_what_was_trained(
    run: Run, target: Path, ours, tmp_path: Path, monkeypatch
):
    from safetensors.numpy import load_file

    def fail(*_, **__):
        raise TransferError("Found.", "Why.", "Remedy.")

    monkeypatch.setattr(export, "save_model", fail)
    out = tmp_path / "m"
    result = run("train", target, "--strategy", "none", "--seeds", "1", "--out", out, *ours)
    assert result.code == 0, result.err
    assert "weights.safetensors" in result.out
    assert "weights.safetensors" in (out / "README.md").read_text()
    weights = load_file(out / "weights.safetensors")
    assert weights["head.weight"].shape == (2, 32)
    assert "body.encoder.layer.0.output.dense.weight" in weights


def test_json_and_nothing_else(run: Run, target: Path, ours, tmp_path: Path):
    out = tmp_path / "model"
    result = run(
        "train", target, "--strategy", "none", "--seeds", "1", "--json", "--out", out, *ours
    )
    assert result.code == 0, result.err
    data = json.loads(result.out)
    assert data == json.loads((out / "result.json").read_text())
    assert data["comparison"] is None
    assert data["sources"] == []


@pytest.mark.parametrize("tuning", ["full", "bitfit", "head"])
def test_other_tunings_start_from_the_pools_adapter(
    run: Run, target, ours, tmp_path, tuning, monkeypatch
):
    tune_task, changed = strategies.tune_task, []

    def spy(task, encoder, recipe, *, body=None, **more):
        if body is not None:
            own = encoder.load_model().state_dict()
            changed.append([k for k, v in body.state_dict().items() if not torch.equal(v, own[k])])
        return tune_task(task, encoder, recipe, body=body, **more)

    monkeypatch.setattr(strategies, "tune_task", spy)
    result = run(
        "train", target, "--sources", "topics", "--tuning", tuning, "--seeds", "1",
        "--out", tmp_path / "model", "--json", *ours,
    )  # fmt: skip
    assert result.code == 0, result.err
    runs = json.loads(result.out)["runs"]
    assert [r["source_examples"] for r in runs] == [0, 0]
    (layers,) = changed  # the target alone starts from the encoder
    assert any("query.weight" in name for name in layers)


def test_from_ranking(run: Run, target: Path, ours, tmp_path: Path):
    result = run(
        "train", target, "--from-ranking", "top2", "--seeds", "1", "--out", tmp_path / "m", "--json",
        *ours,
    )  # fmt: skip
    assert result.code == 0, result.err
    data = json.loads(result.out)
    ranked = json.loads(run("rank", target, "--json", "--exclude-overlap", "0.01", *ours[:6]).out)[
        "sources"
    ]
    want = [r["name"] for r in ranked if r["name"] != "none"][:2]
    assert [s["name"] for s in data["sources"]] == want
    assert any("averaged" in note for note in data["notes"])


def test_sources_from_files_together(run: Run, target: Path, ours, tmp_path: Path):
    first, second = write(tmp_path / "first.csv", seed=3), write(tmp_path / "second.csv", seed=4)
    result = run(
        "train", target, "--sources", f"{first},{second}", "--strategy", "multitask", "--seeds", "1",
        "--temperature", "2", "--out", tmp_path / "m", "--json", *ours,
    )  # fmt: skip
    assert result.code == 0, result.err
    data = json.loads(result.out)
    assert [s["name"] for s in data["sources"]] == ["first", "second"]
    assert data["runs"][0]["source_examples"] > 40


def test_zero_shot_for_a_target_without_labels(run: Run, ours, tmp_path: Path):
    file = tmp_path / "bare.csv"
    file.write_text("text\na good film\na dull plot\nvery cold\n")
    result = run(
        "train", file, "--strategy", "zero_shot", "--sources", "reviews", "--labels", "bad,good",
        "--map", "class 0=bad", "--map", "class 1=good", "--out", tmp_path / "m", *ours,
    )  # fmt: skip
    assert result.code == 0, result.err
    rows = list(csv.DictReader((tmp_path / "m" / "predictions.csv").open()))
    assert [r["text"] for r in rows] == ["a good film", "a dull plot", "very cold"]
    assert taskscout.load(tmp_path / "m").predict([r["text"] for r in rows]) == [
        r["label"] for r in rows
    ]
    by_name = run(
        "train",
        file,
        "--strategy",
        "zero_shot",
        "--labels",
        "good,bad",
        "--out",
        tmp_path / "n",
        *ours,
    )
    assert by_name.code == 0, by_name.err
    assert "labels' names" in (tmp_path / "n" / "README.md").read_text()


# -- stopping and going on -----------------------------------------------------------------------


def test_killed_at_any_moment_the_same_command_ends_with_the_same_result(
    target: Path, ours, tmp_path: Path
):
    def start(out: Path) -> subprocess.Popen:
        command = [sys.executable, "-m", "taskscout", "train", target, "--sources", "reviews",
                   "--seeds", "3", "--out", out, *ours]  # fmt: skip
        return subprocess.Popen(
            list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    out = tmp_path / "killed"
    victim = start(out)
    partial = tmp_path / ".killed.partial"
    deadline = time.monotonic() + 200
    while len(list(partial.glob("runs/*.json"))) < 2:
        assert victim.poll() is None, victim.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert not out.exists()
    done = {p.name: p.stat().st_mtime_ns for p in partial.glob("runs/*.json")}
    assert 2 <= len(done) < 6

    again, undisturbed = start(out), start(tmp_path / "undisturbed")
    said = [p.communicate(timeout=300)[1] for p in (again, undisturbed)]
    assert (again.returncode, undisturbed.returncode) == (0, 0), said
    assert "going on with" in said[0]
    assert said[0].count("seed") == 6 - len(done)  # what was finished was not trained again
    one, two = (
        json.loads((o / "result.json").read_text()) for o in (out, tmp_path / "undisturbed")
    )
    assert one["comparison"] == two["comparison"]
    assert one["chosen"] == two["chosen"]
    texts = ["a good film", "a dull plot", "it is cold"]
    np.testing.assert_array_equal(
        taskscout.load(out).outputs(texts), taskscout.load(tmp_path / "undisturbed").outputs(texts)
    )


def test_another_plan_begins_anew(run: Run, target: Path, ours, tmp_path: Path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    out = tmp_path / "m"
    with monkeypatch.context() as patch:
        patch.setattr(workspace.Workspace, "finish", stop)
        first = run("train", target, "--strategy", "none", "--seeds", "1", "--out", out, *ours)
    assert first.code == 130
    assert left(tmp_path) == [".m.partial"]
    other = run("train", target, "--strategy", "none", "--seeds", "1", "--tuning", "head",
                "--out", out, *ours)  # fmt: skip
    assert other.code == 0
    assert "going on" not in other.err
    assert left(tmp_path) == []


# -- mistakes -------------------------------------------------------------------------------------


def test_a_folder_that_exists_is_not_touched(run: Run, target: Path, ours, tmp_path: Path):
    out = tmp_path / "there"
    out.mkdir()
    (out / "precious").write_text("mine")
    said = mistake(run("train", target, "--strategy", "none", "--out", out, *ours))
    assert "--overwrite" in said
    assert (out / "precious").read_text() == "mine"
    result = run("train", target, "--strategy", "none", "--seeds", "1", "--overwrite", "--out", out,
                 *ours)  # fmt: skip
    assert result.code == 0, result.err
    assert not (out / "precious").exists()
    assert (out / "result.json").is_file()
    assert left(tmp_path) == []


def test_a_full_disk(run: Run, target: Path, ours, tmp_path: Path, monkeypatch):
    out = tmp_path / "m"
    out.mkdir()
    (out / "old").write_text("kept")
    real, calls = workspace.write_atomically, []

    def full(path: Path, data: bytes) -> None:
        calls.append(path.name)
        if path.name == "none-0.json":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, data)

    arguments = ("train", target, "--sources", "reviews", "--seeds", "1", "--overwrite",
                 "--out", out, *ours)  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(workspace, "write_atomically", full)
        result = run(*arguments)
    assert result.code == 2
    assert "is full" in result.err
    assert "goes on where it stopped" in result.err
    assert (out / "old").read_text() == "kept"
    assert (tmp_path / ".m.partial" / "runs" / "sequential-0.json").is_file()
    again = run(*arguments)
    assert again.code == 0, again.err
    assert "sequential, seed 0" not in again.err
    assert not (out / "old").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--sources", "reviews", "--from-ranking", "top1"], "both given"),
        (["--from-ranking", "three"], "top3"),
        (["--sources", "revews"], "Close names: reviews"),
        (["--sources", "reviews,reviews"], "named twice"),
        (["--sources", "reviews", "--strategy", "alone"], "Choose one of these"),
        (["--sources", "reviews", "--tuning", "half"], "tuning is 'half'"),
        (["--sources", "reviews", "--budget", "soon"], "2000 or 10m"),
        (["--sources", "reviews", "--budget", "-5"], "above 0"),
        (["--sources", "stars", "--strategy", "zero_shot"], "of kind regression"),
        (["--sources", "topics", "--strategy", "zero_shot"], "--map"),
        (["--sources", "reviews", "--strategy", "zero_shot", "--map", "good"], "SOURCE=TARGET"),
        (["--sources", "topics", "--fresh"], "https://example.org/topics"),
        (["--sources", "topics", "--strategy", "multitask"], "https://example.org/topics"),
        (["--sources", "topics", "--tuning", "prompt"], "https://example.org/topics"),
        (["--sources", "reviews", "--fresh"],
         "hf download --repo-type dataset example/reviews"),
        (["--labels", "good,bad"], "zero_shot"),
        (["--strategy", "none", "--sources", "reviews"], "without"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)  # fmt: skip
def test_mistakes_name_the_remedy(run: Run, target, ours, tmp_path, arguments, says):
    out = tmp_path / "m"
    result = run("train", target, "--seeds", "1", "--out", out, *arguments, *ours)
    if arguments[:2] == ["--strategy", "none"]:
        says = "Leave the sources out"
    assert says in " ".join(mistake(result).split())
    assert not out.exists()


def test_no_traceback_for_a_label_that_only_the_test_split_has(run: Run, ours, tmp_path: Path):
    task = toy_task(n=40, words=(("good", "great"), ("bad", "poor"), TOPICS[0]))
    lines = ["text,label,split"]
    for split in ("train", "test"):
        for r in task.tables[split].to_pylist():
            if split == "test" or r["label"] < 2:
                lines.append(f"{r['text']},{'xyz'[r['label']]},{split}")
    file = tmp_path / "t.csv"
    file.write_text("\n".join(lines) + "\n")
    result = run(
        "train", file, "--strategy", "none", "--seeds", "1", "--out", tmp_path / "m", *ours
    )
    assert "Traceback" not in result.err
    assert "'z'" in result.out + result.err


def test_budgets_and_mappings_are_read():
    assert Budget.parse("2000") == Budget(examples=2000)
    assert Budget.parse("1.5m") == Budget(seconds=90)
    assert Budget.parse("10 minutes") == Budget(seconds=600)
    assert parse_mapping(["a=b", "c = d,e=f"]) == {"a": "b", "c": "d", "e": "f"}
    for wrong in ("10h", "m", "", "1e3"):
        with pytest.raises(TransferError):
            Budget.parse(wrong)


def test_help(run: Run):
    result = run("train", "--help")
    assert result.code == 0
    assert "Train your target through sources" in result.out


def test_start_imports_no_torch():
    code = "import sys; from taskscout.cli import app; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
