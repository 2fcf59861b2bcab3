"""The command line, as benchmarks that show a verb run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks._data import catalogue


def study(verb: str, out: Path, **options: object) -> tuple[dict[str, Any], str]:
    """Run ``taskscout study VERB`` on the labelled datasets: its results and its tables."""
    command = [sys.executable, "-m", "taskscout", "study", verb, "--out", str(out)]
    for name, value in {**options, "catalogue": catalogue().folder}.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    subprocess.run(command, check=True)
    return json.loads((out / "results.json").read_text()), (out / "table.md").read_text()
