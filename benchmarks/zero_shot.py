"""Which domains need no training? Pruning by divergence between eleven sentiment domains.

The study of Pugantsov & McCreadie 2023 on the default encoder, through the command that anyone
has:

    taskscout study zero-shot --out benchmarks/results/zero_shot

Rows are kept as they come, so a benchmark that is stopped goes on.
"""

from __future__ import annotations

from benchmarks._command import study
from benchmarks._report import RESULTS, publish

EXAMPLES, TEST_ROWS = 1000, 500


def main() -> None:
    """Run what is missing and publish."""
    data, table = study(
        "zero-shot", RESULTS / "zero_shot", examples=EXAMPLES, test_examples=TEST_ROWS
    )
    lines = data["summary"]
    best, chance = lines[0], lines[-1]
    holding = sum((x["saved"] or 0) >= 40 for x in lines[:-1])
    within = sum((x["saved_within_1_percent"] or 0) >= 40 for x in lines[:-1])
    text = (
        f"{len(data['domains'])} domains labelled negative or positive "
        f"({', '.join(data['domains'])}), {EXAMPLES} examples of each at most; every domain's LoRA "
        f"model answers for every other, {TEST_ROWS} test rows, nothing trained there.\n\n"
        "**Pugantsov & McCreadie 2023**: dropping the most divergent pairs saves up to 40% of the "
        f"runtime at equal effectiveness. Of {len(lines) - 1} divergences here, {holding} save 40% "
        f"or more while the best source of *every* target stays, {within} while the best result "
        f"stays within 1%; the most is {best['saved_within_1_percent']:.0f}% ({best['method']}). "
        "The thresholds are read off the same pairs, so these are upper bounds, as in the paper; "
        f"random orders save {chance['saved']:.0f}% and "
        f"{chance['saved_within_1_percent']:.0f}%.\n\n" + table
    )
    publish("zero_shot", "Domains left out by divergence", text, data, "peft")


if __name__ == "__main__":
    main()
