"""Report errors in a custom method's Python file with file and line instead of a traceback through sslfeat."""

from __future__ import annotations

import contextlib
import inspect
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sslfeat.errors import SslfeatError, TrainingError


@contextlib.contextmanager
def named_faults(method: str) -> Iterator[None]:
    """Context manager around code of a method: convert an exception raised in its file ``method``, or in a function called
    from it, to a TrainingError that names file and line."""
    try:
        yield
    except SslfeatError:
        raise
    except Exception as error:  # whatever the file raises
        line = _line(Path(method).resolve(), error) if method.endswith(".py") else None
        if line is None:
            raise
        what = f"{type(error).__name__}: {error}"
        if isinstance(error, ModuleNotFoundError):
            what = f"the module {error.name!r} is not installed"
        raise TrainingError(f"{method}, line {line}: {what}") from error


def _line(file: Path, error: Exception) -> int | None:
    """Innermost line of ``file`` in the traceback; None if the file does not occur in it."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).resolve() == file:
        return error.lineno
    frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve() == file]
    return frames[-1] if frames else None


def check_outcome(kind: type, outcome: Any) -> None:
    """Raise TrainingError, with file and line of ``kind.loss``, unless it returned a scalar with a gradient and numbers."""
    if not isinstance(outcome, tuple) or len(outcome) != 2 or not isinstance(outcome[1], dict):
        raise TrainingError(f"{_place(kind)} must return the loss and a dict of figures, not {type(outcome).__name__}")
    loss, figures = outcome
    if not isinstance(loss, Tensor) or loss.ndim:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TrainingError(f"{_place(kind)} must return a scalar tensor as loss, not {found}: take its mean")
    if torch.is_grad_enabled() and not loss.requires_grad:
        raise TrainingError(f"{_place(kind)} must return a loss with a gradient: it depends on no parameter")
    for name, value in figures.items():
        number = value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float)
        if not number:
            raise TrainingError(
                f"{_place(kind)}: the figure {name!r} must be a number, not {type(value).__name__}: take its mean"
            )


def check_hook(kind: type, hook: str, holds: bool, rule: str) -> None:
    """Raise TrainingError, with file and line of ``kind.hook``, unless its return value ``holds`` to the ``rule``."""
    if not holds:
        raise TrainingError(f"{_place(kind, hook)} must return {rule}")


def _place(kind: type, hook: str = "loss") -> str:
    code = inspect.unwrap(getattr(kind, hook))
    try:
        return f"{inspect.getsourcefile(code)}, line {inspect.getsourcelines(code)[1]}: {kind.__name__}.{hook}"
    except (OSError, TypeError):  # not defined in a file
        return f"{kind.__name__}.{hook}"
