"""Model folders: what transformers loads from them answers as the trained model does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

import taskscout
from taskscout.errors import TransferError
from taskscout.models.encoder import Encoder
from taskscout.models.objectives import objective_of
from taskscout.models.recipe import Recipe
from taskscout.models.tuned_model import TunedModel
from taskscout.models.tuning import tune
from taskscout.tasks import Task
from taskscout.transfer.export import save_adapter, save_model
from taskscout.transfer.loaded import load
from tests.tiny import tiny_encoder, toy_task

TEXTS = ["a good film", "the plot was very dull and grim", "it is so-so?", "bad"]


def tuned(encoder: Encoder, tuning: str = "full", **task) -> TunedModel:
    recipe = Recipe(tuning=tuning, least_steps=4, epochs=1, examples=32, prompt_length=5, seed=1)
    if tuning not in ("prompt", "p-tuning-v2"):
        recipe = Recipe(tuning=tuning, least_steps=4, epochs=1, examples=32, seed=1)
    return tune(toy_task(n=32, **task), encoder, recipe, evaluate=None)


def ours(model: TunedModel, encoder: Encoder, pairs=None) -> np.ndarray:
    return model.model.predict(encoder.encode(TEXTS, pairs, model=model.model.body))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Encoder:
    return tiny_encoder(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("tuning", ["full", "lora", "prompt", "p-tuning-v2", "bitfit", "head"])
def test_loaded_model_gives_the_same_logits(tmp_path: Path, encoder: Encoder, tuning: str):
    model = tuned(encoder, tuning)
    assert save_model(model.model, encoder, tmp_path, ("bad one", "good one")) == "own"
    loaded = taskscout.load(tmp_path)
    np.testing.assert_allclose(loaded.outputs(TEXTS), ours(model, encoder), atol=1e-5)
    names = np.array(["bad one", "good one"])[ours(model, encoder).argmax(1)]
    assert loaded.predict(TEXTS) == names.tolist()


WITHOUT_US = """
import json, sys
sys.modules["taskscout"] = None
from transformers import AutoModelForSequenceClassification as Auto, AutoTokenizer
folder, texts = sys.argv[1], json.loads(sys.argv[2])
try:
    Auto.from_pretrained(folder, trust_remote_code=False)
    refused = False
except ValueError:
    refused = True
model = Auto.from_pretrained(folder, trust_remote_code=True).eval()
tokens = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
batch = tokens(texts, texts[::-1], truncation=True, padding=True, return_tensors="pt")
print(json.dumps([refused, model(**batch).logits.tolist(), model.config.id2label]))
"""


def test_auto_class_with_the_folders_own_code(tmp_path: Path, encoder: Encoder):
    """Without taskscout: the code in the folder, which the user has to allow.

    Without leave nothing is loaded: BERT's own class would answer otherwise.
    """
    model = tuned(encoder, "lora", pairs=True)
    save_model(model.model, encoder, tmp_path, ("no", "yes"))
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_US, str(tmp_path), json.dumps(TEXTS)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"},
    )
    refused, logits, names = json.loads(run.stdout.splitlines()[-1])
    assert refused
    np.testing.assert_allclose(logits, ours(model, encoder, TEXTS[::-1]), atol=1e-5)
    assert names == {"0": "no", "1": "yes"}


def test_pooler_is_transformers_own_class(tmp_path: Path):
    encoder = tiny_encoder(tmp_path / "encoder", pooling="pooler")
    model = tuned(encoder, "lora")
    folder = tmp_path / "model"
    folder.mkdir()
    assert save_model(model.model, encoder, folder, ("no", "yes")) == "native"
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    native = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert type(native).__name__ == "BertForSequenceClassification"
    tokens = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        logits = native(**tokens(TEXTS, padding=True, return_tensors="pt")).logits.numpy()
    np.testing.assert_allclose(logits, ours(model, encoder), atol=1e-5)
    assert native.config.id2label == {0: "no", 1: "yes"}


@pytest.mark.parametrize("pooling", ["cls", "last_token"])
@pytest.mark.parametrize("layers", ["last", "mean"])
def test_every_pooling(tmp_path: Path, pooling: str, layers: str):
    encoder = tiny_encoder(tmp_path / "encoder", pooling=pooling, layers=layers)
    model = tuned(encoder, "head")
    folder = tmp_path / "model"
    folder.mkdir()
    save_model(model.model, encoder, folder, ("no", "yes"))
    np.testing.assert_allclose(load(folder).outputs(TEXTS), ours(model, encoder), atol=1e-5)


def test_regression_in_the_tasks_units(tmp_path: Path, encoder: Encoder):
    model = tuned(encoder, "full", regression=True)
    save_model(model.model, encoder, tmp_path, ())
    loaded = load(tmp_path)
    np.testing.assert_allclose(loaded.outputs(TEXTS), ours(model, encoder), atol=1e-5)
    assert loaded.label_names == ()
    assert all(isinstance(v, float) for v in loaded.predict(TEXTS))


def test_long_texts_are_cut_where_training_cut_them(tmp_path: Path, encoder: Encoder):
    model = tuned(encoder, "head")
    save_model(model.model, encoder, tmp_path, ("no", "yes"))
    long = [" ".join(["good"] * 30 + ["bad"] * 300)]
    want = model.model.predict(encoder.encode(long, model=model.model.body))
    np.testing.assert_allclose(load(tmp_path).outputs(long), want, atol=1e-5)


def test_tags_are_transformers_own_class(tmp_path: Path, encoder: Encoder):
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    task = tags()
    model = tune(task, encoder, Recipe(least_steps=4, epochs=1), evaluate=None)
    assert save_model(model.model, encoder, tmp_path, task.label_names) == "native"
    native = AutoModelForTokenClassification.from_pretrained(tmp_path).eval()
    batch = AutoTokenizer.from_pretrained(tmp_path)(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        theirs, own = native(**batch).logits, model.model(**batch)["logits"]
    mask = batch["attention_mask"].bool()
    np.testing.assert_allclose(theirs[mask], own[mask], atol=1e-5)
    assert native.config.id2label == {0: "O", 1: "B-GOOD", 2: "B-BAD"}
    with pytest.raises(TransferError, match="BertForTokenClassification"):
        load(tmp_path)  # its head would fit, and answer nonsense


def test_spans_are_transformers_own_class(tmp_path: Path, encoder: Encoder):
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    task = spans()
    model = tune(task, encoder, Recipe(least_steps=4, epochs=1), evaluate=None)
    assert save_model(model.model, encoder, tmp_path, ()) == "native"
    native = AutoModelForQuestionAnswering.from_pretrained(tmp_path).eval()
    batch = AutoTokenizer.from_pretrained(tmp_path)(TEXTS, TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        said, own = native(**batch), model.model(**batch)["logits"]
    mask = batch["attention_mask"].bool()
    np.testing.assert_allclose(said.start_logits[mask], own[..., 0][mask], atol=1e-5)
    np.testing.assert_allclose(said.end_logits[mask], own[..., 1][mask], atol=1e-5)


def tags(n: int = 16) -> Task:
    rows = {"tokens": [["good", "film"], ["bad"]] * (n // 2), "label": [[1, 0], [2]] * (n // 2)}
    return Task("tags", "tagging", {"train": pa.table(rows)}, ("O", "B-GOOD", "B-BAD"))


def spans(n: int = 16) -> Task:
    rows = {
        "question": ["was it good", "was it bad"] * (n // 2), "context": ["the film was good"] * n,
        "answer_text": ["good"] * n, "answer_start": [13] * n,
    }  # fmt: skip
    return Task("spans", "span_qa", {"train": pa.table(rows)})


@pytest.mark.parametrize("task", [tags(), spans()], ids=["tagging", "span_qa"])
@pytest.mark.parametrize("tuning", ["full", "lora", "bitfit", "head", "prompt", "p-tuning-v2"])
def test_heads_on_tokens_after_training_in_bfloat16(tmp_path: Path, task: Task, tuning: str):
    """What is saved is compared in float32, where the Trainer's autocast is gone."""
    import transformers

    from taskscout.transfer.modeling_taskscout import TaskscoutConfig

    encoder = tiny_encoder(tmp_path / "encoder", precision="bf16")
    length = {"prompt_length": 4} if tuning in ("prompt", "p-tuning-v2") else {}
    model = tune(task, encoder, Recipe(tuning, least_steps=4, epochs=1, **length), evaluate=None)
    folder = tmp_path / "model"
    folder.mkdir()
    form = save_model(model.model, encoder, folder, task.label_names)
    assert form == ("own" if length else "native")
    name = "TokenClassification" if task.kind == "tagging" else "QuestionAnswering"
    auto = getattr(transformers, f"AutoModelFor{name}")
    saved = auto.from_pretrained(folder, trust_remote_code=form == "own").eval()
    assert (saved.config.model_type == TaskscoutConfig.model_type) == (form == "own")
    batch = encoder.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        said, want = saved(**batch), model.model(**batch)["logits"]
    got = said.logits if name == "TokenClassification" else torch.stack(
        [said.start_logits, said.end_logits], -1
    )  # fmt: skip
    there = batch["attention_mask"].bool()
    assert want.dtype == torch.float32
    np.testing.assert_allclose(got[there], want[there], atol=1e-5)


def test_the_adapter_and_the_head_beside_the_merged_model(tmp_path: Path, encoder: Encoder):
    from peft import PeftModel
    from safetensors.numpy import load_file
    from transformers import AutoModel

    model = tuned(encoder, "lora")
    assert save_adapter(model, encoder, tmp_path)
    base = AutoModel.from_pretrained(encoder.folder)
    body = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    head = load_file(tmp_path / "adapter" / "head.safetensors")
    logits = encoder.encode(TEXTS, model=body) @ head["weight"].T + head["bias"]
    np.testing.assert_allclose(logits, ours(model, encoder), atol=1e-5)
    assert not np.allclose(encoder.encode(TEXTS), encoder.encode(TEXTS, model=body), atol=1e-3)


def test_an_adapter_that_stands_on_another_body_is_not_kept(tmp_path: Path, encoder: Encoder):
    """Alone, it would not give the trained model."""
    first = tuned(encoder, "lora")
    recipe = Recipe(tuning="lora", least_steps=4, epochs=1, examples=32, seed=1)
    second = tune(toy_task(n=32), encoder, recipe, body=first.model.body, evaluate=None)
    assert not save_adapter(second, encoder, tmp_path)
    assert not save_adapter(tuned(encoder, "full"), encoder, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_choices_are_numbers_of_pairs(tmp_path: Path, encoder: Encoder):
    rows = {
        "text": ["the film was", "it is"] * 8,
        "choices": [["good", "bad", "so"]] * 16,
        "label": [0, 1] * 8,
    }
    task = Task("choices", "multiple_choice", {"train": pa.table(rows)})
    model = tune(task, encoder, Recipe(least_steps=4, epochs=1), evaluate=None)
    assert save_model(model.model, encoder, tmp_path, ()) == "own"
    found = load(tmp_path).outputs(["the film was"] * 3, ["good", "bad", "so"])[:, 0]
    want = objective_of(task, encoder, model.recipe).predict(model.model, "train")[0]
    # The bias is common to all choices, and may be left out.
    np.testing.assert_allclose(found - found[0], want - want[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("tuning", ["lora", "prompt"])
def test_language_models_are_transformers_and_pefts_own(tmp_path: Path, kind: str, tuning: str):
    import peft
    import transformers

    from tests.models.test_text_to_text import language_model, toy_texts

    encoder = language_model(tmp_path / "base", kind)
    length = {"prompt_length": 4} if tuning == "prompt" else {}
    recipe = Recipe(tuning=tuning, least_steps=4, epochs=1, examples=16, **length)
    model = tune(toy_texts(16), encoder, recipe, evaluate=None)
    folder = tmp_path / "model"
    folder.mkdir()
    rows = [row for (row,) in objective_of(toy_texts(16), encoder, recipe).rows("train")[:3]]
    batch = objective_of(toy_texts(16), encoder, recipe).collate(rows)
    with torch.inference_mode():
        want = float(model.model.eval()(**batch)["loss"])
    form = save_model(model.model, encoder, folder, ())
    name = {"llama": "ModelForCausalLM", "t5": "ModelForSeq2SeqLM"}[kind]
    if tuning == "prompt":
        assert form == "peft"
        loaded = getattr(peft, f"AutoPeft{name}").from_pretrained(folder)
    else:
        assert form == "native"
        loaded = getattr(transformers, f"Auto{name}").from_pretrained(folder)
    with torch.inference_mode():
        assert float(loaded.eval()(**batch).loss) == pytest.approx(want, abs=1e-5)
    assert (folder / "tokenizer_config.json").is_file()


def test_probabilities_and_what_a_loaded_model_is_called(tmp_path: Path, encoder: Encoder):
    model = tuned(encoder, "head")
    save_model(model.model, encoder, tmp_path / ".", ("no", "yes"))
    loaded = load(tmp_path)
    said = loaded.predict_proba(TEXTS)
    np.testing.assert_allclose(said.sum(1), 1, atol=1e-12)
    odds = ours(model, encoder)
    np.testing.assert_allclose(np.log(said[:, 1] / said[:, 0]), odds[:, 1] - odds[:, 0], atol=1e-4)
    assert repr(loaded) == "LoadedModel(TaskscoutForSequenceClassification, 2 labels: 'no', 'yes')"


def test_numbers_have_no_probabilities(tmp_path: Path, encoder: Encoder):
    save_model(tuned(encoder, "head", regression=True).model, encoder, tmp_path, ())
    with pytest.raises(TransferError, match="Only labels have probabilities"):
        load(tmp_path).predict_proba(TEXTS)


def test_what_is_no_model_folder(tmp_path: Path):
    with pytest.raises(TransferError) as caught:
        load(tmp_path)
    assert str(tmp_path) in caught.value.found
    assert "--out" in caught.value.remedy
