"""The pages of benchmarks against the results they were made from."""

from __future__ import annotations

import json
import re

import pytest
from benchmarks import _pages, _report
from benchmarks._pages import PAGES, page_of, put, sections
from benchmarks.overview import PAGE, overview

ROOT = _pages.ROOT
BLOCKS = [
    (page, name, text) for page in PAGES for name, text in sections(page.path.read_text()).items()
]


@pytest.mark.parametrize(("page", "name", "text"), BLOCKS, ids=[name for _, name, _ in BLOCKS])
def test_every_section_belongs_to_a_result_and_a_command(page, name, text):
    assert page_of(name) == page
    stored = json.loads((_report.RESULTS / f"{name}.json").read_text())
    assert stored["benchmark"] == name
    assert len(re.findall(r"^## ", text, re.MULTILINE)) == 1
    (module, rest), *more = re.findall(
        r"^`python -m benchmarks\.(\w+)[^`]*` · (.+)$", text, re.MULTILINE
    )
    assert not more
    assert (ROOT / "benchmarks" / f"{module}.py").exists()
    assert rest == _report.line(stored)


@pytest.mark.parametrize("page", PAGES, ids=[p.file for p in PAGES])
def test_no_table_stands_outside_a_section(page):
    text = page.path.read_text()
    assert text == _pages.assemble(page, sections(text))


def test_pages_are_those_of_the_table_and_of_the_navigation():
    files = {f"{p.file}.md" for p in PAGES}
    assert {p.name for p in _pages.FOLDER.glob("*.md")} == files
    navigation = (ROOT / "mkdocs.yml").read_text()
    assert [f"{p.file}.md" for p in PAGES] == re.findall(r": benchmarks/(\S+)", navigation)


def test_no_benchmark_has_two_places():
    names = [name for page in PAGES for name in page.benchmarks]
    assert len(names) == len(set(names))


def test_the_overview_says_what_the_results_say():
    assert overview() == PAGE.read_text(), "run `python -m benchmarks.overview`"


def test_publish_replaces_its_own_section_only(tmp_path, monkeypatch):
    monkeypatch.setattr(_pages, "FOLDER", tmp_path)
    put("encoders", "## One\n\nfirst\n")
    put("our_grid", "## Two\n\nsecond\n")
    path = put("encoders", "## One\n\nthird\n")
    text = path.read_text()
    assert list(sections(text)) == ["our_grid", "encoders"]  # the order of the table
    assert "second" in text
    assert "third" in text
    assert "first" not in text


def test_a_benchmark_without_a_page_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(_report, "RESULTS", tmp_path)
    with pytest.raises(LookupError, match=r"Add its name to one of PAGES in benchmarks/_pages\.py"):
        _report.publish("unheard_of", "Title", "text", {})
    assert not list(tmp_path.iterdir())
