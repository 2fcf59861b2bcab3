"""Files written whole or not at all, and what killed writers leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from taskscout import files
from taskscout.files import new_folder, write_atomically


def test_old_or_new(tmp_path: Path):
    path = tmp_path / "file"
    for data in (b"one", b"two"):
        write_atomically(path, data)
        assert path.read_bytes() == data
        assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(tmp_path / "file", b"data")
    assert list(tmp_path.iterdir()) == []


_WRITER = """
import sys, time, os
from pathlib import Path
from taskscout import files
real = os.replace
def slow(*paths):
    print("written", flush=True)
    time.sleep(60)
files.os.replace = slow
files.write_atomically(Path(sys.argv[1]), b"half")
"""


def killed_writer(path: Path) -> Path:
    """The temporary file of a process that was killed before it renamed it."""
    before = set(path.parent.iterdir())
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (left,) = set(path.parent.iterdir()) - before
    return left


def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path: Path):
    """Also where the next write is of another file of the folder."""
    for name in ("file", "other"):
        left = killed_writer(tmp_path / "file")
        assert left.exists()
        write_atomically(tmp_path / name, b"whole")
        assert not left.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "other"]


def test_what_a_running_process_writes_is_left_alone(tmp_path: Path):
    running = tmp_path / f".file.{files._machine()}-{os.getppid()}-abcdef.tmp"
    elsewhere = tmp_path / ".file.00000000-1-abcdef.tmp"
    strange = [tmp_path / name for name in (".tmp", ".file.tmp", "file.tmp", "a.b-c.tmp")]
    for path in (running, elsewhere, *strange):
        path.write_bytes(b"")
    write_atomically(tmp_path / "file", b"data")
    assert all(path.exists() for path in (running, elsewhere, *strange))
    old = time.time() - 2 * files._OLD
    for path in (running, elsewhere, *strange):
        os.utime(path, (old, old))
    write_atomically(tmp_path / "file", b"data")
    assert not running.exists()
    assert not elsewhere.exists()
    assert all(path.exists() for path in strange)  # not ours


def test_threads_that_write_one_file(tmp_path: Path):
    path = tmp_path / "file"
    wholes = [bytes([i]) * 200_000 for i in range(8)]
    threads = [threading.Thread(target=write_atomically, args=(path, data)) for data in wholes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in wholes
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_folder_is_there_whole_or_not_at_all(tmp_path: Path):
    def fill() -> None:
        with new_folder(tmp_path / "folder") as folder:
            (folder / "file").write_bytes(b"data")
            raise KeyError("stopped")

    with pytest.raises(KeyError, match="stopped"):
        fill()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "folder").mkdir()
    with new_folder(tmp_path / "folder") as folder:
        (folder / "file").write_bytes(b"data")
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["file"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
