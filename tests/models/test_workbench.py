"""The workbench: what is costly is made once, in memory and on disk."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from taskscout.errors import TaskscoutError
from taskscout.methods.joint import announce
from taskscout.methods.method import get_method
from taskscout.models.cache import EmbeddingCache, NoCache
from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe, Tuning
from taskscout.models.tuned_model import TunedModel
from taskscout.models.tuned_store import TunedStore
from taskscout.models.workbench import Workbench, text_key
from tests.tiny import toy_task

TASK = toy_task(n=48)


def recipe(tuning: Tuning = "prompt", **more: Any) -> Recipe:
    length = {"prompt": 6, "p-tuning-v2": 4}.get(tuning, 0)
    return Recipe(tuning=tuning, **{"least_steps": 6, "prompt_length": length, **more})


def bench(encoder: Encoder, folder: Path | None, **more: Any) -> Workbench:
    cache = NoCache() if folder is None else EmbeddingCache(folder)
    return Workbench(encoder, cache=cache, recipe=recipe(**more))


def assert_same(one: TunedModel, other: TunedModel) -> None:
    assert (one.scores, one.initialisation) == (other.scores, other.initialisation)
    assert (one.seconds, one.trained_on) == (other.seconds, other.trained_on)
    assert one.checkpoints.keys() == other.checkpoints.keys()
    for a, b in (
        (one.parameters, other.parameters),
        (one.initial, other.initial),
        *((one.checkpoints[c], other.checkpoints[c]) for c in one.checkpoints),
    ):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_a_task_is_tuned_once_in_memory(tiny: Encoder) -> None:
    made = bench(tiny, None)
    assert made.tuned(TASK) is made.tuned(TASK, recipe())
    assert made.tunings == 1
    made.tuned(TASK, recipe(seed=1))
    made.tuned(TASK, recipe("bitfit"))
    made.tuned(toy_task(n=48, seed=7))
    assert made.tunings == 4
    made.forget(TASK)
    made.tuned(TASK)
    assert made.tunings == 5


@pytest.mark.parametrize("tuning", ["full", "lora", "prompt", "p-tuning-v2", "bitfit", "head"])
def test_a_second_process_does_not_tune_again(
    tiny: Encoder, tmp_path: Path, tuning: Tuning
) -> None:
    first, second = (bench(tiny, tmp_path, tuning=tuning, checkpoints=(0.5,)) for _ in range(2))
    made, found = first.tuned(TASK), second.tuned(TASK)
    assert (first.tunings, second.tunings) == (1, 0)
    assert_same(made, found)
    assert found.recipe == made.recipe
    for split in ("train", "test"):
        a, b = (w.tuned_embeddings(TASK, split) for w in (first, second))
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert np.abs(a - first.embeddings(TASK, split)).max() > 1e-4 or tuning == "head"
        np.testing.assert_allclose(
            made.model.predict(a), found.model.predict(b), rtol=1e-4, atol=1e-5
        )


def test_numbers_come_back_in_their_units(tiny: Encoder, tmp_path: Path) -> None:
    task = toy_task(n=48, regression=True)
    made, found = (bench(tiny, tmp_path).tuned(task).model for _ in range(2))
    assert found.regression
    assert (made.center, made.scale) == (found.center, found.scale)


def test_checkpoints_are_no_other_run(tiny: Encoder, tmp_path: Path) -> None:
    made = bench(tiny, tmp_path)
    plain = made.tuned(TASK)
    early = made.tuned(TASK, recipe(checkpoints=(0.2,)))
    assert made.tunings == 2  # it was not kept the first time
    np.testing.assert_array_equal(early.parameters["prompt"], plain.parameters["prompt"])
    both = made.tuned(TASK, recipe(checkpoints=(0.5,)))
    assert set(both.checkpoints) == {0.2, 0.5}
    assert made.tuned(TASK) is made.tuned(TASK, recipe(checkpoints=(0.2, 0.5))) is both
    again = bench(tiny, tmp_path)
    assert_same(again.tuned(TASK, recipe(checkpoints=(0.2,))), both)
    assert (made.tunings, again.tunings) == (3, 0)


def test_what_else_makes_another_run(tiny: Encoder, tmp_path: Path) -> None:
    store = TunedStore(tmp_path)
    other = Encoder(tiny.folder, pooling="cls", precision="fp32", device="cpu")
    paths = {
        store.path(TASK, tiny, recipe()),
        store.path(toy_task(n=48, seed=1), tiny, recipe()),
        store.path(TASK, other, recipe()),
        store.path(TASK, tiny, recipe(seed=1)),
        store.path(TASK, tiny, recipe(prompt_length=7)),
        store.path(TASK, tiny, recipe(learning_rate=0.5)),
    }
    assert len(paths) == 6
    assert store.path(TASK, tiny, recipe(checkpoints=(0.5,))) in paths


def test_files_are_safetensors_and_nothing_else(tiny: Encoder, tmp_path: Path) -> None:
    bench(tiny, tmp_path).tuned(TASK)
    (path,) = (tmp_path / "tuned").iterdir()
    with safe_open(path, framework="numpy") as f:
        assert "parameters/prompt" in f.keys()  # noqa: SIM118
        assert f.get_tensor("head/weight").shape == (2, tiny.dimension)


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_file_is_tuned_anew(
    tiny: Encoder, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = bench(tiny, tmp_path).tuned(TASK)
    (path,) = (tmp_path / "tuned").iterdir()
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-100], "empty": b"", "other": b"\x80\x04K\x01."}[damage])
    again = bench(tiny, tmp_path)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(
            again.tuned(TASK).parameters["prompt"], made.parameters["prompt"]
        )
    assert again.tunings == 1
    assert "tuned anew" in caplog.text
    assert len(path.read_bytes()) == pytest.approx(len(whole), abs=64)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_written_is_done_without(
    tiny: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tuned").write_text("a file where the folder should be")
    made = bench(tiny, tmp_path)
    with caplog.at_level(logging.WARNING):
        assert made.tuned(TASK).scores
        made.tuned(toy_task(n=48, seed=1))
    assert caplog.text.count("are not kept") == 1


def test_what_was_used_longest_ago_goes_first(tiny: Encoder, tmp_path: Path) -> None:
    made = Workbench(tiny, cache=NoCache())
    tasks = [toy_task(n=32, seed=s) for s in range(3)]
    models = [made.tuned(t, recipe(least_steps=1)) for t in tasks]
    store = TunedStore(tmp_path / "tuned")
    store.put(tasks[0], tiny, models[0])
    size = store.path(tasks[0], tiny, models[0].recipe).stat().st_size
    store = TunedStore(tmp_path / "tuned", max_bytes=int(2.5 * size))
    store.put(tasks[1], tiny, models[1])
    for i, t in enumerate(tasks[:2]):
        os.utime(store.path(t, tiny, recipe(least_steps=1)), (i, i))
    assert store.get(tasks[0], tiny, recipe(least_steps=1)) is not None  # now used last
    store.put(tasks[2], tiny, models[2])
    there = [store.get(t, tiny, recipe(least_steps=1)) is not None for t in tasks]
    assert there == [True, False, True]
    assert store.clear() == 2


def test_the_limit_is_set_by_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKSCOUT_CACHE_SIZE", "1MB")
    assert TunedStore(tmp_path).max_bytes == 2 * 2**30
    monkeypatch.setenv("TASKSCOUT_TUNED_CACHE_SIZE", "3GB")
    assert TunedStore(tmp_path).max_bytes == 3_000_000_000
    assert TunedStore(tmp_path, max_bytes=5).max_bytes == 5
    monkeypatch.setenv("TASKSCOUT_TUNED_CACHE_SIZE", "plenty")
    with pytest.raises(TaskscoutError, match="TASKSCOUT_TUNED_CACHE_SIZE"):
        TunedStore(tmp_path)


def test_nothing_is_written_without_a_cache(
    tiny: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASKSCOUT_CACHE", str(tmp_path))
    bench(tiny, None).tuned(TASK)
    assert list(tmp_path.iterdir()) == []


def test_embeddings_are_made_once(tiny: Encoder, tmp_path: Path) -> None:
    first = bench(tiny, tmp_path)
    once = first.embeddings(TASK)
    assert first.embeddings(TASK) is once
    second = bench(tiny, tmp_path)
    np.testing.assert_array_equal(second.embeddings(TASK), once)
    assert (second.embedded, second.recalled) == (0, 48)


_INPUT = st.tuples(st.text("ab\0", max_size=4), st.none() | st.text("ab\0", max_size=4))


def test_the_last_layer_is_not_embedded_again_after_both(tiny: Encoder) -> None:
    first = bench(tiny, None)
    both = first.embeddings(TASK, middle=True)
    d = tiny.dimension
    np.testing.assert_array_equal(first.embeddings(TASK), both[:, :d])
    assert both.shape == (len(TASK.inputs("train")[0]), 2 * d)
    assert first.embedded == len(both)


def test_one_pass_gives_both_layers_where_the_middle_one_was_announced(tiny: Encoder) -> None:
    found = {}
    for methods in (["logme"], ["logme", "layered-esm-logme"]):
        made = bench(tiny, None)
        announce(map(get_method, methods), made)
        found[len(methods)] = made.embeddings(TASK)
        made.embeddings(TASK, middle=True)
        assert made.embedded == len(found[1]) * (3 - len(methods))
    np.testing.assert_array_equal(found[1], found[2])


@given(_INPUT, _INPUT)
def test_no_two_inputs_share_a_key(one: tuple[str, str | None], other: tuple[str, str | None]):
    assert (text_key(*one) == text_key(*other)) == (one == other)


def test_a_text_with_a_nul_is_no_pair(tiny: Encoder, tmp_path: Path) -> None:
    """Also not in a cache that was filled when both were known by the same bytes."""
    made = bench(tiny, tmp_path)
    old = hashlib.blake2b(b"good film\0bad plot", digest_size=16).digest()
    wrong = np.full((1, tiny.dimension), 7.0, np.float32)
    made.cache.put(tiny.space, [old], wrong)
    pair = made.embed(["good film"], ["bad plot"])
    text = made.embed(["good film\0bad plot"])
    assert (made.recalled, made.embedded) == (0, 2)
    assert not np.allclose(pair, text)
    np.testing.assert_allclose(pair, tiny.encode(["good film"], ["bad plot"]), atol=1e-6)
    # A plain text is known by its own bytes, so what was kept of such stays known.
    plain = hashlib.blake2b(b"good film", digest_size=16).digest()
    made.cache.put(tiny.space, [plain], wrong)
    np.testing.assert_array_equal(made.embed(["good film"]), wrong)
