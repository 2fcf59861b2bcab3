"""Rendering: any task as text-to-text, by a template.

So work Lin et al. (2024) and TaskWeb (Kim et al. 2023) with T5, after Raffel et al. (2020): a
prompt names the parts of an example, and the completion is the answer as a word or number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from string import Formatter
from typing import Any

import numpy as np
import pyarrow as pa

from taskscout.errors import DataError
from taskscout.tasks import Task
from taskscout.tasks.kinds import Kind

#: Steps into which the range of a regression's labels is cut, as T5 does with STS-B (0 to 5 in
#: steps of 0.2 is 25).
STEPS = 25
NO_ANSWER = "unanswerable"


@dataclass(frozen=True)
class Template:
    """How an example is rendered.

    Attributes
    ----------
    prompt
        A format string. Its fields: ``task`` (name), ``labels`` (all label names), and per kind
        ``text``, ``text_pair``; ``tokens``; ``question``, ``context``; ``text``, ``choices``.
    pair
        The prompt of examples with a second text; empty for the same.
    """

    prompt: str
    pair: str = ""


TEMPLATES: dict[Kind, Template] = {
    "classification": Template(
        "{task} sentence: {text} answer:", "{task} sentence1: {text} sentence2: {text_pair} answer:"
    ),
    "regression": Template(
        "{task} sentence: {text} answer:", "{task} sentence1: {text} sentence2: {text_pair} answer:"
    ),
    "tagging": Template("{task} tag: {tokens} answer:"),
    "span_qa": Template("question: {question} context: {context} answer:"),
    "multiple_choice": Template(
        "question: {text} choices: {choices} answer:",
        "question: {text_pair} context: {text} choices: {choices} answer:",
    ),
}


def as_text_to_text(task: Task, template: Template | None = None) -> Task:
    """Render a task of any kind as a text-to-text task.

    Parameters
    ----------
    task
        The task; a text-to-text one is returned as it is.
    template
        None for the kind's own (:data:`TEMPLATES`).

    Returns
    -------
    A task with the same name, splits and rows. Completions are label names, numbers rounded to
    1/25 of the training labels' range, tags of all words, answers (``unanswerable`` where there
    is none), or the text of the right choice.

    Raises
    ------
    DataError
        If the template names what the task does not have.
    """
    if task.kind == "text_to_text":
        return task
    template = template or TEMPLATES[task.kind]
    prompt = template.pair or template.prompt if task.is_pair else template.prompt
    step = _step(task)
    tables = {}
    for split in task.splits:
        columns = {c: task.column(split, c) for c in task.tables[split].column_names}
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        given = [_fields(task, row) for row in rows]
        wanted = {name for _, name, _, _ in Formatter().parse(prompt) if name}
        missing = sorted(wanted - given[0].keys()) if given else []
        if missing:
            raise DataError(
                f"The template's prompt {prompt!r} names {missing[0]!r}.",
                f"An example of task {task.name!r} has {', '.join(sorted(given[0]))}.",
                "Name one of these.",
            )
        tables[split] = pa.table(
            {
                "prompt": pa.array([prompt.format(**each) for each in given], pa.string()),
                "completion": pa.array([_answer(task, row, step) for row in rows], pa.string()),
            }
        )
    return replace(task, kind="text_to_text", tables=tables, label_names=())


def _fields(task: Task, row: dict[str, Any]) -> dict[str, str]:
    """What a prompt may name."""
    out = {"task": task.name}
    if task.label_names:
        out["labels"] = ", ".join(task.label_names)
    for name in ("text", "question", "context"):
        if name in row:
            out[name] = row[name] or ""
    if task.is_pair:
        out["text_pair"] = row.get("text_pair") or ""
    if "tokens" in row:
        out["tokens"] = " ".join(row["tokens"])
    if "choices" in row:
        out["choices"] = " ".join(f"({chr(97 + i)}) {c}" for i, c in enumerate(row["choices"]))
    return out


def _answer(task: Task, row: dict[str, Any], step: float) -> str:
    if task.kind == "classification":
        return str(task.label_names[row["label"]])
    if task.kind == "regression":
        decimals = max(0, -int(np.floor(np.log10(step))) + 1)
        return f"{round(row['label'] / step) * step:.{decimals}f}"
    if task.kind == "tagging":
        return " ".join(task.label_names[t] for t in row["label"])
    if task.kind == "span_qa":
        return str(row["answer_text"]) or NO_ANSWER
    return str(row["choices"][row["label"]])


def _step(task: Task) -> float:
    """What numbers are rounded to."""
    if task.kind != "regression":
        return 1.0
    labels = task.labels("train")
    return float(np.ptp(labels)) / STEPS or 1.0
