"""What is nearly right is kept and said, or refused with what was probably meant."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from taskscout.errors import DataError
from taskscout.tasks import Task


def read(rows: list[dict[str, Any]]) -> Task:
    return Task.from_dataset(pa.Table.from_pylist(rows), name="made")


def tagged(*extra: tuple[list[str], list[Any]]) -> list[dict[str, Any]]:
    known = [(["in", "Rome", str(i)], ["O", "B-LOC", "O"]) for i in range(9)]
    inside = [(["New", "York", "x"], ["B-LOC", "I-LOC", "O"])]
    return [{"tokens": t, "tags": g} for t, g in (*known, *inside, *extra)]


def test_broken_entities_are_counted_and_kept():
    broken = (["York"], ["I-LOC"]), (["a", "York"], ["B-PER", "I-LOC"])
    task = read(tagged(*broken))
    assert len(task) == 12
    (note,) = [n for n in task.notes if "none began" in n]
    assert note.startswith("2 rows")
    assert "11 and 12" in note
    assert not any("none began" in n for n in read(tagged()).notes)
    # Where no tag marks a beginning, none is lacking.
    inside_only = [(["York", str(i)], ["I-LOC", "O"]) for i in range(9)]
    rows = [{"tokens": t, "tags": g} for t, g in inside_only]
    assert not any("none began" in n for n in read(rows).notes)


def test_tags_of_minus_100_are_padding():
    rows = [{"tokens": ["a", "##b", f"c{i}"], "tags": [0, -100, 1]} for i in range(8)]
    rows.append({"tokens": ["d", "e"], "tags": [1, 0, -100, -100]})  # padded behind its end
    task = read(rows)
    assert task.label_names == ("0", "1")
    assert any(n.startswith("10 tags of -100") for n in task.notes)
    words = [w for s in task.splits for row in task.column(s, "tokens") for w in row]
    assert "##b" not in words
    assert {"d", "e"} <= set(words)


@pytest.mark.parametrize(
    ("answer", "context", "nearest"),
    [
        ("anna Smyth", "It was written by Anna Smith in Rome.", "Anna Smith"),
        ("ANNA SMITH", "It was written by Anna Smith in Rome.", "Anna Smith"),
        ("Karl", "It was written by Anna Smith in Rome.", ""),
    ],
)
def test_an_answer_not_in_its_context_is_named_with_the_nearest(
    answer: str, context: str, nearest: str
):
    rows = [{"question": "who?", "context": f"{i} by Bo.", "answer": "Bo"} for i in range(9)]
    rows.append({"question": "who?", "context": context, "answer": answer})
    with pytest.raises(DataError, match="row 10") as caught:
        read(rows)
    assert (f"{nearest!r}" in caught.value.why) if nearest else ("Nearest" not in caught.value.why)


def test_a_wrong_start_is_answered_with_the_right_one():
    rows = [
        {"question": "who?", "context": f"{i} by Bo.", "answer": "Bo", "answer_start": 5}
        for i in range(9)
    ]
    rows[4]["answer_start"] = 3
    with pytest.raises(DataError, match="row 5") as caught:
        read(rows)
    assert "stands at character 5" in caught.value.why


def test_an_answer_that_two_choices_are_is_said():
    rows = [
        {"question": f"what {i}?", "choices": ["red", "green"], "answer": "green"} for i in range(9)
    ]
    assert not any("several" in n for n in read(rows).notes)
    rows.append({"question": "x", "choices": ["b", "a", "a"], "answer": "a"})
    task = read(rows)
    (note,) = [n for n in task.notes if "several of the choices" in n]
    assert note.startswith("1 row")
    assert "row 10" in note
    found = {
        t: a
        for s in task.splits
        for t, a in zip(*(task.column(s, c) for c in ("text", "label")), strict=True)
    }
    assert found["x"] == 1
