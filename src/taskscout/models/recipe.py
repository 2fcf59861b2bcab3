"""The recipe: how a task is tuned."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from taskscout.errors import ModelError

Tuning = Literal["full", "lora", "prompt", "p-tuning-v2", "bitfit", "head"]


@dataclass(frozen=True)
class _Defaults:
    """What a recipe takes where it says 0."""

    learning_rate: float
    head_learning_rate: float
    epochs: int = 2
    least_steps: int = 48
    prompt_length: int = 0


#: Rates found on real tasks with MiniLM; sizes bound a source to about a minute of one core.
_DEFAULTS: dict[Tuning, _Defaults] = {
    "full": _Defaults(1e-4, 1e-4),
    "lora": _Defaults(2e-3, 2e-3),
    "prompt": _Defaults(0.1, 1e-2, prompt_length=100),
    "p-tuning-v2": _Defaults(1e-2, 1e-2, prompt_length=20),
    "bitfit": _Defaults(2e-3, 2e-3),
    "head": _Defaults(1e-2, 1e-2),
}


#: Fields of a recipe that the first pools did not have.
_LATER = ("metric", "early_stopping", "report_to", "accumulation", "max_steps", "recompute")


@dataclass(frozen=True)
class Recipe:
    """How a task is tuned. One recipe serves a whole pool and is recorded in it.

    A 0 stands for the tuning's own default and is replaced by it at once.

    Attributes
    ----------
    tuning
        ``full``, ``lora``, ``prompt`` (vectors before the first layer's input: Lester et al.
        2021), ``p-tuning-v2`` (keys and values in every layer: Liu et al. 2022), ``bitfit``
        (biases: Ben Zaken et al. 2022) or ``head`` (nothing but the head).
    examples
        At most this many training examples.
    tokens
        At most this many training tokens per epoch, those of a prompt included, so that long
        texts cost no more than short ones; examples are dropped to fit.
    epochs, batch_size, learning_rate
        AdamW with a linear decay after 6% warm-up.
    least_steps
        Small tasks take more epochs (at most 20) until they have made so many steps.
    rank, alpha, modules
        LoRA only: rank, scaling numerator, and which linear layers are adapted
        (``all`` = query, key, value and dense; ``query-value`` = those two).
    seed
        Seeds the head, what the tuned parameters begin as, dropout and the order of examples.
    head_learning_rate
        The head's own; a prompt needs a rate at which a head would not settle.
    prompt_length
        Vectors in a prompt, or keys and values per layer of a prefix.
    checkpoints
        Fractions of the training steps, in (0, 1), after which the tuned parameters are kept.
    test_examples
        At most this many test examples are scored.
    dropout
        In the encoder and before the head; None for the encoder's own and 0.1, and for prompts
        and prefixes none: it drops what attends to them, a third of the time of a step on a CPU.
    metric
        What ``score`` is; empty for the kind's usual one. Classification:
        ``accuracy_and_macro_f1`` (their mean, the usual one), ``accuracy``, ``macro_f1``,
        ``matthews``. Regression: ``pearson_and_spearman``, ``pearson``, ``spearman``. Tagging:
        ``entity_f1`` where labels mark entities, else ``accuracy_and_macro_f1``; ``accuracy``,
        ``macro_f1``. Span QA: ``f1``, ``exact_match``. Multiple choice: ``accuracy``.
        Text-to-text: ``exact_match`` where completions are short, else ``rouge_l``.
    early_stopping
        Evaluations on the validation split, at least one per epoch and four in all, without a
        lower loss after which training ends; the best parameters are what is kept. 0 for none.
    report_to
        Where Trainer logs to, such as ``tensorboard`` or ``wandb``.
    accumulation
        Batches whose gradients are added up for a step.
    max_steps
        At most this many steps; 0 for as many as the epochs have.
    recompute
        Compute activations again in the backward pass rather than keep them (gradient
        checkpointing): a large model then fits, and a step takes a third longer.
    """

    tuning: Tuning = "lora"
    examples: int = 1500
    tokens: int = 60_000
    epochs: int = 0
    batch_size: int = 32
    learning_rate: float = 0.0
    least_steps: int = 0
    rank: int = 4
    alpha: int = 8
    modules: Literal["all", "query-value"] = "all"
    seed: int = 0
    head_learning_rate: float = 0.0
    prompt_length: int = 0
    checkpoints: tuple[float, ...] = ()
    test_examples: int = 500
    dropout: float | None = None
    metric: str = ""
    early_stopping: int = 0
    report_to: str = "none"
    accumulation: int = 1
    max_steps: int = 0
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.tuning not in _DEFAULTS:
            raise ModelError(
                f"tuning is {self.tuning!r}.",
                f"An encoder can be tuned by {', '.join(get_args(Tuning))}.",
                "Choose one of these.",
            )
        for name, value in vars(_DEFAULTS[self.tuning]).items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        fractions = tuple(sorted({float(c) for c in self.checkpoints}))
        if not all(0 < c < 1 for c in fractions):
            raise ModelError(
                f"checkpoints are {self.checkpoints}.",
                "A checkpoint is a fraction of the training steps, between 0 and 1.",
                "Leave 1 out: the end of training is always kept.",
            )
        object.__setattr__(self, "checkpoints", fractions)
        if self.dropout is None and self.tuning in ("prompt", "p-tuning-v2"):
            object.__setattr__(self, "dropout", 0.0)
        for name, least in (("early_stopping", 0), ("accumulation", 1), ("max_steps", 0)):
            if getattr(self, name) < least:
                raise ModelError(
                    f"{name} is {getattr(self, name)}.",
                    "It counts evaluations, batches or steps.",
                    f"Give {least} or more.",
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types.

        What came into recipes later is left out where it changes nothing, so that models kept
        under an older recipe are still found.
        """
        later = {f.name: f.default for f in fields(self) if f.name in _LATER}
        return {
            **{k: v for k, v in asdict(self).items() if k not in later or v != later[k]},
            "checkpoints": list(self.checkpoints),
        }

    def with_tuning(self, tuning: Tuning) -> Recipe:
        """Take the data, batches and seed of this recipe, and another tuning's own rest."""
        if tuning == self.tuning:
            return self
        own = dict.fromkeys((*vars(_DEFAULTS[tuning]),), 0)
        return replace(self, tuning=tuning, **own)  # type: ignore[arg-type]  # 0 is of both types
