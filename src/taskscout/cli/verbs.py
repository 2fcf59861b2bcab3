"""What every verb has in common: ``--quiet``, ``--verbose``, and no option lost unseen."""

from __future__ import annotations

import functools
import inspect
import logging
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from taskscout.cli.console import SETTINGS
from taskscout.errors import TaskscoutError

#: Options of which people expect that both values count. Of any other the last one wins, as ever,
#: so that a script may append to a command.
_ONCE = ("--pool", "--method", "--sources", "--text", "--pair", "--label", "--split-column")
_PANEL = "What is said"
_Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", help="No progress and no remarks on stderr; only errors.", rich_help_panel=_PANEL
    ),
]
_Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        help="Also what libraries log, and where an error arose.",
        rich_help_panel=_PANEL,
    ),
]


def _with_common_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the options that all have, before it is called."""

    @functools.wraps(verb)
    def called(*arguments: Any, quiet: bool = False, verbose: bool = False, **options: Any) -> Any:
        SETTINGS.quiet, SETTINGS.verbose = quiet, verbose
        if verbose:
            logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
        return verb(*arguments, **options)

    signature = inspect.signature(verb, eval_str=True)
    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option)
        for name, option in (("quiet", _Quiet), ("verbose", _Verbose))
    ]
    parameters = [*signature.parameters.values(), *common]
    called.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]  # read by inspect
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    return called


class Verb(TyperCommand):
    """A command that loses no pool, method or column that was named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse an option that was given twice: all but the last would be lost."""
        once = {
            name
            for option in self.get_params(ctx)
            if not getattr(option, "multiple", True)
            for name in option.opts
            if name in _ONCE
        }
        words = args[: args.index("--")] if "--" in args else args
        given = Counter(word.partition("=")[0] for word in words)
        for name in once:
            if given[name] > 1:
                raise TaskscoutError(
                    f"{name} was given {given[name]} times.",
                    "It has one value, so all but the last would be lost.",
                    "Give it once" + ("; a ranking reads one pool." if name == "--pool" else "."),
                )
        return super().parse_args(ctx, args)


class Verbs(typer.Typer):
    """A group whose commands are verbs."""

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """Register a command; see :class:`Verb`."""
        settings.setdefault("cls", Verb)
        register = super().command(name, **settings)

        def registered(verb: Callable[..., Any]) -> Callable[..., Any]:
            register(_with_common_options(verb))
            return verb

        return registered
