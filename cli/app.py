"""The command-line program. Commands import heavy packages when they run."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from sslfeat import __version__
from sslfeat.cli.adopt import adopt
from sslfeat.cli.bench import bench
from sslfeat.cli.cluster import cluster
from sslfeat.cli.compare import compare
from sslfeat.cli.console import note, say, say_error
from sslfeat.cli.dedupe import dedupe
from sslfeat.cli.doctor import doctor
from sslfeat.cli.embed import embed, repair
from sslfeat.cli.exits import ERROR, USAGE
from sslfeat.cli.export import export
from sslfeat.cli.groups import NAMES, Commands
from sslfeat.cli.index import index
from sslfeat.cli.inspect import info, models, verify
from sslfeat.cli.map import map_
from sslfeat.cli.methods import TrainCommand, methods
from sslfeat.cli.places import Command
from sslfeat.cli.predict import predict
from sslfeat.cli.probe import probe
from sslfeat.cli.pull import pull
from sslfeat.cli.push import push
from sslfeat.cli.report import report
from sslfeat.cli.samples import samples
from sslfeat.cli.score import score
from sslfeat.cli.search import search
from sslfeat.cli.serve import serve
from sslfeat.cli.train import train
from sslfeat.cli.usage import ParserError, with_suggestion
from sslfeat.errors import InterruptedRun, SslfeatError, UsageError
from sslfeat.system import signals

HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(
    name="sslfeat",
    help="Train image encoders without labels, export them to ONNX, embed, search and evaluate.",
    cls=Commands,
    context_settings=HELP,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    train,
    export,
    adopt,
    compare,
    bench,
    embed,
    index,
    search,
    push,
    dedupe,
    probe,
    predict,
    cluster,
    map_,
    score,
    report,
    serve,
    info,
    verify,
    repair,
    doctor,
    models,
    pull,
    methods,
    samples,
):
    kind = TrainCommand if command is train else Command
    bare = command in (models, methods, samples, doctor, serve)
    app.command(command.__name__.rstrip("_"), cls=kind, context_settings=HELP, no_args_is_help=not bare)(command)
debug = False


def _version(requested: bool) -> None:
    if requested:
        say(__version__)
        raise typer.Exit


@app.callback()
def options(
    show_traceback: Annotated[bool, typer.Option("--debug", help="show tracebacks of errors")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")] = False,
) -> None:
    global debug
    debug = show_traceback


def main() -> None:
    """Run the command line; exit codes are in ``exits.py``."""
    _open_standard_streams()
    try:
        with signals.watched():
            sys.exit(app(standalone_mode=False))  # the code of typer.Exit, or None
    except ParserError as error:
        with_suggestion(error).show()
        _end(error.format_message(), USAGE, f"sslfeat {_command() or ''} --help".replace("  ", " "))
    except InterruptedRun as error:
        note(str(error))
        _end(str(error), 128 + error.signum, error.cure)
    except SslfeatError as error:
        if debug:
            raise
        note(f"error: {error}")
        _end(str(error), USAGE if isinstance(error, UsageError) else ERROR, error.cure)
    except BrokenPipeError:  # the reader of standard output was closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ERROR)
    except OSError as error:  # a full disk, a folder without permission
        if debug:
            raise
        message = f"{error.strerror or error}: {error.filename or 'unknown file'}"
        note(f"error: {message}")
        _end(message, ERROR)
    except typer.Abort:
        note("aborted")
        _end("aborted", ERROR)
    except KeyboardInterrupt:
        note("interrupted")
        _end("interrupted", 130)


def _end(message: str, code: int, cure: str = "") -> NoReturn:
    """Exit after a printed error, and print it as JSON with ``--json``."""
    if "--json" in sys.argv:
        say_error(_command(), message, cure)
    sys.exit(code)


def _command() -> str | None:
    """Name of the command, if it is known."""
    return next((word for word in sys.argv[1:] if word in NAMES), None)


def _open_standard_streams() -> None:
    """Redirect closed standard streams (``2>&-``, services) to the null device.

    Otherwise the next file that is opened takes the descriptor of a stream, and libraries print into it.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, mode)  # returns the lowest free descriptor, ``number``
            os.set_inheritable(opened, True)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)
