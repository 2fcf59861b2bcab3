"""Study files: what they may say, and errors that name the line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from taskscout.errors import StudyError
from taskscout.studies.study_file import read_study

GOOD = """\
name: ours
sources: all
targets: [a, b]
pool: pools/mine
catalogue: data
tunings: [lora, full]
sizes: [200, all]
recipe:
  epochs: 3
"""


def read(tmp_path: Path, text: str):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return read_study(path)


def test_a_study_says_what_to_run(tmp_path):
    study = read(tmp_path, GOOD)
    assert study.targets == ("a", "b")
    assert study.sizes == (200, "all")
    assert study.seeds == (0,)
    # Places are meant from the file's folder, wherever the command is typed.
    assert study.catalogue == tmp_path / "data"
    assert study.pool == str(tmp_path / "pools/mine")


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("name: ours\n", "", 1, "name"),
        ("targets: [a, b]", "targets: []", 3, "targets"),
        ("targets: [a, b]", "targets: [a, a]", 3, "same entry twice"),
        ("tunings: [lora, full]", "tunings: [lora, magic]", 6, "magic"),
        ("tunings: [lora, full]", "tunings: [head]", 6, "nothing carries on"),
        ("sizes: [200, all]", "sizes: [many]", 7, "many"),
        ("  epochs: 3", "  epoch: 3", 9, "learning_rate"),
        ("  epochs: 3", "  seed: 3", 9, "recipe.seed"),
        ("  epochs: 3", "  epochs: many", 9, "recipe.epochs"),
        ("catalogue: data", "catalog: data", 5, "source_examples"),
        ("catalogue: data", "encoders: [{size: 3}]", 5, "max_length"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(tmp_path, old, new, line, said):
    assert old in GOOD
    with pytest.raises(StudyError) as caught:
        read(tmp_path, GOOD.replace(old, new))
    assert f"line {line}:" in caught.value.found
    assert said in caught.value.found + caught.value.why


def test_a_tuning_on_its_own_line_is_named_by_that_line(tmp_path):
    text = GOOD.replace("tunings: [lora, full]", "tunings:\n  - lora\n  - magic")
    with pytest.raises(StudyError, match="line 8: tunings"):
        read(tmp_path, text)


@pytest.mark.parametrize("text", ["a: [1, 2", "- 1\n- 2\n", ""])
def test_what_is_no_study_is_refused(tmp_path, text):
    with pytest.raises(StudyError):
        read(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(StudyError, match="cannot be read"):
        read_study(tmp_path / "none.yaml")


def test_numbers_of_a_recipe_are_numbers_however_yaml_takes_them(tmp_path):
    study = read(tmp_path, GOOD.replace("epochs: 3", "learning_rate: 3e-5"))
    assert study.recipe == {"learning_rate": 3e-5}


HOSTILE = {
    "nested deeply": "name: " + "[" * 5_000 + "]" * 5_000,
    "mappings nested deeply": "name: " + "{a: " * 5_000 + "1" + "}" * 5_000,
    "a date that is none": GOOD.replace("ours", "2026-13-45"),
    "a time that is none": GOOD.replace("ours", "2026-02-28 25:61:61"),
    "an integer that is none": GOOD.replace("ours", "!!int many"),
    "a float that is none": GOOD.replace("epochs: 3", "epochs: !!float many"),
    "a truth that is none": GOOD.replace("ours", "!!bool 3"),
    "an integer of many digits": GOOD.replace("200", "9" * 5_000),
    "a tag of Python": GOOD.replace("ours", "!!python/object/apply:os.system ['true']"),
    "an alias of nothing": GOOD.replace("ours", "*nobody"),
    "a key that is a list": GOOD + "? [a]\n: b\n",
    "a home that is not there": GOOD.replace("pools/mine", "~nobody-of-this-name/pool"),
    "a mapping of values": GOOD.replace("ours", "!!map 3"),
    "a NUL": GOOD.replace("ours", "a\0b"),
    # Nine lists of nine lists of ... : a text of gigabytes, were it written out.
    "an alias bomb": "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    + "name: *a11\n" + GOOD,
    "more than a study": GOOD + "#" * 2**20,
}  # fmt: skip


def test_a_study_of_brackets_alone_takes_no_time(tmp_path):
    """The time was that of the square of their depth: hours for a megabyte."""
    start = time.process_time()
    with pytest.raises(StudyError, match="brackets"):
        read(tmp_path, "name: " + "[" * 10**6)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_yaml_that_is_no_study_is_refused(tmp_path, text):
    with pytest.raises(StudyError) as caught:
        read(tmp_path, text)
    error = caught.value
    assert str(tmp_path / "study.yaml") in error.found
    assert len(str(error)) < 2_000


def test_a_home_is_needed_for_a_path_in_it(tmp_path, monkeypatch):
    import pwd

    def nobody(_: int):
        raise KeyError

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(StudyError, match="home"):
        read(tmp_path, GOOD.replace("pools/mine", "~/pool"))


def test_what_is_no_file_is_no_study(tmp_path):
    for path in (tmp_path, Path("/dev/zero"), tmp_path / "none.yaml"):
        with pytest.raises(StudyError, match="cannot be read"):
            read_study(path)
