"""Scale against relatedness: all sources, a kind, related ones or random ones, on unseen targets.

The study of Padmakumar et al. 2022 on the default encoder, through the command that anyone has:

    taskscout study multitask --targets ... --sources ... --out benchmarks/results/multitask

Rows are kept as they come, so a benchmark that is stopped goes on.
"""

from __future__ import annotations

import yaml

from benchmarks._command import study
from benchmarks._report import RESULTS, ROOT, publish
from taskscout.methods import DEFAULT

TARGETS = ("tweet_emotion", "financial_phrasebank", "hwu64", "mrpc", "scitail", "stsb")
#: The sources of the grid's first block.
SOURCES = yaml.safe_load((ROOT / "benchmarks/grids/lora-200.yaml").read_text())["sources"]
SEEDS, DRAWS, TOP = 2, 2, 5
EXAMPLES, TARGET_EXAMPLES, TEST_ROWS = 400, 200, 500


def main() -> None:
    """Run what is missing and publish."""
    out = RESULTS / "multitask"
    data, table = study(
        "multitask", out, targets=",".join(TARGETS), sources=",".join(SOURCES), top=TOP,
        draws=DRAWS, seeds=SEEDS, examples=EXAMPLES, target_examples=TARGET_EXAMPLES,
        test_examples=TEST_ROWS, method=DEFAULT,
    )  # fmt: skip
    lines = {(x["type"], x["name"]): x for x in data["summary"]}
    every = lines["all", "all"]
    related = next(x for (kind, _), x in lines.items() if kind == "related")
    own = [x for (kind, _), x in lines.items() if kind == "group"]
    best_group = max(own, key=lambda x: x["gain"])
    drawn = next(x for (kind, _), x in lines.items() if kind == "random")
    text = (
        f"{every['sources']:.0f} sources of at most {EXAMPLES} examples (those of the grid's first "
        "block that share no texts with a target), LoRA, heterogeneous batches; "
        f"then each of {len(TARGETS)} unseen targets of {TARGET_EXAMPLES} examples, {SEEDS} seeds. "
        "Scores and gains in points; examples and seconds are what a target's mixture took.\n\n"
        "**Padmakumar et al. 2022**: a related subset does as well as all tasks, at less cost; "
        "scale helps where relatedness is unknown. Here: all sources gain "
        f"{100 * every['gain']:+.1f} points, the first {TOP} of `{DEFAULT}` "
        f"{100 * related['gain']:+.1f} at {related['examples'] / every['examples']:.0%} of the "
        f"examples, {TOP} at random {100 * drawn['gain']:+.1f}, the best group of one format "
        f"({best_group['name']}) {100 * best_group['gain']:+.1f}. With {len(TARGETS)} targets and "
        f"{SEEDS} seeds differences of a point or two are noise: what is shown is that training on "
        "all costs most and does not pay, not that relatedness does.\n\n" + table
    )
    publish("multitask", "All sources together, or related ones", text, data, "peft")


if __name__ == "__main__":
    main()
