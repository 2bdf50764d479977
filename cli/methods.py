"""``sslfeat methods``, and the description of a method in ``sslfeat train METHOD --help``."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from sslfeat.cli.console import say, say_json
from sslfeat.cli.options import Json
from sslfeat.cli.places import Command
from sslfeat.errors import SslfeatError, needs

METHOD_KEY = "sslfeat.method"


def methods(as_json: Json = False) -> None:
    """List the training methods, with idea, paper and published result. See also 'sslfeat train METHOD --help'."""
    with needs("train"):
        from sslfeat.models.method import find_method, method_names
    listed = {name: find_method(name) for name in method_names()}
    if as_json:
        plain = [{"name": name, **dataclasses.asdict(kind.about), "options": _options(kind)} for name, kind in listed.items()]
        say_json("methods", {"methods": plain})
        return
    for name, kind in listed.items():
        about = kind.about
        say(f"{name}: {about.idea}\n    {about.paper}\n    published: {about.published}")


def method_help(name: str) -> str:
    """Help of a method. Raises TrainingError for an unknown name."""
    with needs("train"):
        from sslfeat.models.method import find_method
    kind = find_method(name)
    about, recipe = kind.about, kind.recipe
    module = inspect.getdoc(inspect.getmodule(kind)) or ""
    lines = [
        f"Method {name}: {about.idea}.",
        f"  {about.paper}. Published: {about.published}.",
        f"  Defaults: batch size {recipe.batch_size}, lr {recipe.lr:g}, weight decay {recipe.weight_decay:g}, "
        f"backbone {recipe.backbones[0]} on a CPU and {recipe.backbones[1]} on a GPU.",
        "",
        *("  " + line for line in module.splitlines()),
        "",
        "Options of the method, given as --set NAME=VALUE:",
        *("  " + line for line in _words(kind).splitlines()),
        *_table(kind),
    ]
    return "\n".join(line.rstrip() for line in lines)


class TrainCommand(Command):
    """``sslfeat train``, whose help includes the method named on the command line."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[METHOD_KEY] = args[0] if args and not args[0].startswith("-") else None
        return super().parse_args(ctx, args)

    def get_help(self, ctx: Any) -> str:
        text = super().get_help(ctx)
        name = ctx.meta.get(METHOD_KEY)
        if name is None:
            return text
        try:
            return f"{text}\n\n{method_help(name)}"
        except SslfeatError as error:
            return f"{text}\n\n{error}"


def _table(kind: Any) -> list[str]:
    """One line per option: type, range (if any), and default."""
    with needs("train"):
        from sslfeat.models.ranges import ranges
    allowed = ranges(kind.Config)
    return [
        f"  {name}  {type(default).__name__}{f', {allowed[name]}' if name in allowed else ''}  [default: {default}]"
        for name, default in _options(kind).items()
    ]


def _options(kind: Any) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(kind.Config)}


def _words(kind: Any) -> str:
    """Descriptions of the options of the method's Config and its base classes."""
    classes = [part for part in kind.Config.__mro__ if dataclasses.is_dataclass(part)]
    return "\n\n".join(inspect.cleandoc(part.__doc__ or "") for part in classes)
