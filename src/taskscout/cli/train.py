"""``taskscout train``: train a target through sources, prove the gain, hand over the model."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskscout.cli.console import make_workbench, open_pool, progress, stderr, stdout
from taskscout.cli.options import (
    READ,
    DropEmpty,
    DropRare,
    DropUnlabelled,
    Encoder,
    Encoding,
    Label,
    Layers,
    MaxLength,
    Pair,
    Pooling,
    Precision,
    SplitColumn,
    Text,
)
from taskscout.methods import DEFAULT

if TYPE_CHECKING:
    from taskscout.models.tuning import Recipe
    from taskscout.models.workbench import Workbench
    from taskscout.pools import Pool
    from taskscout.tasks import Task
    from taskscout.tasks.catalogue import Catalogue
    from taskscout.transfer.comparison import Comparison
    from taskscout.transfer.origin import Origin
    from taskscout.transfer.strategies import Budget, Transfer

_SOURCES = "Sources"
_HOW = "Training"
#: Stands for "all": more rows than any target has.
_ALL = 10**9
#: A source that holds more than this share of the target's texts is not taken from a ranking.
_OVERLAP = 0.01
_MINUTES = re.compile(r"(\d+(?:\.\d+)?)\s*m(?:in(?:utes?)?)?", re.IGNORECASE)


def train(
    target: Annotated[Path, typer.Argument(help="Your dataset: CSV, TSV, JSONL, Parquet, Arrow.")],
    out: Annotated[Path, typer.Option(help="Folder for model, card and results.")],
    sources: Annotated[
        str | None,
        typer.Option(
            help="Sources, separated by commas: names from the pool or the catalogue, files, or "
            "hub:owner/name.",
            rich_help_panel=_SOURCES,
        ),
    ] = None,
    from_ranking: Annotated[
        str | None,
        typer.Option(
            help="top1, top3, …: the first sources of a ranking (top1 where no source is named).",
            rich_help_panel=_SOURCES,
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="That ranks. See: taskscout methods", rich_help_panel=_SOURCES)
    ] = DEFAULT,
    pool: Annotated[str, typer.Option(help="A pool folder.", rich_help_panel=_SOURCES)] = "builtin",
    catalogue: Annotated[
        Path | None,
        typer.Option(
            help="Folder of labelled datasets with a tasks.json; TASKSCOUT_DATA by default.",
            rich_help_panel=_SOURCES,
        ),
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="Tune sources from their data even where the pool has their adapter.",
            rich_help_panel=_SOURCES,
        ),
    ] = False,
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            help="Merge the source's adapter into the encoder, and start a new one for the target.",
            rich_help_panel=_SOURCES,
        ),
    ] = False,
    strategy: Annotated[
        str,
        typer.Option(help="none, sequential, multitask or zero_shot.", rich_help_panel=_HOW),
    ] = "sequential",
    tuning: Annotated[
        str,
        typer.Option(help="full, lora, prompt, p-tuning-v2, bitfit or head.", rich_help_panel=_HOW),
    ] = "lora",
    source_tuning: Annotated[
        str | None,
        typer.Option(
            help="Of sources tuned afresh; as the target by default.", rich_help_panel=_HOW
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Runs with and runs without sources.", rich_help_panel=_HOW)
    ] = 3,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Of each run: 2000 (examples) or 10m (minutes of training).", rich_help_panel=_HOW
        ),
    ] = None,
    epochs: Annotated[
        int, typer.Option(min=0, help="0: the tuning's own.", rich_help_panel=_HOW)
    ] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples.", rich_help_panel=_HOW)] = 32,
    learning_rate: Annotated[
        float, typer.Option(min=0, help="0: the tuning's own.", rich_help_panel=_HOW)
    ] = 0.0,
    early_stopping: Annotated[
        int,
        typer.Option(
            min=0,
            help="Stop after so many evaluations on the validation split without gain; 0: never.",
            rich_help_panel=_HOW,
        ),
    ] = 0,
    report_to: Annotated[
        str,
        typer.Option(help="Where Trainer logs: none, tensorboard, wandb, …", rich_help_panel=_HOW),
    ] = "none",
    metric: Annotated[
        str,
        typer.Option(help="That counts; the kind's usual one by default.", rich_help_panel=_HOW),
    ] = "",
    source_examples: Annotated[
        int,
        typer.Option(min=1, help="Of each source tuned afresh, at most.", rich_help_panel=_HOW),
    ] = 10_000,
    temperature: Annotated[
        float,
        typer.Option(
            help="multitask: T of the mixing by size^(1/T); inf for equal shares.",
            rich_help_panel=_HOW,
        ),
    ] = 1.0,
    with_target: Annotated[
        bool,
        typer.Option(
            "--with-target", help="multitask: the target is in the mix too.", rich_help_panel=_HOW
        ),
    ] = False,
    map_labels: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="zero_shot: SOURCE=TARGET, where label names differ; may be repeated.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="zero_shot for a target without labels: its label names, separated by commas.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    text: Text = None,
    pair: Pair = None,
    label: Label = None,
    task_kind: Annotated[
        str | None,
        typer.Option(
            help="The target's kind, where its columns leave it open.", rich_help_panel=READ
        ),
    ] = None,
    split_column: SplitColumn = None,
    encoding: Encoding = "utf-8",
    drop_unlabelled: DropUnlabelled = False,
    drop_empty: DropEmpty = False,
    drop_rare: DropRare = False,
    encoder: Encoder = None,
    pooling: Pooling = "mean",
    layers: Layers = "last",
    max_length: MaxLength = 128,
    precision: Precision = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the folder where it exists.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print result.json and nothing else on stdout.")
    ] = False,
) -> None:
    """Train your target through sources, with and without, and hand over the better model.

    A training that is stopped goes on where it was when the same command is given again.
    """
    from taskscout.errors import TransferError
    from taskscout.tasks import Task
    from taskscout.transfer.strategies import Budget, check_kinds, check_target

    if sources is not None and from_ranking is not None:
        raise TransferError(
            "--sources and --from-ranking were both given.",
            "Each says which sources to train through.",
            "Give one of them.",
        )
    bound = parse_budget(budget) if budget is not None else Budget()
    mapping = parse_mapping(map_labels or [])
    if labels is not None:
        if strategy != "zero_shot":
            raise TransferError(
                "--labels was given, which says that the target has no labels.",
                f"Strategy {strategy!r} trains on them.",
                "Use --strategy zero_shot, or leave --labels out.",
            )
        names = [n.strip() for n in labels.split(",") if n.strip()]
        task = unlabelled(target, names, text=text, pair=pair, encoding=encoding)
    else:
        task = Task.from_file(
            target, text=text, pair=pair, label=label, kind=task_kind,
            split_column=split_column, encoding=encoding, drop_unlabelled=drop_unlabelled,
            drop_empty=drop_empty, drop_rare=drop_rare,
        )  # fmt: skip
    check_target(task, strategy)  # type: ignore[arg-type]  # an unknown one is refused later
    command = " ".join(["taskscout", *map(shlex.quote, sys.argv[1:])])
    console = stderr()
    with progress() as report:
        bench = make_workbench(
            encoder, pooling, layers=layers, max_length=max_length, precision=precision,
            report=report,
        )  # fmt: skip
        opened = open_pool(pool)
        notes: list[str] = list(task.notes)
        wanted = [s.strip() for s in (sources or "").split(",") if s.strip()]
        if strategy != "none" and not wanted and not (strategy == "zero_shot" and not from_ranking):
            wanted = _ranked(task, opened, bench, method, from_ranking or "top1", notes)
        origins = _origins(task, wanted, opened, bench, catalogue, notes)
    check_kinds(task, origins, strategy)  # type: ignore[arg-type]  # an unknown one is refused later
    recipe = _recipe(
        tuning=tuning, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
        examples=_ALL, early_stopping=early_stopping, report_to=report_to, metric=metric,
    )  # fmt: skip
    source_recipe = _recipe(
        tuning=source_tuning or tuning, epochs=epochs, batch_size=batch_size,
        learning_rate=learning_rate if source_tuning in (None, tuning) else 0.0,
        examples=source_examples, early_stopping=early_stopping, report_to=report_to,
    )  # fmt: skip
    # A prompt starts from a prompt, and a pool keeps LoRA.
    fresh = fresh or (tuning in ("prompt", "p-tuning-v2") and not merge)
    folder = train_and_keep(
        task, origins, bench, out=out, overwrite=overwrite, strategy=strategy, recipe=recipe,
        source_recipe=source_recipe, seeds=range(seeds), budget=bound, fresh=fresh, merge=merge,
        temperature=temperature, with_target=with_target, labels=mapping, command=command,
        notes=notes, say=lambda line: console.print(line, soft_wrap=True, markup=False),
        show=None if as_json else _show,
    )  # fmt: skip
    if as_json:
        typer.echo((folder / "result.json").read_text(encoding="utf-8"))
    else:
        typer.echo(str(out))


def parse_budget(text: str) -> Budget:
    """Read ``2000`` as examples and ``10m`` as minutes.

    Raises
    ------
    TransferError
        If it is neither, or not above 0.
    """
    from taskscout.errors import TransferError
    from taskscout.transfer.strategies import Budget

    minutes = _MINUTES.fullmatch(text.strip())
    if minutes:
        return Budget(seconds=60 * float(minutes.group(1)))
    if re.fullmatch(r"-?\d+", text.strip()):
        return Budget(examples=int(text))
    raise TransferError(
        f"--budget is {text!r}.",
        "It is a number of examples, or of minutes with an m.",
        "Give 2000 or 10m, for example.",
    )


def parse_mapping(pairs: Sequence[str]) -> dict[str, str]:
    """Read SOURCE=TARGET pairs of labels.

    Raises
    ------
    TransferError
        If one has no ``=``.
    """
    from taskscout.errors import TransferError

    out = {}
    for text in (p for given in pairs for p in given.split(",")):
        source, sign, wanted = text.partition("=")
        if not sign or not source.strip() or not wanted.strip():
            raise TransferError(
                f"--map is {text!r}.",
                "It says which label of the source answers for which of the target.",
                "Write it as SOURCE=TARGET, for example neg=negative.",
            )
        out[source.strip()] = wanted.strip()
    return out


def unlabelled(
    path: Path, names: Sequence[str], *, text: str | None, pair: str | None, encoding: str
) -> Task:
    """Read a target that has no labels: all its rows, as the split ``test``.

    Raises
    ------
    TransferError
        If the text's column is not plain, or fewer than two labels are named.
    """
    import pyarrow as pa

    from taskscout.errors import TransferError
    from taskscout.tasks import Task
    from taskscout.tasks.labels import is_string
    from taskscout.tasks.readers import _read

    if len(set(names)) < 2 or len(set(names)) != len(names):
        raise TransferError(
            f"--labels names {', '.join(names) or 'nothing'}.",
            "There is something to choose between two labels or more, each named once.",
            "Name them all: --labels negative,positive",
        )
    table = _read(path, encoding).table
    words = [c for c in table.column_names if is_string(table[c].type)]
    for given in (c for c in (text, pair) if c is not None):
        if given not in table.column_names:
            raise TransferError(
                f"{path} has no column {given!r}.",
                f"Its columns are {', '.join(table.column_names)}.",
                "Name one of these.",
            )
    if text is None:
        plain = [c for c in words if c.lower() in ("text", "sentence", "content", "body")]
        if len(words) != 1 and len(plain) != 1:
            raise TransferError(
                f"{path} has {len(words)} columns of text ({', '.join(words) or 'none'}).",
                "It does not show which one is to be read.",
                "Name it with --text.",
            )
        text = plain[0] if len(plain) == 1 else words[0]
    texts = [t or "" for t in table[text].cast(pa.string()).to_pylist()]
    columns: dict[str, Any] = {"text": texts, "label": pa.nulls(len(texts), pa.int64())}
    if pair is not None:
        columns["text_pair"] = [t or "" for t in table[pair].cast(pa.string()).to_pylist()]
    return Task(path.stem, "classification", {"test": pa.table(columns)}, tuple(names))


def _recipe(**settings: Any) -> Recipe:
    from taskscout.models.tuning import Recipe

    return Recipe(tokens=_ALL, **settings)


def _ranked(
    task: Task, pool: Pool, bench: Workbench, method: str, top: str, notes: list[str]
) -> list[str]:
    """Names of the first sources of a ranking."""
    from taskscout.errors import TransferError
    from taskscout.ranking import rank
    from taskscout.tasks.names import NONE

    found = re.fullmatch(r"top(\d+)", top.strip(), re.IGNORECASE)
    if not found or int(found.group(1)) < 1:
        raise TransferError(
            f"--from-ranking is {top!r}.", "It says how many of the first sources to take.",
            "Write top1 or top3, for example.",
        )  # fmt: skip
    ranking = rank(task, pool, method, bench=bench, exclude_overlap=_OVERLAP)
    names = [r.name for r in ranking.sources if r.name != NONE and r.score == r.score]
    names = names[: int(found.group(1))]
    if ranking.sources[0].name == NONE:
        notes.append(f"{method} ranks 'none' first: it expects no source to help this target")
    notes.append(f"{method} ranks first: {', '.join(names)}")
    return names


def _origins(
    task: Task,
    names: Sequence[str],
    pool: Pool,
    bench: Workbench,
    catalogue: Path | None,
    notes: list[str],
) -> list[Origin]:
    """The sources; a note for each that holds texts of the target."""
    from taskscout.pools.sources import origins_of, overlap_with

    found = origins_of(names, pool, bench.encoder, catalogue=_catalogue(catalogue))
    for origin in found:
        share = overlap_with(task, origin, pool)
        if share > _OVERLAP:
            notes.append(
                f"source {origin.name} holds {share:.0%} of the target's texts, so test scores "
                "through it may say little about new texts"
            )
    return found


def _catalogue(folder: Path | None) -> Catalogue | None:
    import os

    from taskscout.tasks.catalogue import ENVIRONMENT_VARIABLE, Catalogue

    if folder is not None:
        return Catalogue.open(folder)
    return Catalogue.find() if os.environ.get(ENVIRONMENT_VARIABLE) else None


def _show(runs: Sequence[Transfer], comparison: Comparison | None, notes: Sequence[str]) -> None:
    from taskscout.reports.transfer import show_training

    show_training(runs, comparison, stdout(), notes=notes)


def train_and_keep(
    task: Task,
    origins: Sequence[Origin],
    bench: Workbench,
    *,
    out: Path,
    overwrite: bool,
    strategy: Any,
    recipe: Recipe,
    source_recipe: Recipe,
    seeds: Sequence[int],
    budget: Budget,
    command: str,
    notes: Sequence[str],
    say: Any,
    show: Any = None,
    **options: Any,
) -> Path:
    """Train with and without sources, keep what is finished, and put the result into its folder.

    Returns
    -------
    The folder.
    """
    from dataclasses import asdict

    from taskscout.transfer.comparison import compare
    from taskscout.transfer.export import ADAPTER
    from taskscout.transfer.model_card import model_card, result_json
    from taskscout.transfer.strategies import NONE, transfer
    from taskscout.transfer.workspace import Workspace, full_disk_explained, saver

    test = task.tables["test"]
    labelled = "label" not in test.column_names or not test["label"].null_count
    plan = {
        "target": task.fingerprint if labelled else [task.name, *task.inputs("test")],
        "sources": [[o.card.to_dict(), o.tuning] for o in origins],
        "encoder": bench.encoder.space,
        "strategy": strategy,
        "recipe": recipe.to_dict(),
        "source_recipe": source_recipe.to_dict(),
        "seeds": list(seeds),
        "budget": asdict(budget),
        **{k: v for k, v in options.items() if k != "labels"},
        "labels": options.get("labels"),
    }
    space = Workspace(out, plan, overwrite=overwrite)
    compared = labelled and strategy != NONE and "train" in task.tables

    def keep(run: Transfer) -> None:
        space.keep(run, saver(run, bench.encoder, task.label_names))
        score = f"{100 * run.score:.1f}" if run.scores else "no labels to score"
        say(f"{run.strategy}, seed {run.seed}: {score} ({run.seconds + run.source_seconds:.0f} s)")

    with full_disk_explained(space.folder):
        space.begin()
        if space.resumed:
            say(f"going on with what {space.folder} holds")
        settings: dict[str, Any] = {"recipe": recipe, "budget": budget}
        for_sources: dict[str, Any] = {"source_recipe": source_recipe, **options}
        comparison = None
        if compared:
            comparison = compare(
                task, origins, bench, strategy=strategy, seeds=list(seeds), known=space.known,
                keep=keep, folder=space.checkpoints, **settings, **for_sources,
            )  # fmt: skip
            runs = [*comparison.transfers, *comparison.alone]
        else:
            runs = []
            # Without training there is nothing that a seed would change.
            for seed in seeds if strategy != "zero_shot" else seeds[:1]:
                run = space.known(strategy, seed)
                if run is None:
                    run = transfer(
                        task, origins, bench, strategy=strategy, seed=seed,
                        folder=space.checkpoints / f"{strategy}-{seed}", **settings,
                        **(for_sources if strategy != NONE else {}),
                    )  # fmt: skip
                    keep(run)
                    run.tuned = None
                runs.append(run)
        chosen = _choose(strategy, runs, space)
        said = list(dict.fromkeys([*notes, *(n for r in runs for n in r.notes)]))
        cards = [o.card for o in origins]
        shared: dict[str, Any] = {
            "chosen": chosen, "sources": cards, "encoder": bench.encoder.model_id,
            "command": command, "notes": said,
        }  # fmt: skip
        model = space.folder / f"model-{chosen['strategy']}"
        files = {
            "README.md": model_card(
                task,
                runs,
                comparison,
                form=_form(model),
                adapter=(model / ADAPTER).is_dir(),
                **shared,
            ),
            "result.json": result_json(task, runs, comparison, recipe=recipe.to_dict(), **shared),
        }
        if not labelled and runs[0].outputs is not None:
            files["predictions.csv"] = _predictions(task, runs[0].outputs)
        folder = space.finish(chosen["strategy"], files)
    if show is not None:
        show(runs, comparison, [*said, chosen["why"]])
    return folder


def _form(folder: Path) -> str:
    """What loads a model folder."""
    if (folder / "weights.safetensors").is_file():
        return "weights"
    if (folder / "adapter_config.json").is_file():
        return "peft"
    if not (folder / "config.json").is_file():
        return "none"
    return "own" if (folder / "modeling_taskscout.py").is_file() else "native"


def _choose(strategy: str, runs: Sequence[Transfer], space: Any) -> dict[str, Any]:
    """Which model to hand over: the strategy that does better on validation, its best seed."""
    import numpy as np

    from taskscout.transfer.strategies import NONE

    def validation(of: str) -> float | None:
        values = [r.validation.get("score") for r in runs if r.strategy == of]
        known = [v for v in values if v is not None]
        return float(np.mean(known)) if known and len(known) == len(values) else None

    with_sources, alone = validation(strategy), validation(NONE)
    best, why = strategy, "It is the strategy that was asked for."
    if strategy != NONE and with_sources is not None and alone is not None:
        points = f"{100 * with_sources:.1f} against {100 * alone:.1f} points on validation"
        if with_sources > alone:
            why = f"Handed over: trained through the sources ({points}, mean over seeds)."
        else:
            best = NONE
            why = (
                f"Handed over: trained on the target alone ({100 * alone:.1f} against "
                f"{100 * with_sources:.1f} points on validation through the sources)."
            )
    elif strategy != NONE:
        why = "There are no validation rows to choose by, so the strategy asked for is handed over."
    kept = space.kept(best)
    seed = kept["seed"] if kept else runs[0].seed
    return {"strategy": best, "seed": seed, "why": why}


def _predictions(task: Task, outputs: Any) -> str:
    """A CSV of the texts with the label that answers for each."""
    import csv
    import io

    texts, pairs = task.inputs("test")
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["text", *(["text_pair"] if pairs else []), "label", "score"])
    for i, best in enumerate(outputs.argmax(1).tolist()):
        row = [texts[i], *([pairs[i]] if pairs else [])]
        writer.writerow([*row, task.label_names[best], f"{outputs[i, best]:.4f}"])
    return out.getvalue()
