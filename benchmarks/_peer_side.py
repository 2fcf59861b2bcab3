"""The peers' side of comparisons; runs in their environment (see ``_peers``)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._peers import serve

_held: dict[str, Any] = {}


def prepare(folder: str, file: str, maps: str) -> dict[str, Any]:
    """Load the encoder, the texts and the maps; hfselect pools by the folder's name."""
    import hfselect
    import torch
    from datasets import Dataset as HFDataset
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(1)
    link = Path("sentence-transformers") / "encoder"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(folder)
    data = np.load(file, allow_pickle=False)
    table = HFDataset.from_dict({"text": data["texts"].tolist(), "label": data["labels"].tolist()})
    _held["data"] = hfselect.Dataset(table, "text", "label", is_regression=False)
    _held["model"] = AutoModel.from_pretrained(link).eval()
    _held["tokenizer"] = AutoTokenizer.from_pretrained(link)
    kept = np.load(maps)
    weights = [
        np.float32(s * np.eye(len(b)) + v.astype(np.float64) @ u.astype(np.float64).T)
        for s, u, v, b in zip(
            kept["scale"], kept["inner"], kept["outer"], kept["offset"], strict=True
        )
    ]
    _held["weights"] = weights, kept["offset"].astype(np.float32)
    import hfselect.logme

    # Its compilation at first use is not counted.
    some = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    for rows in (some, some[:5]):
        hfselect.logme.LogME().fit(rows, np.arange(len(rows)) % 2)
    return {}


def _maps(count: int) -> list[Any]:
    import hfselect
    import torch

    weights, offsets = _held["weights"]
    out = []
    for i in range(count):
        esm = hfselect.ESM(architecture="linear", embedding_dim=len(offsets[0]))
        esm.model.weight.data = torch.from_numpy(weights[i % len(weights)].copy())
        esm.model.bias.data = torch.from_numpy(offsets[i % len(weights)].copy())
        out.append(esm)
    return out


def rank(count: int) -> dict[str, Any]:
    """Scores of so many sources; making the maps' objects is not counted."""
    import hfselect.esm_logme as module

    spent = {"embedding": 0.0, "logme": 0.0}

    def timed(name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            begun = time.process_time()
            out = function(*arguments, **options)
            spent[name] += time.process_time() - begun
            return out

        return call

    original = module.get_pooled_output, module.LogME.fit
    module.get_pooled_output = timed("embedding", original[0])
    module.LogME.fit = timed("logme", original[1])
    maps = _maps(count)
    wall, processor = time.perf_counter(), time.process_time()
    try:
        scores = module.compute_scores(
            _held["data"], _held["model"], maps, _held["tokenizer"], batch_size=128
        )
    finally:
        module.get_pooled_output, module.LogME.fit = original
    return {
        "seconds": time.perf_counter() - wall,
        "processor": time.process_time() - processor,
        "scores": [float(s) for s in scores],
        **{f"{k} processor": v for k, v in spent.items()},
    }


def logme(file: str, what: str, repeats: int = 1) -> dict[str, Any]:
    """Score features by ``hfselect``, ``ranker`` or ``ranker h-score``; processor seconds each."""
    import hfselect.logme
    import torch
    from transformer_ranker import estimators

    torch.set_num_threads(1)
    data = np.load(file)
    f, y = data["features"], data["labels"]
    spent, score = [], float("nan")
    for _ in range(repeats):
        begun = time.process_time()
        if what == "hfselect":
            score = float(hfselect.logme.LogME().fit(f, y))
        else:
            estimator = estimators.LogME() if what == "ranker" else estimators.HScore()
            score = float(estimator.fit(torch.from_numpy(f), torch.from_numpy(y)))
        spent.append(time.process_time() - begun)
    return {"score": score, "processor": float(np.median(spent))}


def fit(file: str) -> dict[str, Any]:
    """Train a map with hfselect's trainer on pairs; a new trainer each time."""
    import hfselect
    import torch

    torch.set_num_threads(1)
    data = np.load(file)
    pairs = hfselect.EmbeddingDataset(data["base"], data["tuned"])
    torch.manual_seed(0)
    wall, processor = time.perf_counter(), time.process_time()
    trainer = hfselect.ESMTrainer(learning_rate=1e-3)
    esm = trainer.train_with_embeddings(pairs, verbose=0)
    spent = time.perf_counter() - wall, time.process_time() - processor
    with torch.no_grad():
        guessed = esm(torch.from_numpy(data["held_base"])).numpy()
    error = float(((guessed - data["held_tuned"]) ** 2).sum(1).mean())
    return {"seconds": spent[0], "processor": spent[1], "error": error}


if __name__ == "__main__":
    serve(globals())
