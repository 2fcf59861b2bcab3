"""A ranking's page: it says what its JSON says, fetches nothing, and text stays text."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from taskscout.pools import Pool
from taskscout.pools.build import add_source, encoder_header
from taskscout.pools.surroundings import nearest_examples, pool_map
from taskscout.ranking import rank
from taskscout.reports import ranking_page as module
from taskscout.reports.pages import Axis
from taskscout.reports.ranking_page import ranking_page
from taskscout.tasks import TaskCard
from tests.small import SOURCES, source_task
from tests.tiny import toy_task

EVIL = "<img src=x onerror=alert(1)>"
VOID = {"meta", "br", "img", "link", "hr", "input", "wbr"}


class Parsed(HTMLParser):
    """Tags, references, texts and the numbers of bars; fails on a tag that is not closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.links, self.text, self.bars, self.data = [], [], [], [], [], ""
        self.heat, self.heating = [], False
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.links += [v for k, v in attributes if k in ("src", "href", "xlink:href", "action")]
        assert not [k for k, _ in attributes if k.startswith("on")]
        if dict(attributes).get("class") == "track":
            self.bars.append({k: v for k, v in attributes if k.startswith("data-")})
        self.heating = dict(attributes).get("class") == "heat"
        if tag not in VOID and tag not in ("circle", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.data += data
        elif self.open and self.open[-1] != "style":
            self.text.append(data)
            if self.heating and self.open[-1] == "td":
                self.heat.append(data)


@pytest.fixture(scope="module")
def pool(small_bench, tmp_path_factory):
    """The four small sources with what the page reads of them, one with markup in its card."""
    made = Pool.create(
        tmp_path_factory.mktemp("page") / "pool", encoder=encoder_header(small_bench.encoder)
    )
    for name in SOURCES:
        task = source_task(name)
        card = replace(task.card, category=EVIL) if name == "topics" else task.card
        methods = ("esm-logme", "text-embedding", "nearest-example")
        add_source(made, replace(task, card=card), small_bench, methods=methods)
    return made


@pytest.fixture(scope="module")
def target():
    return replace(toy_task("film reviews", seed=7, n=40), name=EVIL, card=TaskCard(EVIL))


@pytest.fixture(scope="module")
def ranking(target, pool, small_bench):
    return rank(target, pool, "esm-logme", bench=small_bench)


@pytest.fixture(scope="module")
def html(ranking, target, pool, small_bench):
    return ranking_page(ranking, target, pool, small_bench, command="taskscout rank 'a b.csv'")


@pytest.fixture(scope="module")
def page(html):
    return Parsed(html)


def test_it_fetches_nothing_and_runs_nothing(page, html):
    policy = next(a for t, a in page.tags if t == "meta" and "http-equiv" in a)
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert [a["type"] for t, a in page.tags if t == "script"] == ["application/json"]
    outside = [link for link in page.links if not link.startswith("#")]
    assert {*outside} <= {"https://example.org/reviews", "https://example.org/topics"}
    assert not re.search(r"@import|url\(", html)
    assert len(html) < 200_000


def test_every_link_inside_leads_somewhere(page):
    ids = {a["id"] for _, a in page.tags if "id" in a}
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert inside
    assert inside <= ids


def test_text_stays_text(page, html):
    assert "img" not in [t for t, _ in page.tags]
    assert "<img" not in html
    text = "".join(page.text)
    assert f"Which source to fine-tune on first for {EVIL}" in text
    assert text.count(EVIL) > 3
    titles = [a["aria-label"] for t, a in page.tags if t == "a" and "aria-label" in a]
    assert any(EVIL in title for title in titles)


def test_numbers_are_those_of_the_json(page, ranking):
    data = json.loads(page.data)
    assert data == json.loads(ranking.to_json())
    drawn = [float(bar["data-score"]) for bar in page.bars]
    assert drawn == [row["score"] for row in data["sources"]]
    # Where a dot stands follows its number.
    dots = [float(a["style"].split()[1].rstrip("%;")) for t, a in page.tags if t == "u"]
    axis = Axis.over(drawn)
    assert dots == [float(axis.at(v).rstrip("%")) for v in drawn]
    assert np.all(np.diff(dots) <= 0)


def test_what_was_read_and_costs(page, ranking):
    text = " ".join("".join(page.text).split())
    assert "none of 40 texts is longer than the 32 tokens that the encoder reads" in text
    assert "taskscout rank 'a b.csv'" in text
    assert "esm-logme puts" in text
    assert "CC BY-NC 4.0" in text
    for name in SOURCES:
        assert name in text


def test_gains_are_drawn_from_none():
    """The layout of gains; ``none`` is the line at 0, an end without a bound is the axis's."""

    def row(rank_, name, gain):
        return {"rank": rank_, "name": name, "gain": gain, "score": 0.1, "overlap": None,
                "category": "", "domain": ""}  # fmt: skip

    gains = [
        {"expected": 3.0, "low": -1.0, "high": 7.0, "chance": 0.9},
        {"expected": 0.0, "low": 0.0, "high": 0.0, "chance": None},
        {"expected": -2.0, "low": None, "high": 1.0, "chance": 0.2},
    ]
    names = ["a", "none", "b"]
    rows = [row(i, n, g) for i, (n, g) in enumerate(zip(names, gains, strict=True), 1)]
    chart = module._chart({"sources": rows, "methods": ["m"], "about_gains": "Measured."})
    (part,) = chart["parts"]
    first, none, last = part["rows"]
    axis = Axis.over([3.0, -1.0, 7.0, 0.0, -2.0, 1.0])
    assert part["zero"] == axis.at(0.0) == none["at"]
    assert (first["text"], first["interval"]) == ("+3.0", "-1.0 to +7.0")
    assert (first["left"], first["width"]) == (axis.at(-1.0), axis.width(-1.0, 7.0))
    assert (last["text"], last["interval"], last["kind"]) == ("-2.0", "… to +1.0", "below")
    assert last["left"] == "0.00%"
    assert none["text"] == "0"


def test_a_pool_without_embeddings_says_how_to_make_them(small_pool, target, small_bench):
    ranking = rank(target, small_pool, "esm-logme", bench=small_bench)
    text = "".join(Parsed(ranking_page(ranking, target, small_pool, small_bench)).text)
    assert "taskscout pool describe --method text-embedding" in text
    assert "taskscout pool describe --method nearest-example" in text


def test_nearest_texts_are_the_nearest(target, pool, small_bench):
    """Against all cosines, computed anew; a source's text is the one behind its row."""
    data = {name: source_task(name) for name in ("reviews", "topics")}
    found = nearest_examples(
        target, pool, small_bench, pool.names, data=lambda source: data.get(source.name)
    )
    texts = target.inputs("train")[0]
    assert len(found) == 4
    assert len({e.label for e in found}) == 2
    for example in found:
        assert example.text in texts
        one = small_bench.embed([example.text])[0]
        assert [n.similarity for n in example.nearest] == sorted(
            (n.similarity for n in example.nearest), reverse=True
        )
        for near in example.nearest:
            assert (near.text is None) == (near.source not in data)
            if near.text is not None:
                others = small_bench.embed(data[near.source].inputs("train")[0])
                cosines = others @ one / np.linalg.norm(others, axis=1) / np.linalg.norm(one)
                at = data[near.source].inputs("train")[0].index(near.text)
                assert cosines[at] == pytest.approx(near.similarity, abs=0.01)
    changed = replace(data["reviews"], tables=toy_task(seed=99).tables)
    other = nearest_examples(target, pool, small_bench, ["reviews"], data=lambda _: changed)
    assert {n.text for e in other for n in e.nearest} == {None}  # not what the pool describes


def test_map_places_every_source_and_the_target(target, pool, small_bench):
    shown = pool_map(pool, pool.names, target, small_bench)
    assert shown.names == pool.names
    assert shown.points.shape == (4, 2)
    assert shown.target is not None
    everything = np.vstack([shown.points, shown.target])
    assert everything.min() == 0
    assert everything.max() == 1
    assert np.array_equal(pool_map(pool, pool.names, target, small_bench).points, shown.points)
    assert pool_map(pool, pool.names[:3]) is None
    assert pool_map(pool, pool.names).target is None


def test_in_a_browser(html, tmp_path):
    """No console error, no request but the page itself, no sideways scrolling on a phone."""
    api = pytest.importorskip("playwright.sync_api")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    file = tmp_path / "page.html"
    file.write_text(html, encoding="utf-8")
    with api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for width in (375, 1400):
            tab = opened.new_page(viewport={"width": width, "height": 900})
            said, asked = [], []
            tab.on("console", lambda message, said=said: said.append(message.text))
            tab.on("pageerror", lambda error, said=said: said.append(str(error)))
            tab.on("dialog", lambda dialog, said=said: said.append(dialog.message))
            tab.on("request", lambda request, asked=asked: asked.append(request.url))
            tab.goto(file.as_uri())
            assert said == []
            assert asked == [file.as_uri()]
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            # By keyboard: the first stop of the map is the link that skips it.
            tab.focus("a.skip")
            tab.keyboard.press("Tab")
            assert tab.evaluate("document.activeElement.getAttribute('href')").startswith(
                "#source-"
            )
        opened.close()
