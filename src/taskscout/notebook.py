"""How objects look in a notebook: a small table, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def table_html(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lay out a table under a title.

    Parameters
    ----------
    title
        Stands above the table.
    columns
        Heads; none of them are shown where all are empty.
    rows
        Cells by row; a number stands at the right of its cell, and None is a dash.
    """
    head = "".join(f'<th style="text-align:left">{escape(c)}</th>' for c in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    top = f"<thead><tr>{head}</tr></thead>" if any(columns) else ""
    return f"<div><p>{escape(title)}</p><table>{top}<tbody>{body}</tbody></table></div>"


def _cell(value: object) -> str:
    side = "right" if isinstance(value, int | float) else "left"
    if value is None or value != value:
        text = "–"
    elif isinstance(value, int):
        text = f"{value:,}"
    else:
        text = f"{value:.4f}" if isinstance(value, float) else escape(str(value))
    return f'<td style="text-align:{side}">{text}</td>'
