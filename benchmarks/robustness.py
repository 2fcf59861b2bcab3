"""What survives what: long campaigns of accidents, with their counts.

``python -m benchmarks.robustness pools [N]`` lets N small accidents happen to the files of a pool,
each to a fresh copy, and asks for a ranking and for ``verify``. Right is the ranking of the pool
that nothing happened to, or a :class:`TaskscoutError`. ``tests/pools/test_accidents.py`` is the
short version.

``python -m benchmarks.robustness files [N]`` reads N changed files, of every format and for every
reader. Right is a result or a :class:`TaskscoutError` within five seconds, in a process that
lives on. ``tests/test_mutations.py`` is the short version.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks._accidents import accident
from benchmarks._data import catalogue
from benchmarks._mutations import Sample, mutated, put_in_place, samples
from benchmarks._report import markdown, publish
from taskscout import Pool, Task, Workbench, rank
from taskscout.errors import TaskscoutError

KEYS = ("layered-map", "space-map", "overlap")
METHODS = ("layered-esm-logme", "esm-logme")
#: Seconds until a ranking counts as hanging.
PATIENCE = 20
#: Seconds until reading one small file counts as hanging, and bytes of addresses it may take.
PATIENCE_FOR_A_FILE, MEMORY = 5, 6 * 2**30


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


def outcome(action: Callable[[], Any], expected: Any, patience: float = PATIENCE) -> str:
    """``same``, ``refused``, ``changed``, ``hang``, or the exception that came."""

    def stop(*_: Any) -> None:
        raise HangError

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, patience)
    try:
        return "same" if action() == expected else "changed"
    except TaskscoutError:
        return "refused"
    except HangError:
        return "hang"
    except Exception as error:
        return type(error).__name__
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


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


def in_processes(verb: str, base: str, runs: int) -> Iterator[dict[str, Any]]:
    """Lines of JSON of processes that do the runs of some numbers; a new one where one ends early.

    A run announces itself by its ``number``, and says then what came of it.
    """
    begun = 0
    while begun < runs:
        command = [sys.executable, "-m", "benchmarks.robustness", verb, base]
        process = subprocess.run(
            [*command, str(begun), str(runs)], stdout=subprocess.PIPE, text=True
        )
        lines = [json.loads(line) for line in process.stdout.splitlines()]
        if not any("number" in said for said in lines):
            raise RuntimeError(f"{' '.join(command)} did nothing")
        begun = 1 + max(said.get("number", 0) for said in lines)
        yield from lines


def campaign(accidents: int) -> list[dict[str, Any]]:
    """Let accidents happen in processes of their own; what came of each."""
    done: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as base:
        pool_of(Path(base) / "mine", 0)
        pool_of(Path(base) / "other", 1)
        for said in in_processes("work", base, accidents):
            if "number" in said:
                done.append({**said, "ranking": "crash", "verify": "crash"})
            elif "sources" not in said:
                done[-1] |= said
    return done


# -- files --------------------------------------------------------------------------------


def read_whole(reads: str, path: Path) -> bool:
    """Read a file as one who uses it does, to its last value."""
    from taskscout.methods.forecast import Calibration
    from taskscout.methods.gains import Gains
    from taskscout.methods.topics import TopicModel
    from taskscout.studies.published import read_predictions
    from taskscout.studies.store import gains_by_setting, read_results
    from taskscout.studies.study_file import read_study
    from taskscout.tasks.catalogue import Catalogue

    match reads:
        case "task":
            task = Task.from_file(path, drop_empty=True, drop_unlabelled=True, drop_rare=True)
            assert task.fingerprint
            for split in task.splits:
                task.inputs(split)
        case "study":
            read_study(path)
        case "grid":
            gains_by_setting(read_results(path))
        case "runs":
            Gains.read(path)
        case "scores":
            names = ["none", "one", "two"] * 2
            targets = ["three"] * 3 + ["four"] * 3
            read_predictions(path, Gains.of(names, targets, [0.5] * 6, unit="fraction"))
        case "catalogue":
            catalogue = Catalogue.open(path)
            for name in catalogue.names:
                catalogue.card(name)
                catalogue.family(name)
                catalogue.kind(name)
        case "topics":
            TopicModel.read(path)
        case "calibration":
            Calibration.load(path)
    return True


def read_changed(number: int, folder: Path) -> tuple[str, str]:
    """Change one of the samples, and read it: what was changed, and what came of it."""
    chance = random.Random(number)
    every = samples_once()
    sample = chance.choice(every)
    path = folder / sample.name
    if chance.random() < 0.005:
        what = f"{sample.name}: {put_in_place(path, chance)}"
    else:
        data, what = mutated(sample, every, chance)
        path.write_bytes(data)
    print(json.dumps({"number": number, "what": what}), flush=True)
    try:
        came = outcome(lambda: read_whole(sample.reads, path), True, PATIENCE_FOR_A_FILE)
    finally:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(True)
    return what, came


@cache
def samples_once() -> list[Sample]:
    """The samples of this process."""
    return samples()


def read_files(base: str, first: int, last: int) -> None:
    """Read changed files of some numbers; a line of JSON for each, before and after it."""
    for sample in samples_once():  # which also imports what readers import
        path = Path(base) / sample.name
        path.write_bytes(sample.data)
        if not read_whole(sample.reads, path):
            raise RuntimeError(f"{sample.name} is not sound")
        path.unlink()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for number in range(first, last):
        _, came = read_changed(number, Path(base))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"came": came, "megabytes": round(peak)}), flush=True)


def files(inputs: int) -> None:
    """Run the campaign over files, and publish it."""
    counts: dict[str, Counter[str]] = {}
    faults: list[dict[str, Any]] = []
    run: dict[str, Any] = {}
    peak, start = 0, time.monotonic()

    def count() -> None:
        name = run["what"].split(":")[0].rsplit(".", 1)[-1]
        counts.setdefault(name, Counter())[run["came"]] += 1
        if run["came"] not in ("same", "refused"):
            faults.append(dict(run))
            print(run, flush=True)

    with tempfile.TemporaryDirectory() as base:
        for said in in_processes("read-files", base, inputs):
            if "number" in said and run:
                count()
            run = {**said, "came": "crash"} if "number" in said else {**run, **said}
            peak = max(peak, said.get("megabytes", 0))
        count()
    total = sum(counts.values(), Counter())
    text = (
        f"{inputs:,} files, each made of a sound one by one to four changes: cells, keys, nested "
        "values, headers, separators and encodings of text files; offsets, lengths and footers of "
        "Parquet and Arrow files; cells of a grid's database; files inside archives and "
        "spreadsheets; plain bits and bytes of all; and now and then a pipe, a folder or a device "
        "in the file's place. Each is read to its last value, in a process that may take "
        f"{MEMORY / 2**30:g} GiB of addresses and {PATIENCE_FOR_A_FILE} seconds for a file. `read` "
        "is a file that still says something, `refused` an error in three parts; anything else "
        f"would be a fault: there were {len(faults)}. The largest process took {peak} MB.\n\n"
        + markdown(
            ("file", "read", "refused", "faults"),
            [
                (name, c["same"], c["refused"], c.total() - c["same"] - c["refused"])
                for name, c in (*sorted(counts.items()), ("all", total))
            ],
        )
    )
    data = {
        "inputs": inputs,
        "seconds": round(time.monotonic() - start),
        "peak_megabytes": peak,
        "counts": {name: dict(c) for name, c in sorted(counts.items())},
        "faults": faults,
    }
    publish("robustness-files", "Changed files", text, data, "pyarrow", command="robustness files")


# -- pools --------------------------------------------------------------------------------


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
        case ["read-files", base, first, last]:
            read_files(base, int(first), int(last))
        case ["pools", *number]:
            pools(int(number[0]) if number else 500)
        case ["files", *number]:
            files(int(number[0]) if number else 100_000)
        case _:
            raise SystemExit("python -m benchmarks.robustness pools|files [N]")
