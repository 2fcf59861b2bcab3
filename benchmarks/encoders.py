"""Do rankings of sources carry over from one encoder to another?

    python -m benchmarks.encoders

Reads our grid and its block on a second encoder (``benchmarks/grids/second-encoder.yaml``), takes
the pairs and seeds that both have, and compares the gains of sources target by target.
"""

from __future__ import annotations

from benchmarks._carry import HEADS, Carried
from benchmarks._grids import block
from benchmarks._report import RESULTS, markdown, publish

SECOND = RESULTS / "second_encoder.parquet"
NAME = "paraphrase-MiniLM-L3-v2"


def main() -> None:
    """Compare and publish."""
    second = block("second-encoder", grid=SECOND, encoder=NAME)
    found = Carried.of(block(), second)
    text = (
        f"{len(found.sources)} sources on {len(found.targets)} targets of 200 examples by LoRA, "
        f"seeds {', '.join(map(str, found.seeds))}: the default encoder (six layers) and {NAME} "
        f"(three), each with sources tuned for it. {found.sentences()}\n\n"
        + markdown(HEADS, found.rows())
    )
    publish("encoders", "Rankings on a second encoder", text, found.to_dict())


if __name__ == "__main__":
    main()
