"""How methods are written, and which ones ``all`` stands for.

A method is written ``name`` or ``name(arguments)``. Arguments are methods, each with a weight
after a colon if need be, and options: ``rrf(esm-logme, vocabulary, k=30)``,
``zscore(esm-logme:2, taskshop(nearest-example))``, ``terms-renyi(alpha=0.5)``. Wherever a method
may stand, so may two stages, ``first>second``: ``rrf(esm-logme>logme, vocabulary)``;
``a>b>c`` is ``(a>b)>c``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from taskscout.errors import MethodError
from taskscout.methods.method import Method, get_method, method_names, options_of, resolve

#: What asks for all methods.
ALL = "all"
#: The cost class that ``all`` leaves out unless it is told otherwise.
COSTLY = "tuning"


def spelt_out(
    written: Iterable[str | Method], *, costly: bool = False
) -> tuple[list[str | Method], list[str]]:
    """Put every method in the place of ``all``, and name what is repeated once.

    Parameters
    ----------
    written
        Methods as they are written, or made.
    costly
        Let ``all`` include methods that tune the encoder on the target.

    Returns
    -------
    The methods; and why ``all`` leaves out the others, a line for each.
    """
    out: dict[str | Method, None] = {}
    notes: list[str] = []
    for each in written:
        if each != ALL:
            if isinstance(each, str) and not set(each) & set(_MARKS):
                out[resolve(each)] = None
            else:
                out[each] = None
            continue
        named = {m if isinstance(m, str) else m.name for m in out}
        for name in method_names():
            if name in named:
                continue
            try:
                method = get_method(name)
            except MethodError as error:  # of another package, which cannot be loaded
                notes.append(f"{name} is not shown: {error.found} {error.why}")
                continue
            if method.composed:
                notes.append(f"{name} is not shown: it is made of other methods; name them.")
            elif method.cost == COSTLY and not costly:
                notes.append(
                    f"{name} is not shown: it tunes the encoder on the target. "
                    "Name it, or ask for all with --costly."
                )
            else:
                out[name] = None
    return list(out), notes


_MARKS = "(),:=>"
_TOKEN = re.compile(r"\s*([(),:=>]|[^(),:=>\s][^(),:=>]*)")


def parse_method(text: str, **options: Any) -> Method:
    """Make a method of the way it is written.

    Parameters
    ----------
    text
        ``name``, ``name(arguments)`` or ``first>second``; see the head of this module.
    options
        Given to every method in the text whose factory knows them, and to no other, e.g.
        ``gains`` from ``--grid``; what the text says goes first.

    Raises
    ------
    MethodError
        If the text is not of that form, or names a method or an option that there is not.
    """
    parser = _Parser(text, options)
    method = parser.stages()
    parser.end()
    return method


class _Parser:
    """Recursive descent over ``name(argument, …)>name(argument, …)>…``."""

    def __init__(self, text: str, options: Mapping[str, Any]) -> None:
        self.text = text
        self.options = options
        self.tokens = [m.group(1).strip() for m in _TOKEN.finditer(text)]
        self.at = 0

    def peek(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else ""

    def next(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def fail(self, expected: str) -> MethodError:
        token = repr(self.peek()) if self.peek() else "the end"
        before = "".join(self.tokens[: self.at])
        return MethodError(
            f"{self.text!r} cannot be read as a method: after {before!r} comes {token}.",
            f"{expected} should stand there.",
            "Write it like rrf(esm-logme:2,vocabulary) or terms-renyi(alpha=0.5).",
        )

    def end(self) -> None:
        if self.at < len(self.tokens):
            raise self.fail("Nothing")

    def stages(self) -> Method:
        method = self.method()
        while self.peek() == ">":
            self.next()
            method = get_method("two-stage", methods=(method, self.method()))
        return method

    def method(self) -> Method:
        if self.peek() in ("", *_MARKS):
            raise self.fail("The name of a method")
        name = self.next()
        members: list[Method] = []
        weights: list[float] = []
        options: dict[str, Any] = {}
        if self.peek() == "(":
            self.next()
            while self.peek() != ")":
                if self.peek(1) == "=":
                    option = self.next()
                    self.next()
                    if self.peek() in ("", *_MARKS):
                        raise self.fail(f"A value of {option}")
                    options[option.replace("-", "_")] = _value(self.next())
                else:
                    members.append(self.stages())
                    weights.append(self.weight())
                if self.peek() == ",":
                    self.next()
                elif self.peek() != ")":
                    raise self.fail("A comma or a closing bracket")
            self.next()
        return self.make(name, members, weights, options)

    def weight(self) -> float:
        if self.peek() != ":":
            return 1.0
        self.next()
        try:
            weight = float(self.peek())
        except ValueError:
            raise self.fail("A weight, a number,") from None
        self.next()
        return weight

    def make(
        self, name: str, members: list[Method], weights: list[float], options: dict[str, Any]
    ) -> Method:
        known = options_of(name)
        for option, value in self.options.items():
            if option in known:
                options.setdefault(option, value)
        if members and "methods" in known:
            options["methods"] = members
            if any(w != 1.0 for w in weights):
                options["weights"] = weights
        elif len(members) == 1 and "base" in known and weights == [1.0]:
            options["base"] = members[0]
        elif members:
            raise MethodError(
                f"{name!r} was given {len(members)} methods in {self.text!r}.",
                "It is made of one, without a weight."
                if "base" in known
                else "It is not made of others.",
                "See what it takes: taskscout methods " + name,
            )
        return get_method(name, **options)


def _value(text: str) -> Any:
    """Read an option: a number, true, false, or text."""
    plain = {"true": True, "false": False}
    if text.lower() in plain:
        return plain[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
