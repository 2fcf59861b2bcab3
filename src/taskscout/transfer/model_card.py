"""The model card: what the model is, what it was trained through, how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from taskscout.tasks import Task, TaskCard
from taskscout.transfer.comparison import Comparison
from taskscout.transfer.result import Transfer

#: The hub's name for what a model of each kind does, and the class that loads one.
_PIPELINES = {
    "classification": "text-classification",
    "regression": "text-classification",
    "tagging": "token-classification",
    "span_qa": "question-answering",
    "multiple_choice": "text-classification",
    "text_to_text": "text-generation",
}
_CLASSES = {
    "tagging": "AutoModelForTokenClassification",
    "span_qa": "AutoModelForQuestionAnswering",
    "text_to_text": "AutoModelForCausalLM  # or AutoModelForSeq2SeqLM, as the model has it",
}
_PACKAGES = ("taskscout", "torch", "transformers", "peft", "numpy")


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    out = {}
    for package in _PACKAGES:
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            continue
    return out


def today() -> str:
    """The date, in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d")


def result_json(
    target: Task,
    runs: Sequence[Transfer],
    comparison: Comparison | None,
    *,
    chosen: Mapping[str, Any],
    sources: Sequence[TaskCard],
    recipe: Mapping[str, Any],
    encoder: str,
    command: str,
    notes: Sequence[str] = (),
    decision: Mapping[str, Any] | None = None,
) -> str:
    """Everything that is known of a training, as JSON."""
    return json.dumps(
        {
            "command": command,
            "date": today(),
            "versions": versions(),
            "encoder": encoder,
            "target": {
                "name": target.name,
                "kind": target.kind,
                "rows": {s: t.num_rows for s, t in target.rows()},
                "label_names": list(target.label_names),
            },
            "sources": [card.to_dict() for card in sources],
            "recipe": dict(recipe),
            "chosen": dict(chosen),
            "decision": decision,
            "comparison": None if comparison is None else comparison.to_dict(),
            "runs": [run.to_dict() for run in runs],
            "notes": list(notes),
        },
        indent=1,
        ensure_ascii=False,
        default=str,
    )


def model_card(
    target: Task,
    runs: Sequence[Transfer],
    comparison: Comparison | None,
    *,
    chosen: Mapping[str, Any],
    sources: Sequence[TaskCard],
    encoder: str,
    command: str,
    form: str,
    adapter: bool = False,
    notes: Sequence[str] = (),
    decision: Mapping[str, Any] | None = None,
) -> str:
    """The text of ``README.md``.

    Parameters
    ----------
    target
        What the model is for.
    runs, comparison
        What was trained, and what came of it.
    chosen
        ``strategy``, ``seed`` and ``why`` of the model in the folder.
    sources
        Cards of the sources, whose licences are stated.
    encoder
        The model that everything started from.
    command
        What was typed.
    form
        ``native``, ``own``, ``peft``, ``weights`` or ``none``: what loads the folder.
    adapter
        Whether LoRA factors are kept beside the model.
    notes
        Lines for the user.
    decision
        How the source was chosen, where nobody named it
        (:meth:`taskscout.transfer.choosing.Decision.to_dict`).
    """
    used = chosen["strategy"] != "none"
    front = {
        "library_name": "transformers",
        "base_model": encoder,
        "tags": ["taskscout", "transfer-learning"],
        "pipeline_tag": _PIPELINES[target.kind],
    }
    lines = ["---", *(f"{k}: {json.dumps(v, ensure_ascii=False)}" for k, v in front.items()), "---"]
    lines += ["", f"# {target.name}", ""]
    names = ", ".join(card.name for card in sources) or "no source"
    by = {
        "none": "fine-tuned on the target alone",
        "sequential": f"fine-tuned on {names} first, then on the target",
        "multitask": f"fine-tuned on {names} together, then on the target",
        "zero_shot": f"not trained on the target; it answers by way of {names}",
    }[chosen["strategy"]]
    what = f"{encoder}, {by}"
    tuning = next((r.tuning for r in runs if r.strategy == chosen["strategy"]), "")
    lines += [f"{what} (tuning: {tuning}, seed {chosen['seed']}). {chosen['why']}", ""]
    if target.label_names:
        lines += ["Labels: " + ", ".join(f"`{n}`" for n in target.label_names) + ".", ""]
    lines += ["## Load it", "", *_loading(form, target.kind)]
    if adapter:
        lines += [line.replace("BASE", encoder) for line in _ADAPTER]
    lines += [""]
    lines += ["## Scores", "", *_scores(runs, comparison), ""]
    if decision is not None:
        lines += ["## How the source was chosen", "", *_choice(decision), ""]
    lines += ["## Sources and licences", ""]
    if sources:
        lines += ["| source | licence | commercial use | where | used in this model |"]
        lines += ["|---|---|---|---|---|"]
        lines += [
            f"| {c.name} | {_cell(c.licence or 'not stated')} | {c.commercial} | "
            f"{_cell(c.hub_id or c.homepage or 'not stated')} | {'yes' if used else 'no'} |"
            for c in sources
        ]
        lines += [""]
    licence = target.card.licence or "not stated: it is yours to know"
    lines += [f"Target: {target.name}; licence {licence}.", ""]
    citations = [c.citation for c in sources if c.citation]
    if citations:
        lines += ["Cite: " + "; ".join(dict.fromkeys(citations)) + ".", ""]
    if notes:
        lines += ["## Notes", "", *(f"- {note}" for note in notes), ""]
    lines += ["## Command", "", "```bash", command, "```", ""]
    by_version = ", ".join(f"{k} {v}" for k, v in versions().items())
    lines += [f"{today()} · {by_version}. All figures: `result.json`.", ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    """A text that fits into one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def _loading(form: str, kind: str) -> list[str]:
    if form == "none":
        return ["This folder holds no model: no single one gave the answers. See `result.json`."]
    if form == "weights":
        return [
            "No folder that loads could be made of this model (see the notes). Its trained weights "
            "are in `weights.safetensors`: names that begin with `body.` are those of the "
            "encoder's class in transformers, `head.` is a linear layer.",
        ]
    if form == "peft":
        return [
            "A prompt for the base model, as peft keeps it:",
            "",
            "```python",
            "from peft import AutoPeftModelForCausalLM  # or AutoPeftModelForSeq2SeqLM",
            "",
            'model = AutoPeftModelForCausalLM.from_pretrained("FOLDER")',
            "```",
        ]
    if form == "native":
        name, _, remark = _CLASSES.get(kind, "AutoModelForSequenceClassification").partition("  ")
        return [
            "```python",
            f"from transformers import {name}, AutoTokenizer" + (f"  {remark}" if remark else ""),
            "",
            f'model = {name}.from_pretrained("FOLDER")',
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
            "```",
        ]
    auto = _CLASSES.get(kind, "AutoModelForSequenceClassification")
    allowed = [
        "```python",
        f"from transformers import {auto}, AutoTokenizer",
        "",
        f'model = {auto}.from_pretrained("FOLDER", trust_remote_code=True)',
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER", trust_remote_code=True)',
        "```",
    ]
    if kind in _CLASSES:
        return [
            "What this model reads beside the last layer is in no class of transformers, so its "
            "class (`modeling_taskscout.py`) is in the folder, and you have to allow it:",
            "",
            *allowed,
        ]
    return [
        "With taskscout, which runs no code of this folder:",
        "",
        "```python",
        "import taskscout",
        "",
        'model = taskscout.load("FOLDER")',
        'model.predict(["a text"])',
        "```",
        "",
        "Without taskscout: the pooling of this model is in no class of transformers, so its class "
        "(`modeling_taskscout.py`) is in the folder, and you have to allow it:",
        "",
        *allowed,
    ]


_ADAPTER = [
    "",
    "`adapter` holds the LoRA factors that are merged into this model, with the head's weights in "
    "`head.safetensors`:",
    "",
    "```python",
    "from peft import PeftModel",
    "from transformers import AutoModel",
    "",
    'body = PeftModel.from_pretrained(AutoModel.from_pretrained("BASE"), "FOLDER/adapter")',
    "```",
]


def _choice(decision: Mapping[str, Any]) -> list[str]:
    """The forecast, the trials and the decision."""
    before, trials = decision["before_trials"], decision["trials"]
    if trials is None:
        return [f"By forecast: {before['sentence']}", "", decision["about_gains"]]
    lines = [f"Forecast: {before['sentence']}", "", decision["about_gains"], ""]
    lines += ["| trial | seed | score | gain, points |", "|---|---|---|---|"]
    lines += [
        f"| {r['source']} | {r['seed']} | {r['score']:.4f} | {r['gain']:+.1f} |"
        for r in trials["runs"]
    ]
    return [
        *lines, "", f"Short runs on cuts of the training rows, no test row; {trials['ended']}. "
        f"Taken into the forecast: {decision['advice']['sentence']}",
    ]  # fmt: skip


def _scores(runs: Sequence[Transfer], comparison: Comparison | None) -> list[str]:
    keys = [k for k in (runs[0].scores if runs else {}) if k not in ("baseline", "error")]
    keys = [k for k in keys if k != "majority_accuracy"]
    if not keys:
        return ["The target has no test labels, so nothing could be scored."]
    baseline = runs[0].scores.get("baseline")
    lines = ["| strategy | seed | " + " | ".join(keys) + " | training, s |"]
    lines += ["|---|---|" + "---|" * (len(keys) + 1)]
    for run in runs:
        cells = " | ".join(f"{run.scores[k]:.4f}" for k in keys)
        seconds = run.seconds + run.source_seconds
        lines.append(f"| {run.strategy} | {run.seed} | {cells} | {seconds:.0f} |")
    lines += ["", "On the test split."]
    if baseline is not None:
        lines[-1] += f" An answer that reads no text scores {baseline:.4f}."
    if comparison is not None:
        lines += ["", comparison.verdict]
    return lines
