"""Excel's and LibreOffice's workbooks as raw tables, cell by cell.

``.xlsx`` is read by openpyxl (the extra ``excel``), row by row. python-calamine is faster and
reads ``.ods`` too, but one cell in the last corner of a sheet makes it ask for all the memory there
is, which ends the process. No other well-kept reader of ``.ods`` was found that can be held
to a size, so the few tags that cells have there are read by the standard library.
"""

from __future__ import annotations

import datetime
import io
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

from taskscout.errors import DataError, first_line
from taskscout.tasks.dataset_tables import joined
from taskscout.tasks.delimited import table_of
from taskscout.tasks.raw import RawTable, join
from taskscout.tasks.split_names import is_understood

#: Columns and cells of the largest sheet that is read.
_COLUMNS, _CELLS = 1_000, 20_000_000
#: Bytes of a workbook once it is unpacked.
_LARGEST = 2**30
_Rows = list[tuple[int, list[str]]]


def read_xlsx(path: str, data: bytes) -> RawTable:
    """Read an Excel workbook: the values that its cells show or compute.

    Raises
    ------
    DataError
        Where it is damaged or too large, holds no table, or openpyxl is not there.
    """
    try:
        import openpyxl
    except ImportError as error:
        raise DataError(
            f"{path} is an Excel workbook, and openpyxl is not installed.",
            "It is read by openpyxl, which comes with an extra.",
            "Install it: pip install 'taskscout[excel]'; or save the sheet as CSV UTF-8.",
        ) from error
    _require_size(path, data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what openpyxl leaves out: drop-downs, colours
            book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            sheets = {}
            for sheet in book.worksheets:
                sheet.reset_dimensions()  # a sheet says how large it is, truly or not
                rows = enumerate(sheet.iter_rows(values_only=True), 1)
                sheets[sheet.title] = _records(path, rows)
    except DataError:
        raise
    except Exception as error:  # of openpyxl, its XML and its numbers and dates
        raise _damaged(path, "an Excel workbook", error) from error
    return _of_sheets(path, sheets)


def read_ods(path: str, data: bytes) -> RawTable:
    """Read an OpenDocument spreadsheet.

    Raises
    ------
    DataError
        Where it is damaged or too large, or holds no table.
    """
    _require_size(path, data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open("content.xml") as file:
            sheets = _ods_sheets(path, file)
    except (ElementTree.ParseError, zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise _damaged(path, "an OpenDocument spreadsheet", error) from error
    return _of_sheets(path, sheets)


def _require_size(path: str, data: bytes) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(info.file_size for info in archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise _damaged(path, "a workbook", error) from error
    if size > _LARGEST:
        raise _too_large(path)


def _of_sheets(path: str, sheets: dict[str, _Rows]) -> RawTable:
    """The sheets that are splits, or else the first that holds something; it is said which."""
    held = {name: rows for name, rows in sheets.items() if len(rows) > 1}
    if not held:
        raise DataError(
            f"{path} has no sheet with rows below a row of names.",
            "There is nothing to learn from.",
            "Give a workbook whose first sheet is the table.",
        )
    if len(held) > 1 and all(map(is_understood, held)):
        return joined(path, {name: table_of(path, rows, ()) for name, rows in held.items()})
    first, *others = held
    notes: tuple[str, ...] = ()
    if others:
        rest = join([repr(name) for name in others], len(others))
        notes = (f"read from sheet {first!r}; not read: {rest}",)
    return table_of(path, held[first], notes)


def _records(path: str, rows: Iterable[tuple[int, Sequence[Any]]]) -> _Rows:
    """The rows that hold something, as texts, without empty columns at the right."""
    out: _Rows = []
    cells = 0
    for number, row in rows:
        texts = [_text_of(value) for value in row]
        while texts and not texts[-1].strip():
            texts.pop()
        cells += len(texts)
        if len(texts) > _COLUMNS or cells > _CELLS:
            raise _too_large(path)
        if texts:
            out.append((number, texts))
    width = max((len(texts) for _, texts in out), default=0)
    if width * len(out) > _CELLS:
        raise _too_large(path)
    return [(number, texts + [""] * (width - len(texts))) for number, texts in out]


def _text_of(value: Any) -> str:
    """What a cell shows: TRUE, 3 and not 3.0, a day without a time of day."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        value = value.date()
    return str(value)


_TABLE, _OFFICE, _TEXT = (
    f"{{urn:oasis:names:tc:opendocument:xmlns:{part}:1.0}}" for part in ("table", "office", "text")
)


def _ods_sheets(path: str, file: Any) -> dict[str, _Rows]:
    sheets: dict[str, _Rows] = {}
    rows: _Rows = []
    number = cells = 0
    for event, element in ElementTree.iterparse(file, ("start", "end")):
        if event == "start" and element.tag == f"{_TABLE}table":
            rows, number = [], 0
        elif event == "end" and element.tag == f"{_TABLE}table-row":
            texts = list(_ods_cells(path, element))
            times = int(element.get(f"{_TABLE}number-rows-repeated", "1"))
            cells += times * len(texts)
            if cells > _CELLS:
                raise _too_large(path)
            if texts:
                rows += [(number + at, texts) for at in range(1, times + 1)]
            number += times
            element.clear()
        elif event == "end" and element.tag == f"{_TABLE}table":
            sheets[element.get(f"{_TABLE}name", "")] = _records(path, rows)
            element.clear()
    return sheets


def _ods_cells(path: str, row: ElementTree.Element) -> Iterator[str]:
    width = 0
    cells = [c for c in row if c.tag.startswith(_TABLE) and c.tag.endswith("table-cell")]
    for at, cell in enumerate(cells, 1):
        times = int(cell.get(f"{_TABLE}number-columns-repeated", "1"))
        text = _ods_text(cell)
        if not text and at == len(cells):
            return  # the rest of the row, to the last column there is
        width += times
        if width > _COLUMNS:
            raise _too_large(path)
        yield from [text] * times


def _ods_text(cell: ElementTree.Element) -> str:
    match cell.get(f"{_OFFICE}value-type"):
        case "float" | "percentage" | "currency":
            return _text_of(float(cell.get(f"{_OFFICE}value", "")))
        case "boolean":
            return cell.get(f"{_OFFICE}boolean-value", "").upper()
        case _:
            lines = (p for p in cell if p.tag == f"{_TEXT}p")
            return "\n".join("".join(line.itertext()) for line in lines)


def _damaged(path: str, what: str, error: Exception) -> DataError:
    return DataError(
        f"{path} cannot be read as {what} ({first_line(error)[:200]}).",
        "It is damaged, locked by a password, or of another format than its ending says.",
        "Save it anew, or save the sheet as CSV UTF-8.",
    )


def _too_large(path: str) -> DataError:
    return DataError(
        f"{path} has more than {_COLUMNS:,} columns or {_CELLS:,} cells.",
        "So much is not read from a spreadsheet.",
        "Delete what lies beyond the table, or save the sheet as CSV UTF-8.",
    )
