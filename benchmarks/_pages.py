"""Which page of ``docs/benchmarks`` the tables of each benchmark stand on, and its layout.

A page answers one question. Its sections are blocks between ``<!-- NAME -->`` and
``<!-- /NAME -->``; each is written by its own benchmark through :func:`benchmarks._report.publish`.
A new benchmark adds its name to one of :data:`PAGES` (and a new page to ``nav`` in ``mkdocs.yml``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "benchmarks"
_BLOCK = re.compile(r"<!-- (?P<name>[\w-]+) -->\n.*?<!-- /(?P=name) -->\n", re.DOTALL)


@dataclass(frozen=True)
class Page:
    """One page: its file, what stands at its head, and whose tables it holds, in order."""

    file: str
    title: str
    question: str
    benchmarks: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where it is."""
        return FOLDER / f"{self.file}.md"


PAGES = (
    Page(
        "methods-on-transfer",
        "Methods on real transfer",
        "Does the source that a method puts first help, when the target is really trained from it?",
        ("study-lora-200-full", "default_method", "study", "study-wide", "map_kinds"),
    ),
    Page(
        "forecasts",
        "Forecasts",
        "How many points will a source bring, and does the interval hold?",
        ("forecast", "shuffled_labels"),
    ),
    Page(
        "transfer-grid",
        "The grid of real transfers",
        "What was trained, what did it cost, and does an order of sources carry over to more "
        "examples, to full fine-tuning and to another encoder?",
        ("our_grid", "settings", "encoders"),
    ),
    Page(
        "strength-or-match",
        "Strength or match",
        "Is a source good for every target, or for the one at hand?",
        ("variance",),
    ),
    Page(
        "taskweb",
        "TaskWeb",
        "How do the methods do on transfers that others ran and published?",
        ("taskweb", "taskweb_experts"),
    ),
    Page(
        "families",
        "Families",
        "Is the first source of the target's own kind of task?",
        ("families", "evidence_rows"),
    ),
    Page(
        "methods",
        "What every method costs",
        "How long does each method take, what does it keep of a source, and what does it put "
        "first?",
        ("methods",),
    ),
    Page(
        "evidence-and-maps",
        "Evidence and space maps",
        "Are the numbers right, and what do few labels do to them?",
        ("evidence", "few_labels", "maps", "precision"),
    ),
    Page(
        "speed",
        "Speed of ranking",
        "How long does a ranking take, and what does that grow with?",
        ("rank_times", "ranking", "growth"),
    ),
    Page(
        "memory-and-start",
        "Memory, start-up and many machines",
        "What does a ranking hold in memory, how fast does the program start, and what would a "
        "pool of the size of the hub take?",
        ("memory", "start_up", "cluster"),
    ),
    Page(
        "embedding",
        "Embedding",
        "How fast are texts embedded, beside the library that everyone uses?",
        ("embedding",),
    ),
    Page(
        "training",
        "Training and recipes",
        "What do transfers bring, and what do the recipes learn?",
        ("transfer", "adapters", "grid_recipe", "kinds"),
    ),
    Page(
        "multitask",
        "Many sources at once",
        "Is it better to train on all sources together, or on related ones?",
        ("multitask",),
    ),
    Page(
        "zero-shot",
        "Divergences and zero-shot transfer",
        "Can a divergence between texts say which trained model to use without any label?",
        ("zero_shot",),
    ),
    Page(
        "robustness",
        "Damaged files and pools",
        "What happens when files, or those of a pool, are damaged?",
        ("robustness-files", "robustness-pools"),
    ),
)


def page_of(name: str) -> Page:
    """The page that a benchmark's tables stand on.

    Raises
    ------
    LookupError
        If no page names it.
    """
    for page in PAGES:
        if name in page.benchmarks:
            return page
    raise LookupError(
        f"No page of docs/benchmarks has a place for the benchmark {name!r}. Add its name to one "
        "of PAGES in benchmarks/_pages.py (a new page also goes into `nav` of mkdocs.yml)."
    )


def sections(text: str) -> dict[str, str]:
    """The blocks of a page, marks included, by benchmark."""
    return {block["name"]: block.group() for block in _BLOCK.finditer(text)}


def assemble(page: Page, blocks: Mapping[str, str]) -> str:
    """The text of a page, its blocks in the page's order."""
    head = f"# {page.title}\n\n{page.question} (All questions: [Benchmarks](../benchmarks.md).)\n"
    return "\n".join([head, *(blocks[name] for name in page.benchmarks if name in blocks)])


def put(name: str, block: str) -> Path:
    """Write a benchmark's block in its place on its page, and return the page's path."""
    page = page_of(name)
    blocks = sections(page.path.read_text()) if page.path.exists() else {}
    blocks[name] = f"<!-- {name} -->\n{block}<!-- /{name} -->\n"
    FOLDER.mkdir(exist_ok=True)
    page.path.write_text(assemble(page, blocks))
    return page.path
