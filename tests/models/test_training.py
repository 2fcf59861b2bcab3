"""Training: killed, starved or stopped, a run ends as it should and nothing is lost."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from taskscout.errors import ModelError
from taskscout.models import training
from taskscout.models.encoder import Encoder
from taskscout.models.heads import SequenceModel
from taskscout.models.recipe import Recipe
from taskscout.models.tuned_model import TunedModel
from taskscout.models.tuning import tune
from taskscout.tasks import Task
from tests.tiny import toy_task

ROOT = Path(__file__).resolve().parents[2]


def with_validation(task: Task) -> Task:
    return replace(task, tables={**task.tables, "validation": task.tables["test"]})


def recipe(**more: Any) -> Recipe:
    settings: dict[str, Any] = {
        "learning_rate": 1e-2, "head_learning_rate": 2e-2, "batch_size": 8, "epochs": 3,
        "least_steps": 1, **more,
    }  # fmt: skip
    return Recipe(**settings)


def assert_same(one: TunedModel, other: TunedModel, *, close: bool = False) -> None:
    compare: Any = np.testing.assert_allclose if close else np.testing.assert_array_equal
    options = {"rtol": 1e-3, "atol": 1e-4} if close else {}
    assert one.parameters.keys() == other.parameters.keys()
    for name, array in one.parameters.items():
        compare(other.parameters[name], array, **options)
    heads = [m.model.head.weight.detach().numpy() for m in (one, other)]
    compare(*heads, **options)
    if not close:
        assert one.scores == other.scores
        assert one.checkpoints.keys() == other.checkpoints.keys()
        for fraction in one.checkpoints:
            for name, array in one.checkpoints[fraction].items():
                compare(other.checkpoints[fraction][name], array)


# -- killed ---------------------------------------------------------------------------------

#: Forks runs that are killed by SIGKILL at the n-th call of a function, until one comes through.
KILLED = '''
import json, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from safetensors.numpy import save_file
import numpy as np
import taskscout.models.training as training
import transformers.trainer as trainer
from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe
from taskscout.models.tuning import tune
from tests.models.test_training import with_validation
from tests.tiny import toy_task

encoder_folder, out, settings = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])

def dies_at(owner, name, n):
    """Die in the n-th call: half-way through a file, where one is written."""
    real, calls = getattr(owner, name), [0]
    def call(*args, **options):
        calls[0] += 1
        if calls[0] == n:
            for path in args[1:2]:
                if isinstance(path, (str, Path)):
                    Path(path).write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)
    setattr(owner, name, call)

def run(name, kill):
    pid = os.fork()
    if pid:
        return os.WTERMSIG(os.waitpid(pid, 0)[1])
    if kill:
        dies_at(*kill)
    encoder = Encoder(encoder_folder, max_length=32, precision="fp32", device="cpu")
    made = tune(with_validation(toy_task(n=36)), encoder, Recipe(**settings), folder=out / name)
    model = {n: p.detach().numpy() for n, p in made.model.named_parameters()}
    kept = {f"{c} {n}": a for c, named in made.checkpoints.items() for n, a in named.items()}
    save_file({n: np.ascontiguousarray(a) for n, a in {**model, **kept}.items()},
              out / f"{name}.safetensors")
    (out / f"{name}.json").write_text(json.dumps([made.scores, made.trained_on]))
    os._exit(0)

assert run("whole", None) == 0
points = [
    (training._Trainer, "training_step", 4),     # in the first epoch, before any checkpoint or after
    (training, "save_file", 2),                  # half-way through the parameters of a checkpoint
    (torch, "save", 3),                          # half-way through the state of the optimizer
    (training._Keeper, "on_save", 2),            # all is written, but not called whole
    (training, "_remove", 1),                    # before an old one goes
    (training._Trainer, "training_step", 5),
    (training._Trainer, "_save_checkpoint", 2),
]
died = [run("killed", point) for point in points]
died.append(run("killed", None))
print(json.dumps([int(d) for d in died]))
left = sorted(p.name for p in (out / "killed").glob("checkpoint-*"))
print(json.dumps(left))
'''


@pytest.mark.parametrize(
    "settings",
    [
        {"tuning": "lora", "checkpoints": [0.4, 0.8]},
        {"tuning": "full", "early_stopping": 2, "accumulation": 2, "batch_size": 4},
    ],
    ids=["lora", "full, stopping early"],
)
def test_a_run_killed_again_and_again_ends_as_one_that_was_not(
    tiny: Encoder, tmp_path: Path, settings: dict[str, Any]
) -> None:
    given = recipe(**settings).to_dict()
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tiny.folder), str(tmp_path), json.dumps(given)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    *_, died, left = done.stdout.strip().splitlines()
    # SIGKILL is 9; at the end a run comes through.
    assert json.loads(died).count(9) >= 5
    assert json.loads(died)[-1] == 0
    assert 1 <= len(json.loads(left)) <= 2
    from safetensors.numpy import load_file

    whole, killed = (load_file(tmp_path / f"{n}.safetensors") for n in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(killed[name], array, err_msg=name)
    assert (tmp_path / "whole.json").read_text() == (tmp_path / "killed.json").read_text()


def test_a_folder_makes_no_difference_and_a_finished_run_is_not_made_again(
    tiny: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, steps = toy_task(n=40), recipe(checkpoints=(0.5,))
    plain, kept = tune(task, tiny, steps), tune(task, tiny, steps, folder=tmp_path / "run")
    assert_same(plain, kept)
    monkeypatch.setattr(training._Trainer, "training_step", None)
    assert_same(plain, tune(task, tiny, steps, folder=tmp_path / "run"))


def test_checkpoints_of_another_run_are_refused(tiny: Encoder, tmp_path: Path) -> None:
    tune(toy_task(n=16), tiny, recipe(), folder=tmp_path)
    for task, steps in ((toy_task(n=17), recipe()), (toy_task(n=16), recipe(seed=1))):
        with pytest.raises(ModelError, match="another training"):
            tune(task, tiny, steps, folder=tmp_path)


# -- starved ----------------------------------------------------------------------------------


def test_a_batch_that_does_not_fit_is_halved_and_that_is_said_once(
    tiny: Encoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    steps = recipe(dropout=0.0)
    expected = tune(toy_task(n=40), tiny, steps)
    forward, sizes = SequenceModel.forward, []

    def starved(self: Any, labels: Any = None, **batch: Any) -> Any:
        if labels is not None:
            sizes.append(len(labels))
            if len(labels) > 2 and len(sizes) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, labels, **batch)

    monkeypatch.setattr(SequenceModel, "forward", starved)
    with caplog.at_level(logging.WARNING, logger="taskscout"):
        made = tune(toy_task(n=40), tiny, steps)
    said = [r.getMessage() for r in caplog.records if "out of memory" in r.getMessage()]
    assert len(said) == 1
    assert "now 4 examples" in said[0]
    assert sizes[:5] == [8, 8, 8, 8, 4]
    assert sizes[5:] == [2] * 60
    # Steps saw the same examples: only rounding differs.
    assert_same(expected, made, close=True)


def test_one_example_that_does_not_fit_is_an_error(
    tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starved(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(SequenceModel, "forward", starved)
    with pytest.raises(ModelError, match="one example"):
        tune(toy_task(n=8), tiny, recipe())


@pytest.mark.parametrize("what", ["os", "torch"])
def test_a_full_disk_loses_nothing(
    tiny: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    task, steps = toy_task(n=40), recipe()
    save, calls = torch.save, []

    def full(*args: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) > 8:
            if what == "os":
                raise OSError(errno.ENOSPC, "No space left on device")
            raise RuntimeError("[enforce fail at inline_container.cc] . PytorchStreamWriter "
                               "failed writing file data/0: file write failed")  # fmt: skip
        save(*args, **options)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ModelError, match="disk that holds .* is full") as caught:
        tune(task, tiny, steps, folder=tmp_path)
    assert "goes on from the last checkpoint" in caught.value.remedy
    left = list(tmp_path.glob("checkpoint-*"))
    assert left
    assert all((p / "whole.json").is_file() for p in left)
    monkeypatch.undo()
    assert_same(tune(task, tiny, steps), tune(task, tiny, steps, folder=tmp_path))


# -- stopped ------------------------------------------------------------------------------------


def test_early_stopping_keeps_the_best(tiny: Encoder) -> None:
    # Labels that cannot be learnt: the validation loss rises while the training loss falls.
    task = with_validation(toy_task(n=64, shuffled=True))
    steps = recipe(tuning="full", learning_rate=5e-3, head_learning_rate=5e-3, epochs=12)
    losses = {}
    for patience in (0, 2):
        made = tune(task, tiny, replace(steps, early_stopping=patience), evaluate=None)
        losses[patience] = loss_of(made, task, tiny)
    assert losses[2] < losses[0] - 0.05
    short = tune(task, tiny, replace(steps, early_stopping=2), evaluate=None)
    assert loss_of(short, task, tiny) == losses[2]


def loss_of(made: TunedModel, task: Task, encoder: Encoder) -> float:
    texts, _ = task.inputs("validation")
    logits = made.model.predict(encoder.encode(texts, model=made.model.body))
    labels = torch.from_numpy(task.labels("validation"))
    return float(torch.nn.functional.cross_entropy(torch.from_numpy(logits), labels))


def test_without_validation_early_stopping_says_so(
    tiny: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    made = tune(toy_task(n=16), tiny, recipe(early_stopping=1))
    assert "no validation split" in caplog.text
    assert_same(made, tune(toy_task(n=16), tiny, recipe()))


def test_a_budget_ends_training_and_a_restart_does_not_go_on(tiny: Encoder, tmp_path: Path) -> None:
    task, steps = toy_task(n=64), recipe(epochs=20)
    short = tune(task, tiny, steps, budget_seconds=1e-3, folder=tmp_path)
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    assert_same(short, tune(task, tiny, steps, budget_seconds=1e-3, folder=tmp_path))
    # With more time it goes on, to where it would have come at once.
    assert_same(tune(task, tiny, steps), tune(task, tiny, steps, folder=tmp_path))


def test_steps_are_bounded_and_accumulated(tiny: Encoder) -> None:
    assert training.planned_steps(40, recipe()) == (5, 15)
    assert training.planned_steps(41, recipe(accumulation=2)) == (3, 9)
    assert training.planned_steps(40, recipe(max_steps=4)) == (5, 4)
    whole = tune(toy_task(n=40), tiny, recipe(dropout=0.0, max_steps=4))
    parts = tune(
        toy_task(n=40), tiny, recipe(dropout=0.0, max_steps=4, batch_size=4, accumulation=2)
    )
    assert_same(whole, parts, close=True)
    with pytest.raises(ModelError, match="accumulation is 0"):
        recipe(accumulation=0)


def test_a_recipe_says_later_fields_only_where_they_count() -> None:
    assert "early_stopping" not in recipe().to_dict()
    assert recipe(early_stopping=3).to_dict()["early_stopping"] == 3
    assert Recipe(**recipe(early_stopping=3).to_dict()) == recipe(early_stopping=3)


def test_reporting_to_what_is_not_there_is_refused(tiny: Encoder) -> None:
    with pytest.raises(ModelError, match="report_to is 'nowhere'"):
        tune(toy_task(n=8), tiny, recipe(report_to="nowhere"))


# -- data ---------------------------------------------------------------------------------------


def test_splits_with_nothing_in_them_are_refused(tiny: Encoder) -> None:
    from taskscout.errors import DataError

    task = toy_task(n=8)
    none = replace(task, tables={**task.tables, "train": task.tables["train"].slice(0, 0)})
    with pytest.raises(DataError, match="no rows in split 'train'"):
        tune(none, tiny, recipe())
    table = pa.table({"text": [" ", ""], "label": [0, 1]})
    blank = replace(task, tables={**task.tables, "test": table})
    with pytest.raises(DataError, match="all 2 texts of split 'test' are empty"):
        tune(blank, tiny, recipe())


def test_labels_that_cannot_be_learnt_are_named(
    tiny: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    task = toy_task(n=8)
    test = pa.table({"text": ["a", "b", "c"], "label": [0, 2, 2]})
    odd = replace(
        task, tables={**task.tables, "test": test}, label_names=("good", "bad", "neither")
    )
    made = tune(odd, tiny, recipe())
    assert "'neither' in split 'test' (2 of 3 labels) never occurs" in caplog.text
    assert made.scores["accuracy"] <= 1 / 3
