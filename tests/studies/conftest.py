"""A catalogue of toy tasks on disk, and study files over it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taskscout.studies.grid import Plan
from taskscout.studies.study_file import read_study
from taskscout.tasks import Task
from tests.tiny import tiny_encoder, toy_task


def write_catalogue(folder: Path, tasks: list[Task]) -> None:
    """Write tasks as a catalogue: one Parquet file each beside tasks.json."""
    entries = []
    for task in tasks:
        tables = [t.append_column("split", pa.array([s] * len(t))) for s, t in task.tables.items()]
        pq.write_table(pa.concat_tables(tables), folder / f"{task.name}.parquet")
        entries.append(
            {
                "task_id": task.name,
                "kind": task.kind,
                "label_names": list(task.label_names),
                "file": f"{task.name}.parquet",
                "shares_texts_with": {"twin": 0.8} if task.name == "gamma" else {},
            }
        )
    (folder / "tasks.json").write_text(json.dumps({"tasks": entries}))


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a catalogue of five toy tasks and a tiny encoder."""
    folder = tmp_path_factory.mktemp("studies")
    names = ("alpha", "beta", "gamma", "twin")
    tasks = [toy_task(name, seed=i, n=64) for i, name in enumerate(names)]
    tasks.append(toy_task("number", seed=9, n=64, regression=True))
    write_catalogue(folder, tasks)
    tiny_encoder(folder / "encoder")
    return folder


STUDY = """\
name: toy
catalogue: {folder}
sources: [alpha, beta, twin]
targets: [gamma, number]
encoders:
  - {{name: tiny, model: {folder}/encoder, max_length: 32, precision: fp32}}
tunings: [{tunings}]
sizes: [{sizes}]
seeds: [0, 1]
source_examples: 64
source_recipe: {{epochs: 1, least_steps: 1}}
recipe: {recipe}
test_examples: 32
"""


@pytest.fixture
def plan_of(workplace: Path, tmp_path: Path) -> Callable[..., Plan]:
    """Makes the plan of a small study."""

    def make(
        *,
        tunings: str = "lora",
        sizes: str = "32",
        recipe: str = "{epochs: 1, least_steps: 2}",
    ) -> Plan:
        path = tmp_path / "study.yaml"
        path.write_text(STUDY.format(folder=workplace, tunings=tunings, sizes=sizes, recipe=recipe))
        return Plan(read_study(path))

    return make
