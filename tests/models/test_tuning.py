"""Tuning: every kind learns, changes what it says and nothing else, and begins the same."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from taskscout.errors import ModelError
from taskscout.models.adapting import apply_adapter, digest, initial_parameters, task_vector
from taskscout.models.encoder import Encoder
from taskscout.models.prompts import PromptedBody, prompt_vocabulary, with_prompt
from taskscout.models.recipe import Recipe, Tuning
from taskscout.models.tuned_model import TunedModel
from taskscout.models.tuned_store import from_bytes, to_bytes
from taskscout.models.tuning import tune
from tests.tiny import BAD, GOOD, TOPICS, tiny_encoder, toy_task

TUNINGS: tuple[Tuning, ...] = ("full", "lora", "prompt", "p-tuning-v2", "bitfit", "head")


#: Rates at which a tiny encoder learns within 100 steps.
RATES = {
    "full": 2e-3, "lora": 1e-2, "prompt": 0.1, "p-tuning-v2": 5e-2, "bitfit": 1e-2, "head": 3e-2
}  # fmt: skip


def recipe(tuning: Tuning, **more: object) -> Recipe:
    settings = {
        "least_steps": 8,
        "batch_size": 16,
        "prompt_length": {"prompt": 8, "p-tuning-v2": 4}.get(tuning, 0),
        "learning_rate": RATES[tuning],
        "head_learning_rate": max(1e-2, RATES["head"] * (tuning == "head")),
        **more,
    }
    return Recipe(tuning=tuning, **settings)  # type: ignore[arg-type]


@functools.cache
def tuned(encoder: Encoder, tuning: Tuning, *, shuffled: bool = False) -> TunedModel:
    """The toy task learnt in 100 steps."""
    steps = recipe(tuning, least_steps=100, checkpoints=(0.25, 0.75))
    return tune(toy_task(shuffled=shuffled), encoder, steps)


@functools.cache
def short(encoder: Encoder, tuning: Tuning, words: tuple[tuple[str, ...], ...]) -> TunedModel:
    return tune(toy_task(n=32, words=words), encoder, recipe(tuning))


def pretrained(encoder: Encoder) -> dict[str, torch.Tensor]:
    return dict(encoder.load_model().named_parameters())


# -- recipes ----------------------------------------------------------------------------


def test_the_default_recipe_is_what_pools_are_built_with() -> None:
    given = Recipe().to_dict()
    known = {
        "tuning": "lora", "examples": 1500, "tokens": 60_000, "epochs": 2, "batch_size": 32,
        "learning_rate": 2e-3, "least_steps": 48, "rank": 4, "alpha": 8, "modules": "all",
        "seed": 0,
    }  # fmt: skip
    assert {k: given[k] for k in known} == known
    assert Recipe(**known) == Recipe()


@pytest.mark.parametrize("tuning", TUNINGS)
def test_recipes_travel_as_json(tuning: Tuning) -> None:
    made = Recipe(tuning=tuning, checkpoints=(0.5, 0.1, 0.5))
    assert made.checkpoints == (0.1, 0.5)
    assert Recipe(**json.loads(json.dumps(made.to_dict()))) == made
    assert hash(made) == hash(Recipe(tuning=tuning, checkpoints=(0.1, 0.5)))


def test_another_tuning_of_a_recipe_takes_its_own_rates() -> None:
    lora = Recipe(examples=100, tokens=999, seed=3, batch_size=4)
    prompt = lora.with_tuning("prompt")
    assert prompt == Recipe(tuning="prompt", examples=100, tokens=999, seed=3, batch_size=4)
    assert prompt.learning_rate > 10 * lora.learning_rate
    assert prompt.prompt_length == 100
    assert lora.with_tuning("lora") is lora


@pytest.mark.parametrize(
    "wrong", [{"tuning": "adapter"}, {"checkpoints": (0.0,)}, {"checkpoints": (0.5, 1.0)}]
)
def test_a_recipe_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ModelError):
        Recipe(**wrong)  # type: ignore[arg-type]


# -- learning ---------------------------------------------------------------------------


@pytest.mark.parametrize("tuning", TUNINGS)
def test_what_can_be_learnt_is_learnt_and_nothing_else(tiny: Encoder, tuning: Tuning) -> None:
    learnt, not_learnt = tuned(tiny, tuning), tuned(tiny, tuning, shuffled=True)
    assert learnt.scores["score"] > 0.8
    assert abs(not_learnt.scores["accuracy"] - 0.5) < 0.25
    assert loss_of(learnt, tiny) < 0.55
    assert loss_of(not_learnt, tiny) > 0.6


def loss_of(model: TunedModel, encoder: Encoder) -> float:
    """Cross-entropy on the test split of the toy task, by hand."""
    task = toy_task()
    texts, _ = task.inputs("test")
    logits = model.model.predict(encoder.encode(texts, model=model.model.body)).astype(float)
    of_label = logits[np.arange(len(logits)), task.labels("test")]
    return float((np.log(np.exp(logits).sum(1)) - of_label).mean())


@pytest.mark.parametrize("tuning", ["prompt", "p-tuning-v2"])
def test_prompts_learn_from_pairs_and_numbers(tiny: Encoder, tuning: Tuning) -> None:
    numbers = tune(toy_task(regression=True), tiny, recipe(tuning, least_steps=100))
    assert numbers.scores["pearson"] > 0.6
    assert tune(toy_task(n=32, pairs=True), tiny, recipe(tuning)).scores


# -- beginnings -------------------------------------------------------------------------


@pytest.mark.parametrize("tuning", TUNINGS)
def test_all_tasks_of_a_seed_begin_the_same(tiny: Encoder, tuning: Tuning) -> None:
    one, other = (short(tiny, tuning, words) for words in ((GOOD, BAD), TOPICS))
    assert one.initialisation == other.initialisation
    expected = initial_parameters(tiny, recipe(tuning))
    assert one.initialisation == digest(expected)
    if tuning == "full":
        assert not one.initial
        return
    for name, array in expected.items():
        np.testing.assert_array_equal(one.initial[name], array)
        np.testing.assert_array_equal(other.initial[name], array)
        if not name.startswith("pooler"):
            assert not np.array_equal(one.parameters[name], array)


@pytest.mark.parametrize("tuning", ["lora", "prompt", "p-tuning-v2"])
def test_another_seed_begins_elsewhere(tiny: Encoder, tuning: Tuning) -> None:
    one, other = (digest(initial_parameters(tiny, recipe(tuning, seed=s))) for s in (0, 1))
    assert one != other


@pytest.mark.parametrize("tuning", TUNINGS)
def test_the_same_seed_gives_the_same_model(tiny: Encoder, tuning: Tuning) -> None:
    torch.manual_seed(99)
    np.random.seed(99)  # nothing depends on global random state
    again = tune(toy_task(n=32), tiny, recipe(tuning))
    first = short(tiny, tuning, (GOOD, BAD))
    assert again.scores == first.scores
    for name, array in first.parameters.items():
        np.testing.assert_array_equal(again.parameters[name], array)


def test_a_prompt_begins_as_ordinary_words(tiny: Encoder) -> None:
    ids = prompt_vocabulary(tiny, 8, 0)
    words = pretrained(tiny)["embeddings.word_embeddings.weight"].detach().numpy()
    np.testing.assert_array_equal(tuned(tiny, "prompt").initial["prompt"], words[ids])
    assert len(set(ids.tolist())) == 8
    assert not set(ids.tolist()) & set(tiny.tokenizer.all_special_ids)
    assert len(prompt_vocabulary(tiny, 500, 0)) == 500


def test_a_tuning_can_start_where_another_ended(tiny: Encoder) -> None:
    source = tuned(tiny, "prompt")
    target = tune(toy_task(n=16), tiny, recipe("prompt", least_steps=1), start=source.parameters)
    np.testing.assert_array_equal(target.initial["prompt"], source.parameters["prompt"])
    # A scale that is multiplied into what is kept of LoRA is taken out again.
    lora = tuned(tiny, "lora")
    again = tune(toy_task(n=16), tiny, recipe("lora", least_steps=1), start=lora.parameters)
    for name, array in lora.parameters.items():
        np.testing.assert_allclose(again.initial[name], array, rtol=1e-6)


@pytest.mark.parametrize("tuning", ["full", "lora", "prompt", "bitfit"])
def test_a_target_does_not_begin_with_what_its_source_began_with(
    tiny: Encoder, tuning: Tuning
) -> None:
    """With one seed for both, a head drawn again points along what the source has learnt."""
    still = recipe(tuning, max_steps=1, learning_rate=1e-12, head_learning_rate=1e-12)
    task = toy_task(n=16)
    source = tune(task, tiny, still)

    def after(model: TunedModel, tunings: int) -> TunedModel:
        begin = {"start": model.parameters} if tuning == "prompt" else {"body": model.model.body}
        return tune(task, tiny, still, tunings_before=tunings, **begin)

    target = after(source, 1)
    third = after(target, 2)
    alone = tune(task, tiny, still)
    heads = [m.model.head.weight.detach().numpy() for m in (source, target, third)]
    np.testing.assert_allclose(alone.model.head.weight.detach().numpy(), heads[0], atol=1e-9)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(np.corrcoef(heads[i].ravel(), heads[j].ravel())[0, 1]) < 0.5
    if tuning == "lora":
        for name, array in source.initial.items():
            if name.endswith("lora_A"):
                assert not np.allclose(array, target.initial[name])
                assert not np.allclose(target.initial[name], third.initial[name])


def test_parameters_come_back_in_one_order(tiny: Encoder) -> None:
    """What is summed over layers rounds by their order, and safetensors has a new one each time."""
    data = to_bytes(short(tiny, "lora", (GOOD, BAD)))
    orders = {tuple(from_bytes(data, tiny).parameters) for _ in range(8)}
    assert len(orders) == 1
    assert len(orders.pop()) > 8


def test_a_start_of_another_shape_is_refused(tiny: Encoder) -> None:
    source = tuned(tiny, "prompt")
    for other in (recipe("prompt", prompt_length=9), recipe("lora")):
        with pytest.raises(ModelError, match="differ in"):
            tune(toy_task(n=16), tiny, other, start=source.parameters)


# -- what is changed ----------------------------------------------------------------------


def test_bitfit_changes_biases_only(tiny: Encoder) -> None:
    model = tuned(tiny, "bitfit")
    after = dict(model.model.body.named_parameters())
    for name, before in pretrained(tiny).items():
        same = torch.equal(before, after[name])
        assert same == (not name.endswith("bias") or name.startswith("pooler")), name
        if not same:
            np.testing.assert_array_equal(model.parameters[name], after[name].detach().numpy())
    assert all(n.endswith("bias") and not n.startswith("pooler") for n in model.parameters)


def test_head_changes_nothing_of_the_body(tiny: Encoder) -> None:
    model = tuned(tiny, "head")
    after = dict(model.model.body.named_parameters())
    assert all(torch.equal(p, after[n]) for n, p in pretrained(tiny).items())
    assert model.parameters == {}


def test_full_fine_tuning_is_told_by_its_task_vector(tiny: Encoder) -> None:
    model = tuned(tiny, "full")
    vector = task_vector(model, tiny)
    before, after = pretrained(tiny), dict(model.model.body.named_parameters())
    assert vector.keys() == {n for n in before if not n.startswith("pooler")}
    for name, array in vector.items():
        expected = (after[name] - before[name]).detach().numpy()
        np.testing.assert_array_equal(array, expected)
        assert array.any(), name


def test_a_task_vector_needs_the_weights_it_began_as(tiny: Encoder, tmp_path: Path) -> None:
    body = tiny_encoder(tmp_path / "other", seed=1).load_model()
    model = tune(toy_task(n=16), tiny, recipe("full", least_steps=1), body=body)
    with pytest.raises(ModelError, match="another model"):
        task_vector(model, tiny)


def test_lora_is_the_product_added_to_the_weights(tiny: Encoder) -> None:
    model = tuned(tiny, "lora")
    assert model.adapter is model.parameters
    assert tuned(tiny, "bitfit").adapter == {}
    expected = apply_adapter(tiny.load_model(), model.adapter)
    for name, p in model.model.body.named_parameters():
        torch.testing.assert_close(p, dict(expected.named_parameters())[name])


# -- checkpoints --------------------------------------------------------------------------


@pytest.mark.parametrize("tuning", ["full", "lora", "prompt", "p-tuning-v2", "bitfit"])
def test_checkpoints_lie_on_the_way(tiny: Encoder, tuning: Tuning) -> None:
    model = tuned(tiny, tuning)
    assert set(model.checkpoints) == {0.25, 0.75}
    early, late, end = (task_vector(model, tiny, at=f) for f in (0.25, 0.75, 1.0))

    def distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
        return sum(float(((a[k] - b[k]) ** 2).sum()) for k in a)

    assert early.keys() == end.keys()
    nothing = {k: np.zeros_like(a) for k, a in end.items()}
    assert distance(early, nothing) > 0
    assert 0 < distance(late, end) < distance(early, end)
    with pytest.raises(ModelError, match="No parameters were kept"):
        model.at(0.5)


def test_the_first_checkpoint_is_one_step_of_adam(tiny: Encoder) -> None:
    # Warm-up: the first of 20 steps at 6% of the way has rate 0, the second 1/2 of the full one.
    steps = recipe("bitfit", least_steps=20, batch_size=32, checkpoints=(0.01, 0.1))
    made = tune(toy_task(n=32), tiny, steps)
    assert all((a == made.initial[k]).all() for k, a in made.checkpoints[0.01].items())
    moved = np.concatenate(
        [(a - made.initial[k]).ravel() for k, a in made.checkpoints[0.1].items()]
    )
    # Adam's early steps are as long as the rate, whatever the gradient.
    rate = made.recipe.learning_rate / 2
    assert np.median(np.abs(moved[moved != 0])) == pytest.approx(rate, rel=0.3)


# -- prompts in the forward pass ------------------------------------------------------------


def batch_of(encoder: Encoder) -> dict[str, torch.Tensor]:
    rows = encoder.tokenize(["good film", "a bad book so dull"], ["the plot", "it was grim"])
    return encoder.pad(rows)


@pytest.mark.parametrize("place", ["prompt", "prefix"])
def test_a_prompted_body_is_a_hand_made_forward_pass(tiny: Encoder, place: str) -> None:
    batch = batch_of(tiny)
    assert batch["token_type_ids"].any()
    assert not batch["attention_mask"].all()
    body = with_prompt(tiny.load_model(), tiny, length=3, place=place, seed=0).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        out = body(**batch, output_hidden_states=True)
        expected = by_hand(body, batch)
    real = batch["attention_mask"].bool()
    assert out.last_hidden_state.shape == (*batch["input_ids"].shape, tiny.dimension)
    torch.testing.assert_close(out.last_hidden_state[real], expected[real], rtol=1e-4, atol=1e-4)
    assert all(h.shape == out.last_hidden_state.shape for h in out.hidden_states)
    torch.testing.assert_close(out.hidden_states[-1], out.last_hidden_state)
    torch.testing.assert_close(out.pooler_output, body.base.pooler(out.last_hidden_state))


def by_hand(body: PromptedBody, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """BERT, transcribed, with a prompt before the tokens or a prefix of keys and values."""
    bert, k = body.base, body.length
    n, length = batch["input_ids"].shape
    heads = bert.config.num_attention_heads
    width = bert.config.hidden_size // heads
    parts = bert.embeddings
    words, types = parts.word_embeddings(batch["input_ids"]), batch["token_type_ids"]
    positions = torch.arange(k, k + length)
    if body.place == "prompt":
        words = torch.cat([body.vectors.expand(n, -1, -1), words], 1)
        types = torch.cat([torch.zeros(n, k, dtype=torch.long), types], 1)
        positions = torch.arange(k + length)
    x = parts.LayerNorm(
        words + parts.token_type_embeddings(types) + parts.position_embeddings(positions)
    )
    mask = torch.cat([torch.ones(n, k, dtype=torch.long), batch["attention_mask"]], 1)

    def split(y: torch.Tensor) -> torch.Tensor:
        return y.reshape(n, -1, heads, width).transpose(1, 2)

    prefix = body.vectors.reshape(k, -1, 2, heads * width) if body.place == "prefix" else None
    for i, layer in enumerate(bert.encoder.layer):
        attention = layer.attention.self
        key, value = attention.key(x), attention.value(x)
        if prefix is not None:
            key = torch.cat([prefix[:, i, 0].expand(n, -1, -1), key], 1)
            value = torch.cat([prefix[:, i, 1].expand(n, -1, -1), value], 1)
        scores = split(attention.query(x)) @ split(key).transpose(2, 3) / width**0.5
        scores = scores.masked_fill(mask[:, None, None, :] == 0, -1e9)
        read = (scores.softmax(-1) @ split(value)).transpose(1, 2).reshape(n, x.shape[1], -1)
        out = layer.attention.output
        x = out.LayerNorm(out.dense(read) + x)
        inner = nn.functional.gelu(layer.intermediate.dense(x))
        x = layer.output.LayerNorm(layer.output.dense(inner) + x)
    return x if body.place == "prefix" else x[:, k:]


@pytest.mark.parametrize("tuning", ["prompt", "p-tuning-v2"])
def test_embeddings_under_a_prompt_do_not_depend_on_the_batch(
    tiny: Encoder, tuning: Tuning
) -> None:
    body = tuned(tiny, tuning).model.body
    texts = ["good", "a bad book so dull it was", "fine plot"]
    together = tiny.encode(texts, model=body)
    alone = np.concatenate([tiny.encode([t], model=body) for t in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(together - tiny.encode(texts)).max() > 0.01


@pytest.mark.parametrize("pooling", ["cls", "pooler", "last_token"])
def test_prompts_work_with_every_pooling(tiny: Encoder, pooling: str) -> None:
    encoder = Encoder(tiny.folder, pooling=pooling, precision="fp32", device="cpu")  # type: ignore[arg-type]
    assert tune(toy_task(n=32), encoder, recipe("prompt", least_steps=2)).scores


def test_prompts_and_the_mean_of_layers(tiny: Encoder) -> None:
    encoder = Encoder(tiny.folder, layers="mean", precision="fp32", device="cpu")
    for tuning in ("prompt", "p-tuning-v2"):
        assert tune(toy_task(n=32), encoder, recipe(tuning, least_steps=2)).scores


# -- encoders that cannot ---------------------------------------------------------------------


def test_an_encoder_without_room_for_the_prompt_is_refused(tiny: Encoder) -> None:
    with pytest.raises(ModelError, match="256"):
        tune(toy_task(n=16), tiny, recipe("prompt", prompt_length=250))


def test_other_encoders(tmp_path: Path) -> None:
    from transformers import LlamaConfig, MPNetConfig

    sizes = {
        "vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 256,
    }  # fmt: skip
    task = toy_task(n=16, words=(GOOD, TOPICS[0]))
    mpnet = tiny_encoder(tmp_path / "mpnet", config=MPNetConfig(**sizes, pad_token_id=0))
    with pytest.raises(ModelError, match="MPNetModel cannot be run with a prefix"):
        tune(task, mpnet, recipe("p-tuning-v2"))
    assert tune(task, mpnet, recipe("prompt", least_steps=1)).scores
    llama = tiny_encoder(
        tmp_path / "llama", config=LlamaConfig(**sizes, bos_token_id=2, eos_token_id=3)
    )
    with pytest.raises(ModelError, match="no biases"):
        tune(task, llama, recipe("bitfit"))
    assert tune(task, llama, recipe("p-tuning-v2", least_steps=1)).scores
