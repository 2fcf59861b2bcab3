"""Verbs killed (SIGKILL) at random moments: what is left, and what the next run makes of it.

    python -m benchmarks.kills              # 25 kills of each verb
    python -m benchmarks.kills 100 train    # 100 of one

Each kill starts from a fresh copy of one state, on the tiny encoder and toy tasks of the tests (a
kill falls into more different steps the shorter each step is). After it: what is on disk opens and
verifies; the same command given again succeeds; its result equals that of a run that nothing
happened to; no process and no temporary file is left.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.studies.conftest import STUDY, write_catalogue
from tests.tiny import tiny_encoder, toy_task

from benchmarks._report import markdown, publish
from taskscout import Pool
from taskscout.errors import TaskscoutError
from taskscout.studies.store import GridStore

#: Seconds until a run counts as hanging.
PATIENCE = 300


@dataclass(frozen=True)
class Verb:
    """A command, and what its result is.

    Attributes
    ----------
    words
        What is typed in the state's folder.
    sound
        Raises where something on disk is damaged, finished or not.
    result
        What the command is for, without seconds and dates.
    """

    words: tuple[str, ...]
    sound: Callable[[], object]
    result: Callable[[], object]


def sound_pool(folder: str) -> None:
    """A pool is either not there or verifies."""
    if (Path(folder) / "pool.json").is_file():
        problems = Pool.open(folder).verify()
        if problems:
            raise AssertionError(problems)


def pool_content(folder: str) -> object:
    """Every array of a pool, by source and description."""
    pool = Pool.open(folder)
    return {
        (source.name, key): {
            name: array.tobytes()
            for name, array in pool.description(source.name, key).arrays.items()
        }
        for source in pool
        for key in source.headers
    }


def grid_cells() -> dict[str, float | None]:
    """Score of each cell; none where the grid is not begun."""
    path = Path("study.sqlite")
    return {r.key: r.score for r in GridStore(path).results()} if path.is_file() else {}


def train_result() -> object:
    """Scores of all runs of a training."""
    said = json.loads(Path("model/result.json").read_text())
    return [(run.get("seed"), run.get("scores")) for run in said["runs"]]


def sound_training() -> None:
    """The folder of a model is whole or not there."""
    if Path("model").exists():
        train_result()


ENCODER = ("--encoder", "encoder")
VERBS = {
    "pool add": Verb(
        ("pool", "add", "reviews.csv", "--pool", "own", "--examples", "32", *ENCODER),
        lambda: sound_pool("own"), lambda: pool_content("own"),
    ),
    "pool build": Verb(
        ("pool", "build", "--catalogue", ".", "--out", "built", *ENCODER),
        lambda: sound_pool("built"), lambda: pool_content("built"),
    ),
    "grid run": Verb(("grid", "run", "study.yaml", "--engine", "here"), grid_cells, grid_cells),
    "train": Verb(
        ("train", "reviews.csv", "--sources", "other.csv", "--out", "model", "--seeds", "1",
         "--epochs", "1", *ENCODER),
        sound_training, train_result,
    ),
}  # fmt: skip


def write_rows(path: Path, seed: int) -> None:
    """A CSV of toy reviews."""
    rows = toy_task(n=64, seed=seed).tables["train"].to_pylist()
    lines = [f"{r['text']},{('bad', 'good')[r['label']]}" for r in rows]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")


def prepare(folder: Path) -> None:
    """The state that every run starts from: data, an encoder, a study, an empty cache."""
    folder.mkdir(parents=True)
    tiny_encoder(folder / "encoder")
    names = ("alpha", "beta", "gamma", "twin")
    tasks = [toy_task(name, seed=i, n=64) for i, name in enumerate(names)]
    write_catalogue(folder, [*tasks, toy_task("number", seed=9, n=64, regression=True)])
    study = STUDY.format(
        folder=".", tunings="lora", sizes="32", recipe="{epochs: 1, least_steps: 2}"
    )
    (folder / "study.yaml").write_text(study.replace("./encoder", "encoder"))
    write_rows(folder / "reviews.csv", 21)
    write_rows(folder / "other.csv", 22)


def start(verb: Verb, folder: Path) -> int:
    """Start a verb in a process of its own, in a folder; its number."""
    process = os.fork()
    if process:
        return process
    try:
        os.setsid()
        os.chdir(folder)
        os.environ["TASKSCOUT_CACHE"] = str(folder / "cache")
        with open("log.txt", "a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.argv = ["taskscout", *verb.words]
        from taskscout.cli import main

        main()
        os._exit(0)
    except SystemExit as stop:
        os._exit(stop.code if isinstance(stop.code, int) else 1)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(99)


def wait(process: int) -> int:
    """Exit status of a process; it is killed where it hangs."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    raise AssertionError("hangs")


def left_running(session: int) -> list[int]:
    """Processes of a session that still run."""
    out = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                out.append(int(entry.name))
    return out


def temporary_files(folder: Path) -> list[str]:
    """What looks like something half written."""
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if p.name.endswith(".tmp")]


def kill_once(verb: Verb, state: Path, folder: Path, after: float, expected: object) -> str:
    """Kill a verb after so many seconds, look, run it again: what came of it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(state, folder)
    process = start(verb, folder)
    time.sleep(after)
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    finished = wait(process) == 0
    for _ in range(100):
        if not left_running(process):
            break
        time.sleep(0.1)
    else:
        return "left a process running"
    with contextlib.chdir(folder):
        try:
            verb.sound()
            before = grid_cells()
            code = 0 if finished else wait(start(verb, folder))
            # Killed between its last write and its end, there is nothing more to do.
            if code and verb.result() != expected:
                return f"ended with {code}: {(folder / 'log.txt').read_text()[-300:]}"
            verb.sound()
            if verb.result() != expected:
                return "another result"
            if before.items() - grid_cells().items():
                return "lost finished work"
        except (AssertionError, OSError, TaskscoutError) as error:
            return f"damaged: {error}"
    left = temporary_files(folder)
    if left:
        return f"left {left}"
    return "finished before" if finished else "same"


def campaign(name: str, kills: int, base: Path) -> dict[str, Any]:
    """Kill one verb again and again."""
    verb, state = VERBS[name], base / "state"
    expected: list[object] = []
    seconds = 0.0
    for i in range(2):
        folder = base / f"whole-{i}"
        shutil.copytree(state, folder)
        begun = time.monotonic()
        code = wait(start(verb, folder))
        seconds = time.monotonic() - begun
        if code:
            raise RuntimeError((folder / "log.txt").read_text())
        with contextlib.chdir(folder):
            expected.append(verb.result())
        shutil.rmtree(folder)
    if expected[0] != expected[1]:
        raise RuntimeError(f"{name}: two undisturbed runs differ")
    rng = random.Random(name)
    outcomes = []
    for number in range(kills):
        after = rng.uniform(0.0, seconds)
        outcomes.append(kill_once(verb, state, base / "copy", after, expected[0]))
        if outcomes[-1] not in ("same", "finished before"):
            print(f"{name}, kill {number} after {after:.2f} s: {outcomes[-1]}", flush=True)
    return {"seconds": seconds, "kills": kills, "counts": dict(Counter(outcomes).most_common())}


def main() -> None:
    """Kill, and publish where every verb was asked for."""
    words = sys.argv[1:]
    kills = int(words[0]) if words else 25
    names = [" ".join(words[1:])] if words[1:] else list(VERBS)
    # Loaded before any fork, so that a kill falls into work and not into imports.
    for module in ("peft", "sklearn.linear_model", "taskscout.cli", "taskscout.transfer.train",
                   "transformers.trainer"):  # fmt: skip
        importlib.import_module(module)
    done = {}
    with tempfile.TemporaryDirectory() as base:
        prepare(Path(base) / "state")
        for name in names:
            done[name] = campaign(name, kills, Path(base))
            print(name, done[name], flush=True)
    if len(done) < len(VERBS):
        return
    rows = [
        (name, f"{of['seconds']:.1f}", outcome, n)
        for name, of in done.items()
        for outcome, n in of["counts"].items()
    ]
    text = (
        f"Each verb was killed {kills} times, at moments drawn evenly over the time that it takes "
        "undisturbed (tiny encoder, toy tasks). `same`: what the kill left opens and verifies, the "
        "command given again ends with the result of an undisturbed run, byte for byte, and no "
        "process and no temporary file is left. `finished before`: the kill came too late.\n\n"
        + markdown(("verb", "seconds undisturbed", "outcome", "kills"), rows)
    )
    publish("kills", "Kills", text, done, command="kills")


if __name__ == "__main__":
    main()
