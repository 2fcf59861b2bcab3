"""What all benchmarks share: machine and versions, stored results, tables in the docs."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks._pages import ROOT, page_of, put

RESULTS = ROOT / "benchmarks" / "results"
_PACKAGES = ("taskscout", "numpy", "scipy", "torch", "transformers")


def surroundings(*packages: str) -> dict[str, Any]:
    """Date, processor, cores, memory and versions."""
    import os

    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        model = found.group(1) if found else model
    versions = {}
    for package in (*_PACKAGES, *packages):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def line(where: Mapping[str, Any]) -> str:
    """One line under a table: date, machine, versions."""
    versions = ", ".join(f"{k} {v}" for k, v in where["versions"].items())
    return f"{where['date']} · {where['machine']} · Python {where['python']} · {versions}"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    head = "| " + " | ".join(columns) + " |\n|" + "---|" * len(columns)
    return "\n".join([head, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def publish(
    name: str,
    title: str,
    text: str,
    data: Mapping[str, Any],
    *packages: str,
    command: str | None = None,
) -> None:
    """Store results as JSON, and put the text under its heading on its page of the docs.

    ``command`` is what made them, where that is not the benchmark's name alone. The page is the
    one of :data:`benchmarks._pages.PAGES` that has the name; the overview, ``docs/benchmarks.md``,
    takes its figures from the results by ``python -m benchmarks.overview``.

    Raises
    ------
    LookupError
        If no page has a place for the name; nothing is written then.
    """
    page_of(name)
    where = surroundings(*packages)
    RESULTS.mkdir(exist_ok=True)
    stored = {"benchmark": name, **where, **data}
    (RESULTS / f"{name}.json").write_text(json.dumps(stored, indent=1) + "\n")
    command = f"python -m benchmarks.{command or name}"
    block = f"## {title}\n\n{text.strip()}\n\n`{command}` · {line(where)}\n"
    page = put(name, block)
    print(block)
    print(f"Written to {page.relative_to(ROOT)}; next: python -m benchmarks.overview")
