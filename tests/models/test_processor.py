"""Attention and LoRA layers of a CPU, against transformers' and peft's own: values and gradients."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

from taskscout.models.processor import ATTENTION, attend_plainly, attention, lean_lora


def tiny(dropout: float = 0.0) -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=dropout,
        attn_implementation="eager",
    )
    return BertModel(config)


def with_lora(body: BertModel, **options):
    targets = r".*\.(query|key|value|dense)"
    config = LoraConfig(r=3, lora_alpha=6, target_modules=targets, **options)
    out = get_peft_model(body, config)
    torch.manual_seed(1)
    for name, parameter in out.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    return out


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(0, 50, (4, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    mask[2, 2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def outcome(model, *, half: bool):
    """States of the real tokens, and every gradient of a smooth function of them."""
    given = batch()
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=half)
    with autocast:
        states = model(**given).last_hidden_state.float()
    states = states * given["attention_mask"][..., None]
    (states**3).sum().backward()
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    model.zero_grad()
    return states.detach(), gradients


def same(ours, theirs, *, half: bool) -> None:
    relative = 5e-2 if half else 1e-4
    # The gradient of a key's bias is nothing but rounding.
    least = 1e-3 * max(float(g.abs().max()) for g in theirs[1].values())
    for mine, other in ((ours[0], theirs[0]), *((ours[1][k], theirs[1][k]) for k in theirs[1])):
        assert mine.dtype == other.dtype
        scale = float(other.abs().max())
        np.testing.assert_allclose(mine.numpy(), other.numpy(), atol=relative * max(scale, least))
    assert ours[1].keys() == theirs[1].keys()


@pytest.mark.parametrize("half", [False, True])
def test_attention_is_that_of_transformers(half):
    plain, body = tiny(), tiny()
    attend_plainly(body)
    assert body.config._attn_implementation == ATTENTION
    same(outcome(body, half=half), outcome(plain, half=half), half=half)


def test_attention_drops_weights_as_often_as_asked():
    """With values of one, an output is the sum of the weights that are left, over 1 - p."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 4, 3, 50, 8)
    v = torch.ones(4, 3, 50, 8, requires_grad=True)
    out, _ = attention(None, q, k, v, None, dropout=0.25)
    assert out.shape == (4, 50, 3, 8)
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)
    assert out.std().item() > 0.05
    out.sum().backward()
    # What a value gets back is what it gave: the same weights are dropped.
    assert v.grad.sum().item() == pytest.approx(out.sum().item(), rel=1e-4)
    assert attention(None, q, k, v, None)[0].std().item() < 1e-5


def test_keys_that_queries_share_take_the_plain_attention():
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=40,
    )
    body = LlamaModel(config)
    attend_plainly(body)
    assert body.config._attn_implementation == "eager"


@pytest.mark.parametrize("half", [False, True])
def test_lora_layers_are_those_of_peft(half):
    model = with_lora(tiny())
    theirs = outcome(model, half=half)
    before = copy.deepcopy(dict(model.state_dict()))
    with lean_lora(model):
        ours = outcome(model, half=half)
    assert len(ours[1]) == 2 * 2 * 6  # two factors, two layers, six linear layers in each
    same(ours, theirs, half=half)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    same(outcome(model, half=half), theirs, half=half)


@pytest.mark.parametrize("options", [{"lora_dropout": 0.5}, {"use_dora": True}, {"bias": "all"}])
def test_other_layers_are_left_to_peft(options):
    model = with_lora(tiny(), **options)
    with lean_lora(model):
        assert not any("forward" in vars(m) for m in model.modules())


def test_layers_are_given_back_after_an_error():
    model = with_lora(tiny())
    with pytest.raises(RuntimeError, match="in between"), lean_lora(model):
        assert any("forward" in vars(m) for m in model.modules())
        raise RuntimeError("in between")
    assert not any("forward" in vars(m) for m in model.modules())
