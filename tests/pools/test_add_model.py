"""Models as sources: adapters and checkpoints that come without data."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from taskscout import Pool, Workbench, rank, train
from taskscout.errors import ModelError, PoolError
from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe
from taskscout.models.tuning import tune
from taskscout.pools.add_model import add_model
from taskscout.pools.build import add_source, encoder_header
from taskscout.pools.texts import texts_of
from tests.small import RECIPE, fresh_bench, source_task
from tests.tiny import tiny_encoder, toy_task

README = """---
license: apache-2.0
base_model: owner/tiny
datasets: [owner/films, owner/books]
language: [de, en]
pipeline_tag: text-classification
---
# A model
"""


@pytest.fixture(scope="module")
def models(small_bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A LoRA adapter and a checkpoint tuned on film reviews, by ``peft`` and ``transformers``."""
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification

    folder, encoder = tmp_path_factory.mktemp("models"), small_bench.encoder
    task = source_task("reviews")
    texts, labels = task.inputs("train")[0], torch.tensor(task.labels("train"))

    def trained(model: Any, rate: float) -> Any:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], rate)
        batch = encoder.pad(encoder.tokenize(texts))
        model.train()
        losses = []
        for _ in range(60):
            loss = model(**batch, labels=labels).loss
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        assert losses[-1] < 0.7 * losses[0]
        return model

    def fresh() -> Any:
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_pretrained(encoder.folder, num_labels=2)

    config = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=3, lora_alpha=12, target_modules=["query", "dense"],
        alpha_pattern={"layer.0.output.dense": 24}, exclude_modules=r".*pooler.*",
    )  # fmt: skip
    adapter = trained(get_peft_model(fresh(), config), 2e-2)
    adapter.save_pretrained(folder / "adapter")
    (folder / "adapter" / "README.md").write_text(README)
    checkpoint = trained(fresh(), 1e-3)
    checkpoint.save_pretrained(folder / "checkpoint")
    for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        if (encoder.folder / file).exists():
            shutil.copy(encoder.folder / file, folder / "checkpoint")
    merged = adapter.merge_and_unload()
    merged.save_pretrained(folder / "merged")
    return {p.name: p for p in folder.iterdir()}


@pytest.fixture
def pool(small_bench: Workbench, tmp_path: Path) -> Pool:
    """One source, with some of its texts."""
    pool = Pool.create(tmp_path / "pool", encoder=encoder_header(small_bench.encoder))
    add_source(pool, source_task("topics"), small_bench, texts=True)
    return pool


def body_of(folder: Path, encoder: Encoder) -> Any:
    return Encoder(folder, **encoder.settings).load_model()


@pytest.mark.parametrize("form", ["adapter", "checkpoint"])
def test_a_model_is_a_source(
    form: str, models: dict[str, Path], pool: Pool, small_bench: Workbench
):
    """What ranks by its features reads those of the model itself, and training starts from it."""
    encoder = small_bench.encoder
    notes = add_model(pool, models[form], encoder, same_base=True)
    assert pool.verify() == []
    opened = Pool.open(pool.folder)
    assert opened.names == tuple(sorted([form, "topics"]))
    target = toy_task("mine", seed=40, n=60)
    real = body_of(models["merged" if form == "adapter" else form], encoder)
    texts, pairs = target.inputs("train")
    wanted = encoder.encode(texts, pairs, model=real)
    kept = opened.description(form, "tuned")
    found = fresh_bench(small_bench).source_embeddings(target, kept.arrays)
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    base = small_bench.embeddings(target)
    assert np.abs(wanted - base).max() > 0.1
    methods = ["logme", "esm-logme", "layered-esm-logme", "knn", "h-score"]
    ranking = rank(target, opened, methods, bench=fresh_bench(small_bench))
    row = ranking.source(form)
    assert not np.isnan(list(row.scores.values())).any()
    assert row.scores["logme"] > ranking.source("none").scores["logme"]
    assert any("maps were fitted on" in note for note in notes)
    mapped = opened.description(form, "space-map")
    assert mapped.header["explained"] > 0.2
    assert not any(name.startswith("head.") for name in mapped.arrays)
    result = train(
        target, sources=[form], pool=opened, bench=fresh_bench(small_bench), seeds=1,
        recipe=replace(RECIPE, epochs=1, max_steps=2),
    )  # fmt: skip
    assert [c.name for c in result.sources] == [form]
    assert result.runs[0].source_seconds == 0
    start = opened_origin(opened, form, encoder).model().model.body
    for name, parameter in start.named_parameters():
        if not name.startswith("pooler."):
            other = dict(real.named_parameters())[name]
            torch.testing.assert_close(parameter, other, atol=2e-3, rtol=0)


def opened_origin(pool: Pool, name: str, encoder: Encoder) -> Any:
    from taskscout.transfer.sources import origin_of

    return origin_of(name, pool, encoder)


def test_its_card_is_the_model_card(models: dict[str, Path], pool: Pool, small_bench: Workbench):
    add_model(pool, models["adapter"], small_bench.encoder, name="films", same_base=True)
    card = pool.source("films").card
    assert (card.kind, card.language, card.licence) == ("classification", "de", "apache-2.0")
    assert card.commercial == "yes"
    assert "base model owner/tiny" in card.notes
    assert "trained on owner/films, owner/books" in card.notes
    notes = add_model(pool, models["checkpoint"], small_bench.encoder)
    assert any("no model card" in note for note in notes)
    assert any("--licence" in note for note in notes)
    assert pool.source("checkpoint").card.commercial == "unstated"
    with pytest.raises(PoolError, match="has a source"):
        add_model(pool, models["checkpoint"], small_bench.encoder)


def test_without_texts_there_is_no_map(
    models: dict[str, Path], small_pool: Pool, small_bench: Workbench, tmp_path: Path
):
    pool = small_pool.unpack(tmp_path / "pool")
    assert texts_of(pool) == []
    notes = add_model(pool, models["adapter"], small_bench.encoder, same_base=True)
    assert any("--texts" in note for note in notes)
    assert pool.source("adapter").headers.keys() == {"tuned"}
    texts = source_task("topics").inputs("train")[0]
    add_model(
        pool, models["adapter"], small_bench.encoder, same_base=True, texts=texts,
        replace_source=True,
    )  # fmt: skip
    assert pool.source("adapter").headers.keys() == {"tuned", "space-map", "layered-map"}


def test_the_texts_a_pool_carries(pool: Pool):
    kept = texts_of(pool)
    assert len(kept) == 32
    assert set(kept) <= set(source_task("topics").inputs("train")[0])


def changed(folder: Path, out: Path, **fields: Any) -> Path:
    """A copy of an adapter with another configuration."""
    shutil.copytree(folder, out)
    config = json.loads((out / "adapter_config.json").read_text())
    (out / "adapter_config.json").write_text(json.dumps({**config, **fields}))
    return out


def test_what_is_refused(
    models: dict[str, Path], pool: Pool, small_bench: Workbench, tmp_path: Path
):
    encoder = small_bench.encoder
    before = {p: p.read_bytes() for p in pool.folder.rglob("*") if p.is_file()}

    def refused(path: Path | str, **options: Any) -> ModelError:
        with pytest.raises(ModelError) as caught:
            add_model(pool, path, encoder, **options)
        assert {p: p.read_bytes() for p in pool.folder.rglob("*") if p.is_file()} == before
        return caught.value

    # Another base: by its weights where they are here, else by its name.
    other = tiny_encoder(tmp_path / "other base", seed=5)
    wrong = changed(models["adapter"], tmp_path / "a", base_model_name_or_path=str(other.folder))
    assert "weights are others" in refused(wrong).why
    named = changed(models["adapter"], tmp_path / "b", base_model_name_or_path="owner/other")
    assert "--same-base" in refused(named).remedy
    add_model(pool, named, encoder, name="trusted", same_base=True)
    pool.remove("trusted")
    before = {p: p.read_bytes() for p in pool.folder.rglob("*") if p.is_file()}
    # Another architecture, size or kind of adapter.
    from transformers import BertConfig, DistilBertConfig

    small = {"vocab_size": 90, "max_position_embeddings": 256}
    wide = BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, **small
    )
    assert (
        "another architecture or size"
        in refused(tiny_encoder(tmp_path / "w", config=wide).folder).why
    )
    distil = DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, **small)
    assert "distilbert" in refused(tiny_encoder(tmp_path / "d", config=distil).folder).found
    dora = changed(models["adapter"], tmp_path / "c", use_dora=True)
    assert "use_dora" in refused(dora, same_base=True).found
    prompt = changed(models["adapter"], tmp_path / "e", peft_type="PROMPT_TUNING")
    assert "merge_and_unload" in refused(prompt, same_base=True).remedy
    # Of the same architecture, but of another pre-training.
    assert "another pre-training" in refused(other.folder).why
    # Nothing is changed: an adapter whose B is 0, and the encoder itself.
    zero = shutil.copytree(models["adapter"], tmp_path / "zero")
    arrays = load_file(zero / "adapter_model.safetensors")
    arrays = {n: a * 0 if ".lora_B" in n else a for n, a in arrays.items() if "lora" in n}
    save_file(arrays, zero / "adapter_model.safetensors")
    assert "nothing in it differs" in refused(zero, same_base=True).found
    assert "nothing in it differs" in refused(encoder.folder).found
    # Files that are not there, or cannot be read.
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty")
    refused("owner/nothing here")
    (zero / "adapter_model.safetensors").write_bytes(b"no tensors")
    assert "no adapter that can be read" in refused(zero, same_base=True).found
    with pytest.raises(PoolError, match="was begun with"):
        add_model(pool, models["checkpoint"], fresh_bench(small_bench, pooling="cls").encoder)


def test_rslora_is_scaled_as_peft_scales_it(
    models: dict[str, Path], pool: Pool, small_bench: Workbench, tmp_path: Path
):
    from peft import PeftModel

    folder = changed(models["adapter"], tmp_path / "rs", use_rslora=True)
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(small_bench.encoder.folder)
    real = PeftModel.from_pretrained(base, folder).merge_and_unload().bert
    add_model(pool, folder, small_bench.encoder, same_base=True)
    texts = toy_task(n=20).inputs("train")[0]
    kept = pool.description("rs", "tuned").arrays
    found = fresh_bench(small_bench).source_embeddings(toy_task(n=20), kept)
    wanted = small_bench.encoder.encode(texts, model=real)
    np.testing.assert_allclose(found, wanted, atol=5e-3)


def test_an_adapter_of_taskscout(small_bench: Workbench, pool: Pool, tmp_path: Path):
    """What ``train`` keeps beside a model can be a source, and is the model that was trained."""
    from taskscout.transfer.export import save_adapter

    task = source_task("reviews")
    tuned = tune(task, small_bench.encoder, Recipe(**{**RECIPE.to_dict(), "checkpoints": ()}))
    assert save_adapter(tuned, small_bench.encoder, tmp_path)
    add_model(pool, tmp_path / "adapter", small_bench.encoder, name="ours")
    kept = pool.description("ours", "tuned").arrays
    assert set(tuned.adapter) == set(kept)
    for name, array in tuned.adapter.items():
        np.testing.assert_allclose(kept[name], array, atol=1e-3)
