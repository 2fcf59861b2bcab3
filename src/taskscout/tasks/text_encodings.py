"""From bytes to text: UTF-8, UTF-16 and UTF-32 by their marks, else Windows' cp1252, and said."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable

from taskscout.errors import DataError
from taskscout.tasks.raw import option

#: Marks at the beginning of a file; those of UTF-32 begin as those of UTF-16 do.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
#: In languages that cp1252 writes, so many of a hundred letters have accents at most.
_MOST_ACCENTS = 0.3


def decoded_text(
    path: str, data: bytes, encoding: str | None, row_at: Callable[[str], int]
) -> tuple[str, tuple[str, ...]]:
    """Decode a text file.

    Parameters
    ----------
    path
        Named in errors.
    data
        The bytes.
    encoding
        As the user named it; None to find it out.
    row_at
        Counts the rows that begin in a text.

    Returns
    -------
    The text without a mark, and a note where the encoding is not UTF-8 and was found out.

    Raises
    ------
    DataError
        Where a byte cannot be decoded, told with its row; or there is no such encoding.
    """
    found = encoding or _by_mark(data) or "utf-8"
    try:
        text = data.decode(found).removeprefix("\ufeff")
    except LookupError as error:
        raise DataError(
            f"There is no encoding {encoding!r}.",
            f"{path} cannot be decoded without.",
            f"Give one such as utf-8, latin-1 or cp1252 with {option('encoding')}.",
        ) from error
    except ValueError as error:
        text = "" if encoding or found != "utf-8" else _as_windows(data)
        if not text:
            raise _undecodable(path, data, found, getattr(error, "start", 0), row_at) from error
        word = re.search(r"\w*[^\x00-\x7f]\w*", text)
        example = f", as in {word[0][:30]!r}" if word else ""
        return text, (f"the file is not UTF-8: read as cp1252 (Windows){example}",)
    if encoding or found == "utf-8":
        return text, ()
    return text, (f"the file is {found.upper()}",)


def _by_mark(data: bytes) -> str | None:
    """The encoding that a mark at the beginning tells, or zeros at every other place."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    start = data[:2000]
    zeros = [start[at::2].count(0) / max(len(start) // 2, 1) for at in (0, 1)]
    if max(zeros) > 0.5 and min(zeros) < 0.1 and len(data) % 2 == 0:
        return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return None


def _as_windows(data: bytes) -> str:
    """The text by cp1252, or nothing where the file is damaged UTF-8 or of another alphabet."""
    as_utf8 = data.decode("utf-8", "replace")
    damaged = as_utf8.count("\ufffd")
    if sum(not c.isascii() for c in as_utf8) > 2 * damaged:
        return ""
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        return ""
    letters = [c for c in text if c.isalpha()]
    accents = sum(not c.isascii() for c in letters)
    return text if accents <= _MOST_ACCENTS * len(letters) else ""


def _undecodable(
    path: str, data: bytes, encoding: str, start: int, row_at: Callable[[str], int]
) -> DataError:
    before = data[:start].decode(encoding, "replace")
    return DataError(
        f"{path}, row {row_at(before)}: byte {start + 1:,} (0x{data[start]:02x}) cannot be "
        "decoded.",
        f"The file is not {encoding} throughout.",
        "Save it as UTF-8, or give its encoding, such as cp1252 or cp1251, with "
        f"{option('encoding')}.",
    )
