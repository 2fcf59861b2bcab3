"""What starting costs: nothing heavy is imported before it is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "sklearn", "scipy", "pandas", "datasets", "peft", "ray", "plotly"}

_LIST = "import json, sys; print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"


def imported(code: str, **environment: str) -> set[str]:
    """Top-level packages that a process has imported after some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{_LIST}"],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, **environment},
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def run(*arguments: str) -> str:
    """Code that runs the command line and goes on."""
    return (
        f"import sys; sys.argv = ['taskscout', *{list(arguments)!r}]\n"
        "from taskscout.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code"
    )


def test_the_test_would_see_a_heavy_import():
    assert "scipy" in imported("import scipy")


def test_importing_taskscout_imports_nothing_heavy():
    found = imported("import taskscout")
    assert "taskscout" in found
    assert not found & (HEAVY | {"numpy", "pyarrow", "typer", "rich"})


@pytest.mark.parametrize("arguments", [["--help"], ["rank", "--help"], ["pool", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]):
    found = imported(run(*arguments))
    assert "typer" in found
    assert not found & (HEAVY | {"numpy", "pyarrow"})


def test_opening_a_pool_imports_nothing_heavy():
    found = imported("from taskscout import Pool; assert len(Pool.builtin()) > 10")
    assert "numpy" in found
    assert not found & HEAVY


@pytest.mark.encoder
def test_a_warm_ranking_imports_nothing_heavy(tmp_path: Path):
    """With the target's statistics cached there is neither torch nor a model."""
    file = tmp_path / "reviews.csv"
    words = ("good", "great", "fine", "bad", "awful", "dull")
    rows = [f"a {w} film number {i},{int(w in words[:3])}" for i in range(4) for w in words]
    file.write_text("text,label\n" + "\n".join(rows) + "\n")
    code = run("rank", str(file), "--json")
    environment = {"TASKSCOUT_CACHE": str(tmp_path / "cache")}
    assert "torch" in imported(code, **environment)
    assert not imported(code, **environment) & HEAVY
