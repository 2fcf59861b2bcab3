"""Numbers in README against committed results."""

from __future__ import annotations

import pytest
from benchmarks.claims import CLAIMS, ROOT, mistakes


def test_readme_says_what_the_results_say():
    assert mistakes((ROOT / "README.md").read_text()) == []


def test_every_claim_can_be_computed():
    for name, compute in CLAIMS.items():
        assert any(c.isdigit() for c in compute()), name


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<!-- claim grid/sources -->41<!-- /claim -->", "README says '41', the results say '40'"),
        ("<!-- claim grid/sorces -->40<!-- /claim -->", "no such claim"),
        ("<!-- claim grid/sources -->40", "not closed"),
        ("40 sources", "no number is marked"),
        (
            "<!-- claims --><!-- claim grid/sources -->40<!-- /claim --> on 15<!-- /claims -->",
            "not marked with a claim: '15'",
        ),
    ],
)
def test_a_wrong_number_fails(text, complaint):
    assert any(complaint in said for said in mistakes(text))


def test_code_dates_and_links_are_no_claims():
    text = (
        "<!-- claim grid/sources -->40<!-- /claim --> <!-- claims -->2026-11-22, `--refine 10`, "
        "[a page](docs/200.md)<!-- /claims -->"
    )
    assert mistakes(text) == []
