"""A method of another package: installed as a wheel, found by its entry point, used like ours."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from taskscout.methods.method import get_method, method_names
from taskscout.models.workbench import Workbench
from taskscout.pools import Pool
from taskscout.pools.build import describe_pool
from taskscout.ranking import rank
from tests.cli.test_cli import Run, cache, mistake, only_json, ours, run, target, tiny
from tests.small import source_task
from tests.tiny import toy_task

__all__ = ["cache", "ours", "run", "target", "tiny"]  # fixtures

METHOD = '''
"""A stranger's method."""
import numpy as np

from taskscout.methods.method import BaseMethod, Description


class Vowels(BaseMethod):
    """The source whose texts have the target's share of vowels first.

        score = -|v(target) - v(source)| * weight

    Cost: counting letters.
    """

    name = "vowels"
    aliases = ("V-share",)
    key = "vowels"
    cost = "words"
    paper = "A. Stranger 2026"

    def __init__(self, *, weight: float = 1.0) -> None:
        self.weight = weight

    def describe(self, source, bench):
        text = "".join(source.inputs("train")[0])
        share = sum(text.count(v) for v in "aeiou") / max(len(text), 1)
        return Description(self.key, source.name, {}, {"share": np.array([share])})

    def score(self, target, sources, bench):
        own = self.describe(target, bench).arrays["share"]
        found = np.concatenate([sources[i].arrays["share"] for i in range(len(sources))])
        return -np.abs(found - own) * self.weight


class Late(Vowels):
    """The same under a name of ours, which it does not get."""

    name = "size"
'''


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like ``site-packages`` into which a wheel of the stranger's was unpacked."""
    folder = tmp_path_factory.mktemp("stranger")
    info = "stranger_methods-1.0.dist-info"
    entries = (
        "[taskscout.methods]\nvowels = stranger_methods:Vowels\nsize = stranger_methods:Late\n"
    )
    with zipfile.ZipFile(folder / "stranger_methods-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("stranger_methods.py", METHOD)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: stranger-methods\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/entry_points.txt", entries)
        wheel.writestr(f"{info}/RECORD", "")
    with zipfile.ZipFile(wheel.filename or "") as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def stranger(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.delitem(sys.modules, "stranger_methods", raising=False)
    importlib.invalidate_caches()


def test_without_the_package_there_is_no_such_method(run: Run):
    assert "vowels" not in method_names()
    assert "vowels" in mistake(run("methods", "vowels"))


def test_listed_and_explained(run: Run, installed: Path, stranger: None):
    listed = {m["name"]: m for m in only_json(run("methods", "--json"))["methods"]}
    assert listed["vowels"]["paper"] == "A. Stranger 2026"
    assert listed["vowels"]["cost"] == "words"
    code, out, _ = run("methods", "vowels")
    assert code == 0
    assert "share of vowels first" in out
    # In a process of its own, as a user would meet it.
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-m", "taskscout", "methods"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    assert any(line.startswith("vowels ") for line in done.stdout.splitlines())


def test_found_by_its_alias(stranger: None):
    assert get_method("v-SHARE", weight=2.0).name == "vowels"


def test_a_package_that_cannot_be_loaded_is_named(
    run: Run, stranger: None, installed: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "stranger_methods", None)  # its import fails
    message = mistake(run("methods", "vowels"))
    assert "stranger-methods" in message
    assert "uninstall" in message
    assert get_method("RoE").name == "retrieval-of-experts"  # others are found all the same


def test_a_name_of_ours_stays_ours(stranger: None):
    assert get_method("size").paper != "A. Stranger 2026"
    assert method_names().count("size") == 1


@pytest.fixture
def described(small_pool: Pool, small_bench: Workbench, stranger: None, tmp_path: Path) -> Pool:
    """The small pool with what the stranger's method reads."""
    pool = small_pool.unpack(tmp_path / "described")
    describe_pool(pool, ["vowels"], lambda s: source_task(s.name), small_bench)
    return pool


def test_ranked_fused_and_charged(run: Run, target: Path, tiny: list[str], described: Pool):
    command = ["rank", target, "--pool", described.folder, *tiny]
    methods = "vowels,rrf(vowels,size),vowels>esm-logme,esm-logme"
    data = only_json(run(*command, "--method", methods, "--json"))
    assert data["methods"] == ["vowels", "rrf(vowels,size)", "vowels>esm-logme", "esm-logme"]
    assert data["costs"]["vowels"]["bytes_per_source"] == 8
    assert data["costs"]["vowels"]["offline_seconds"] >= 0
    code, out, err = run(*command, "--method", "vowels", "--costs")
    assert code == 0, err
    (costs,) = (line for line in out.splitlines() if line.startswith("vowels "))
    assert "8 B" in costs
    every = only_json(run(*command, "--method", "all", "--json"))
    assert "vowels" in every["methods"]


def test_its_options_and_its_scores(described: Pool, small_bench: Workbench):
    target = toy_task("target", n=30, seed=5)

    def share(texts: list[str]) -> float:
        joined = "".join(texts)
        return sum(letter in "aeiou" for letter in joined) / len(joined)

    found = rank(target, described, "vowels(weight=3)", bench=small_bench)
    own = share(target.inputs("train")[0])
    for row in found.sources:
        other = share(source_task(row.name).inputs("train")[0])
        assert row.score == pytest.approx(-3 * abs(other - own))


def test_described_by_the_command(
    run: Run, target: Path, tiny: list[str], stranger: None, tmp_path: Path
):
    folder = tmp_path / "own"
    assert run("pool", "add", target, "--pool", folder, *tiny[:2], "--examples", "10").code == 0
    missing = run("rank", target, "--pool", folder, *tiny[:2], "--method", "vowels")
    assert "pool describe --method vowels" in mistake(missing)
    done = run("pool", "describe", "--method", "vowels", "--pool", folder)
    assert done.code == 0, done.err
    (kept,) = Pool.open(folder).descriptions("vowels")
    assert kept.header["seconds"] >= 0
    assert kept.arrays["share"].dtype == np.float64
