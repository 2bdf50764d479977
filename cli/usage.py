"""Errors of the command-line parser (raised by Typer), with suggestions for misspelled names."""

from __future__ import annotations

import re
import shlex
from typing import Any, cast

import typer

from sslfeat.cli.sources import kind_of
from sslfeat.errors import did_you_mean

# Typer only exports this subclass of the parser's exceptions
ParserError = cast(type[typer.BadParameter], typer.BadParameter.__bases__[0])
EXTRA = re.compile(r"unexpected extra arguments?(?:\(s\))? \((.*)\)")
OPTIONS = {"index": "--index", "probe": "--classifier", "clusters": "--clusters", "encoder": "--encoder"}  # by kind of folder
CHOICE = re.compile(r"'([^']*)' is not one of (.*)")


def with_suggestion(error: typer.BadParameter) -> typer.BadParameter:
    """Add suggestions: the nearest choice for a misspelled one, the option for an unexpected argument."""
    error.message = error.message.replace("Value error, ", "")
    extra = EXTRA.search(error.message)
    if extra and error.ctx and (option := OPTIONS.get(kind_of(extra[1]) or "")) in _options(error.ctx):
        error.message += f"; did you mean {option} {shlex.quote(extra[1])}?"
    found = CHOICE.search(error.message)
    if found and (near := did_you_mean(found[1], re.findall(r"'([^']*)'", found[2]))):
        error.message = f"{error.message.rstrip('.')}; {near}"
    return error


def _options(ctx: Any) -> set[str]:
    return {name for parameter in ctx.command.params for name in parameter.opts}
