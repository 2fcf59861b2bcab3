"""The HTML report: well-formed, self-contained, and saying what the comparison says."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from taskscout.methods.gains import Gains
from taskscout.reports.html import study_page
from taskscout.reports.studies import markdown_table, reach, verdict
from taskscout.studies.comparison import compare
from taskscout.studies.comparison_rows import ORACLE, RANDOM
from taskscout.studies.predictions import Predicted

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Collects tables, headings and what is referred to; fails on a tag that is not closed."""

    def __init__(self):
        super().__init__()
        self.open, self.tables, self.text, self.links, self.plots = [], [], [], [], 0
        self.scripts = []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.links += [v for k, v in attributes if k in ("src", "href")]
        self.plots += "plotly-graph-div" in (named.get("class") or "")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif self.open and self.open[-1] != "style":
            self.text.append(data)
            if self.open[-1] in ("td", "th"):
                self.tables[-1][-1][-1] += data


def grid(n_seeds=3):
    rng = np.random.default_rng(0)
    scores = rng.normal(60, 4, (8, 9, 1)) + 0.3 * rng.normal(size=(8, 9, n_seeds))
    alone = np.full((9, n_seeds), 58.0)
    names = tuple(f"source{i}" for i in range(8)), tuple(f"target{i}" for i in range(9))
    return Gains(*names, scores, alone, tuple(range(n_seeds)))


def comparison(n_seeds=3, **options):
    gains = grid(n_seeds)
    truth, rng = gains.mean_scores.T, np.random.default_rng(1)
    methods = [
        Predicted("sharp", truth + rng.normal(size=truth.shape), gains.mean_alone, 0.25, 1500.0, 2),
        Predicted("<b>blunt</b> & co", rng.normal(size=truth.shape), gains.mean_alone),
    ]
    return compare(gains, methods, notes=["left out: <nothing>"], title="A & B", **options)


@pytest.fixture(scope="module")
def compared():
    return comparison()


@pytest.fixture(scope="module")
def page(compared):
    html = study_page(compared)
    parsed = Page()
    parsed.feed(html)
    parsed.close()
    assert parsed.open == []
    parsed.html = parsed.outside = html
    for script in parsed.scripts:
        parsed.outside = parsed.outside.replace(script, "")
    return parsed


def test_self_contained(page):
    assert page.links == []
    outside = page.outside
    assert not re.search(r"<(link|img|iframe|script)[^>]*(src|href)=", outside)
    assert not re.search(r"@import|url\(", outside)
    assert page.plots == 7


def test_the_table_is_the_comparisons(page, compared):
    head, *body = page.tables[0]
    assert head[1] == "ndcg-rank"
    assert [row[0] for row in body] == list(compared.methods)
    for row in body:
        shown = compared.row(row[0], "ndcg-rank")
        assert row[1] == ("–" if np.isnan(shown.value) else f"{shown.value:.3f}")
        assert row[-1] == str(shown.targets)


def test_names_are_escaped(page):
    assert "<b>blunt</b>" not in page.outside
    assert "<b>blunt</b> & co" in [row[0] for row in page.tables[0]]
    assert "left out: <nothing>" in "".join(page.text)


def test_differences_costs_and_seeds(page, compared):
    _, controls, pairs, costs, seeds = page.tables
    for shown, family in ((controls, compared.against_controls), (pairs, compared.between_methods)):
        assert len(shown) == 1 + len(family)
        assert shown[1][:2] == [family[0].better, family[0].worse]
        assert shown[1][6] == ("yes" if family[0].real else "no")
    assert "cannot be below\n0.0039 here" in page.outside  # 2 / 2^9
    assert [row[0] for row in costs[1:]] == ["sharp"]
    assert costs[1][2:] == ["0.250", "1.5 KB", "2.00"]
    assert len(seeds) == 1 + 3


def test_one_seed():
    html = study_page(comparison(1))
    assert "The grid has one seed" in html


def test_figures_hold_the_numbers(page, compared):
    # The values of the first figure stand in the page as they are in the comparison.
    import base64

    value = compared.row("sharp", "ndcg-rank").value
    packed = [
        np.frombuffer(base64.b64decode(m), np.float64)
        for m in re.findall(r'"dtype":"f8","bdata":"([^"]+)"', page.html.replace("\\u002f", "/"))
    ]
    found = [v for array in packed for v in array]
    listed = [float(v) for v in re.findall(r"(?<![\w.])0\.\d{6,}", page.html)]
    assert np.isclose([*found, *listed], value).any()


def test_verdict(compared):
    said = verdict(compared)
    assert said[0].startswith("sharp comes first by ndcg-rank")
    assert "honest oracle" not in said[0]
    gain = verdict(comparison(metrics=["pick-gain"]))
    assert "the honest oracle" in gain[0]
    assert any(s.startswith("Really better than a random order: sharp") for s in said)
    none = replace(compared.gains, scores=compared.gains.scores)
    constant = Predicted("same", np.ones((9, 8)), np.full(9, np.nan))
    poor = verdict(compare(none, [constant], metrics=["ndcg-rank"]))
    assert "No method is really better than a random order." in poor


def test_what_the_design_can_show(compared):
    said = reach(compared)
    assert said.startswith("9 targets: the smallest p they can give is 0.0039. Two seeds agree")
    assert "Spearman-Brown" in said
    few = grid(1)
    few = compare(few.with_targets(few.targets[:4]), [], metrics=["regret@1"])
    assert "no difference can be called real" in reach(few)


def test_methods_on_fewer_targets_have_a_table_of_their_own():
    gains = grid()
    truth = gains.mean_scores.T
    some = Predicted("some", np.where(np.arange(9)[:, None] < 6, truth, np.nan), gains.mean_alone)
    both = compare(gains, [some, Predicted("all", truth, gains.mean_alone)], metrics=["regret@1"])
    parsed = Page()
    parsed.feed(study_page(both))
    wide, narrow = parsed.tables[:2]
    assert "some" not in [row[0] for row in wide]
    assert {row[-1] for row in wide[1:] if row[0] != ORACLE} == {"9"}
    assert {row[0] for row in narrow} >= {"some", "all", RANDOM}
    assert {row[-1] for row in narrow[1:] if row[0] != ORACLE} == {"6"}
    assert "On 6 targets" in "".join(parsed.text)
    wide, narrow = markdown_table(both).split("\nOn 6 targets, all that these methods serve:\n\n")
    wide, narrow = (
        {cells[0].strip(): cells[-1].strip() for cells in _cells(part)} for part in (wide, narrow)
    )
    assert "some" not in wide
    assert wide["all"] == wide[RANDOM] == "9"
    assert narrow["some"] == narrow["all"] == narrow[RANDOM] == "6"
    only = markdown_table(both, methods=["some"])
    assert "| all " not in only
    assert "| some " in only
    assert "On 6 targets" not in markdown_table(both, methods=["all"])


def _cells(table):
    """Rows of a Markdown table below its head."""
    return [line.strip("|").split("|") for line in table.splitlines()[2:] if line]


def test_markdown(compared):
    lines = markdown_table(compared, ["ndcg-rank", "regret@1"]).splitlines()
    assert lines[0].startswith("| method | ndcg-rank | regret@1, % |")
    assert len(lines) == 2 + len(compared.methods)
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    row = next(line for line in lines if line.startswith("| sharp"))
    assert "0.250" in row
    assert "1.5" in row
    only = markdown_table(compared, methods=["sharp"]).splitlines()
    assert len(only) == 3
    assert {line.split(" | ")[0] for line in lines[2:]} >= {f"| {ORACLE}", f"| {RANDOM}"}
