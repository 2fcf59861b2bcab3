"""Text-to-text: masks, losses, generation and prompts of tiny language models; templates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from taskscout.errors import DataError, ModelError
from taskscout.models import adapting
from taskscout.models.adapting import adapted, apply_adapter
from taskscout.models.encoder import Encoder
from taskscout.models.objectives import load_body, predict
from taskscout.models.objectives.text_to_text import LanguageModel, TextToText
from taskscout.models.prompts import PromptedLanguageModel, with_language_prompt
from taskscout.models.recipe import Recipe, Tuning
from taskscout.models.rendering import Template, as_text_to_text
from taskscout.models.tuning import tune
from taskscout.tasks import Task
from tests.models.test_objectives import toy_choices, toy_spans, toy_tags
from tests.tiny import FILLER, TOPICS, VOCABULARY, tiny_encoder, toy_task

RECIPE = Recipe(learning_rate=1e-2, batch_size=16, least_steps=60, test_examples=40)
FULL = replace(RECIPE, tuning="full", learning_rate=5e-3, least_steps=80)


def language_model(folder: Path, kind: str) -> Encoder:
    """A tiny language model with the vocabulary of the tiny encoder."""
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        GPT2Config,
        LlamaConfig,
        T5Config,
    )

    tiny_encoder(folder)
    words = len(VOCABULARY)
    torch.manual_seed(0)
    if kind == "t5":
        config: Any = T5Config(
            vocab_size=words, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2,
            decoder_start_token_id=0, pad_token_id=0, eos_token_id=3, dropout_rate=0.0,
        )  # fmt: skip
        model = AutoModelForSeq2SeqLM.from_config(config)
    else:
        config = {
            "llama": LlamaConfig(
                vocab_size=words, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                num_key_value_heads=2, intermediate_size=64, max_position_embeddings=256,
                bos_token_id=2, eos_token_id=3, pad_token_id=0, initializer_range=0.1,
            ),
            "gpt2": GPT2Config(
                vocab_size=words, n_embd=32, n_layer=2, n_head=2, n_positions=256,
                bos_token_id=2, eos_token_id=3, pad_token_id=0, initializer_range=0.1,
                resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            ),
        }[kind]  # fmt: skip
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    return Encoder(folder, max_length=32, precision="fp32", device="cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Encoder]]:
    folder = tmp_path_factory.mktemp("language models")
    return {kind: language_model(folder / kind, kind) for kind in ("t5", "llama", "gpt2")}


KINDS = ("t5", "llama", "gpt2")


def toy_texts(n: int = 64, *, shuffled: bool = False) -> Task:
    """An animal is a cat, a vehicle is a bus."""
    rng = np.random.default_rng(0)
    tables = {}
    for split in ("train", "test"):
        of = rng.integers(2, size=n)
        prompts = [
            " ".join([*rng.choice(FILLER, 5), str(rng.choice(TOPICS[c])), "so this is"])
            for c in of.tolist()
        ]
        if shuffled and split == "train":
            of = rng.permutation(of)
        answers = [("a cat", "the bus")[c] for c in of.tolist()]
        tables[split] = pa.table({"prompt": prompts, "completion": answers})
    return Task("what", "text_to_text", tables)


# -- learning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_can_be_learnt_is_learnt_and_nothing_else(
    models: dict[str, Encoder], kind: str
) -> None:
    made = tune(toy_texts(), models[kind], FULL)
    assert made.scores["score"] == made.scores["exact_match"] > made.scores["baseline"] + 0.25
    assert made.scores["rouge_l"] >= made.scores["exact_match"]
    said, scores = predict(made, toy_texts(), models[kind])
    assert set(said) <= {"a cat", "the bus"}
    assert scores["exact_match"] == np.mean(
        [a == b for a, b in zip(said, toy_texts().column("test", "completion"), strict=True)]
    )
    blind = tune(toy_texts(shuffled=True), models[kind], FULL).scores
    assert blind["score"] < 0.75 < made.scores["score"]  # two answers: 0.5 by chance


@pytest.mark.parametrize(
    ("kind", "tuning"),
    [("t5", "lora"), ("t5", "prompt"), ("llama", "lora"), ("llama", "prompt"), ("gpt2", "prompt"),
     ("gpt2", "bitfit")],
)  # fmt: skip
def test_few_parameters_lower_the_loss(
    models: dict[str, Encoder], kind: str, tuning: Tuning
) -> None:
    encoder, task = models[kind], toy_texts()
    steps = replace(
        RECIPE.with_tuning(tuning), prompt_length=4 if tuning == "prompt" else 0,
        learning_rate={"lora": 2e-2, "prompt": 0.5, "bitfit": 5e-2}[tuning], least_steps=24,
    )  # fmt: skip
    rows = [row for (row,) in TextToText(task, encoder, steps).rows("test")]
    batch = TextToText(task, encoder, steps).collate(rows)

    def loss_of(body: Any) -> float:
        with torch.no_grad():
            return float(LanguageModel(body.eval())(**batch)["loss"])

    body = load_body(task, encoder)
    before = {n: p.clone() for n, p in body.state_dict().items()}
    first = loss_of(adapted(body, encoder, steps))
    made = tune(task, encoder, steps)
    assert loss_of(made.model.body) < first - (0.1 if tuning == "prompt" else 0.3)
    assert made.trained_on == 64
    if tuning == "prompt":
        base = made.model.body.base.state_dict()
        assert all(torch.equal(p, base[n]) for n, p in before.items())
        assert made.parameters["prompt"].shape == (4, 32)
        again = tune(task, encoder, replace(steps, max_steps=1), start=made.parameters)
        np.testing.assert_array_equal(again.initial["prompt"], made.parameters["prompt"])
    if tuning == "lora":
        merged = apply_adapter(load_body(task, encoder), made.adapter).state_dict()
        for name, p in made.model.body.state_dict().items():
            torch.testing.assert_close(p, merged[name])


# -- masks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_on_the_completion_only(models: dict[str, Encoder], kind: str) -> None:
    encoder = models[kind]
    table = pa.table(
        {"prompt": ["it was the cat so", "a"], "completion": ["good", "very bad film"]}
    )
    objective = TextToText(Task("t", "text_to_text", {"train": table}), encoder, RECIPE)
    rows = [row for (row,) in objective.rows("train")]
    ids = encoder.tokenizer.convert_tokens_to_ids
    for row, words, said in zip(
        rows, (["it", "was", "the", "cat", "so"], ["a"]), (["good"], ["very", "bad", "film"]),
        strict=True,
    ):  # fmt: skip
        wanted = [*ids(said), encoder.tokenizer.sep_token_id]
        if kind == "t5":
            assert row["input_ids"] == [2, *ids(words), 3]
            assert row["labels"] == wanted
        else:
            assert row["input_ids"] == ids(words) + wanted
            assert row["labels"] == [-100] * len(words) + wanted
    model = LanguageModel(load_body(objective.task, encoder))
    batch = objective.collate(rows)
    with torch.no_grad():
        out = model(**batch)
    # Mean negative log-likelihood of the completions' tokens, each read off by hand.
    losses = []
    for i, row in enumerate(rows):
        logs = out["logits"][i].log_softmax(-1)
        said = [(at, t) for at, t in enumerate(row["labels"]) if t != -100]
        shift = 0 if kind == "t5" else 1
        losses += [-float(logs[at - shift, token]) for at, token in said]
    assert len(losses) == 2 + 4
    assert float(out["loss"]) == pytest.approx(np.mean(losses), rel=1e-5)


def test_what_is_too_long_is_cut_where_it_hurts_least(models: dict[str, Encoder]) -> None:
    table = pa.table({"prompt": ["it " * 40 + "is good"], "completion": ["very bad"]})
    task = Task("t", "text_to_text", {"train": table})
    ids = models["llama"].tokenizer.convert_tokens_to_ids
    ((row,),) = TextToText(task, models["llama"], RECIPE).rows("train")
    assert len(row["input_ids"]) == 32
    assert row["input_ids"][-5:] == [*ids(["is", "good", "very", "bad"]), 3]
    ((row,),) = TextToText(task, models["t5"], RECIPE).rows("train")
    assert row["input_ids"] == [2, *ids(["it"]) * 30, 3]


# -- generation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompted", [False, True])
def test_generation_is_greedy_decoding_by_hand(
    models: dict[str, Encoder], kind: str, prompted: bool
) -> None:
    encoder = models[kind]
    prompts = ["it was the cat so", "a", "the bus is very good and"]
    table = pa.table({"prompt": prompts, "completion": ["good film so bad"] * 3})
    task = Task("t", "text_to_text", {"train": table, "test": table})
    objective = TextToText(task, encoder, RECIPE)
    body = load_body(task, encoder)
    # As they are made, tiny models write the token they have just read on and on.
    torch.manual_seed(1)
    body.lm_head = torch.nn.Linear(32, len(VOCABULARY), bias=False)
    if prompted:
        body = with_language_prompt(body, encoder, length=3, seed=0)
        assert {n for n, p in body.named_parameters() if p.requires_grad} == {
            n for n, p in body.named_parameters() if p is body.vectors
        }
    said = objective.predict(LanguageModel(body), "test")
    expected = [by_hand(body.eval(), objective, prompt) for prompt in prompts]
    assert said == expected
    assert any(said)


@torch.no_grad()
def by_hand(body: Any, objective: TextToText, prompt: str) -> str:
    """One prompt at a time, without padding or cache."""
    tokenizer = objective.encoder.tokenizer
    read = torch.tensor([objective.prompt_ids(prompt, 32 - objective.longest)])
    ones = torch.ones_like(read)
    written: list[int] = []
    while len(written) < objective.longest:
        if objective.is_causal:
            text = torch.cat([read, torch.tensor([written], dtype=torch.long)], 1)
            logits = body(input_ids=text, attention_mask=torch.ones_like(text)).logits
        else:
            begin = torch.tensor([[0, *written]])
            logits = body(input_ids=read, attention_mask=ones, decoder_input_ids=begin).logits
        written.append(int(logits[0, -1].argmax()))
        if written[-1] == objective.end:
            break
    return tokenizer.decode(written, skip_special_tokens=True).strip()


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_of_words_is_those_words(models: dict[str, Encoder], kind: str) -> None:
    """A soft prompt that is the embeddings of tokens says what the tokens would."""
    encoder = models[kind]
    body = load_body(toy_texts(4), encoder).eval()
    begin, rest = torch.tensor([[7, 9]]), torch.tensor([[8, 12, 11]])
    labels = torch.tensor([[-100, 12, 11]])
    whole = torch.cat([begin, rest], 1)
    of_whole = labels if kind == "t5" else torch.cat([torch.full_like(begin, -100), labels], 1)
    with torch.no_grad():
        expected = body(input_ids=whole, attention_mask=torch.ones_like(whole), labels=of_whole)
        prompted = PromptedLanguageModel(body, 2).eval()
        prompted.vectors.copy_(body.get_input_embeddings().weight[begin[0]])
        out = prompted(input_ids=rest, attention_mask=torch.ones_like(rest), labels=labels)
    torch.testing.assert_close(out.loss, expected.loss)
    torch.testing.assert_close(out.logits, expected.logits)


# -- metrics --------------------------------------------------------------------------------------


def test_rouge_is_rouge_scores(models: dict[str, Encoder]) -> None:
    wanted = ["the cat was very good and so was the film"] * 2
    table = pa.table({"prompt": ["it"] * 2, "completion": wanted})
    task = Task("t", "text_to_text", {"train": table, "test": table})
    objective = TextToText(task, models["t5"], RECIPE)
    assert objective.metric == "rouge_l"
    # The longest common subsequence of the first has 4 words of 10 and of 5.
    scores = objective.measures("test", ["cat very good film dog", wanted[0]])
    assert scores["rouge_l"] == pytest.approx((2 * 4 / 15 + 1) / 2)
    assert scores["exact_match"] == 0.5
    assert objective.scores("test", wanted)["baseline"] == 1


# -- refusals ---------------------------------------------------------------------------------------


def test_an_encoder_makes_no_text(tiny: Encoder) -> None:
    with pytest.raises(ModelError, match="makes no text"):
        tune(toy_texts(8), tiny, RECIPE)


def test_a_body_alone_makes_no_text(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=32,
    )  # fmt: skip
    with pytest.raises(ModelError, match="lacks weights"):
        tune(toy_texts(8), tiny_encoder(tmp_path / "body", config=config), RECIPE)


@pytest.mark.parametrize("tuning", ["head", "p-tuning-v2"])
def test_tunings_without_sense_are_refused(models: dict[str, Encoder], tuning: Tuning) -> None:
    with pytest.raises(ModelError, match="can be tuned by full, lora, prompt, bitfit"):
        tune(toy_texts(8), models["t5"], Recipe(tuning=tuning))


def test_layers_that_are_not_there_are_refused(
    models: dict[str, Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(adapting._MODULES, "all", r".*no_such_layer")
    with pytest.raises(ModelError, match="none of the layers"):
        tune(toy_texts(8), models["gpt2"], RECIPE)
    with pytest.raises(ModelError, match="no biases"):
        tune(toy_texts(8), models["t5"], Recipe(tuning="bitfit"))


# -- templates ------------------------------------------------------------------------------------


def test_any_kind_is_rendered() -> None:
    pair = as_text_to_text(toy_task("same", n=4, pairs=True))
    prompt, completion = (pair.column("test", c)[0] for c in ("prompt", "completion"))
    assert prompt.startswith("same sentence1: ")
    assert " sentence2: " in prompt
    assert completion in ("class 0", "class 1")
    spans = as_text_to_text(toy_spans(n=6, unanswerable=True))
    assert spans.column("train", "completion")[0] == "unanswerable"
    assert set(spans.column("train", "completion")[1:3]) <= set(TOPICS[0])
    tags = toy_tags(n=3)
    rendered = as_text_to_text(tags)
    for tokens, completion in zip(
        tags.column("train", "tokens"), rendered.column("train", "completion"), strict=True
    ):
        assert len(completion.split()) == len(tokens)
    choices = toy_choices(n=4)
    rendered = as_text_to_text(choices)
    for options, label, prompt, completion in zip(
        *(choices.column("train", c) for c in ("choices", "label")),
        *(rendered.column("train", c) for c in ("prompt", "completion")),
        strict=True,
    ):
        assert completion == options[label]
        assert all(f"({letter}) {o}" in prompt for letter, o in zip("abcd", options, strict=False))
    assert rendered.kind == "text_to_text"
    assert as_text_to_text(rendered) is rendered


def test_numbers_are_rounded_to_a_25th_of_their_range() -> None:
    table = pa.table({"text": ["a", "b", "c"], "label": [0.0, 2.87, 5.0]})
    made = as_text_to_text(Task("stsb", "regression", {"train": table}))
    assert made.column("train", "completion") == ["0.00", "2.80", "5.00"]


def test_a_template_can_be_given_and_is_checked() -> None:
    task = toy_task("films", n=4)
    mine = as_text_to_text(task, Template("{text} Is it one of {labels}?"))
    text = task.column("train", "text")[0]
    assert mine.column("train", "prompt")[0] == f"{text} Is it one of class 0, class 1?"
    with pytest.raises(DataError, match="names 'passage'"):
        as_text_to_text(task, Template("{passage}"))


def test_a_rendered_task_is_learnt(models: dict[str, Encoder]) -> None:
    task = as_text_to_text(toy_task("x", words=TOPICS, n=64))
    scores = tune(task, models["t5"], FULL).scores
    assert scores["exact_match"] > scores["baseline"] + 0.1
