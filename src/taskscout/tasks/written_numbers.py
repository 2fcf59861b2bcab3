"""Numbers as people write them: decimal commas, percent signs, thousands; and codes like numbers.

``1.10`` beside ``1.1``, ``1E2`` and ``010`` are numbers to a machine and names to whoever wrote
them. Read as numbers, ``1.1`` and ``1.10`` would become one class.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# A code with a leading zero (007) is a word.
_INTEGER = re.compile(r"[+-]?(0|[1-9]\d*)")
_FLOAT = re.compile(
    r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)(e[+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE
)
_DECIMAL_COMMA = re.compile(r"[+-]?((0|[1-9]\d*)|[1-9]\d{0,2}(\.\d{3})+),\d+")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?")
_BARE_EXPONENT = re.compile(r"\d+e\d+", re.IGNORECASE)  # 1E2; programs write 1e+02
_LONGEST = 300  # characters; what has more is no quantity
_LIKE_A_NUMBER = re.compile(r"[+-]?[\d.,]*\d[\d.,]*(e[+-]?\d+)?\s*%?", re.IGNORECASE)


@dataclass(frozen=True)
class Numbers:
    """Texts read as numbers.

    Attributes
    ----------
    values
        One number per text; empty where ``unclear``.
    remark
        How they were read, where that is no matter of course.
    unclear
        Why they cannot be read although they are numbers.
    """

    values: tuple[float, ...] = ()
    remark: str = ""
    unclear: str = ""


def is_number(text: str) -> bool:
    """Whether a text is a plain number: a decimal point, no separators of thousands."""
    return bool(_FLOAT.fullmatch(text))


def is_like_a_number(text: str) -> bool:
    """Whether a text has a number's characters only, as 010, 1.2.3 or 3,5 % have."""
    return bool(_LIKE_A_NUMBER.fullmatch(text))


def read_numbers(texts: Sequence[str]) -> Numbers | None:
    """Read texts as numbers; None where one of them is no number.

    Examples
    --------
    >>> read_numbers(["0,5", "3"]).values, read_numbers(["80%", "5%"]).values
    ((0.5, 3), (80, 5))
    >>> read_numbers(["1,000", "2,500"]).unclear
    "the comma of '1,000' may separate thousands or decimals"
    """
    if texts and all(t.endswith("%") for t in texts):
        inner = read_numbers([t[:-1].rstrip() for t in texts])
        if inner is None or inner.unclear:
            return inner
        remark = f"percent signs are left out: {texts[0]} is {inner.values[0]:g}"
        return Numbers(inner.values, "; ".join(filter(None, (remark, inner.remark))))
    if any(t.endswith("%") for t in texts):
        bare = [t[:-1].rstrip() if t.endswith("%") else t for t in texts]
        return read_numbers(bare) and Numbers(unclear="some have a percent sign and some have none")
    if any(len(t) > _LONGEST for t in texts):
        return None
    commas = [t for t in texts if "," in t]
    others = [t for t in texts if "," not in t]
    if not all(map(is_number, others)):
        return None
    if not commas:
        return Numbers(tuple(map(_value, texts)))
    as_decimal = all(_DECIMAL_COMMA.fullmatch(t) for t in commas)
    as_thousands = all(_THOUSANDS.fullmatch(t) for t in commas)
    if not as_decimal and not as_thousands:
        return None
    if as_decimal and as_thousands:
        return Numbers(unclear=f"the comma of {commas[0]!r} may separate thousands or decimals")
    if as_thousands:
        values = tuple(_value(t.replace(",", "")) for t in texts)
        return Numbers(values, f"commas are read as separators of thousands, as in {commas[0]}")
    pointed = [t for t in others if "." in t]
    if pointed:
        return Numbers(unclear=f"{commas[0]!r} has a decimal comma, {pointed[0]!r} a decimal point")
    values = tuple(_value(t.replace(".", "").replace(",", ".") if "," in t else t) for t in texts)
    return Numbers(values, f"decimal commas are read as decimal points, as in {commas[0]}")


def are_codes(texts: Sequence[str]) -> bool:
    """Whether different plain numbers are written as codes are, and no program writes quantities.

    They are where two of them are one number (1.1 and 1.10), where one is 1E2, and where they
    have different numbers of decimals, one of them ending in a zero that says nothing (1.2, 1.10).

    Examples
    --------
    >>> are_codes(["1.1", "1.10"]), are_codes(["1.2", "1.10"]), are_codes(["1E2", "2E1"])
    (True, True, True)
    >>> are_codes(["1.0", "2.25", "10.5"]), are_codes(["1.50", "2.25"]), are_codes(["1", "1.5"])
    (False, False, False)
    """
    if len({float(t) for t in texts}) < len(texts) or any(map(_BARE_EXPONENT.fullmatch, texts)):
        return True
    if any("e" in t.lower() for t in texts):
        return False
    decimals = {len(t.partition(".")[2]) for t in texts}
    idle = [t for t in texts if "." in t and t.endswith("0") and not re.search(r"\.0$", t)]
    return len(decimals) > 1 and bool(idle)


def _value(text: str) -> float:
    return int(text) if _INTEGER.fullmatch(text) else float(text)
