"""Task embeddings by empirical Fisher information (TaskEmb)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods.method import BaseMethod, Cost, Description, Factory, Material
from taskscout.methods.tuned_parameters import cosines, half, same_encoder, tuned_header
from taskscout.models.recipe import Recipe, Tuning
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task
from taskscout.tasks.kinds import SEQUENCE_KINDS, SOURCE_KINDS

if TYPE_CHECKING:
    import torch

Named = Mapping[str, NDArray[Any]]

#: Constant of reciprocal rank fusion.
FUSION = 60
#: Numbers held at a time while sources are compared.
_BATCH = 2**24
#: Tunings that leave the encoder's own layers to differentiate.
_TUNINGS = ("full", "lora", "bitfit", "head")


def fisher(
    model: Any,
    rows: Sequence[dict[str, Any]],
    labels: NDArray[Any] | None,
    *,
    collate: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]] | None = None,
    batch_size: int = 32,
    parameters: bool = True,
    per_example: bool = False,
) -> dict[str, NDArray[np.float64]]:
    """Diagonal empirical Fisher information of a tuned model on labelled examples.

    For every batch the gradient g of the mean loss is squared and the squares are summed over
    batches and divided by the number of examples. A layer's output counts by its gradient
    summed over the batch's examples and tokens, squared, divided by the number of tokens; the
    pooled output by its gradient summed over examples.

    Parameters
    ----------
    model
        Body and head; the head's own parameters are left out. Not changed.
    rows
        Token ids of n examples.
    labels
        n labels in the task's units.
    collate
        Makes a batch with labels of rows that hold their own, for models of other kinds than
        classification and regression; their outputs are not pooled.
    batch_size
        Examples whose gradients are summed before they are squared.
    parameters
        Whether to differentiate by the body's parameters too, or by outputs only.
    per_example
        Square every example's gradient; ``batch_size`` then says only how many examples run
        together, and is 1 where parameters are asked for.

    Returns
    -------
    Squares by component: ``parameter <name>``, ``layer <i>``, ``pooled``. Parameters that the
    prediction does not depend on are left out.
    """
    import torch

    encoder, body = model.encoder, model.body
    if per_example and (parameters or collate is not None):
        batch_size = 1
    model.to(encoder.device).eval()
    named = dict(body.named_parameters())
    flags = {name: p.requires_grad for name, p in named.items()}
    total: dict[str, torch.Tensor] = {}
    try:
        body.requires_grad_(parameters)
        # Gradients of outputs need a graph, and a graph needs something at its root.
        root: Any = body
        root.get_input_embeddings().weight.requires_grad_(True)
        for start in range(0, len(rows), batch_size):
            some = list(rows[start : start + batch_size])
            recorded = _recorder(body)
            pooled = {}
            if collate is None:
                assert labels is not None
                batch = encoder.pad(some)
                wanted = torch.from_numpy(labels[start : start + batch_size]).to(encoder.device)
                pooled = {"pooled": encoder.pooled(recorded, batch)}
                losses = _losses(model, model.head(pooled["pooled"]), wanted)
                loss = losses.sum() if per_example else losses.mean()
            else:
                batch = {k: v.to(encoder.device) for k, v in collate(some).items()}
                model.body = recorded
                loss = model(**batch)["loss"]
            outputs = {f"layer {i}": h for i, h in enumerate(recorded.layers, 1)}
            leaves = {f"parameter {n}": p for n, p in named.items()} if parameters else {}
            asked = {**leaves, **outputs, **pooled}
            found = torch.autograd.grad(loss, list(asked.values()), allow_unused=True)
            mask = batch["attention_mask"].flatten(0, -2).unsqueeze(-1)  # choices one by one
            for name, gradient in zip(asked, found, strict=True):
                if gradient is None:
                    continue
                if name in leaves:
                    square = gradient.float() ** 2
                elif name in outputs:
                    square = _square((gradient.float() * mask).sum(1), mask.sum(1), per_example)
                else:
                    square = _square(gradient.float(), None, per_example)
                total[name] = total[name] + square if name in total else square
    finally:
        model.body = body
        for name, parameter in named.items():
            parameter.requires_grad_(flags[name])
    return {k: t.cpu().numpy().astype(np.float64) / len(rows) for k, t in total.items()}


def _square(
    gradients: torch.Tensor, tokens: torch.Tensor | None, per_example: bool
) -> torch.Tensor:
    """Square gradients of examples (n × d) one by one, or their sum; divide by token counts."""
    if per_example:
        return (gradients**2 / (1 if tokens is None else tokens)).sum(0)
    return gradients.sum(0) ** 2 / (1 if tokens is None else tokens.sum())


def _recorder(body: torch.nn.Module) -> Any:
    """Make a body that remembers its layers' outputs."""
    import torch

    class Recorder(torch.nn.Module):
        layers: tuple[torch.Tensor, ...] = ()

        def forward(self, **batch: Any) -> Any:
            output = body(**{**batch, "output_hidden_states": True})
            self.layers = (*output.hidden_states[1:-1], output.last_hidden_state)
            return output

    return Recorder()


def _losses(model: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute the loss of every example, as :class:`~.heads.SequenceModel` has it."""
    from torch.nn import functional

    if model.regression:
        wanted = (labels.float() - model.center) / model.scale
        return functional.mse_loss(logits.squeeze(-1), wanted, reduction="none")
    return functional.cross_entropy(logits, labels.long(), reduction="none")


def fused_ranks(similarities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Reciprocal rank fusion of the columns of a table (n sources × components).

    The sum over components of 1 / (60 + rank), the most similar source at rank 1; ties share
    their mean rank, and NaN comes last. A component that a source does not have is minus infinity;
    the mean over those that it has stands for it.
    """
    from scipy.stats import rankdata

    ranks = rankdata(-np.nan_to_num(similarities, nan=-1e300, neginf=-np.inf), axis=0)
    there = similarities != -np.inf
    fused = np.where(there, 1.0 / (FUSION + ranks), 0.0)
    out: NDArray[np.float64] = fused.sum(1) * there.shape[1] / np.maximum(there.sum(1), 1)
    return out


class TaskEmbedding(BaseMethod):
    """TaskEmb: the diagonal Fisher information of the tuned encoder, component by component.

    How much the loss of a task depends on each parameter and on each layer's output says which
    parts of the encoder the task uses; tasks that use the same parts are taken to help one
    another. The encoder is fine-tuned on the task, then every batch's loss gradient g on the
    task's labelled training rows is squared:

        F_c = (1/n) sum_batches (g_c)^2        for every parameter tensor c,
        F_c = (1/n) sum_batches (sum over examples and tokens of g_c)^2 / tokens

    for every layer's output, and likewise for the pooled output of tasks of whole texts (tags,
    spans and choices have none); the head is left out. The
    components of source and target are compared one by one, sources are ranked by each, and

        score = sum_c 1 / (60 + rank_c).

    The square is that of a *batch's* mean gradient, as released (batches of 32), not the sum of
    per-example squares, which is another quantity: ``task-embedding-per-example``. Attention
    heads' outputs, a further component of the released code, are left out. Gold labels are used.
    Scores say nothing about a source alone: they depend on which others are ranked with it.

    *Options.* ``examples`` (1,000 training rows), ``batch_size``, ``tuning`` (``full`` as in the
    papers; ``lora`` differentiates the model with its adapter merged, which a pool has anyway).

    *Cost.* A fine-tuning and a backward pass per source and for the target; as many numbers as
    the encoder has parameters: 44 MB per source with MiniLM in half precision. Not in the
    built-in pool; made on demand for a pool of your own.

    *Fails* with few labels (the encoder is tuned on them) and between encoders (NaN). Compare
    ``task-embedding-outputs``, which keeps a few kB.

    *Reference.* Vu et al. 2020 (arXiv 2005.00770); ranks fused as in Schulte et al. 2024.
    """

    name = "task-embedding"
    aliases = ("TaskEmb", "Fisher")
    key = "task-embedding"
    kinds = SOURCE_KINDS
    needs = frozenset({"labels", "tuned target"})
    cost: Cost = "tuning"
    describes_from: Material = "own tuning"
    paper = "Vu et al. 2020"

    parameters: bool = True
    per_example: bool = False

    def __init__(
        self, *, examples: int = 1000, batch_size: int = 32, tuning: Tuning | None = "full"
    ) -> None:
        if tuning is not None and tuning not in _TUNINGS:
            rest = [t for t in get_args(Tuning) if t not in _TUNINGS]
            raise MethodError(
                f"tuning is {tuning!r}.",
                f"The Fisher information is that of the encoder's layers; {' and '.join(rest)} "
                "put other inputs before them."
                if tuning in rest
                else f"The encoder can be tuned by {', '.join(_TUNINGS)} here.",
                f"Use one of {', '.join(_TUNINGS)}.",
            )
        if examples < 1 or batch_size < 1:
            raise MethodError(
                f"examples is {examples} and batch_size {batch_size}.",
                "Both count training rows.",
                "Give numbers above 0.",
            )
        self.examples = examples
        self.batch_size = batch_size
        self.tuning = tuning

    def recipe(self, bench: Workbench) -> Recipe:
        """How a task is tuned for this method."""
        recipe = bench.recipe
        tuning = self.tuning or (recipe.tuning if recipe.tuning in _TUNINGS else "full")
        return recipe.with_tuning(tuning)

    def embed(self, task: Task, bench: Workbench) -> dict[str, NDArray[np.float64]]:
        """Fisher information by component, of the encoder tuned on the task."""
        recipe = self.recipe(bench)
        model = bench.tuned(task, recipe).model
        task = task.sample(self.examples)
        # Which examples share a batch has to depend on the examples alone.
        order = np.argsort(task._row_digests("train", key=b"fisher"), kind="stable").tolist()
        options: dict[str, Any] = {
            "batch_size": self.batch_size,
            "parameters": self.parameters,
            "per_example": self.per_example,
        }
        if task.kind in SEQUENCE_KINDS:
            rows = bench.encoder.tokenize(*task.inputs("train"))
            labels = task.labels("train")[order]
            return fisher(model, [rows[i] for i in order], labels, **options)
        from taskscout.models.objectives import objective_of

        objective = objective_of(task, bench.encoder, recipe)
        examples = objective.rows("train")
        windows = [row for i in order for row in examples[i]]
        return fisher(model, windows, None, collate=objective.collate, **options)

    def describe(self, source: Task, bench: Workbench) -> Description:
        """Tune the encoder on the source and keep the squares, in half precision by component."""
        arrays: dict[str, NDArray[np.float16]] = {}
        scales: dict[str, float] = {}
        for name, squares in self.embed(source, bench).items():
            halved, scales[name] = half({name: squares})
            arrays.update(halved)
        header = {
            **tuned_header(source, bench.tuned(source, self.recipe(bench)), bench),
            "examples": min(self.examples, source.tables["train"].num_rows),
            "batch_size": self.batch_size,
            "scales": scales,
        }
        return Description(self.key, source.name, header, arrays)

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        """Fused ranks per source.

        NaN for a source of another encoder, tuning, batch size or set of components.
        """
        out = np.full(len(sources), np.nan)
        tuning = self.recipe(bench).tuning
        rows = [
            i
            for i in same_encoder(sources, bench)
            if sources[i].header["tuning"] == tuning
            and (self.per_example or sources[i].header["batch_size"] == self.batch_size)
        ]
        if not rows:
            return out
        own = {name: squares.ravel() for name, squares in self.embed(target, bench).items()}
        count = max(1, _BATCH // sum(a.size for a in own.values()))
        table = np.full((len(sources), len(own)), np.nan)
        fit: list[int] = []
        for start in range(0, len(rows), count):
            read = {i: sources[i].arrays for i in rows[start : start + count]}
            chosen = [i for i, arrays in read.items() if _alike(arrays, own)]
            fit += chosen
            for column, (name, squares) in enumerate(own.items()):
                having = [i for i in chosen if name in read[i]]
                table[chosen, column] = -np.inf
                if having:
                    stacked = np.stack([read[i][name].ravel() for i in having])
                    table[having, column] = cosines(stacked, squares)
        if fit:
            out[fit] = fused_ranks(table[fit])
        return out


def _alike(arrays: Named, own: Named) -> bool:
    """Whether components are the same, but for the pooled output, which not all kinds have."""
    sizes, own_sizes = ({k: a.size for k, a in of.items()} for of in (arrays, own))
    if not {"pooled"} <= sizes.keys() & own_sizes.keys():
        sizes.pop("pooled", None)
        own_sizes.pop("pooled", None)
    return sizes == own_sizes


class TaskEmbeddingPerExample(TaskEmbedding):
    """TaskEmb with every example's gradient squared by itself: the empirical Fisher proper.

    As ``task-embedding``, but

        F_c = (1/n) sum_examples (g_c)^2,

    so that gradients of opposite examples add up and do not cancel, and the batch size plays no
    part. Near the end of training a batch's mean gradient is small where its examples disagree;
    the per-example square still shows that the parameter matters.

    *Options.* As ``task-embedding`` (``batch_size`` has no effect).

    *Cost.* As ``task-embedding``, with one backward pass per example: slower by the factor that
    batching saves. 44 MB per source with MiniLM.

    *Fails* as ``task-embedding`` does.

    *Reference.* Vu et al. 2020 (arXiv 2005.00770) and Task2Vec (Achille et al. 2019) define it
    so; the released code squares batch gradients.
    """

    name = "task-embedding-per-example"
    key = "task-embedding-per-example"
    per_example = True


class TaskEmbeddingOutputs(TaskEmbedding):
    """TaskEmb by layer outputs only: what the loss asks of every layer, in a few kB.

    As ``task-embedding``, with the outputs' components alone: one vector of d squares per layer
    and one for the pooled output,

        F_l = (1/n) sum_batches (sum over examples and tokens of g_l)^2 / tokens,
        score = sum_l 1 / (60 + rank_l).

    This is *not* the papers' method, which compares every parameter tensor too; it is the part
    of it that fits into a pool. By default the workbench's own tuned model is differentiated
    (``tuning=None``), so a source that is in a pool costs one backward pass more; and 256 examples
    are taken in batches of 8, which makes as many squares as 1,000 in batches of 32, at a quarter
    of the cost.

    *Options.* ``examples``, ``batch_size``, ``tuning``.

    *Cost.* A backward pass without weight gradients per source and for the target, which has to
    be tuned; 5 kB per source with MiniLM.

    *Fails* as ``task-embedding`` does; the outputs of neighbouring layers say much the same, so
    fewer independent opinions are fused.

    *Reference.* After Vu et al. 2020 (arXiv 2005.00770).
    """

    name = "task-embedding-outputs"
    key = "task-embedding-outputs"
    describes_from: Material = "tuned model"
    parameters = False

    def __init__(
        self, *, examples: int = 256, batch_size: int = 8, tuning: Tuning | None = None
    ) -> None:
        super().__init__(examples=examples, batch_size=batch_size, tuning=tuning)


METHODS: dict[str, Factory] = {
    "task-embedding": TaskEmbedding,
    "task-embedding-per-example": TaskEmbeddingPerExample,
    "task-embedding-outputs": TaskEmbeddingOutputs,
}
