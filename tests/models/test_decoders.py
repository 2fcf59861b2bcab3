"""Decoders as encoders of rankings: the last token, padding, pairs, and LoRA on their layers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from taskscout import Pool, Workbench, rank
from taskscout.errors import ModelError
from taskscout.models.adapting import _MODULES, apply_adapter
from taskscout.models.cache import NoCache
from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe
from taskscout.models.tuning import tune
from taskscout.pools.build import add_source, encoder_header
from tests.tiny import VOCABULARY, tiny_encoder, toy_task

TEXTS = ["the film was good", "a dull plot", "it is a very very warm and lovely book", "so"]
RECIPE = Recipe(learning_rate=1e-2, head_learning_rate=1e-2, least_steps=48)


def config_of(kind: str) -> Any:
    from transformers import GPT2Config, LlamaConfig

    if kind == "gpt2":
        return GPT2Config(
            vocab_size=len(VOCABULARY) + 1, n_embd=32, n_layer=2, n_head=2, n_positions=128
        )
    return LlamaConfig(
        vocab_size=len(VOCABULARY) + 1, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """A random decoder whose tokenizer has no special token at all, as some have."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp(request.param)
    encoder = tiny_encoder(folder, config=config_of(request.param))
    for path in (*folder.glob("tokenizer*"), *folder.glob("vocab*"), *folder.glob("special*")):
        path.unlink()
    words = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate((*VOCABULARY, "\n"))}, unk_token="[UNK]")
    )
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("\n", "isolated")]
    )
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    settings = {**encoder.arguments, "model": folder, "pooling": None}
    return Encoder(**settings, device="cpu")


def test_its_last_token_is_what_is_pooled(decoder: Encoder, tmp_path: Path):
    assert decoder.is_decoder
    assert decoder.pooling == "last_token"
    assert decoder.settings["pooling"] == "last_token"
    assert tiny_encoder(tmp_path).pooling == "mean"
    assert Encoder(decoder.folder, pooling="mean").pooling == "mean"
    model = decoder.load_model()
    for text, vector in zip(TEXTS, decoder.encode(TEXTS), strict=True):
        import torch

        ids = torch.tensor([[VOCABULARY.index(w) for w in text.split()]])
        with torch.inference_mode():
            alone = model(input_ids=ids).last_hidden_state[0, -1].numpy()
        np.testing.assert_allclose(vector, alone, atol=1e-5)  # padded beside longer texts


def test_without_a_padding_token(decoder: Encoder):
    """Another token stands for it, and is masked."""
    assert decoder.tokenizer.pad_token is not None
    batch = decoder.pad(decoder.tokenize(["good", "a very good film"]))
    assert batch["attention_mask"].tolist() == [[1, 0, 0, 0], [1, 1, 1, 1]]


def test_a_text_and_its_pair_are_parted(decoder: Encoder):
    (row,) = decoder.tokenize(["good film"], ["bad plot"])
    words = [(*VOCABULARY, "\n")[i] for i in row["input_ids"]]
    assert words == ["good", "film", "\n", "bad", "plot"]
    # A tokenizer that parts them itself is left to do so.
    assert Encoder().tokenizer.num_special_tokens_to_add(pair=True) == 3


def test_lora_tunes_it(decoder: Encoder):
    """It learns, and its factors put into the base give the tuned model, Conv1D or not."""
    task = toy_task(n=96)
    tuned = tune(task, decoder, RECIPE)
    assert tuned.scores["score"] > 0.85
    merged = apply_adapter(decoder.load_model(), tuned.adapter)
    ours, theirs = (decoder.encode(TEXTS, model=m) for m in (merged, tuned.model.body))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert np.abs(ours - decoder.encode(TEXTS)).max() > 0.05


def test_it_ranks(decoder: Encoder, tmp_path: Path):
    bench = Workbench(decoder, cache=NoCache(), recipe=RECIPE)
    pool = Pool.create(tmp_path / "pool", encoder=encoder_header(decoder))
    add_source(pool, toy_task("reviews", seed=1, n=96), bench)
    ranking = rank(
        toy_task("mine", seed=2, n=40), pool, ["logme", "esm-logme"],
        bench=Workbench(decoder, cache=NoCache()),
    )  # fmt: skip
    assert ranking.sources[0].name == "reviews"
    assert not np.isnan([list(r.scores.values()) for r in ranking.sources]).any()


@pytest.mark.parametrize(
    ("layers", "left"),
    [
        (
            "layers.0.self_attn.q_proj layers.1.mlp.down_proj",
            "layers.0.input_layernorm embed_tokens",
        ),
        ("h.0.attn.c_attn h.1.mlp.c_fc h.1.mlp.c_proj", "h.0.ln_1 wte"),
        (
            "layers.0.attention.query_key_value layers.0.mlp.dense_h_to_4h",
            "layers.0.input_layernorm",
        ),
        ("decoder.layers.0.self_attn.out_proj decoder.layers.0.fc1", "decoder.embed_tokens"),
        ("layers.0.attn.Wqkv layers.0.mlp.Wi layers.0.mlp.Wo", "layers.0.mlp_norm"),
        (
            "transformer.layer.0.attention.q_lin transformer.layer.0.ffn.lin1",
            "embeddings.LayerNorm",
        ),
        ("encoder.layer.0.attention.self.query_proj", "encoder.rel_embeddings"),
        (
            "encoder.layer.0.attention.self.query encoder.layer.0.output.dense",
            "embeddings.LayerNorm",
        ),
    ],
)
def test_lora_finds_the_layers_of_an_architecture(layers: str, left: str):
    for name in layers.split():
        assert re.fullmatch(_MODULES["all"], name), name
    for name in left.split():
        assert not re.fullmatch(_MODULES["all"], name), name


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nor is the terminal asked whether to."""
    encoder = tiny_encoder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "model_type": "own", "architectures": ["OwnModel"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asked"))
    fresh = Encoder(tmp_path, max_length=32)
    for use in (fresh.load_model, lambda: fresh.encode(TEXTS)):
        with pytest.raises(ModelError, match="code in its own repository"):
            use()
    assert not (tmp_path / "ran").exists()
    assert encoder.dimension == 32
