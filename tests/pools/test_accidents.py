"""Whatever happens to a pool's files: the same ranking, or an error in three parts."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from benchmarks._accidents import accident
from benchmarks.robustness import outcome

from taskscout.methods.method import Description
from taskscout.models.workbench import Workbench
from taskscout.pools import Pool
from taskscout.ranking import rank
from tests.small import fresh_bench
from tests.tiny import toy_task


def copied(pool: Pool, into: Pool, name: str, of: str) -> None:
    """Put a source into another pool, with the descriptions of a source of the same kind."""
    source = pool.source(name)
    parts = [pool.description(of, key) for key in source.headers if key != "tuned"]
    into.add(
        source.card, source.tuning, [Description(p.key, name, p.header, p.arrays) for p in parts]
    )


@pytest.fixture(scope="module")
def pools(small_pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two pools of the same sources, packed and loose ones, with other numbers."""
    out = []
    for of in ("reviews", "topics"):
        folder = tmp_path_factory.mktemp("pools")
        loose = Pool.create(folder / "loose", encoder=small_pool.encoder)
        copied(small_pool, loose, "reviews", of)
        copied(small_pool, loose, "stars", "stars" if of == "reviews" else "topics")
        loose.set_left_out({"squad": "of another kind"})
        packed = loose.pack(folder / "packed")
        copied(small_pool, packed, "topics", "topics" if of == "reviews" else "reviews")
        out.append(packed.folder)
    return out[0], out[1]


@pytest.mark.parametrize("part", range(4))
def test_accidents(part: int, pools: tuple[Path, Path], small_bench: Workbench, tmp_path: Path):
    bench = fresh_bench(small_bench)
    target = toy_task("target", seed=9)
    pool, other = pools

    def rows(folder: Path) -> list[dict[str, object]]:
        opened = Pool.open(folder)
        rankings = [
            rank(target, opened, m, bench=bench) for m in ("layered-esm-logme", "esm-logme")
        ]
        return [row.to_dict() for ranking in rankings for row in ranking.sources]

    expected = rows(pool)
    assert len(expected) == 8
    assert rows(other) != expected
    outcomes = []
    for number in range(40):
        folder = tmp_path / str(number)
        shutil.copytree(pool, folder)
        what = accident(folder, other, random.Random(1000 * part + number))
        outcomes.append(outcome(lambda: rows(folder), expected))  # noqa: B023
        assert outcomes[-1] in ("same", "refused"), what
        # What no ranking reads is found by verify; a damaged pool is refused or listed.
        assert outcome(lambda: Pool.open(folder).verify(), []) in ("changed", "refused"), what  # noqa: B023
        shutil.rmtree(folder)
    assert outcomes.count("refused") > 20
