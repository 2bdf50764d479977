"""``sslfeat doctor``: check the installation."""

from __future__ import annotations

import typer

from sslfeat.cli.console import say, say_json
from sslfeat.cli.exits import ERROR
from sslfeat.cli.options import Json
from sslfeat.system.plurals import counted


def doctor(as_json: Json = False) -> None:
    """Check what runs on this machine, what is missing, and how to install it. Exit code 1: something is broken."""
    from dataclasses import asdict

    from sslfeat import __version__
    from sslfeat.export.tools import tools
    from sslfeat.inference.diagnostics import extras, machine, providers

    about, checks = machine(), [*providers(), *extras(), *tools()]
    if as_json:
        say_json("doctor", {"sslfeat": __version__, **about, "checks": [asdict(check) for check in checks]})
    else:
        say(f"sslfeat {__version__}, Python {about['python']}, {about['system']}, {counted(about['cores'], 'core')}, "
            f"{about['memory_gib']} GiB free, {counted(about['gpus'], 'NVIDIA GPU')}")  # fmt: skip
        say(f"instructions    {', '.join(about['instructions']) or 'none that accelerate int8'}")
        for check in checks:
            say(f"{check.name:<16}{check.state:<11}{check.message}{f'  ->  {check.cure}' if check.cure else ''}")
    if any(check.state == "broken" for check in checks):
        raise typer.Exit(ERROR)
