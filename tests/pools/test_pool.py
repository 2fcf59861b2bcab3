"""Pools at rest: what is put in comes back, whole or not at all, and damage is found."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taskscout.errors import PoolError
from taskscout.files import write_atomically
from taskscout.methods.method import Description
from taskscout.pools import Pool
from taskscout.pools import pool as module
from taskscout.pools.builtin import builtin_folder
from taskscout.pools.pool import FORMAT, Source
from taskscout.tasks import TaskCard

ENCODER = {
    "model": "tiny",
    "weights": "w",
    "fingerprint": "f",
    "dimension": 4,
    "pooling": "mean",
    "layers": "last",
    "max_length": 32,
}


def card(name: str, **more: Any) -> TaskCard:
    return TaskCard(
        name,
        rows={"train": 10, "test": 2},
        label_names=("schlecht", "größer"),
        licence="MIT",
        **more,
    )


def descriptions(name: str, seed: int = 0) -> list[Description]:
    """Arrays whose shapes and presence differ from source to source, of several types."""
    rng = np.random.default_rng([seed, len(name)])
    rank = 1 + seed % 3
    arrays: dict[str, np.ndarray] = {
        "inner": rng.normal(size=(4, rank)).astype(np.float16),
        "offset": rng.normal(size=4),
    }
    if seed % 2:
        arrays["head"] = rng.normal(size=(seed, 4)).astype(np.float32)
    sketch = rng.integers(0, 2**63, 5 * seed, dtype=np.uint64)
    header = {"scale": 0.1 + seed, "strength": 1e-05, "rank": rank, "note": "größer", "n": None}
    return [
        Description("map", name, header, arrays),
        Description("overlap", name, {"size": 5}, {"sketch": sketch}),
    ]


def add(pool: Pool, name: str, seed: int = 0, **more: Any) -> None:
    tuning = {"scores": {"score": 0.5 + seed / 100}, "recipe": {"rank": 4}}
    pool.add(card(name), tuning, descriptions(name, seed), **more)


def assert_holds(pool: Pool, name: str, seed: int = 0) -> None:
    source = pool.source(name)
    assert source.card == card(name)
    assert source.tuning["scores"]["score"] == 0.5 + seed / 100
    for wanted in descriptions(name, seed):
        got = pool.description(name, wanted.key)
        assert (got.key, got.source, got.header) == (wanted.key, name, wanted.header)
        assert got.arrays.keys() == wanted.arrays.keys()
        for key, array in wanted.arrays.items():
            assert got.arrays[key].dtype == array.dtype
            np.testing.assert_array_equal(got.arrays[key], array)


NAMES = ["a", "b.2", "C_3", "d-4"]


@pytest.fixture
def loose(tmp_path: Path) -> Pool:
    pool = Pool.create(tmp_path / "loose", encoder=ENCODER)
    for seed, name in enumerate(NAMES):
        add(pool, name, seed)
    return pool


@pytest.fixture
def packed(loose: Pool, tmp_path: Path) -> Pool:
    return loose.pack(tmp_path / "packed")


def refused(call: Callable[[], Any]) -> PoolError:
    with pytest.raises(PoolError) as caught:
        call()
    error = caught.value
    for part in (error.found, error.why, error.remedy):
        assert part.strip()
    return error


# -- round trips -----------------------------------------------------------------------------


def test_loose_round_trip(loose: Pool):
    opened = Pool.open(loose.folder)
    for pool in (loose, opened):
        assert pool.names == tuple(sorted(NAMES))
        assert len(pool) == 4
        assert [s.name for s in pool] == list(pool.names)
        assert pool.encoder == ENCODER
        assert "a" in pool
        assert "e" not in pool
        for seed, name in enumerate(NAMES):
            assert_holds(pool, name, seed)
        assert pool.verify() == []


def test_packed_round_trip(packed: Pool):
    files = sorted(p.name for p in packed.folder.iterdir())
    assert files == [
        "packed-map.safetensors",
        "packed-overlap.safetensors",
        "pool.json",
        "sources.safetensors",
    ]
    opened = Pool.open(packed.folder)
    for pool in (packed, opened):
        assert pool.names == tuple(sorted(NAMES))
        for seed, name in enumerate(NAMES):
            assert_holds(pool, name, seed)
        assert pool.verify() == []
    assert opened.encoder == ENCODER


def test_packed_again_is_the_same(packed: Pool, tmp_path: Path):
    again = packed.pack(tmp_path / "again")
    for path in packed.folder.iterdir():
        assert (again.folder / path.name).read_bytes() == path.read_bytes()


def test_unpacked_round_trip(packed: Pool, tmp_path: Path):
    packed.set_left_out({"x": "too small"})
    out = packed.unpack(tmp_path / "unpacked")
    for seed, name in enumerate(NAMES):
        assert_holds(out, name, seed)
    assert out.left_out == {"x": "too small"}
    out.remove("a")
    assert out.verify() == []
    assert "a" in packed.unpack(tmp_path / "unpacked")  # goes on where it was


def test_some_keys_packed(loose: Pool, tmp_path: Path):
    pool = loose.pack(tmp_path / "some", keys=["map"])
    assert pool.described("map") == pool.names
    assert pool.described("overlap") == ()
    assert not (pool.folder / "packed-overlap.safetensors").exists()
    assert pool.verify() == []


def test_descriptions_that_some_sources_lack(tmp_path: Path):
    pool = Pool.create(tmp_path / "pool", encoder=ENCODER)
    add(pool, "a")
    pool.add(card("b"), {}, descriptions("b")[1:])
    pool.add(card("c"), {}, [])
    pool.add(card("d"), {}, [Description("bare", "d", {"x": 1})])
    for each in (pool, Pool.open(pool.folder), pool.pack(tmp_path / "packed")):
        assert each.described("map") == ("a",)
        assert each.described("overlap") == ("a", "b")
        assert each.described("nothing") == ()
        assert each.description("d", "bare").arrays == {}
        error = refused(lambda each=each: each.description("b", "map"))
        assert "overlap" in error.why
        assert each.verify() == []


@pytest.mark.parametrize("kind", ["loose", "packed"])
def test_descriptions_are_read_one_by_one(kind: str, request: Any, monkeypatch: Any):
    pool: Pool = request.getfixturevalue(kind)
    read = []
    real = Pool.description
    monkeypatch.setattr(Pool, "description", lambda s, n, k: read.append(n) or real(s, n, k))
    found = pool.descriptions("map")
    assert len(found) == 4
    assert read == []
    assert found[1].source == pool.names[1]
    assert found[-1].source == pool.names[-1]
    assert len(read) == 2
    some = found[1:3]
    assert len(some) == 2
    assert len(read) == 2
    assert [d.source for d in some] == list(pool.names[1:3])
    assert [d.source for d in pool.descriptions("map", ["d-4", "a"])] == ["d-4", "a"]
    with pytest.raises(IndexError):
        found[4]


def test_arrays_come_as_they_went_in(tmp_path: Path):
    """Not contiguous, empty, of one number and of every type."""
    square = np.arange(12.0).reshape(3, 4)
    arrays = {
        "turned": square.T,
        "every other": square[:, ::2],
        "empty": np.zeros((0, 4), np.float16),
        "one": np.array(3.5),
        **{t: np.array([[0, 1, 100]], t) for t in ("int8", "uint8", "int64", "float32", "bool")},
    }
    pool = Pool.create(tmp_path / "pool", encoder=ENCODER)
    pool.add(card("a"), {}, [Description("k", "a", {}, arrays)])
    for each in (Pool.open(pool.folder), pool.pack(tmp_path / "packed")):
        got = each.description("a", "k").arrays
        assert got.keys() == arrays.keys()
        for key, array in arrays.items():
            assert got[key].dtype == array.dtype
            assert got[key].shape == array.shape
            np.testing.assert_array_equal(got[key], array)


@pytest.mark.parametrize("ahead", [16, 100, 1 << 18])
def test_reading_ahead_changes_nothing(tmp_path: Path, ahead: int, monkeypatch: Any):
    """In any order; who walks along a column reads it in few pieces."""
    rng = np.random.default_rng(0)
    arrays = {
        f"s{i:02}": {"a": rng.normal(size=(i % 4, 3)), "b": rng.integers(0, 9, 7).astype(np.int16)}
        for i in range(40)
    }
    pool = Pool.create(tmp_path / "pool", encoder=ENCODER)
    for name, each in arrays.items():
        pool.add(card(name), {}, [Description("k", name, {}, each)])
    pool.pack(tmp_path / "packed")
    monkeypatch.setattr("taskscout.pools.pool._AHEAD", ahead)
    packed = Pool.open(tmp_path / "packed")
    pieces: list[int] = []
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda *a: pieces.append(1) or whole(*a))
    orders = [sorted(arrays), sorted(arrays, reverse=True), rng.permutation(sorted(arrays))]
    for names in (*orders, np.repeat(sorted(arrays), 2)):
        pieces.clear()
        for name in map(str, names):
            got = packed.description(name, "k").arrays
            for key, array in arrays[name].items():
                np.testing.assert_array_equal(got[key], array)
        if ahead == 1 << 18 and names is orders[0]:
            assert len(pieces) < 20


def test_a_source_whose_last_array_is_empty(tmp_path: Path):
    """Such as the sketch of a task whose texts are all too short for one."""
    pool = Pool.create(tmp_path / "pool", encoder=ENCODER)
    empty, one = np.zeros(0, np.uint64), np.ones(1, np.uint64)
    for name, array in (("a", empty), ("b", one), ("c", empty)):
        pool.add(card(name), {}, [Description("overlap", name, {}, {"sketch": array})])
    packed = pool.pack(tmp_path / "packed")
    assert [len(d.arrays["sketch"]) for d in packed.descriptions("overlap")] == [0, 1, 0]
    assert packed.verify() == []


def test_source_from_dict():
    source = Source(card("a"), {"seconds": 1.0}, {"map": {"rank": 1}})
    assert Source.from_dict(json.loads(json.dumps(source.to_dict()))) == source


# -- adding, replacing, removing ---------------------------------------------------------------


def test_adding_to_a_packed_pool(packed: Pool):
    add(packed, "new", 7)
    opened = Pool.open(packed.folder)
    assert len(opened) == 5
    assert_holds(opened, "new", 7)
    assert_holds(opened, "a", 0)
    assert opened.verify() == []


def test_a_name_that_is_taken(loose: Pool):
    before = loose.folder / "sources" / "a.safetensors"
    data = before.read_bytes()
    error = refused(lambda: add(loose, "a", 9))
    assert "--replace" in error.remedy
    assert before.read_bytes() == data
    add(loose, "a", 9, replace=True)
    assert_holds(loose, "a", 9)
    assert_holds(Pool.open(loose.folder), "a", 9)


def test_a_loose_source_wins_over_a_packed_one_until_removed(packed: Pool):
    refused(lambda: add(packed, "a", 9))
    add(packed, "a", 9, replace=True)
    opened = Pool.open(packed.folder)
    assert_holds(opened, "a", 9)
    opened.remove("a")
    for pool in (opened, Pool.open(packed.folder)):
        assert_holds(pool, "a", 0)


def test_remove(loose: Pool):
    loose.remove("a")
    for pool in (loose, Pool.open(loose.folder)):
        assert pool.names == ("C_3", "b.2", "d-4")
        refused(lambda pool=pool: pool.remove("a"))
    assert not (loose.folder / "sources" / "a.safetensors").exists()
    add(loose, "a", 3)
    assert_holds(Pool.open(loose.folder), "a", 3)


def test_removing_what_is_packed_is_refused(packed: Pool):
    before = {p: p.read_bytes() for p in packed.folder.iterdir()}
    error = refused(lambda: packed.remove("a"))
    assert "--exclude a" in error.remedy
    assert {p: p.read_bytes() for p in packed.folder.iterdir()} == before
    assert "a" in packed


@pytest.mark.parametrize(
    "name", ["", "none", "a b", "../a", ".a", "-a", "a/b", "ä", "a\n", "a\0", "x" * 101]
)
def test_names_that_are_refused(tmp_path: Path, name: str):
    pool = Pool.create(tmp_path / "pool", encoder=ENCODER)
    error = refused(lambda: add(pool, name))
    assert "--name" in error.remedy
    assert list((pool.folder / "sources").iterdir()) == []


@pytest.mark.parametrize("name", ["a", "Z", "0", "a.b", "None", "a_b-c.d", "x" * 100])
def test_names_that_are_fine(tmp_path: Path, name: str):
    pool = Pool.create(tmp_path / "pool", encoder=ENCODER)
    add(pool, name)
    assert Pool.open(pool.folder).names == (name,)


def test_an_unknown_source(loose: Pool):
    error = refused(lambda: loose.source("b2"))
    assert "b.2" in error.why
    assert "No name" in refused(lambda: loose.source("quite different")).why


def test_left_out(loose: Pool, tmp_path: Path):
    assert loose.left_out == {}
    loose.set_left_out({"z": "licence: LDC", "y": "does not train"})
    for pool in (loose, Pool.open(loose.folder), loose.pack(tmp_path / "packed")):
        assert list(pool.left_out.items()) == [("y", "does not train"), ("z", "licence: LDC")]
        assert pool.verify() == []
    loose.set_left_out({})
    assert Pool.open(loose.folder).left_out == {}


def test_create_opens_what_is_there(loose: Pool):
    again = Pool.create(loose.folder, encoder={"fingerprint": "other"})
    assert again.encoder == ENCODER
    assert len(again) == 4


def test_create_can_leave_the_disk_as_it_is(tmp_path: Path):
    folder = tmp_path / "later"
    pool = Pool.create(folder, encoder=ENCODER, write=False)
    refused(lambda: add(pool, "no name"))
    assert not folder.exists()
    add(pool, "a")
    assert_holds(Pool.open(folder), "a")
    assert pool.verify() == []


def test_repr(loose: Pool):
    assert repr(loose) == f"Pool('{loose.folder}', 4 sources)"


# -- whole or not at all -------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old(loose: Pool, monkeypatch: pytest.MonkeyPatch):
    before = {p: p.read_bytes() for p in loose.folder.rglob("*") if p.is_file()}

    def fail(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(module.os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        add(loose, "new")
    with pytest.raises(OSError, match="no space left"):
        add(loose, "a", 9, replace=True)
    monkeypatch.undo()
    assert {p: p.read_bytes() for p in loose.folder.rglob("*") if p.is_file()} == before
    for pool in (loose, Pool.open(loose.folder)):
        assert len(pool) == 4
        assert_holds(pool, "a", 0)


def test_left_over_temporary_files_are_passed_over(loose: Pool):
    for name in (".e.safetensors.1234.tmp", ".e.safetensors"):
        (loose.folder / "sources" / name).write_bytes(b"half")
    opened = Pool.open(loose.folder)
    assert opened.names == tuple(sorted(NAMES))
    assert opened.verify() == []


def test_write_atomically(tmp_path: Path):
    path = tmp_path / "file"
    for data in (b"one", b"two"):
        write_atomically(path, data)
        assert path.read_bytes() == data
        assert list(tmp_path.iterdir()) == [path]


_ADDER = """
import sys
import numpy as np
from taskscout.methods.method import Description
from taskscout.pools import Pool
from taskscout.tasks import TaskCard

pool = Pool.create(sys.argv[1], encoder={"fingerprint": "f"})
print("ready", flush=True)
for i in range(int(sys.argv[2]), 10**6):
    for name in ("a", "b"):
        arrays = {"x": np.full(30_000, i), "y": np.full((i % 7, 3), i)}
        pool.add(TaskCard(name), {"i": i}, [Description("k", name, {"i": i}, arrays)], replace=True)
    print(i, flush=True)
"""


def test_a_kill_at_any_moment(tmp_path: Path):
    """Whenever an adding process is killed, each source is there in one version or another."""
    chance = random.Random(0)
    folder = tmp_path / "pool"
    last = 0
    versions = set()
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", _ADDER, str(folder), str(last + 1)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(chance.choice([0.0, 0.005, 0.02, 0.1]) * (1 + chance.random()))
        os.kill(process.pid, signal.SIGKILL)
        certain = [int(line) for line in process.communicate()[0].split()]
        pool = Pool.open(folder)
        assert pool.verify() == []
        for source in pool:
            i = source.tuning["i"]
            versions.add(i)
            assert i >= max(certain, default=0)
            found = pool.description(source.name, "k")
            assert found.header == {"i": i}
            assert (found.arrays["x"] == i).all()
            assert found.arrays["y"].shape == (i % 7, 3)
        last = max([*(s.tuning["i"] for s in pool), last])
    assert len(versions) > 2
    assert last > 5


# -- damage -------------------------------------------------------------------------------------


def flipped(path: Path, offset: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(bytes(data))


def found_by_verify(folder: Path) -> bool:
    """Whether a damaged pool is refused, or verify names the damage."""
    try:
        return bool(Pool.open(folder).verify())
    except PoolError:
        return True


def offsets_of(path: Path, chance: random.Random, n: int) -> list[int]:
    """Offsets all over a file, in its header and at its edges above all."""
    size = path.stat().st_size
    head = min(size, 8 + int.from_bytes(path.read_bytes()[:8], "little"))
    if path.suffix == ".json":
        head = size
    return [
        *range(10),
        *(chance.randrange(head) for _ in range(n)),
        head - 1,
        *(chance.randrange(size) for _ in range(n)),
        size - 1,
    ]


@pytest.mark.parametrize(
    "file",
    [
        "sources/d-4.safetensors",
        "packed-map.safetensors",
        "packed-overlap.safetensors",
        "sources.safetensors",
        "pool.json",
    ],
)
def test_verify_finds_a_flipped_bit(loose: Pool, packed: Pool, file: str):
    folder = (loose if file.startswith("sources/") else packed).folder
    path = folder / file
    data = path.read_bytes()
    assert not found_by_verify(folder)
    chance = random.Random(file)
    for offset in offsets_of(path, chance, 60):
        bit = chance.randrange(8)
        flipped(path, offset, bit)
        assert found_by_verify(folder), (offset, bit)
        path.write_bytes(data)
    assert not found_by_verify(folder)


def test_verify_finds_a_bit_that_changes_nothing_but_the_text(loose: Pool, packed: Pool):
    """1e-05 as 1E-05 reads the same; it is damage all the same."""
    for path in (
        loose.folder / "sources" / "a.safetensors",
        packed.folder / "sources.safetensors",
    ):
        data = path.read_bytes()
        offset = data.index(b"1e-05") + 1
        flipped(path, offset, 5)
        assert path.read_bytes()[offset : offset + 1] == b"E"
        problems = Pool.open(
            loose.folder if path.name == "a.safetensors" else packed.folder
        ).verify()
        assert problems == [f"{path}: the checksum does not match."]


def test_verify_sees_what_happened_since_the_pool_was_opened(loose: Pool, packed: Pool):
    path = loose.folder / "sources" / "a.safetensors"
    path.write_bytes(b"short")
    assert loose.verify() == [f"{path}: the checksum does not match."]
    assert "a.safetensors" in refused(lambda: loose.description("a", "map")).found
    path = packed.folder / "pool.json"
    path.write_text("{}")
    assert packed.verify() == [f"{path}: the checksum does not match."]
    path.unlink()
    assert packed.verify() == [f"{path}: the checksum does not match."]


def test_a_file_for_all_sources(loose: Pool, tmp_path: Path):
    """It is kept under its checksum, replaced whole, and goes where the sources go."""
    assert loose.attached("topics") is None
    loose.attach("topics", b"first")
    first = loose.attached("topics")
    loose.attach("topics", b"second")
    assert first is not None
    assert not first.exists()
    packed = loose.pack(tmp_path / "packed")
    for pool in (Pool.open(loose.folder), packed, packed.unpack(tmp_path / "again")):
        path = pool.attached("topics")
        assert path is not None
        assert path.parent == pool.folder
        assert path.read_bytes() == b"second"
        assert pool.verify() == []
        path.write_bytes(b"secome")
        assert pool.verify() == [f"{path}: the checksum does not match."]
        path.unlink()
        assert pool.verify() == [f"{path}: the checksum does not match."]


def test_verify_names_the_file(packed: Pool):
    path = packed.folder / "packed-map.safetensors"
    flipped(path, path.stat().st_size - 3, 2)
    assert Pool.open(packed.folder).verify() == [f"{path}: the checksum does not match."]
    path.unlink()
    (problem,) = Pool.open(packed.folder).verify()
    assert str(path) in problem


def test_a_source_under_another_name_is_found(loose: Pool):
    shutil.copy(
        loose.folder / "sources" / "a.safetensors", loose.folder / "sources" / "e.safetensors"
    )
    assert len(Pool.open(loose.folder).verify()) == 1


@pytest.mark.parametrize("length", [0, 7, 100, -1])
def test_cut_files_are_refused(loose: Pool, packed: Pool, length: int):
    path = loose.folder / "sources" / "a.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert "a.safetensors" in refused(lambda: Pool.open(loose.folder)).found
    path = packed.folder / "packed-map.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    opened = Pool.open(packed.folder)
    error = refused(lambda: opened.description("a", "map"))
    assert "packed-map" in error.found
    assert opened.verify()
    path = packed.folder / "sources.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    assert "sources.safetensors" in refused(lambda: Pool.open(packed.folder)).found


def test_a_table_of_another_pool(packed: Pool, tmp_path: Path):
    other = Pool.create(tmp_path / "other", encoder=ENCODER)
    add(other, "e")
    shutil.copy(other.pack(tmp_path / "other packed").folder / "sources.safetensors", packed.folder)
    error = refused(lambda: Pool.open(packed.folder))
    assert "1 sources" in error.found
    (packed.folder / "sources.safetensors").unlink()
    assert "sources.safetensors" in refused(lambda: Pool.open(packed.folder)).found


def test_packed_files_of_another_pool(packed: Pool, tmp_path: Path):
    other = Pool.create(tmp_path / "other", encoder=ENCODER)
    add(other, "e")
    path = other.pack(tmp_path / "other packed").folder / "packed-map.safetensors"
    shutil.copy(path, packed.folder)
    error = refused(lambda: Pool.open(packed.folder).description("a", "map"))
    assert "another pool" in error.why


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"format": null}',
        '{"format": "one"}',
        '{"format": 1}',
        '{"format": 1, "encoder": {}, "sources": []}',
        '{"format": 1, "encoder": {"fingerprint": ""}, "sources": [{"card": {}}]}',
        '{"format": 1, "encoder": {"fingerprint": ""}, "sources": [7]}',
        "\udc80",
    ],
)
def test_a_damaged_header(tmp_path: Path, text: str):
    (tmp_path / "pool.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "pool.json" in refused(lambda: Pool.open(tmp_path)).found


def test_a_later_format(loose: Pool):
    path = loose.folder / "pool.json"
    header = json.loads(path.read_text())
    path.write_text(json.dumps({**header, "format": FORMAT + 1}))
    error = refused(lambda: Pool.open(loose.folder))
    assert f"format {FORMAT + 1}" in error.found
    assert "upgrade" in error.remedy


def test_keys_of_later_versions_are_passed_over(loose: Pool):
    path = loose.folder / "pool.json"
    header = json.loads(path.read_text())
    path.write_text(json.dumps({**header, "built": "today"}))
    assert len(Pool.open(loose.folder)) == 4


def test_no_pool(tmp_path: Path):
    error = refused(lambda: Pool.open(tmp_path / "nothing"))
    assert "pool.json" in error.found
    assert "taskscout pool add" in error.remedy
    (tmp_path / "file").touch()
    refused(lambda: Pool.open(tmp_path / "file"))


def test_an_installation_without_its_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("taskscout.pools.builtin.files", lambda package: tmp_path)
    error = refused(builtin_folder)
    assert "pip install" in error.remedy
    refused(Pool.builtin)


# -- format 1, and pools of many sources ---------------------------------------------------------


def write_format_1(pool: Pool, folder: Path) -> None:
    """Write a pool as the first format had it: cards in pool.json, shapes in metadata."""
    folder.mkdir()
    for key in sorted({k for s in pool for k in s.headers}):
        names = pool.described(key)
        found = [pool.description(n, key).arrays for n in names]
        shapes, flat = {}, {}
        for column in sorted({c for arrays in found for c in arrays}):
            shapes[column] = [list(a[column].shape) if column in a else None for a in found]
            flat[column] = np.concatenate([a[column].ravel() for a in found if column in a])
        text = module._canonical([list(names), shapes])
        meta = {
            "sources": list(names),
            "shapes": shapes,
            "checksum": module._checksum(flat, text),
        }
        data = module.save_bytes(flat, {module._META: module._canonical(meta)})
        (folder / f"packed-{key}.safetensors").write_bytes(data)
    header = {"format": 1, "encoder": dict(pool.encoder), "sources": [s.to_dict() for s in pool]}
    Pool._write_header(folder, header)


def test_format_1_is_read_as_ever(loose: Pool, tmp_path: Path):
    folder = tmp_path / "old"
    write_format_1(loose, folder)
    old = Pool.open(folder)
    assert old.names == loose.names
    assert old.verify() == []
    for seed, name in enumerate(NAMES):
        assert_holds(old, name, seed)
    old.set_left_out({"x": "too small"})
    old.attach("topics", b"first")
    add(old, "new", 5)
    again = Pool.open(folder)
    assert again.verify() == []
    assert_holds(again, "a", 0)
    assert_holds(again, "new", 5)
    packed = again.pack(tmp_path / "packed")
    assert json.loads((packed.folder / "pool.json").read_text())["format"] == FORMAT
    assert packed.verify() == []
    assert packed.left_out == {"x": "too small"}
    for seed, name in enumerate(NAMES):
        assert_holds(packed, name, seed)
    for file in ("packed-map.safetensors", "packed-overlap.safetensors"):
        data = (folder / file).read_bytes()
        chance = random.Random(file)
        for offset in offsets_of(folder / file, chance, 20):
            flipped(folder / file, offset, chance.randrange(8))
            assert found_by_verify(folder), offset
            (folder / file).write_bytes(data)
    assert not found_by_verify(folder)


def many(folder: Path, size: int) -> Pool:
    """A packed pool of many sources, with cards and maps of a usual size."""
    map_ = {"inner": np.ones((96, 4), np.float16), "outer": np.ones((96, 4), np.float16)}
    sources = [
        Source(
            card(f"source-{i}", citation="x" * 300),
            {"scores": {"score": i / size}, "recipe": {"rank": 4, "examples": 1000}},
            {"map": {"scale": float(i), "encoder": "f"}, "overlap": {"size": 1}},
        )
        for i in range(size)
    ]
    folder.mkdir()
    described = [(s.name, {**map_, "offset": np.full(96, i)}) for i, s in enumerate(sources)]
    module._Packed.write(folder / "packed-map.safetensors", described)
    sketch = {"sketch": np.arange(3, dtype=np.uint64)}
    described = [(s.name, sketch) for s in sources]
    module._Packed.write(folder / "packed-overlap.safetensors", described)
    keys = ["map", "overlap"]
    module._File.write(folder / "sources.safetensors", module._Table.arrays(sources, keys))
    Pool._write_header(folder, {"format": FORMAT, "encoder": ENCODER, "packed": size})
    return Pool.open(folder)


_READER = """
import json, resource, sys, time
import numpy, taskscout.pools.pool
from taskscout.pools import Pool
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
pool = Pool.open(sys.argv[1])
opened = time.perf_counter() - start
total = 0.0
for description in pool.descriptions("map"):
    total += description.header["scale"] + description.arrays["inner"].sum(dtype=float)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([opened, total, (after - before) / 1024]))
"""


def test_ten_thousand_sources_open_at_once_and_are_walked_in_little_memory(tmp_path: Path):
    """Opening reads names alone; walking over the maps gives their pages back."""
    pool = many(tmp_path / "pool", 10_000)
    assert pool.source("source-77").card.citation == "x" * 300
    assert pool.source("source-77").tuning["scores"]["score"] == 0.0077
    assert pool.description("source-9999", "map").arrays["offset"][0] == 9999
    command = [sys.executable, "-c", _READER, str(pool.folder)]
    opened, total, grown = json.loads(
        subprocess.run(command, capture_output=True, check=True).stdout
    )
    assert total == sum(range(10_000)) + 10_000 * 96 * 4
    size = sum(path.stat().st_size for path in pool.folder.iterdir()) / 2**20
    assert size > 30
    assert opened < 1.0  # 0.03 s where nothing else runs
    assert grown < 12  # MB: names, shapes and where the texts end


def test_parts_of_a_source_are_read_when_they_are_asked_for(packed: Pool, monkeypatch):
    read = []
    real = module._Table.card
    monkeypatch.setattr(module._Table, "card", lambda s, row: read.append(row) or real(s, row))
    opened = Pool.open(packed.folder)
    assert opened.names == packed.names
    assert [s.name for s in opened] == list(opened.names)
    assert opened.described("map") == opened.names
    assert opened.description("a", "map").header["rank"] == 1
    assert read == []
    source = opened.source("a")
    assert source.card == card("a")
    assert source.card is source.card
    assert len(read) == 1
    with pytest.raises(AttributeError):
        _ = source.colour


def test_packed_arrays_cannot_be_written_to(packed: Pool):
    with pytest.raises(ValueError, match="read-only"):
        packed.description("a", "map").arrays["inner"][:] = 0
