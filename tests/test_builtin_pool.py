"""The pool that comes with taskscout: whole, small, documented, and able to rank."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import taskscout.pools
from taskscout.methods.evidence_rows import evidence_rows
from taskscout.methods.method import get_method, method_names
from taskscout.methods.topics import TopicModel, digest
from taskscout.models.cache import NoCache
from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe
from taskscout.models.workbench import Workbench
from taskscout.pools import Pool
from taskscout.ranking import NONE, rank
from taskscout.tasks import Task
from taskscout.tasks.catalogue import Catalogue
from taskscout.tasks.kinds import SEQUENCE_KINDS, SOURCE_KINDS

FOLDER = Path(taskscout.pools.__file__).parent / "data"

if not FOLDER.is_dir():
    pytest.skip(f"no built-in pool in {FOLDER}", allow_module_level=True)

#: What package data may weigh.
LARGEST = 60_000_000
#: Descriptions that every source has.
KEYS = {
    "tuned",
    "mnli-probe",
    "space-map",
    "layered-map",
    "overlap",
    "terms",
    "ngrams",
    "moments",
    "sample",
    "sample-with-choices",
    "text-embedding",
    "text-embedding-pooler",
    "text-embedding-layers",
    "task-embedding-outputs",
    "prompt",
}
#: Descriptions that sources of other kinds than classification and regression lack yet.
LATER = {"prompt"}


@pytest.fixture(scope="module")
def pool() -> Pool:
    return Pool.builtin()


def test_opens_whole(pool: Pool):
    assert pool.folder == FOLDER
    assert len(pool) >= 70
    assert pool.verify() == []


def test_small_and_of_a_few_files():
    files = [p for p in FOLDER.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= LARGEST
    beside = 3 + 4 + 1  # header, table of sources, topics; calibrations; mean gains
    assert len(files) <= len(KEYS) + beside
    assert {p.suffix for p in files} == {".json", ".parquet", ".safetensors"}


def test_described_with_the_default_encoder(pool: Pool):
    encoder = Encoder()
    assert pool.encoder["fingerprint"] == encoder.fingerprint
    assert pool.encoder["weights"] == encoder.weights_fingerprint
    assert pool.encoder["dimension"] == encoder.dimension


def test_sources_of_every_kind_that_a_pool_keeps(pool: Pool):
    kinds = Counter(source.card.kind for source in pool)
    assert kinds.keys() == set(SOURCE_KINDS)
    assert kinds["tagging"] >= 4
    assert kinds["multiple_choice"] >= 3


def test_every_source_has_a_card(pool: Pool):
    for source in pool:
        card = source.card
        assert card.kind in SOURCE_KINDS, card.name
        assert card.licence.strip(), card.name
        assert card.load or card.homepage, card.name
        assert card.commercial in ("yes", "no", "unstated"), card.name
        assert card.category, card.name
        assert card.domain, card.name
        assert card.language, card.name
        assert card.rows["train"] > 0, card.name
        assert (card.pair is None) == (card.kind not in SEQUENCE_KINDS), card.name
        if card.kind in ("classification", "tagging"):
            assert len(card.label_names) >= 2, card.name
    answers = {s.card.commercial for s in pool}
    assert answers == {"yes", "no", "unstated"}


def test_every_source_has_its_tuning(pool: Pool):
    recipes = set()
    for source in pool:
        scores = source.tuning["scores"]
        assert scores["score"] > scores["baseline"] + scores["error"], source.name
        assert source.tuning["trained_on"] > 0
        assert re.fullmatch("[0-9a-f]{32}", source.tuning["fingerprint"])
        # On how many test rows a source was scored has no part in how it was tuned.
        recipes.add(replace(Recipe(**source.tuning["recipe"]), test_examples=0))
    assert len(recipes) == 1  # one recipe for all
    assert recipes.pop().tuning == "lora"


def test_every_source_has_its_descriptions(pool: Pool):
    d = pool.encoder["dimension"]
    for source in pool:
        lacking = set() if source.card.kind in SEQUENCE_KINDS else LATER
        assert source.headers.keys() == KEYS - lacking, source.name
        outputs = 2 if source.card.kind == "span_qa" else len(source.card.label_names) or 1
        found = {k: pool.description(source.name, k) for k in source.headers}
        for each in found.values():
            for name, array in each.arrays.items():
                assert array.size > 0 or each.key == "overlap", (source.name, each.key, name)
                if array.dtype.kind == "f":
                    assert np.isfinite(array).all(), (source.name, each.key, name)
        mapped, layered, tuned = (found[k] for k in ("space-map", "layered-map", "tuned"))
        for each in (mapped, tuned):
            assert each.header["encoder"] == pool.encoder["fingerprint"]
            assert each.arrays["head.weight"].shape == (outputs, d), source.name
        rank = mapped.header["rank"]
        assert mapped.arrays["inner"].shape == mapped.arrays["outer"].shape == (d, rank)
        assert layered.header["encoder"] == pool.encoder["fingerprint"]
        assert layered.arrays["inner"].shape == (2 * d, layered.header["rank"])
        assert layered.arrays["outer"].shape == (d, layered.header["rank"])
        for each in (mapped, layered):
            assert each.arrays["offset"].shape == (d,)
            assert 0 < each.header["explained"] < 1, source.name
            if source.card.kind not in SEQUENCE_KINDS:
                assert each.arrays["words.inner"].shape == each.arrays["inner"].shape
                assert 0 < each.header["words"]["explained"] < 1, source.name
        factors = [a for n, a in tuned.arrays.items() if n.endswith((".lora_A", ".lora_B"))]
        assert factors
        assert any(np.abs(a).max() > 0 for a in factors), source.name
        sketch = found["overlap"].arrays["sketch"]
        assert sketch.dtype == np.uint64
        assert (np.diff(sketch.astype(np.float64)) > 0).all()
        assert len(sketch) <= found["overlap"].header["size"]


def test_topics_over_all_sources(pool: Pool):
    path = pool.attached("topics")
    assert path is not None
    model = TopicModel.read(path)
    assert model.topics == 20
    # The model was fitted before sources of other kinds came, and tells their topics anew.
    fitted = [s.name for s in pool if s.card.kind in SEQUENCE_KINDS]
    assert model.known.keys() == {digest(d) for d in pool.descriptions("terms", fitted)}
    assert model.vocabulary == pool.source(pool.names[0]).headers["terms"]["vocabulary"]


def test_every_task_left_out_has_a_reason(pool: Pool):
    assert pool.left_out
    for name, reason in pool.left_out.items():
        assert reason.strip(), name
        assert name not in pool
    withheld = {n for n, reason in pool.left_out.items() if reason.startswith("licence: ")}
    assert withheld >= {"mrpc", "stsb", "atis_intent", "swda_dialogue_act"}


@pytest.mark.data
def test_all_of_the_catalogue_is_accounted_for(pool: Pool, catalogue: Catalogue):
    assert set(pool.names) | set(pool.left_out) == set(catalogue.names)
    for name in catalogue.names:
        if catalogue.withheld(name):
            assert name not in pool
            assert name in pool.left_out
    for source in pool:
        card = catalogue.card(source.name)
        assert (source.card.licence, source.card.commercial) == (card.licence, card.commercial)


@pytest.mark.data
def test_tuned_on_the_catalogue_s_data(pool: Pool, catalogue: Catalogue):
    """The fingerprint in a card is that of the data, here for the smallest of them."""
    sizes = {s.name: sum(s.card.rows.values()) for s in pool}
    for name in sorted(sizes, key=sizes.__getitem__)[:2]:
        assert pool.source(name).tuning["fingerprint"] == catalogue.task(name).fingerprint


@pytest.mark.data
@pytest.mark.encoder
@pytest.mark.parametrize("name", ["ag_news", "snli"])
def test_maps_stand_for_the_models_beside_them(pool: Pool, catalogue: Catalogue, name: str):
    """On test rows they explain what the adapter does as well as their headers say."""
    task = catalogue.task(name)
    rows = replace(task, tables={"train": task.tables["test"]}).sample(150)
    bench = Workbench(cache=NoCache())
    tuned = pool.description(name, "tuned")
    real = bench.source_embeddings(rows, tuned.arrays).astype(np.float64)
    for method in (get_method("esm-logme"), get_method("layered-esm-logme")):
        kept = pool.description(name, method.key)
        mapped = method.backend.features(evidence_rows(rows), kept, bench)
        error = ((mapped - real) ** 2).sum() / ((real - real.mean(0)) ** 2).sum()
        assert 1 - error == pytest.approx(kept.header["explained"], abs=0.1)


# -- ranking texts of our own ------------------------------------------------------------------

REVIEWS = {
    "good": """\
        I laughed from the first scene to the last.
        A tender film that earns every tear.
        The young lead carries the story with ease.
        Sharp writing and a wonderful score.
        We left the cinema smiling.
        The best thriller I have seen this year.
        Beautifully shot, and never dull.
        Both leads are superb together.
        It surprised me again and again.
        A small gem that deserves an audience.
        The jokes land and the plot holds.
        Warm, clever and deeply human.
        I would gladly see it a second time.
        The last half hour is simply perfect.
        Every frame shows care and love.
        A gripping tale, told with great skill.
        My whole family adored it.
        The director is at the top of his form.
        It is rare to see a comedy this fresh.
        Honest, moving and full of hope.""",
    "bad": """\
        I checked my watch every five minutes.
        The plot makes no sense at all.
        Wooden acting and cheap effects.
        A complete waste of two hours.
        None of the jokes worked for me.
        The sequel nobody asked for.
        It drags on and goes nowhere.
        What a dreadful script.
        The hero is as flat as cardboard.
        Loud, empty and far too long.
        I walked out before the end.
        The twist was obvious from the start.
        Not even the music could save it.
        A lazy copy of a better film.
        The dialogue made me cringe.
        Boring characters in a boring town.
        The editing is a mess.
        I expected more and got nothing.
        Awful from beginning to end.
        They should refund the tickets.""",
}
QUESTIONS = {
    "number": """\
        How many bones are in the human hand?
        How tall is the Eiffel Tower?
        How much does a blue whale weigh?
        How far is it from Paris to Rome?
        How many strings does a violin have?
        How old is the oldest living tree?
        How many players are on a rugby team?
        How long is the Amazon river?
        How hot is the surface of the sun?
        How many days does a leap year have?""",
    "place": """\
        Where is the Sahara desert?
        What country has the most islands?
        Which city hosted the first modern Olympics?
        Where do penguins live?
        What is the capital of Peru?
        Which ocean lies east of Africa?
        Where was Mozart born?
        What state is the Grand Canyon in?
        Where is the tallest waterfall?
        Which river flows through Vienna?""",
    "person": """\
        Who painted the Mona Lisa?
        Who wrote War and Peace?
        Who was the first man on the moon?
        Which scientist discovered radium?
        Who invented the telephone?
        Who was the first president of the United States?
        Which composer went deaf?
        Who discovered penicillin?
        Who directed the film Psycho?
        Which queen ruled Egypt with Mark Antony?""",
    "time": """\
        When did the Second World War end?
        What year did the Titanic sink?
        When was the printing press invented?
        When does the summer solstice fall?
        What year did the Berlin Wall fall?
        When was the first email sent?
        When did dinosaurs die out?
        What century saw the Black Death?
        When was the Magna Carta signed?
        What year was the euro introduced?""",
}


def written(name: str, texts: dict[str, str]) -> Task:
    rows = [(line.strip(), i) for i, t in enumerate(texts.values()) for line in t.splitlines()]
    table = pa.table({"text": [t for t, _ in rows], "label": [i for _, i in rows]})
    assert table.num_rows == 40
    return Task(name, "classification", {"train": table}, tuple(texts))


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench(Encoder(device="cpu"), cache=NoCache())


@pytest.mark.encoder
@pytest.mark.parametrize(("name", "texts"), [("reviews", REVIEWS), ("questions", QUESTIONS)])
def test_ranks_texts_of_our_own(pool: Pool, bench: Workbench, name: str, texts: dict[str, str]):
    ranking = rank(written(name, texts), bench=bench)
    assert sorted(r.name for r in ranking.sources) == sorted([*pool.names, NONE])
    scores = [r.score for r in ranking.sources]
    assert all(map(math.isfinite, scores))
    assert len(set(scores)) == len(scores)
    by = [r.gain.expected for r in ranking.sources if r.gain] or scores
    assert len(by) == len(scores)
    assert by == sorted(by, reverse=True)
    assert ranking.rows == ranking.of == ranking.embedded
    assert ranking.rows + sum(ranking.left_alone.values()) == 40
    assert ranking.left_out == {}
    for row in ranking.sources:
        # A question or two may well have been asked before.
        assert math.isnan(row.overlap) or row.overlap <= 0.1
        assert row.name == NONE or row.test_score > 0
    json.loads(ranking.to_json(), parse_constant=lambda c: pytest.fail(c))


@pytest.mark.encoder
def test_the_two_rankings_differ(bench: Workbench):
    """The ranking is of the target, not of the sources alone."""
    orders = [
        [r.name for r in rank(written(n, t), bench=bench).sources]
        for n, t in (("reviews", REVIEWS), ("questions", QUESTIONS))
    ]
    assert orders[0][:3] != orders[1][:3]
    assert sorted(orders[0]) == sorted(orders[1])


@pytest.mark.encoder
def test_carries_what_methods_read(pool: Pool, bench: Workbench, monkeypatch: pytest.MonkeyPatch):
    """Whatever asks for no tuning, no grid and no source model ranks with what is there."""
    wanted = [
        name
        for name in method_names()
        if (method := get_method(name)).cost in ("card", "words", "embedding")
        and "grid" not in method.needs
        and not method.composed
    ]
    assert len(wanted) > 50
    monkeypatch.setattr(TopicModel, "fit", None)  # the topics are read
    ranking = rank(written("questions", QUESTIONS), pool, wanted, bench=bench)
    assert list(ranking.methods) == wanted
    for row in ranking.sources:
        # Some scores of classes have no meaning for a source without any.
        if row.card is not None and row.card.kind == "classification":
            assert all(map(math.isfinite, row.scores.values())), row


@pytest.mark.encoder
def test_filters_leave_what_they_say(pool: Pool, bench: Workbench):
    target = written("reviews", REVIEWS)
    commercial = rank(target, bench=bench, commercial=True)
    names = {r.name for r in commercial.sources} - {NONE}
    assert names == {s.name for s in pool if s.card.commercial == "yes"}
    assert names | commercial.left_out.keys() == set(pool.names)


@pytest.mark.encoder
def test_the_short_list_again_with_the_source_models(pool: Pool, bench: Workbench):
    """The adapters of the pool run: no download, no data of the sources."""
    ranking = rank(written("reviews", REVIEWS), bench=bench, refine=2)
    assert sorted(r.name for r in ranking.sources) == sorted([*pool.names, NONE])
    assert ranking.embedded > 40
