"""What survives what: long campaigns of accidents, with their counts.

``python -m benchmarks.robustness pools [N]`` lets N small accidents happen to the files of a pool,
each to a fresh copy, and asks for a ranking and for ``verify``. Right is the ranking of the pool
that nothing happened to, or a :class:`TaskscoutError`. ``tests/pools/test_accidents.py`` is the
short version.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks._accidents import accident
from benchmarks._data import catalogue
from benchmarks._report import markdown, publish
from taskscout import Pool, Task, Workbench, rank
from taskscout.errors import TaskscoutError

KEYS = ("layered-map", "space-map", "overlap")
METHODS = ("layered-esm-logme", "esm-logme")
#: Seconds until a ranking counts as hanging.
PATIENCE = 20


class HangError(Exception):
    """A call took longer than :data:`PATIENCE`."""


def pool_of(folder: Path, shift: int) -> Path:
    """Eight packed and three loose sources of the built-in pool, and its topics.

    ``shift`` gives each source the descriptions of the so-manieth after it.
    """
    pool = Pool.builtin()
    loose = Pool.create(folder / "loose", encoder=pool.encoder)
    names = pool.names[:11]

    def put(into: Pool, name: str) -> None:
        other = names[(names.index(name) + shift) % len(names)]
        parts = [replace(pool.description(other, key), source=name) for key in KEYS]
        into.add(pool.source(name).card, pool.source(name).tuning, parts)

    for name in names[:8]:
        put(loose, name)
    loose.set_left_out({"squad": "of another kind"})
    topics = pool.attached("topics")
    if topics is not None:
        loose.attach("topics", topics.read_bytes())
    packed = loose.pack(folder / "pool")
    for name in names[8:]:
        put(packed, name)
    return folder / "pool"


def rows_of(folder: Path, target: Task, bench: Workbench) -> list[dict[str, Any]]:
    """What a ranking by each method says of every source."""
    pool = Pool.open(folder)
    rankings = [rank(target, pool, method, bench=bench) for method in METHODS]
    return [row.to_dict() for ranking in rankings for row in ranking.sources]


def outcome(action: Callable[[], Any], expected: Any) -> str:
    """``same``, ``refused``, ``changed``, ``hang``, or the exception that came."""

    def stop(*_: Any) -> None:
        raise HangError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)
    try:
        return "same" if action() == expected else "changed"
    except TaskscoutError:
        return "refused"
    except HangError:
        return "hang"
    except Exception as error:
        return type(error).__name__
    finally:
        signal.alarm(0)


def work(base: str, first: int, last: int) -> None:
    """Let accidents of some numbers happen; a line of JSON for each, before and after it."""
    target = catalogue().task("rotten_tomatoes").sample(300)
    bench = Workbench()
    pool, other = Path(base) / "mine" / "pool", Path(base) / "other" / "pool"
    expected = rows_of(pool, target, bench)
    print(json.dumps({"sources": len(expected)}), flush=True)
    for number in range(first, last):
        folder = Path(base) / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(pool, folder)
        what = accident(folder, other, random.Random(number))
        print(json.dumps({"number": number, "what": what}), flush=True)
        ranking = outcome(lambda: rows_of(folder, target, bench), expected)  # noqa: B023
        verified = outcome(lambda: Pool.open(folder).verify(), [])  # noqa: B023
        print(json.dumps({"ranking": ranking, "verify": verified}), flush=True)


def campaign(accidents: int) -> list[dict[str, Any]]:
    """Let accidents happen in processes of their own; what came of each."""
    done: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as base:
        pool_of(Path(base) / "mine", 0)
        pool_of(Path(base) / "other", 1)
        while len(done) < accidents:
            command = [sys.executable, "-m", "benchmarks.robustness", "work", base]
            process = subprocess.run(
                [*command, str(len(done)), str(accidents)], stdout=subprocess.PIPE, text=True
            )
            lines = [json.loads(line) for line in process.stdout.splitlines()]
            if not lines:
                raise RuntimeError("the undisturbed pool could not be ranked")
            for said in lines[1:]:
                if "number" in said:
                    done.append({**said, "ranking": "crash", "verify": "crash"})
                else:
                    done[-1] |= said
    return done


def cost_of_checks() -> dict[str, float]:
    """Milliseconds to compare what the default method reads of the built-in pool."""
    import hashlib

    folder = Pool.builtin().folder
    names = ("pool.json", "sources.parquet", "packed-layered-map.safetensors",
             "packed-overlap.safetensors")  # fmt: skip
    files = [folder / name for name in names]
    files += list(folder.glob("topics-*"))

    def compare() -> None:
        for path in files:
            with path.open("rb") as file:
                hashlib.file_digest(file, "sha256")

    def least(action: Callable[[], Any]) -> float:
        seconds = []
        for _ in range(20):
            start = time.process_time()
            action()
            seconds.append(time.process_time() - start)
        return 1000 * min(seconds)

    size = sum(path.stat().st_size for path in files) / 1e6
    return {"megabytes": size, "compare": least(compare), "open": least(Pool.builtin)}


def pools(accidents: int) -> None:
    """Run the campaign over pools, and publish it."""
    done = campaign(accidents)
    counts = {
        part: dict(Counter(each[part] for each in done).most_common())
        for part in ("ranking", "verify")
    }
    for each in done:
        if each["ranking"] not in ("same", "refused") or each["verify"] == "same":
            print(each)
    cost = cost_of_checks()
    unnoticed = sum(e["ranking"] == "same" and e["verify"] == "same" for e in done)
    text = (
        f"{len(done)} accidents to the files of a pool of eight packed and three loose sources: "
        "bits flipped, bytes changed or zeroed, files cut, lengthened, swapped, exchanged with "
        "another pool's, removed, replaced by a pipe, a folder or a device, and single fields of "
        "JSON, metadata and Parquet edited. `same` is the ranking of the untouched pool, to the "
        "last digit (what was damaged is not read by it), `refused` an error in three parts; "
        "anything else would be a fault. For `verify`, `changed` is a list of problems, which is "
        f"right; {unnoticed} accidents were noticed by neither. Comparing the "
        f"{cost['megabytes']:.1f} MB that the default method reads of the built-in pool takes "
        f"{cost['compare']:.1f} ms of processor time, opening the pool {cost['open']:.1f} ms.\n\n"
        + markdown(
            ("", "outcome", "accidents"),
            [(part, what, n) for part, found in counts.items() for what, n in found.items()],
        )
    )
    data = {"accidents": len(done), "counts": counts, "cost": cost, "runs": done}
    publish("robustness-pools", "Accidents to a pool", text, data, command="robustness pools")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["work", base, first, last]:
            work(base, int(first), int(last))
        case ["pools", *number]:
            pools(int(number[0]) if number else 500)
        case _:
            raise SystemExit("python -m benchmarks.robustness pools [N]")
