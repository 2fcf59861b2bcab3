"""The embedding cache: what it keeps, what it survives, how large it gets."""

from __future__ import annotations

import logging
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from taskscout.errors import ModelError, TaskscoutError
from taskscout.models import cache as module
from taskscout.models import cache_file as file_module
from taskscout.models.cache import EmbeddingCache, NoCache, parse_size


def keys_of(*numbers: int) -> list[bytes]:
    return [n.to_bytes(16, "big") for n in numbers]


def vectors_of(*numbers: int, d: int = 8) -> np.ndarray:
    """A vector per number, recognisable and full of floats that are not round."""
    return np.float32(np.sin(np.add.outer(np.array(numbers, float), np.arange(d))))


@pytest.fixture
def cache(tmp_path):
    cache = EmbeddingCache(tmp_path / "cache")
    yield cache
    cache.close()


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""

    class Clock:
        now = 1e9

    monkeypatch.setattr(module.time, "time", lambda: Clock.now)
    return Clock


def check(path: Path) -> str:
    db = sqlite3.connect(path)
    try:
        return db.execute("PRAGMA integrity_check").fetchone()[0]
    finally:
        db.close()


# -- what it keeps -------------------------------------------------------------------------


def test_gives_back_what_was_put(cache):
    vectors = vectors_of(1, 2, 3)
    cache.put("space", keys_of(1, 2, 3), vectors)
    cache.close()
    again, found = cache.get("space", keys_of(1, 2, 3))
    assert found.all()
    assert again.dtype == np.float32
    np.testing.assert_array_equal(again, vectors)
    again[:] = 0  # the caller's own


def test_keeps_every_bit_of_a_float(cache):
    odd = np.float32([[np.nan, np.inf, -0.0, 1e-45, 3.4e38]])
    cache.put("space", keys_of(1), odd)
    again, _ = cache.get("space", keys_of(1))
    assert again.tobytes() == odd.tobytes()


def test_partial_hits_in_the_order_asked(cache):
    cache.put("space", keys_of(1, 2, 3), vectors_of(1, 2, 3))
    asked = keys_of(9, 3, 1, 3, 8)
    vectors, found = cache.get("space", asked)
    assert found.tolist() == [False, True, True, True, False]
    np.testing.assert_array_equal(vectors[found], vectors_of(3, 1, 3))
    np.testing.assert_array_equal(vectors[~found], 0)


def test_nothing_known(cache):
    assert cache.get("space", keys_of(1, 2))[0] is None
    cache.put("space", keys_of(1), vectors_of(1))
    vectors, found = cache.get("space", keys_of(7, 7))
    assert vectors is None
    assert found.tolist() == [False, False]
    assert cache.get("other", keys_of(1))[0] is None
    vectors, found = cache.get("space", [])
    assert vectors is None
    assert found.shape == (0,)


def test_more_keys_than_one_query_asks_for(cache):
    numbers = range(2 * module._CHUNK + 7)
    cache.put("space", keys_of(*numbers), vectors_of(*numbers))
    mixed = random.Random(0).sample(numbers, len(numbers))
    vectors, found = cache.get("space", keys_of(*mixed))
    assert found.all()
    np.testing.assert_array_equal(vectors, vectors_of(*mixed))


def test_put_twice_changes_nothing(cache):
    cache.put("space", keys_of(1, 2), vectors_of(1, 2))
    before = cache.info()
    cache.put("space", keys_of(1, 2), vectors_of(1, 2))
    cache.put("space", keys_of(2, 3, 3), vectors_of(2, 3, 3))
    assert before.entries == 2
    assert cache.info().entries == 3
    cache.put("space", [], vectors_of().reshape(0, 8))
    assert cache.info().entries == 3


def test_spaces_do_not_mix(cache):
    cache.put("a", keys_of(1), vectors_of(1))
    cache.put("b", keys_of(1), vectors_of(1, d=5))
    assert cache.get("a", keys_of(1))[0].shape == (1, 8)
    assert cache.get("b", keys_of(1))[0].shape == (1, 5)


def test_another_width_in_a_space_is_refused(cache):
    cache.put("space", keys_of(1), vectors_of(1))
    with pytest.raises(ModelError, match=r"vectors of 8 numbers .* these have 5") as error:
        cache.put("space", keys_of(2), vectors_of(2, d=5))
    assert "taskscout cache clear space" in error.value.remedy
    assert cache.info().entries == 1
    cache.put("space", keys_of(2), vectors_of(2))  # goes on as before
    with pytest.raises(ModelError, match="2 keys"):
        cache.put("space", keys_of(3, 4), vectors_of(3))


def test_info_and_label(cache, clock):
    assert cache.info().entries == 0
    assert not cache.path.exists()  # looking creates nothing
    cache.label("a", "MiniLM mean")
    assert cache.info().spaces == ()
    cache.put("a", keys_of(1, 2), vectors_of(1, 2))
    clock.now += 3600
    cache.put("b", keys_of(1), vectors_of(1))
    cache.label("a", "MiniLM-L6 mean")
    info = cache.info()
    assert [(s.space, s.label, s.entries, s.bytes) for s in info.spaces] == [
        ("b", "", 1, 32),
        ("a", "MiniLM-L6 mean", 2, 64),
    ]
    assert info.entries == 3
    assert info.path == cache.path
    assert info.bytes >= cache.path.stat().st_size > 0
    assert info.spaces[1].used.timestamp() == 1e9


def test_clear(cache):
    rng = np.random.default_rng(0)
    for space in ("a", "b"):
        numbers = range(3000)
        cache.put(space, keys_of(*numbers), np.float32(rng.normal(size=(3000, 384))))
    full = cache.info().bytes
    assert cache.clear("unknown") == 0
    assert cache.clear("a") == 3000
    assert cache.info().bytes < 0.6 * full
    assert cache.get("a", keys_of(1))[0] is None
    assert cache.get("b", keys_of(1))[1].all()
    assert cache.clear() == 3000
    assert cache.info().bytes < 0.05 * full
    assert cache.info().spaces == ()
    cache.put("a", keys_of(1), vectors_of(1, d=5))  # a space that is empty takes any width
    assert check(cache.path) == "ok"


def test_clear_creates_nothing(cache):
    assert cache.clear() == 0
    assert not cache.folder.exists()


def test_no_cache():
    cache = NoCache()
    cache.label("space", "name")
    cache.put("space", keys_of(1), vectors_of(1))
    vectors, found = cache.get("space", keys_of(1))
    assert vectors is None
    assert found.tolist() == [False]
    assert cache.info().entries == cache.clear() == 0
    cache.close()


# -- where, and how large ------------------------------------------------------------------


def test_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("TASKSCOUT_CACHE", str(tmp_path / "here"))
    monkeypatch.setenv("TASKSCOUT_CACHE_SIZE", "3MB")
    cache = EmbeddingCache()
    assert cache.folder == tmp_path / "here"
    assert cache.max_bytes == 3_000_000
    assert EmbeddingCache(max_bytes=5).max_bytes == 5
    monkeypatch.delenv("TASKSCOUT_CACHE")
    assert "taskscout" in str(EmbeddingCache().folder)
    monkeypatch.setenv("TASKSCOUT_CACHE_SIZE", "plenty")
    with pytest.raises(TaskscoutError, match="plenty"):
        EmbeddingCache()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("17", 17),
        ("2GB", 2 * 10**9),
        (" 2GiB ", 2**31),
        ("500 MiB", 500 * 2**20),
        ("1.5k", 1500),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1 XB", "2,5GB", "inf", "9" * 5000])
def test_sizes_that_are_none(text):
    with pytest.raises(TaskscoutError, match="cannot be read"):
        parse_size(text)


def fill(cache: EmbeddingCache, block: int, rows: int = 500, d: int = 384) -> list[bytes]:
    numbers = range(block * rows, (block + 1) * rows)
    keys = keys_of(*numbers)
    vectors = np.random.default_rng(block).normal(size=(rows, d)).astype(np.float32)
    cache.put("space", keys, vectors)
    return keys


def test_evicts_what_was_used_longest_ago(tmp_path, clock):
    cache = EmbeddingCache(tmp_path, max_bytes=4 * 2**20)  # about five blocks
    blocks = []
    for block in range(4):
        blocks.append(fill(cache, block))
        clock.now += 100
    assert cache.get("space", blocks[0][:1])[1].all()  # so block 1 is the oldest now
    for block in range(4, 6):
        clock.now += 100
        blocks.append(fill(cache, block))
    held = [bool(cache.get("space", keys[:1])[1][0]) for keys in blocks]
    assert held[1] is False
    assert held[0] is held[4] is held[5] is True
    assert check(cache.path) == "ok"
    cache.close()


def test_size_is_bounded(tmp_path):
    limit = 3 * 2**20
    cache = EmbeddingCache(tmp_path, max_bytes=limit)
    for block in range(20):
        keys = fill(cache, block)
        assert cache.path.stat().st_size <= limit
        assert cache.info().bytes <= limit + 257 * file_module.PAGE_SIZE  # with the log
        assert cache.get("space", keys)[1].all()  # the newest stays
    cache.close()
    assert sum(p.stat().st_size for p in tmp_path.iterdir()) <= limit
    smaller = EmbeddingCache(tmp_path, max_bytes=limit // 3)
    smaller.put("other", keys_of(1), vectors_of(1))
    assert smaller.path.stat().st_size <= limit // 3
    assert smaller.get("other", keys_of(1))[1].all()
    assert check(cache.path) == "ok"
    smaller.close()


@pytest.mark.parametrize("limit", [0, 10_000])
def test_a_block_larger_than_the_cache_is_not_kept(tmp_path, limit):
    cache = EmbeddingCache(tmp_path, max_bytes=limit)
    fill(cache, 0)
    assert cache.info().entries == 0


def test_reading_hardly_writes(cache, clock):
    for block in range(4):
        fill(cache, block, rows=module._BATCH, d=4)
    keys = keys_of(*range(4 * module._BATCH))
    db = cache._file.connection()
    before = db.total_changes
    cache.get("space", keys)
    assert db.total_changes == before  # used within the minute
    clock.now += 100
    cache.get("space", keys)
    assert db.total_changes == before + 4  # one small row per 1,024 vectors
    cache.get("space", keys)
    assert db.total_changes == before + 4


def test_reads_eight_thousand_rows_quickly(cache):
    numbers = range(8000)
    cache.put("space", keys_of(*numbers), vectors_of(*numbers, d=384))
    keys = keys_of(*random.Random(0).sample(numbers, len(numbers)))
    seconds = []
    for _ in range(3):
        start = time.process_time()
        _, found = cache.get("space", keys)
        seconds.append(time.process_time() - start)
        assert found.all()
    assert min(seconds) < 0.3


def test_importing_is_cheap():
    code = "import sys, taskscout.models.cache; print([m for m in sys.modules if '.' not in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'numpy'" in done.stdout
    for heavy in ("torch", "transformers", "datasets", "pyarrow", "scipy", "platformdirs"):
        assert f"'{heavy}'" not in done.stdout


# -- other processes, and kills ------------------------------------------------------------

_WRITER = """
import logging, sys, time
from pathlib import Path
import numpy as np
from taskscout.models.cache import EmbeddingCache

logging.basicConfig(level=logging.WARNING)
folder, go = map(Path, sys.argv[1:3])
first, blocks, rows, limit = map(int, sys.argv[3:])
cache = EmbeddingCache(folder, max_bytes=limit)
print("ready", flush=True)
while not go.exists():
    time.sleep(0.001)
for block in range(first, first + blocks):
    keys = [(block * rows + i).to_bytes(16, "big") for i in range(rows)]
    cache.put("space", keys, np.full((rows, 384), block, np.float32))
    vectors, found = cache.get("space", keys)
    assert limit < 10**9 or (found.all() and (vectors == block).all())
    print(block, flush=True)
"""

ROWS = 100


class Writer:
    """A process that writes blocks, and says so after each."""

    def __init__(self, folder: Path, go: Path, first: int, blocks: int, limit: int = 2**31) -> None:
        arguments = [str(a) for a in (folder, go, first, blocks, ROWS, limit)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> None:
        assert self.process.stdout.readline() == "ready\n", self.process.stderr.read()

    def finish(self) -> tuple[list[int], str]:
        """Blocks it wrote for certain, and what it complained about."""
        out, complaints = self.process.communicate(timeout=60)
        return [int(line) for line in out.split() if line.isdigit()], complaints


def block_keys(block: int) -> list[bytes]:
    return keys_of(*range(block * ROWS, (block + 1) * ROWS))


def test_processes_write_at_once(tmp_path):
    folder, go = tmp_path / "cache", tmp_path / "go"
    # The second and third write the same blocks; all three create the file at once.
    writers = [Writer(folder, go, first, 15) for first in (0, 10, 10)]
    for writer in writers:
        writer.ready()
    go.touch()
    for writer in writers:
        _, complaints = writer.finish()
        assert complaints == ""
        assert writer.process.returncode == 0
    cache = EmbeddingCache(folder)
    for block in range(25):
        vectors, found = cache.get("space", block_keys(block))
        assert found.all()
        assert (vectors == block).all()
    assert cache.info().entries == 25 * ROWS
    cache.close()
    assert check(cache.path) == "ok"
    assert not list(folder.glob("*.damaged-*"))


@pytest.mark.parametrize("limit", [2**31, 2**20])
def test_a_kill_at_any_moment(tmp_path, limit):
    folder, go = tmp_path / "cache", tmp_path / "go"
    go.touch()
    chance = random.Random(limit)
    certain: list[int] = []
    first = 0
    for _ in range(6):
        writer = Writer(folder, go, first, 10**6, limit)
        writer.ready()
        time.sleep(chance.choice([0.0, 0.003, 0.02, 0.1, 0.2]) * (1 + chance.random()))
        os.kill(writer.process.pid, signal.SIGKILL)
        written, complaints = writer.finish()
        assert complaints == ""
        certain += written
        last = max(certain, default=-1)
        cache = EmbeddingCache(folder, max_bytes=limit)
        for block in [*certain, last + 1, last + 2]:
            vectors, found = cache.get("space", block_keys(block))
            assert found.all() or not found.any()  # a put is there whole or not at all
            assert not found.any() or (vectors == block).all()
            if limit == 2**31 and block in certain:
                assert found.all()
        first = last + 3
        cache.close()
        assert not cache.path.exists() or check(cache.path) == "ok"
    assert not list(folder.glob("*.damaged-*"))
    assert len(certain) > 5


def test_a_forked_child_uses_its_own_connection(cache):
    cache.put("space", keys_of(1), vectors_of(1))
    ours = cache._file.connection()
    child = os.fork() if hasattr(os, "fork") else pytest.skip("needs fork")
    if child == 0:
        good = cache.get("space", keys_of(1))[1].all() and cache._file.connection() is not ours
        cache.put("space", keys_of(2), vectors_of(2))
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert cache._file.connection() is ours
    assert cache.get("space", keys_of(1, 2))[1].all()


def test_a_lock_that_is_held_costs_only_the_cache(cache, monkeypatch, caplog):
    monkeypatch.setattr(file_module, "_PATIENCE", 0.05)
    cache.put("space", keys_of(1), vectors_of(1))
    other = sqlite3.connect(cache.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    cache.put("space", keys_of(2), vectors_of(2))
    cache.put("space", keys_of(3), vectors_of(3))
    assert cache.get("space", keys_of(1))[1].all()  # readers do not wait
    other.execute("ROLLBACK")
    other.close()
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "another process" in caplog.text
    cache.put("space", keys_of(2), vectors_of(2))
    assert cache.get("space", keys_of(1, 2, 3))[1].tolist() == [True, True, False]


# -- what can be wrong with the file -------------------------------------------------------


def foreign(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE bookmarks (url TEXT)")
    db.commit()
    db.close()


def a_cache(path: Path) -> None:
    cache = EmbeddingCache(path.parent)
    fill(cache, 0)
    cache.close()


def truncated(path: Path) -> None:
    a_cache(path)
    os.truncate(path, path.stat().st_size // 2)


def overwritten(path: Path) -> None:
    a_cache(path)
    with path.open("r+b") as f:
        f.seek(file_module.PAGE_SIZE)
        f.write(os.urandom(path.stat().st_size - file_module.PAGE_SIZE))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"not a database " * 5000),
        lambda path: path.write_bytes(b"\x00"),
        foreign,
        truncated,
        overwritten,
    ],
    ids=["text", "one-byte", "foreign", "truncated", "overwritten"],
)
@pytest.mark.parametrize("first", ["get", "put", "info", "clear"])
def test_a_spoilt_file_is_moved_aside(tmp_path, caplog, spoil, first):
    path = tmp_path / module._FILE_NAME
    spoil(path)
    before = path.read_bytes()
    cache = EmbeddingCache(tmp_path)
    if first == "get":
        assert cache.get("space", keys_of(1))[0] is None
    elif first == "info":
        assert cache.info().entries == 0
    elif first == "clear":
        assert cache.clear() == 0
    cache.put("space", keys_of(1), vectors_of(1))
    np.testing.assert_array_equal(cache.get("space", keys_of(1))[0], vectors_of(1))
    cache.close()
    (aside,) = tmp_path.glob("*.damaged-*")
    assert aside.read_bytes() == before
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert aside.name in caplog.text
    assert check(path) == "ok"


def test_an_empty_file_and_a_stale_log_are_no_matter(tmp_path, caplog):
    (tmp_path / module._FILE_NAME).touch()
    (tmp_path / f"{module._FILE_NAME}-wal").write_bytes(b"left over" * 1000)
    cache = EmbeddingCache(tmp_path)
    cache.put("space", keys_of(1), vectors_of(1))
    assert cache.get("space", keys_of(1))[1].all()
    assert caplog.records == []
    cache.close()


def assert_off(cache: EmbeddingCache, caplog: pytest.LogCaptureFixture) -> None:
    cache.label("space", "name")
    cache.put("space", keys_of(1), vectors_of(1))
    vectors, found = cache.get("space", keys_of(1))
    assert vectors is None
    assert found.tolist() == [False]
    assert cache.info().entries == cache.clear() == 0
    cache.close()
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "cannot be used" in caplog.text


def test_off_where_a_file_is_in_the_folders_place(tmp_path, caplog):
    (tmp_path / "file").touch()
    assert_off(EmbeddingCache(tmp_path / "file"), caplog)


def test_off_where_the_folder_cannot_be_made(tmp_path, caplog):
    (tmp_path / "file").touch()
    assert_off(EmbeddingCache(tmp_path / "file" / "deeper"), caplog)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_off_in_a_read_only_folder(tmp_path, caplog):
    tmp_path.chmod(0o555)
    try:
        assert_off(EmbeddingCache(tmp_path), caplog)
    finally:
        tmp_path.chmod(0o755)


def test_off_where_the_file_is_read_only(tmp_path, caplog, monkeypatch):
    a_cache(tmp_path / module._FILE_NAME)
    connect = sqlite3.connect

    def read_only(name, **options):
        return connect(str(name).replace("mode=rw", "mode=ro"), **options)

    monkeypatch.setattr(file_module.sqlite3, "connect", read_only)
    assert_off(EmbeddingCache(tmp_path), caplog)


def test_off_where_the_disk_is_full(cache, caplog):
    cache.put("space", keys_of(0), vectors_of(0))
    db = cache._file.connection()
    db.execute("PRAGMA max_page_count = 1")
    fill(cache, 1, d=8)
    assert_off(cache, caplog)
    assert EmbeddingCache(cache.folder).get("space", keys_of(0))[1].all()  # what was there stays


def test_our_own_mistakes_are_not_hidden(cache):
    with pytest.raises(sqlite3.Error):
        cache._file.do(lambda db: db.execute("SELECT ?"), None)
