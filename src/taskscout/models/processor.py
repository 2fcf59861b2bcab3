"""Training on a processor: attention and LoRA layers without the detours that cost half the time.

On a CPU a training step of a small encoder spends less in its matrix products than in what stands
between them: scores of attention widened by a mask of higher precision, copies that autocast makes,
a sum, a product and an addition for every LoRA layer. Both functions here compute what
transformers' plain attention and ``peft``'s LoRA layers compute, gradients included, in fewer
passes over memory (``benchmarks/training.py`` has the times).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

#: By this name transformers finds the attention.
ATTENTION = "taskscout"


def _precision(given: torch.Tensor) -> torch.dtype:
    """What autocast would compute in; without it, the given tensor's own."""
    kind = given.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else given.dtype


class _Attention(torch.autograd.Function):
    """softmax(Q K' scaling + mask) V with dropout on the weights."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float,
        dropout: float,
    ) -> torch.Tensor:
        """Attend; B × H × L × D in, B × L × H × D out."""
        kind, (b, h, rows, d) = _precision(value), query.shape
        with torch.autocast(query.device.type, enabled=False):
            q = (query.to(kind) * scaling).reshape(b * h, rows, d)
            k, v = (x.to(kind).reshape(b * h, -1, d) for x in (key, value))
            weights = torch.bmm(q, k.transpose(1, 2))
            if mask is not None:
                lowest = torch.finfo(kind).min
                weights.view(b, h, rows, -1).add_(mask.clamp(min=lowest).to(kind))
            weights = torch.softmax(weights, -1)
            noise = None
            used = weights
            if dropout:
                noise = torch.empty_like(weights).bernoulli_(1 - dropout).div_(1 - dropout)
                used = weights * noise
            out = torch.bmm(used, v)
        ctx.save_for_backward(q, k, v, weights, noise)
        ctx.scaling, ctx.kinds = scaling, (query.dtype, key.dtype, value.dtype)
        return out.view(b, h, rows, d).transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Differentiate by query, key and value."""
        q, k, v, weights, noise = ctx.saved_tensors
        b, rows, h, d = gradient.shape
        g = gradient.to(q.dtype).transpose(1, 2).reshape(b * h, rows, d)
        used = weights if noise is None else weights * noise
        by_value = torch.bmm(used.transpose(1, 2), g)
        by_weight = torch.bmm(g, v.transpose(1, 2))
        if noise is not None:
            by_weight.mul_(noise)
        by_score = torch._softmax_backward_data(by_weight, weights, -1, weights.dtype)
        by_query = torch.bmm(by_score, k).mul_(ctx.scaling)
        by_key = torch.bmm(by_score.transpose(1, 2), q)
        out = (
            x.view(b, h, -1, d).to(kind)
            for x, kind in zip((by_query, by_key, by_value), ctx.kinds, strict=True)
        )
        return *out, None, None, None


def attention(
    module: nn.Module,  # noqa: ARG001  # transformers gives it
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as transformers asks its attention functions to."""
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    apply: Any = _Attention.apply  # torch has no types for it
    return apply(query, key, value, attention_mask, scaling, dropout), None


def attend_plainly(body: Any) -> None:
    """Give a model this attention where it fits, else transformers' plain one.

    The fused one is slow in its backward pass on a CPU. Ours knows neither keys that several
    queries share nor a bias by position.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    if getattr(body.config, "model_type", "") not in ("bert", "roberta", "electra", "xlm-roberta"):
        body.set_attn_implementation("eager")
        return
    AttentionInterface.register(ATTENTION, attention)
    AttentionMaskInterface.register(ATTENTION, eager_mask)
    body.set_attn_implementation(ATTENTION)


class _LowRank(torch.autograd.Function):
    """x W' + bias + scaling (x A') B' with a frozen W."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """Map ... × in to ... × out."""
        kind = _precision(x)
        with torch.autocast(x.device.type, enabled=False):
            rows = x.reshape(-1, x.shape[-1]).to(kind)
            w, first, second = weight.to(kind), a.to(kind), (b * scaling).to(kind)
            out = rows @ w.t() if bias is None else torch.addmm(bias.to(kind), rows, w.t())
            low = rows @ first.t()
            out.addmm_(low, second.t())
        ctx.save_for_backward(rows, low, w, first, second)
        ctx.scaling, ctx.shape, ctx.kind = scaling, x.shape, x.dtype
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Differentiate by the input and the two factors."""
        rows, low, w, first, second = ctx.saved_tensors
        g = gradient.reshape(-1, gradient.shape[-1]).to(w.dtype)
        narrow = g @ second
        by_x = None
        if ctx.needs_input_grad[0]:
            by_x = (g @ w).addmm_(narrow, first).view(ctx.shape).to(ctx.kind)
        by_a = (narrow.t() @ rows).float()
        by_b = (low.t() @ g).t().float() * ctx.scaling
        return by_x, None, None, by_a, by_b, None


@contextlib.contextmanager
def lean_lora(body: nn.Module) -> Iterator[None]:
    """Lend ``peft``'s plain LoRA layers of a model one pass for their two products and the sum."""
    from peft.tuners.lora import Linear

    layers = []
    for module in body.modules():
        if not isinstance(module, Linear) or len(module.active_adapters) != 1:
            continue
        name, base = module.active_adapters[0], module.get_base_layer()
        plain = (
            isinstance(base, nn.Linear)
            and name in module.lora_A
            and name not in module.lora_variant
            and not base.weight.requires_grad
            and (base.bias is None or not base.bias.requires_grad)
            and module.lora_B[name].bias is None
            and not module.merged
            and isinstance(module.lora_dropout[name], nn.Identity)
        )
        if plain:
            layers.append((module, name, base))
    for module, name, base in layers:
        module.forward = _forward(module, name, base)
    try:
        yield
    finally:
        for module, _, _ in layers:
            del module.forward


def _forward(module: Any, name: str, base: nn.Linear) -> Any:
    a, b, scaling = module.lora_A[name], module.lora_B[name], float(module.scaling[name])
    apply: Any = _LowRank.apply  # torch has no types for it
    return lambda x: apply(x, base.weight, base.bias, a.weight, b.weight, scaling)
