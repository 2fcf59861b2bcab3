"""From files to raw tables, by their endings; and from archives and folders of such files.

Nothing is inferred here but encodings, separators, nestings and which files are splits. What lies
in an archive is read in memory: no name in it becomes a file. Pickles are never read.
"""

from __future__ import annotations

import bz2
import difflib
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa

from taskscout.errors import DataError
from taskscout.tasks.arrow_files import read_ipc, read_parquet
from taskscout.tasks.dataset_tables import declared_names, joined
from taskscout.tasks.delimited import read_csv, read_lines, read_tsv, records_in
from taskscout.tasks.json_rows import read_json, read_json_lines
from taskscout.tasks.raw import RawTable, join
from taskscout.tasks.split_names import is_understood
from taskscout.tasks.spreadsheets import read_ods, read_xlsx
from taskscout.tasks.text_encodings import decoded_text

#: Bytes of the largest file that is unpacked or read whole.
_LARGEST = 4 * 2**30


def read_table(path: Path, encoding: str | None = None) -> RawTable:
    """Read a file by its ending; or a folder, or a zip, of one file or of one per split.

    Parameters
    ----------
    path
        The file or folder.
    encoding
        Of text files; None to find it out.

    Raises
    ------
    DataError
        Where the file is missing, empty or malformed, or of a format that is not known.
    """
    if not path.exists():
        raise _missing_file(path)
    try:
        if path.is_dir():
            return _folder(path, encoding)
        if not path.is_file():
            raise DataError(
                f"{path} is no ordinary file.",
                "A pipe or device may never end.",
                "Save its data in a file, and give that.",
            )
        suffix = path.suffix.lower()
        if suffix not in _READ and suffix not in _UNPACK:
            raise _unknown_format(str(path), suffix)
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty.", "It has 0 bytes.", "Give a file with examples.")
        if suffix in _ARROW:
            return _arrow_table(str(path), _ARROW[suffix](path))
        with path.open("rb") as file:
            return _read(str(path), _bounded(str(path), file), encoding)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read.",
            f"The system says: {error.strerror or error}.",
            "Check the file and its permissions.",
        ) from error


def is_data_file(name: str) -> bool:
    """Whether a name ends as a file does that can be read, packed ones among them."""
    return PurePosixPath(name).suffix.lower() in {*_READ, *_UNPACK}


def _read(name: str, data: bytes, encoding: str | None) -> RawTable:
    """Read the bytes of a file, its name telling the format."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix == ".zip":
        return _zip(name, data, encoding)
    if suffix in _UNPACK:
        inner = name[: -len(suffix)]
        if PurePosixPath(inner).suffix.lower() not in _READ:
            raise _unknown_format(name, "".join(PurePosixPath(name).suffixes[-2:]))
        try:
            with _UNPACK[suffix](io.BytesIO(data)) as file:
                return replace(_read(inner, _bounded(name, file), encoding), origin=name)
        except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
            raise _damaged_archive(name, error) from error
    if suffix not in _READ:
        raise _unknown_format(name, suffix)
    if not data.strip():
        raise DataError(f"{name} is empty.", "It has no text.", "Give a file with examples.")
    if suffix in _ARROW:
        return _arrow_table(name, _ARROW[suffix](name, data))
    if suffix in _BYTES:
        return _BYTES[suffix](name, data)
    row_at = records_in if suffix == ".csv" else _lines_in
    text, notes = decoded_text(name, data, encoding, row_at)
    raw = _TEXT[suffix](name, text)
    return replace(raw, notes=(*notes, *raw.notes))


def _bounded(name: str, file: IO[bytes]) -> bytes:
    pieces, size = [], 0
    while piece := file.read(2**20):  # reading asks for as much memory as it is told to read
        pieces.append(piece)
        size += len(piece)
        if size > _LARGEST:
            raise DataError(
                f"{name} holds more than {_LARGEST / 2**30:g} GiB once it is unpacked.",
                "So much is not read into memory; a source is chosen by a thousand rows.",
                "Give a sample of its rows.",
            )
    return b"".join(pieces)


def _lines_in(before: str) -> int:
    return before.count("\n") + 1


def _arrow_table(name: str, table: pa.Table) -> RawTable:
    numbers = range(1, table.num_rows + 1)
    return RawTable(name, table, numbers, label_names=declared_names(table.schema))


# -- several files ----------------------------------------------------------------------


def _zip(name: str, data: bytes, encoding: str | None) -> RawTable:
    """Read the data files of an archive, without what systems put beside them."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            infos = {
                info.filename: info
                for info in archive.infolist()
                if not info.filename.endswith("/") and not _is_hidden(info.filename)
            }
            chosen = _choose(name, [n for n in infos if is_data_file(n)], list(infos))
            left = _LARGEST
            parts = {}
            for split, file in chosen.items():
                left -= infos[file].file_size
                if left < 0 or PurePosixPath(file).suffix.lower() in _UNPACK:
                    raise _damaged_archive(name, f"{file} is packed once more or too large")
                parts[split] = _read(f"{name}/{file}", archive.read(infos[file]), encoding)
    except (
        zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError, ValueError,
        NotImplementedError,
    ) as error:  # fmt: skip
        raise _damaged_archive(name, error) from error
    return _whole(name, chosen, parts)


def _folder(path: Path, encoding: str | None) -> RawTable:
    """Read the one data file of a folder, or the files that are its splits."""
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        raise DataError(
            f"{path} is a folder that datasets wrote.",
            "It is read by that library.",
            f"In Python: Task.from_dataset(datasets.load_from_disk({str(path)!r})).",
        )
    names = sorted(f.name for f in path.iterdir() if f.is_file() and not _is_hidden(f.name))
    chosen = _choose(str(path), [n for n in names if is_data_file(n)], names)
    parts = {split: read_table(path / file, encoding) for split, file in chosen.items()}
    return _whole(str(path), chosen, parts)


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _choose(name: str, files: list[str], all_files: list[str]) -> dict[str, str]:
    """Which files are which splits; the only file stands under an empty name.

    Raises
    ------
    DataError
        Where there is no data file, or several whose names say no splits.
    """
    if len(files) == 1:
        return {"": files[0]}
    splits = {file: _split_of(file) for file in files}
    named = [split for split in splits.values() if split]
    if len(named) == len(files) > 0 and len(set(named)) == len(named):
        return {split: file for file, split in splits.items()}
    has = "no file that can be read" if not files else f"the files {join(files[:5], len(files))}"
    if not files and all_files:
        has += f", only {join(sorted(all_files)[:5], len(all_files))}"
    raise DataError(
        f"{name} has {has}.",
        "A folder or archive holds one file, or one for each split, named train, validation (or "
        "dev) and test.",
        "Give one of the files, or name them after their splits."
        if files
        else "Give a file, or load a folder laid out like a hub dataset with Task.from_hub.",
    )


def _split_of(file: str) -> str:
    """The split that a file's name says: train.csv, test_ood.csv, reviews-dev.csv."""
    stem = PurePosixPath(file).name.split(".")[0]
    last = stem.replace("-", "_").rsplit("_", 1)[-1]
    return next((each for each in (stem, last) if is_understood(each)), "")


def _whole(name: str, chosen: Mapping[str, str], parts: Mapping[str, RawTable]) -> RawTable:
    raw = joined(name, parts)
    if list(chosen) == [""]:
        note = f"read from {PurePosixPath(chosen['']).name}"
    else:
        files = [f"{PurePosixPath(f).name}" for f in chosen.values()]
        note = f"the splits are the files {join(files, len(files))}"
    return replace(raw, notes=(note, *raw.notes))


# -- errors -----------------------------------------------------------------------------


def _unknown_format(name: str, suffix: str) -> DataError:
    advice = {
        ".xls": "In the spreadsheet, save it as .xlsx or as CSV UTF-8.",
        ".pkl": "A pickle can run code and is never read: save the data as Parquet.",
        ".pickle": "A pickle can run code and is never read: save the data as Parquet.",
        ".zst": "Unpack it first.",
        ".7z": "Unpack it first.",
        ".rar": "Unpack it first.",
        ".tar": "Unpack it first.",
        ".tgz": "Unpack it first.",
    }
    return DataError(
        f"{name} has the unknown format {suffix or '(no ending)'!r}.",
        f"The ending tells the format; known are {', '.join((*_READ, *_UNPACK))}.",
        advice.get(suffix, "Rename the file after what it holds, or convert it."),
    )


def _damaged_archive(name: str, error: Exception | str) -> DataError:
    reason = error if isinstance(error, str) else str(error).strip() or type(error).__name__
    return DataError(
        f"{name} cannot be unpacked ({reason.splitlines()[0][:200]}).",
        "It is damaged, locked by a password, or of another format than its ending says.",
        "Unpack it, and give the file.",
    )


def _missing_file(path: Path) -> DataError:
    folder = path.parent
    if not folder.is_dir():
        return DataError(
            f"There is no file {path}.",
            f"The folder {folder} does not exist either.",
            "Check the path.",
        )
    files = sorted(f.name for f in folder.iterdir() if is_data_file(f.name))
    close = difflib.get_close_matches(path.name, files, n=3, cutoff=0.5)
    shown = close or files[:5]
    there = (
        f"has {join(shown, len(shown) if close else len(files))}" if shown else "has no data file"
    )
    return DataError(
        f"There is no file {path}.",
        f"The folder {folder.resolve()} {there}.",
        f"Did you mean {close[0]}?" if close else "Check the path.",
    )


_TEXT: dict[str, Callable[[str, str], RawTable]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".txt": read_lines,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json,
}
_BYTES: dict[str, Callable[[str, bytes], RawTable]] = {".xlsx": read_xlsx, ".ods": read_ods}
_ARROW: dict[str, Callable[..., pa.Table]] = {
    ".parquet": read_parquet,
    ".arrow": read_ipc,
    ".feather": read_ipc,
}
_READ = (*_TEXT, *_BYTES, *_ARROW)
_UNPACK: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zip": zipfile.ZipFile,
}
