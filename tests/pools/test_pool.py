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
from safetensors import safe_open
from safetensors.numpy import save

from taskscout.errors import PoolError
from taskscout.methods.method import Description
from taskscout.pools import Pool
from taskscout.pools.builtin import builtin_folder
from taskscout.pools.header import header_bytes, header_checksum
from taskscout.pools.integrity import METADATA, canonical, checksum, sha256_of
from taskscout.pools.packed import write_packed
from taskscout.pools.records import FORMAT, Source
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
        "sources.parquet",
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


def test_packing_into_a_folder_that_is_in_use(loose: Pool, tmp_path: Path):
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    for taken in (folder, folder / "notes.txt", loose.folder):
        before = sorted(p.name for p in tmp_path.rglob("*"))
        assert "new folder" in refused(lambda taken=taken: loose.pack(taken)).remedy
        assert sorted(p.name for p in tmp_path.rglob("*")) == before
    assert loose.verify() == []


def test_packing_that_fails_leaves_nothing(loose: Pool, tmp_path: Path):
    flipped(loose.folder / "sources" / "d-4.safetensors", -3, 1)
    refused(lambda: Pool.open(loose.folder).pack(tmp_path / "packed"))
    assert [p.name for p in tmp_path.iterdir()] == ["loose"]


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


def test_packed_arrays_in_any_order(tmp_path: Path):
    rng = np.random.default_rng(0)
    arrays = {
        f"s{i:02}": {"a": rng.normal(size=(i % 4, 3)), "b": rng.integers(0, 9, 7).astype(np.int16)}
        for i in range(40)
    }
    pool = Pool.create(tmp_path / "pool", encoder=ENCODER)
    for name, each in arrays.items():
        pool.add(card(name), {}, [Description("k", name, {}, each)])
    packed = pool.pack(tmp_path / "packed")
    orders = [sorted(arrays), sorted(arrays, reverse=True), rng.permutation(sorted(arrays))]
    for names in (*orders, np.repeat(sorted(arrays), 2)):
        for name in map(str, names):
            got = packed.description(name, "k").arrays
            for key, array in arrays[name].items():
                np.testing.assert_array_equal(got[key], array)


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

    monkeypatch.setattr("taskscout.files.os.replace", fail)
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


_ADDER = """
import sys
import numpy as np
from taskscout.methods.method import Description
from taskscout.pools import Pool
from taskscout.tasks import TaskCard

encoder = {"model": "m", "fingerprint": "f", "pooling": "mean", "layers": "last", "max_length": 9}
pool = Pool.create(sys.argv[1], encoder=encoder)
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
        "sources.parquet",
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


def test_a_bit_that_changes_nothing_but_the_text_is_noticed(loose: Pool):
    """1e-05 as 1E-05 reads the same; it is damage all the same."""
    path = loose.folder / "sources" / "a.safetensors"
    offset = path.read_bytes().index(b"1e-05") + 1
    flipped(path, offset, 5)
    assert path.read_bytes()[offset : offset + 1] == b"E"
    assert loose.verify() == [f"{path}: the checksum does not match."]
    assert "checksum" in refused(lambda: Pool.open(loose.folder)).found


def test_verify_sees_what_happened_since_the_pool_was_opened(loose: Pool, packed: Pool):
    path = loose.folder / "sources" / "a.safetensors"
    path.write_bytes(b"short")
    assert loose.verify() == [f"{path}: the checksum does not match."]
    assert "a.safetensors" in refused(lambda: loose.description("a", "map")).found
    path = packed.folder / "pool.json"
    path.write_text("{}")
    assert packed.verify() == [f"{path}: the checksum does not match."]
    path.unlink()
    assert packed.verify() == [f"{path} is missing."]


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
        assert "checksum" in refused(lambda: Pool.open(pool.folder).attached("topics")).found  # noqa: B023
        path.unlink()
        assert pool.verify() == [f"{path} is missing."]
        assert path.name in refused(lambda: Pool.open(pool.folder).attached("topics")).found  # noqa: B023


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
    error = refused(lambda: Pool.open(loose.folder))
    assert "'a'" in error.found
    assert "e.safetensors" in error.found


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
    path = packed.folder / "sources.parquet"
    path.write_bytes(path.read_bytes()[:length])
    assert "sources.parquet" in refused(lambda: Pool.open(packed.folder)).found


@pytest.mark.parametrize("file", ["sources.parquet", "packed-map.safetensors"])
def test_a_file_of_another_pool(packed: Pool, tmp_path: Path, file: str):
    other = Pool.create(tmp_path / "other", encoder=ENCODER)
    for seed, name in enumerate(NAMES):  # the same sources, other numbers
        add(other, name, seed + 1)
    shutil.copy(other.pack(tmp_path / "other packed").folder / file, packed.folder)
    error = refused(lambda: Pool.open(packed.folder).description("a", "map"))
    assert file in error.found
    assert "checksum" in error.found
    (packed.folder / file).unlink()
    assert file in refused(lambda: Pool.open(packed.folder).description("a", "map")).found


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
        '{"format": 0, "encoder": {"fingerprint": ""}}',
        '{"format": 1e999}',
        "[" * 100_000,
        "9" * 5000,
        '{"format": 1, "encoder": {}, "sources": []}',
        '{"format": 1, "encoder": {"fingerprint": ""}, "sources": [{"card": {}}]}',
        '{"format": 1, "encoder": {"fingerprint": ""}, "sources": [7]}',
        "\udc80",
    ],
)
def test_a_damaged_header(tmp_path: Path, text: str):
    (tmp_path / "pool.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "pool.json" in refused(lambda: Pool.open(tmp_path)).found


def rewrite_header(folder: Path, **fields: Any) -> None:
    """Change fields of pool.json as somebody who takes a checksum would; None removes one."""
    path = folder / "pool.json"
    header = {**json.loads(path.read_text()), **fields}
    header = {k: v for k, v in header.items() if v is not None}
    header["checksum"] = header_checksum(header)
    path.write_bytes(header_bytes(header))


def test_a_later_format(loose: Pool):
    rewrite_header(loose.folder, format=FORMAT + 1)
    error = refused(lambda: Pool.open(loose.folder))
    assert f"format {FORMAT + 1}" in error.found
    assert "upgrade" in error.remedy


def test_keys_of_later_versions_are_kept(loose: Pool, tmp_path: Path):
    rewrite_header(loose.folder, built="today")
    pool = Pool.open(loose.folder)
    assert len(pool) == 4
    pool.set_left_out({"x": "too small"})
    packed = pool.pack(tmp_path / "packed")
    for each in (loose.folder, packed.folder):
        assert json.loads((each / "pool.json").read_text())["built"] == "today"


def test_a_header_that_was_changed_by_hand_is_refused(loose: Pool):
    path = loose.folder / "pool.json"
    path.write_text(path.read_text().replace('"mean"', '"cls"'))
    error = refused(lambda: Pool.open(loose.folder))
    assert "checksum" in error.found


@pytest.mark.parametrize(
    "fields",
    [
        *({"encoder": {k: v for k, v in ENCODER.items() if k != field}}
          for field in ("model", "fingerprint", "pooling", "layers", "max_length")),
        {"encoder": {**ENCODER, "pooling": 7}},
        {"encoder": {**ENCODER, "layers": None}},
        {"encoder": [1]},
        {"left_out": ["a"]},
        {"left_out": {"a": 1}},
        {"files": {"topics": {}}},
        {"files": {"topics": []}},
        {"files": {"topics": {"name": "..", "sha256": "0" * 64}}},
        {"files": {"topics": {"name": "../x", "sha256": "0" * 64}}},
        {"files": {"topics": {"name": "x\0", "sha256": "0" * 64}}},
        {"files": {"topics": {"name": "x\n", "sha256": "0" * 64}}},
        {"files": {"topics": {"name": "x", "sha256": "00"}}},
        {"packed": {"map": "packed-map.safetensors"}},
        {"packed": {"../map": {"name": "x", "sha256": "0" * 64}}},
        {"packed": "four"},
        {"table": {"name": "sources.parquet"}},
        {"sources": {"a": 1}},
    ],
)  # fmt: skip
def test_a_header_of_another_structure(loose: Pool, packed: Pool, fields: dict[str, Any]):
    """Its checksum is right: somebody wrote it so."""
    for pool in (loose, packed):
        rewrite_header(pool.folder, **fields)
        assert "pool.json" in refused(lambda pool=pool: Pool.open(pool.folder)).found


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("card", []),
        ("card", {}),
        ("card", {"name": "a", "rows": ["train"]}),
        ("card", {"name": "a", "rows": {"train": "many"}}),
        ("card", {"name": "a", "label_names": "good"}),
        ("card", {"name": "a", "kind": "poetry"}),
        ("card", {"name": "a", "commercial": True}),
        ("card", {"name": "a", "domain": ["x"]}),
        ("card", {"name": "[/]"}),
        ("card", {"name": "../a"}),
        ("tuning", []),
        ("tuning", {"scores": 0.5}),
        ("tuning", {"scores": {"score": "high"}}),
        ("tuning", {"recipe": []}),
        ("headers", []),
        ("headers", {"map": []}),
        ("headers", {"../map": {}}),
        ("headers", {"map": None}),
    ],
)
def test_a_source_of_another_structure(
    loose: Pool, packed: Pool, tmp_path: Path, part: str, value: Any
):
    """Checksums are right; what is written is not what a source has."""
    data = loose.source("a").to_dict()
    good = {**data, part: value}
    path = loose.folder / "sources" / "a.safetensors"
    meta = {"source": good, "source_checksum": checksum({}, canonical(good)), "checksum": ""}
    path.write_bytes(save({"x": np.zeros(1)}, {METADATA: canonical(meta)}))
    assert "a.safetensors" in refused(lambda: Pool.open(loose.folder)).found

    if part == "headers" and value == {"map": None}:
        return  # there is no such description, says a table
    import pyarrow as pa
    from pyarrow import parquet

    table = packed.folder / "sources.parquet"
    rows = parquet.read_table(table).to_pylist()
    row = next(r for r in rows if r["name"] == "a")
    if part == "headers":
        row |= {
            f"header/{key}": json.dumps(header) for key, header in dict(value or {"map": 7}).items()
        }
    else:
        row[part] = json.dumps(value)
        row["name"] = value.get("name", "a") if part == "card" and value else "a"
    names = {name: None for each in rows for name in each}
    columns = {name: [each.get(name) for each in rows] for name in names}
    parquet.write_table(pa.table(columns), table)
    entry = {"name": table.name, "sha256": sha256_of(table)}
    rewrite_header(packed.folder, table=entry)

    def walk() -> None:
        pool = Pool.open(packed.folder)
        for source in pool:
            source.to_dict()

    assert "sources.parquet" in refused(walk).found


def test_a_card_that_names_another_source(packed: Pool):
    import pyarrow as pa
    from pyarrow import parquet

    path = packed.folder / "sources.parquet"
    table = parquet.read_table(path)
    cards = table.column("card").to_pylist()
    cards[0], cards[1] = cards[1], cards[0]
    at = table.column_names.index("card")
    parquet.write_table(table.set_column(at, "card", pa.array(cards)), path)
    rewrite_header(packed.folder, table={"name": path.name, "sha256": sha256_of(path)})
    error = refused(lambda: Pool.open(packed.folder).source(packed.names[0]))
    assert "two names" in error.found


def test_a_table_that_says_it_is_too_large(packed: Pool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("taskscout.pools.packed._LARGEST_TABLE", 100)
    assert "larger" in refused(lambda: Pool.open(packed.folder)).found


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("shape/inner", lambda shapes: shapes + np.array([0, 1, 0])),  # fewer numbers than that
        ("shape/inner", lambda shapes: np.where(shapes == 4, -4, shapes)),
        # Two negative axes have the right number of numbers.
        ("shape/inner", lambda shapes: shapes * [1, -1, -1]),
        ("shape/inner", lambda shapes: shapes[:-1]),
        ("shape/inner", lambda shapes: shapes.astype(np.float64)),
        ("shape/inner", lambda shapes: shapes.ravel()),
        ("shape/inner", lambda shapes: shapes * 2**62),
        ("data/inner", lambda numbers: numbers[:-1]),
        ("data/inner", lambda numbers: numbers.reshape(-1, 1)),
        ("name#ends", lambda ends: ends[::-1].copy()),
        ("name#ends", lambda ends: ends[:-1]),
    ],
)
def test_shapes_that_are_not_those_of_the_arrays(
    packed: Pool, column: str, change: Callable[[np.ndarray], np.ndarray]
):
    """Checksums are right; somebody wrote it so. It is refused where the file is opened."""
    path = packed.folder / "packed-map.safetensors"
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    arrays[column] = np.ascontiguousarray(change(arrays[column]))
    path.write_bytes(save(arrays, metadata))
    packed_files = json.loads((packed.folder / "pool.json").read_text())["packed"]
    packed_files["map"]["sha256"] = sha256_of(path)
    rewrite_header(packed.folder, packed=packed_files)
    pool = Pool.open(packed.folder)
    assert "packed-map" in refused(lambda: pool.description("a", "map")).found
    assert "map" not in pool._packed


def test_a_table_of_numbers(packed: Pool):
    import pyarrow as pa
    from pyarrow import parquet

    table = packed.folder / "sources.parquet"
    for columns in ({"name": [1]}, {"other": ["x"]}, {"name": ["a", "a"]}, {"name": [None]}):
        parquet.write_table(pa.table(columns), table)
        rewrite_header(packed.folder, table={"name": table.name, "sha256": sha256_of(table)})
        assert "sources.parquet" in refused(lambda: Pool.open(packed.folder)).found


def test_a_table_that_is_damaged_where_its_checksum_is_right(packed: Pool):
    """A stranger can write both; the bytes still give sources or an error."""
    table = packed.folder / "sources.parquet"
    data = table.read_bytes()
    chance = random.Random(0)
    refusals = 0
    for _ in range(60):
        bad = bytearray(data)
        for _ in range(chance.choice([1, 4, 16])):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        table.write_bytes(bytes(bad[: chance.choice([len(bad), chance.randrange(len(bad))])]))
        rewrite_header(packed.folder, table={"name": table.name, "sha256": sha256_of(table)})
        try:
            for source in Pool.open(packed.folder):
                source.to_dict()
        except PoolError:
            refusals += 1
    assert refusals > 30


@pytest.mark.parametrize(
    "file", ["pool.json", "sources.parquet", "packed-map.safetensors", "sources/a.safetensors"]
)
def test_a_pipe_among_the_files_does_not_hang(loose: Pool, packed: Pool, file: str):
    folder = (loose if file.startswith("sources/") else packed).folder
    (folder / file).unlink()
    os.mkfifo(folder / file)
    error = refused(lambda: Pool.open(folder).description("a", "map"))
    assert "not an ordinary file" in error.found


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
        text = canonical([list(names), shapes])
        meta = {"sources": list(names), "shapes": shapes, "checksum": checksum(flat, text)}
        data = save(flat, {METADATA: canonical(meta)})
        (folder / f"packed-{key}.safetensors").write_bytes(data)
    header = {"format": 1, "encoder": dict(pool.encoder), "sources": [s.to_dict() for s in pool]}
    write_header(folder, header)


def write_format_2(pool: Pool, folder: Path) -> None:
    """Write a pool as the second format had it: cards as texts in sources.safetensors."""
    pool.pack(folder)
    for name in ("sources.parquet", "pool.json"):
        (folder / name).unlink()
    columns = {
        "name": [s.name for s in pool],
        "card": [canonical(s.card.to_dict()) for s in pool],
        "tuning": [canonical(dict(s.tuning)) for s in pool],
    }
    for key in sorted({k for s in pool for k in s.headers}):
        headers = [s.headers.get(key) for s in pool]
        columns[f"header/{key}"] = ["" if h is None else canonical(dict(h)) for h in headers]
    arrays: dict[str, np.ndarray] = {}
    for column, texts in columns.items():
        parts = [text.encode() for text in texts]
        arrays[column] = np.frombuffer(b"".join(parts), np.uint8)
        arrays[f"{column}#ends"] = np.cumsum([len(part) for part in parts], dtype=np.int64)
    meta = {"checksum": checksum(arrays, ""), "format": 2}
    (folder / "sources.safetensors").write_bytes(save(arrays, {METADATA: canonical(meta)}))
    write_header(folder, {"format": 2, "encoder": dict(pool.encoder), "packed": len(pool)})


def write_header(folder: Path, header: dict[str, Any]) -> None:
    data = {**header, "checksum": header_checksum(header)}
    (folder / "pool.json").write_bytes(header_bytes(data))


@pytest.mark.parametrize("write", [write_format_1, write_format_2])
def test_formats_of_before_are_read_as_ever(
    loose: Pool, tmp_path: Path, write: Callable[[Pool, Path], None]
):
    folder = tmp_path / "old"
    write(loose, folder)
    old = Pool.open(folder)
    assert old.described("map") == loose.names
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
    for path in sorted(p for p in folder.glob("*.safetensors") if "topics" not in p.name):
        file, data = path.name, path.read_bytes()
        chance = random.Random(file)
        for offset in offsets_of(folder / file, chance, 20):
            flipped(folder / file, offset, chance.randrange(8))
            assert found_by_verify(folder), offset
            (folder / file).write_bytes(data)
    assert not found_by_verify(folder)


def many(folder: Path, size: int) -> Pool:
    """A packed pool of many sources, with cards and maps of a usual size."""
    map_ = {"inner": np.ones((96, 16), np.float16), "outer": np.ones((96, 16), np.float16)}
    sources = [
        Source(
            card(f"source-{i}", citation="x" * 300),
            {"scores": {"score": i / size}, "recipe": {"rank": 4, "examples": 1000}},
            {"map": {"scale": float(i), "encoder": "f"}, "overlap": {"size": 1}},
        )
        for i in range(size)
    ]
    folder.mkdir()
    maps = [(s.name, {**map_, "offset": np.full(96, i)}) for i, s in enumerate(sources)]
    sketches = [(s.name, {"sketch": np.arange(3, dtype=np.uint64)}) for s in sources]
    write_packed(folder, {"encoder": ENCODER}, sources, [("map", maps), ("overlap", sketches)])
    return Pool.open(folder)


_READER = """
import json, sys, time
import numpy, pyarrow.parquet, taskscout.pools.pool
from taskscout.pools import Pool

def own_memory():
    # Of the process alone: pages of a mapped file are the page cache's, which gives them back.
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

before = own_memory()
start = time.process_time()
pool = Pool.open(sys.argv[1])
opened = time.process_time() - start
total = 0.0
for description in pool.descriptions("map"):
    total += description.header["scale"] + description.arrays["inner"].sum(dtype=float)
print(json.dumps([opened, total, own_memory() - before]))
"""


def test_ten_thousand_sources_open_at_once_and_are_walked_in_little_memory(tmp_path: Path):
    """Opening reads names alone; walking over the maps holds none of them."""
    pool = many(tmp_path / "pool", 10_000)
    assert pool.source("source-77").card.citation == "x" * 300
    assert pool.source("source-77").tuning["scores"]["score"] == 0.0077
    assert pool.description("source-9999", "map").arrays["offset"][0] == 9999
    command = [sys.executable, "-c", _READER, str(pool.folder)]
    opened, total, grown = json.loads(
        subprocess.run(command, capture_output=True, check=True).stdout
    )
    assert total == sum(range(10_000)) + 10_000 * 96 * 16
    size = sum(path.stat().st_size for path in pool.folder.iterdir()) / 2**20
    assert size > 60
    assert opened < 0.5  # processor seconds; 0.05 where nothing else runs
    assert grown < size / 2  # names, shapes and headers


def test_cards_are_parsed_when_they_are_asked_for(packed: Pool, monkeypatch: Any):
    parsed = []
    real = Source.of.__func__
    monkeypatch.setattr(
        Source, "of", classmethod(lambda cls, *a: parsed.append(a) or real(cls, *a))
    )
    opened = Pool.open(packed.folder)
    assert opened.names == packed.names
    assert opened.described("map") == opened.names
    assert opened.description("a", "map").header["rank"] == 1
    assert parsed == []
    source = opened.source("a")
    assert source.card == card("a")
    assert source is opened.source("a")
    assert len(parsed) == 1


# -- two processes, one pool ----------------------------------------------------------------

_CHANGES = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from taskscout.pools import Pool
from tests.pools.test_pool import ENCODER, card, descriptions
me = sys.argv[2]
pool = Pool.create(sys.argv[1], encoder=ENCODER)
print("ready", flush=True)
sys.stdin.readline()
for i in range(25):
    pool.attach(f"{{me}}-{{i}}", f"{{me}} {{i}}".encode())
    pool.add(card(f"{{me}}{{i}}"), {{"scores": {{}}}}, descriptions(f"{{me}}{{i}}", i))
"""


def test_two_processes_lose_nothing_of_one_another(tmp_path: Path):
    root = str(Path(__file__).parents[2])
    folder = tmp_path / "pool"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _CHANGES.format(root=root), str(folder), me],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for me in ("a", "b")
    ]  # fmt: skip
    for each in processes:  # both have opened the pool before either changes it
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in processes:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    assert [each.wait(120) for each in processes] == [0, 0]
    pool = Pool.open(folder)
    assert set(pool.names) == {f"{me}{i}" for me in "ab" for i in range(25)}
    for me in "ab":
        for i in range(25):
            path = pool.attached(f"{me}-{i}")
            assert path is not None
            assert path.read_bytes() == f"{me} {i}".encode()
    assert pool.verify() == []


def test_a_name_that_another_process_took_meanwhile_is_refused(tmp_path: Path):
    mine = Pool.create(tmp_path / "pool", encoder=ENCODER)
    other = Pool.open(tmp_path / "pool")
    other.add(card("one"), {"scores": {}}, descriptions("one", 1))
    before = (tmp_path / "pool" / "sources" / "one.safetensors").read_bytes()
    with pytest.raises(PoolError, match="has a source 'one' already"):
        mine.add(card("one"), {"scores": {}}, descriptions("one", 2))
    assert (tmp_path / "pool" / "sources" / "one.safetensors").read_bytes() == before
    mine.add(card("one"), {"scores": {}}, descriptions("one", 2), replace=True)


def test_a_pool_of_another_encoder_that_came_meanwhile_is_left_alone(tmp_path: Path):
    mine = Pool.create(tmp_path / "pool", encoder=ENCODER, write=False)
    Pool.create(tmp_path / "pool", encoder={**ENCODER, "model": "large"})
    with pytest.raises(PoolError, match="of the encoder large by now"):
        mine.add(card("one"), {"scores": {}}, descriptions("one", 1))
    assert len(Pool.open(tmp_path / "pool")) == 0
