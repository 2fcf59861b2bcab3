"""Embedding: taskscout against ``sentence-transformers`` and ONNX Runtime, same texts and weights.

    python -m benchmarks.embedding

Sides take turns in one process; every figure is a median. ONNX Runtime takes part where
``onnxruntime``, ``onnx`` and ``onnxscript`` are installed.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._data import catalogue
from benchmarks._report import markdown, publish
from taskscout import Encoder

SETS = {"short (tweets)": ("tweet_emotion", 1000), "long (film reviews)": ("imdb", 300)}
REPEATS = 5
Side = Callable[[list[str]], np.ndarray]


def onnx_side(encoder: Encoder) -> Side | None:
    """Export the model, and embed through ONNX Runtime with our batches and pooling."""
    if not all(importlib.util.find_spec(p) for p in ("onnxruntime", "onnx", "onnxscript")):
        return None
    import onnxruntime

    class Plain(torch.nn.Module):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            return self.model(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids
            ).last_hidden_state

    names = ["input_ids", "attention_mask", "token_type_ids"]
    model = encoder.load_model()
    model.set_attn_implementation("eager")
    example = tuple(torch.ones((2, 7), dtype=torch.int64) for _ in names)
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=2, max=512)
    path = Path(tempfile.mkdtemp()) / "model.onnx"
    torch.onnx.export(
        Plain(model), example, path, input_names=names, dynamo=True, verbose=False,
        dynamic_shapes=tuple({0: batch, 1: length} for _ in names),
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    takes = {i.name for i in session.get_inputs()}

    def side(texts: list[str]) -> np.ndarray:
        out = np.empty((len(texts), encoder.dimension), np.float32)
        rows = encoder.tokenize(texts)
        for chosen in encoder.batches(rows):
            padded = encoder.pad([rows[i] for i in chosen])
            given = {k: v.numpy() for k, v in padded.items() if k in takes}
            states = session.run(None, given)[0]
            mask = given["attention_mask"][..., None].astype(np.float32)
            out[chosen] = (states * mask).sum(1) / mask.sum(1)
        return out

    return side


def main() -> None:
    """Run and publish."""
    from sentence_transformers import SentenceTransformer

    folder = str(Encoder().folder)
    full, half = Encoder(precision="fp32"), Encoder(precision="bf16")
    peers = {}
    for name, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        peer = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": kind})
        peer.max_seq_length = full.max_length
        peers[name] = peer

    def theirs(kind: str) -> Side:
        return lambda texts: np.asarray(
            peers[kind].encode(texts, batch_size=32, show_progress_bar=False).astype(np.float32)
        )

    sides: dict[str, Side] = {
        "sentence-transformers, float32 (its default)": theirs("float32"),
        "sentence-transformers, bfloat16": theirs("bfloat16"),
        "taskscout, float32": full.encode,
        "taskscout, bfloat16 (default here)": half.encode,
    }
    onnx = onnx_side(full)
    if onnx is not None:
        sides["ONNX Runtime, float32"] = onnx
    rows, stored = [], {}
    for what, (name, n) in SETS.items():
        texts = catalogue().task(name).sample(n).inputs("train")[0]
        reference = full.encode(texts)
        reference /= np.linalg.norm(reference, axis=1, keepdims=True)
        seconds: dict[str, list[float]] = {s: [] for s in sides}
        cosine = {}
        for turn in range(REPEATS + 1):
            for side, embed in sides.items():
                start = time.perf_counter()
                out = embed(texts)
                if turn:  # the first warms up
                    seconds[side].append(time.perf_counter() - start)
                out = out / np.linalg.norm(out, axis=1, keepdims=True)
                cosine[side] = float((out * reference).sum(1).min())
        base = seconds["sentence-transformers, float32 (its default)"]
        for side in sides:
            ratio = statistics.median(b / s for b, s in zip(base, seconds[side], strict=True))
            rate = len(texts) / statistics.median(seconds[side])
            stored[f"{what}: {side}"] = {
                "texts_per_second": rate, "ratio": ratio, "least_cosine": cosine[side],
            }  # fmt: skip
            rows.append((what, side, f"{rate:.0f}", f"{ratio:.2f}×", f"{cosine[side]:.5f}"))
    columns = ("texts", "side", "texts a second", "against sentence-transformers", "least cosine")
    text = (
        "The same weights, texts, pooling (mean) and maximum length (128), on as many threads as "
        f"there are cores; medians of {REPEATS}, sides taking turns, ratios turn by turn. The last "
        "column is the least cosine between an embedding and ours in float32: all sides compute "
        "the same. MiniLM, 1,000 tweets and 300 film reviews. ONNX Runtime is no backend of "
        "taskscout: it would have to beat the second best line here to earn its place.\n\n"
        + markdown(columns, rows)
    )
    packages = ("sentence-transformers", "onnxruntime")
    publish("embedding", "Embedding against sentence-transformers", text, stored, *packages)


if __name__ == "__main__":
    main()
