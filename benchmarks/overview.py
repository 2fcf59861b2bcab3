"""The overview of all benchmarks: about ten figures, each with what speaks against us beside it.

    python -m benchmarks.overview

Writes ``docs/benchmarks.md`` from the committed results in ``benchmarks/results``; no figure of it
is typed. A test fails where the page and the results differ. The tables behind it stand on the
pages that :data:`benchmarks._pages.PAGES` lists.
"""

from __future__ import annotations

from statistics import median

import numpy as np

from benchmarks._pages import PAGES, ROOT, page_of
from benchmarks._report import markdown
from benchmarks.claims import METHODS, STUDY, grid, hurt, oracle, result, rows, with_ends
from taskscout.studies.comparison_rows import RANDOM

PAGE = ROOT / "docs" / "benchmarks.md"
HEAD = """# Benchmarks

What is measured, in short, with what speaks against taskscout beside what speaks for it. Every
figure here is taken from the results in `benchmarks/results` by `python -m benchmarks.overview`;
the tables behind them, each with the command that makes it, date, machine and versions, stand on
the pages that are linked. They run in the repository on the labelled datasets that `TASKSCOUT_DATA`
names. A claim elsewhere in these pages that has no table behind it has not been measured.
"""
#: Rows of the first table: what chooses, and its name in the study.
CHOOSERS = {
    "source models run on your texts (`logme`)": METHODS["logme"],
    "maps, then the ten best source models (`--refine 10`)": METHODS["refined"],
    "maps of two layers (`layered-esm-logme`, the default)": METHODS["default"],
    "maps of the last layer (`esm-logme`)": METHODS["esm-logme"],
    "the source that helps other targets most, whatever yours is (`source-prior`)": "source-prior",
    "cards alone (`format`)": METHODS["format"],
    "a random source": METHODS["random"],
    "`esm-logme` by the published formula (with our centring)": METHODS["esm-logme-published"],
}
#: Texts that embedding was timed on, and what they are called here.
SETS = {"short (tweets)": "tweets", "long (film reviews)": "film reviews"}
#: Rows of the TaskWeb table.
TASKWEB = {
    "`source-prior`": "source-prior",
    "TaskShop with RoE, as published": "taskshop_roe",
    "cards alone (`format`)": "format",
    "a random source": RANDOM,
    "`layered-esm-logme`, the default": "layered-esm-logme",
}


def compared(one: float, other: float, better: str = "better", worse: str = "worse") -> str:
    """Which of two values is higher, in a word."""
    return better if one > other else worse


def picks() -> str:
    """What first picks gain."""
    table = [
        (
            "the honest oracle (chosen by two seeds, judged by the third)",
            oracle(),
            "–",
            len(grid().targets),
        )
    ]
    for label, method in CHOOSERS.items():
        gain = rows()[method, "pick-gain"]
        regret = rows()[method, "regret@3"]
        ends = with_ends(gain["value"], gain["low"], gain["high"])
        table.append((label, ends, f"{regret['value']:.1f}", gain["targets"]))
    gains = {
        m: rows()[METHODS[m], "pick-gain"] for m in ("default", "random", "esm-logme-published")
    }
    includes = "includes" if gains["default"]["low"] < 0 else "lies above"
    published = compared(gains["esm-logme-published"]["value"], gains["random"]["value"])
    return (
        f"{len(grid().sources)} sources, {len(grid().targets)} targets of 200 examples, LoRA, "
        f"{len(grid().seed_names)} seeds: {hurt()} of all transfers hurt, so choosing matters, but "
        f"the intervals (95%, over targets and seeds) are wide, that of the default {includes} "
        f"nought, and the published formula does {published} than a random source.\n\n"
        + markdown(("what chooses", "gain of the first pick, points",
                    "best of three picks, % behind the best source", "targets"), table)
    )  # fmt: skip


def forecasts() -> str:
    """What forecasts say."""
    found = result("forecast")
    by_maps = found["maps, target left out"]
    gain = np.mean([row["gain"] for row in by_maps["table"]])
    losing = sum(row["gain"] < 0 for row in by_maps["table"])
    return (
        f"Of targets left out of the fit, intervals of 80% held {by_maps['rows covered']:.0%} of "
        f"the gains and {by_maps['picks covered']:.0%} of those of recommended sources, but they "
        f"are {by_maps['row width']:.1f} points wide; following the advice (a source, or none) "
        f"gained {gain:.1f} points on average and lost on {losing} of {len(by_maps['table'])} "
        "targets, and the terms of the forecast were chosen on these targets."
    )


def settings() -> str:
    """Other ways of training."""
    found = result("settings")
    table = []
    for name, methods in found["rows"].items():
        of = {r["method"]: r for r in methods}
        carried = found["carried"].get(name)
        points = np.array(
            carried["second"] if carried else next(iter(found["carried"].values()))["first"],
            dtype=float,
        )
        share = (points[np.isfinite(points)] < 0).mean()
        table.append(
            (name, f"{share:.0%}", *(
                with_ends(*(of[m][k] for k in ("value", "low", "high")))
                for m in (METHODS["default"], "source-prior", METHODS["random"])
            ))
        )  # fmt: skip
    one = next(iter(found["carried"].values()))
    full = [
        r["value"]
        for name, methods in found["rows"].items()
        for r in methods
        if "full fine-tuning" in name and r["method"] == METHODS["default"]
    ]
    losing = f"lose in {sum(v < 0 for v in full)} of {len(full)} settings"
    return (
        f"On {len(one['targets'])} targets and {len(one['sources'])} sources with one seed: where "
        f"source and target are tuned in full, the default's first picks {losing}; rankings and "
        "advice are for LoRA.\n\n"
        + markdown(("setting", "transfers that hurt", "the default's first pick, points",
                    "`source-prior`", "a random source"), table)
    )  # fmt: skip


def taskweb() -> str:
    """Transfers that others ran."""
    block = result("taskweb")["block"]
    of = {r["method"]: r for r in block["rows"] if r["metric"] == "pick-gain"}
    less = compared(of[METHODS["default"]]["value"], of[RANDOM]["value"], "more", "less")
    table = [
        (label, with_ends(*(of[m][k] for k in ("value", "low", "high"))))
        for label, m in TASKWEB.items()
    ]
    return (
        "Our scores read MiniLM, and the published transfers are of T5-large: on the "
        f"{len(block['targets'])} targets that methods with labels serve, the default's first pick "
        f"gains {less} than a random source does. A ranking belongs to the model it was made "
        "for.\n\n" + markdown(("what chooses", "gain of the first pick, points"), table)
    )


def strength() -> str:
    """Source against interaction."""
    ours = result("variance")["splits"]["ours, LoRA, 200 examples"]
    low, share, high = (100 * ours["strength"][k] for k in ("low", "value", "high"))
    return (
        f"{share:.0f}% ({low:.0f} to {high:.0f}%) of what really tells the sources of a target "
        "apart on our grid is the source's own strength, the rest is match, which only a method "
        "that looks at the target can find; still, a choice that ignores the target is a strong "
        "control, and stands in every table."
    )


def families() -> str:
    """Is the first source a relative?"""
    found = result("families")
    by_cards = [t["hit"] for t in result("methods")["methods"]["format"]["targets"].values()]
    share = {name: np.mean([t["hit"] for t in found[f"200: {name}"]]) for name in (
        "maps of two layers (default)", "maps of the last layer", "last layer, published formula",
    )}  # fmt: skip
    default = found["200: maps of two layers (default)"]
    ours, chance = (np.mean([t[what] for t in default]) for what in ("hit", "chance"))
    than_chance = compared(ours, chance, "more", "less")
    than_cards = compared(ours, np.mean(by_cards), "more", "less")
    table = [
        ("cards alone (`format`)", f"{np.mean(by_cards):.0%}"),
        *((name, f"{value:.0%}") for name, value in share.items()),
        ("by chance", f"{chance:.0%}"),
    ]
    return (
        f"Over {len(default)} real targets of 200 rows the default's first source is of the "
        f"target's own kind of task {than_chance} often than by chance, but {than_cards} often "
        "than that of `format`, which reads nothing but the cards.\n\n"
        + markdown(("what chooses", "first source of the target's family"), table)
    )


def numbers() -> str:
    """The evidence itself."""
    found = result("evidence")
    apart = max(abs(r["ours"][0] - r["written out"]) for r in found["alone"] if "written out" in r)
    few = found["alone"][0]
    orders = found["orders"]
    behind = [str(o["n"]) for o in orders if o["ours"] < o["published"]]
    first, last = orders[0], orders[-1]
    return (
        f"Our log evidence equals the one computed from the n × n covariance to {apart:.0e}, with "
        f"fewer rows than dimensions too, where the published implementations do not "
        f"({few['hfselect'][0]:.1f} for {few['ours'][0]:.2f} at n = {few['n']}); yet against the "
        f"order by all rows ours is behind theirs at n = {', '.join(behind) or 'none'} (Spearman "
        f"{first['ours']:.2f} against {first['published']:.2f} at {first['n']}, {last['ours']:.2f} "
        f"against {last['published']:.2f} at {last['n']:,})."
    )


def _median(runs: list[dict[str, float]], what: str) -> float:
    return median(run[what] for run in runs)


def speed() -> str:
    """Seconds."""
    times, found = result("rank_times")["median"], result("ranking")
    theirs, ours = found["theirs"]["1000"], found["ours"]["1000"]
    peer = _median(theirs, "processor")
    sources = result("methods")["setting"]["sources"]
    table = [
        ("hfselect", f"{peer:.1f}", ""),
        *(
            (f"taskscout, {label}", f"{(own := _median(ours[key], 'processor')):.1f}",
             f"{peer / own:.0f}×")
            for label, key in (("as precise as the peer", "cold fp32"), ("default", "cold auto"),
                               ("target seen before", "warm auto"))
        ),
    ]  # fmt: skip
    return (
        f"Ranking the {len(sources)} sources of the built-in pool for 1,000 texts takes "
        f"{times['cold']['total']:.1f} s from a cold start and {times['warm']['total']:.1f} s the "
        "second time; a part of the lead over the peer, here for 1,000 sources, comes from "
        f"bfloat16 alone, and the peer was run {'once' if len(theirs) == 1 else len(theirs)}.\n\n"
        + markdown(("1,000 texts, 1,000 sources", "processor seconds", "faster"), table)
    )


def memory() -> str:
    """Megabytes."""
    runs = result("memory")["runs"]
    few, many = (str(f(map(int, runs))) for f in (min, max))
    return (
        f"Against {int(few):,} sources a ranking of 1,000 texts peaks at "
        f"{_median(runs[few], 'peak_mb'):.0f} MB and against {int(many):,} at "
        f"{_median(runs[many], 'peak_mb'):.0f} MB, page cache included; time grows with the pool "
        f"({_median(runs[few], 'processor'):.1f} and {_median(runs[many], 'processor'):.1f} "
        "processor seconds), and the larger pools repeat the built-in sources."
    )


def embedding() -> str:
    """Texts a second."""
    found = result("embedding")
    said = []
    for texts, name in SETS.items():
        ours = found[f"{texts}: taskscout, bfloat16 (default here)"]
        same = found[f"{texts}: sentence-transformers, bfloat16"]
        said.append(
            f"{ours['ratio']:.1f} times as fast as sentence-transformers' default on {name}, "
            f"whose own bfloat16 is {same['ratio']:.1f} times as fast,"
        )
    return (
        f"The default here, bfloat16, is {' and '.join(said)[:-1]}: the gain is that of bfloat16, "
        "not of a better loop."
    )


def training() -> str:
    """Pairs chosen beforehand."""
    runs = result("transfer")["runs"].values()
    gains = [100 * r["difference"] for r in runs]
    seeds = len(next(iter(runs))["seeds"])
    apart = sum(r["outcome"] in ("gain", "loss") for r in runs)
    return (
        f"Over {len(gains)} pairs chosen beforehand a source gained {np.mean(gains):.1f} points on "
        f"average and lost on {sum(g < 0 for g in gains)}; taken alone, {apart or 'none'} of the "
        f"{len(gains)} stands out from the noise of {seeds} seeds and the test rows."
    )


def multitask() -> str:
    """Mixtures."""
    found = result("multitask")
    data = found["summary"]
    scores: dict[tuple[str, str], list[float]] = {}
    for row in found["rows"]:
        scores.setdefault((row["type"], row["target"]), []).append(row["score"])
    targets = sorted({target for _, target in scores})
    lead = {
        t: 100 * float(np.mean(scores["related", t]) - np.mean(scores["all", t])) for t in targets
    }
    most = max(targets, key=lambda t: lead[t])
    seeds = len({row["seed"] for row in found["rows"]})
    related = next(x for x in data if x["type"] == "related")
    table = [
        (f"{x['type']}: {x['name']}" if x["type"] != x["name"] else x["name"],
         f"{x['sources']:.0f}", f"{100 * x['gain']:+.1f}",
         f"{x['targets_gaining']} of {x['targets']}")
        for x in data if x["type"] in ("all", "related", "random")
    ]  # fmt: skip
    return (
        f"{related['sources']:.0f} related sources were ahead of all together by "
        f"{np.mean(list(lead.values())):.1f} points on average over {len(targets)} targets and "
        f"{seeds} seeds, but by {lead[most]:.1f} on {most} alone: a hint and no more.\n\n"
        + markdown(("mixture", "sources", "gain, points", "targets that gain"), table)
    )


def zero_shot() -> str:
    """Pruning by divergence."""
    lines = result("zero_shot")["summary"]
    named = [x for x in lines if not x["method"].startswith("random order")]
    chance = next(x for x in lines if x["method"].startswith("random order"))
    best = max(named, key=lambda x: x["saved_within_1_percent"])
    exact = max(named, key=lambda x: x["saved"])
    return (
        f"Leaving out the most divergent domains saves up to {best['saved_within_1_percent']:.0f}% "
        f"of the time within 1% of the best result (`{best['method']}`; a random order "
        f"{chance['saved_within_1_percent']:.0f}%), but only {exact['saved']:.0f}% where every "
        "target keeps its best source, and both thresholds are read off the same pairs."
    )


def pools() -> str:
    """Damage."""
    found = result("robustness-pools")
    counts = found["counts"]["ranking"]
    return (
        f"Of {found['accidents']} accidents to the files of a pool, {counts['refused']} made a "
        f"ranking refuse with an explanation and {counts.get('same', 0)} left it as it was, to the "
        "last digit; the accidents are those that we thought of."
    )


#: Questions in order: what makes the text, and the benchmarks whose pages stand behind it.
QUESTIONS = {
    "Does the first pick help?": (picks, (STUDY,)),
    "Can the gain be foretold?": (forecasts, ("forecast",)),
    "With more examples, or full fine-tuning?": (settings, ("settings",)),
    "On transfers that others ran?": (taskweb, ("taskweb",)),
    "Are some sources simply strong?": (strength, ("variance",)),
    "Does it look at the right thing?": (families, ("families", "methods")),
    "Are the numbers right?": (numbers, ("evidence",)),
    "How fast is it?": (speed, ("ranking",)),
    "How much memory does it take?": (memory, ("memory",)),
    "How fast are texts embedded?": (embedding, ("embedding",)),
    "Does a single pair show it?": (training, ("transfer",)),
    "All sources, or a few?": (multitask, ("multitask",)),
    "Without any label?": (zero_shot, ("zero_shot",)),
    "What if files are damaged?": (pools, ("robustness-pools",)),
}


def overview() -> str:
    """The whole page."""
    parts = [HEAD]
    for question, (text, benchmarks) in QUESTIONS.items():
        pages = dict.fromkeys(page_of(name) for name in benchmarks)
        links = ", ".join(f"[{p.title}](benchmarks/{p.file}.md)" for p in pages)
        parts.append(f"## {question}\n\n{text()}\n\nMore: {links}.\n")
    listed = "\n".join(f"- [{p.title}](benchmarks/{p.file}.md): {p.question}" for p in PAGES)
    parts.append(f"## All pages\n\n{listed}\n")
    return "\n".join(parts)


def main() -> None:
    """Write the page."""
    PAGE.write_text(overview())
    print(f"Written to {PAGE.relative_to(ROOT)}.")


if __name__ == "__main__":
    main()
