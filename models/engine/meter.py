"""Mean figures since the last report, and warnings if nothing is learned."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from torch import Tensor

from sslfeat.errors import TrainingError

PATIENCE = 0.25  # fraction of the budget after which a run at chance prints a warning
CHANCE_MARGIN = 1.05  # an accuracy below this times chance is considered at chance
TRIVIAL_MARGIN = 0.98  # an error above this times the trivial error is considered trivial


class Meter:
    """Sum figures over steps; they stay on their device until they are read."""

    def __init__(self) -> None:
        self._since, self._images, self._steps = time.monotonic(), 0, 0
        self._sums: dict[str, Tensor | float] = {}

    @property
    def unread(self) -> int:
        """Number of steps since the last reading."""
        return self._steps

    def add(self, images: int, figures: dict[str, Tensor | float]) -> None:
        """Add the figures of one step over ``images`` images."""
        self._images += images
        self._steps += 1
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def leave_out(self, seconds: float) -> None:
        """Exclude time not spent on training."""
        self._since += seconds

    def read(self) -> tuple[float, dict[str, float]]:
        """Images per second and mean figures since the last reading."""
        now = time.monotonic()
        rate = self._images / max(now - self._since, 1e-9)
        means = {name: float(total) / self._steps for name, total in self._sums.items()}
        self._since, self._images, self._steps, self._sums = now, 0, 0, {}
        return rate, means


class Complaints:
    """Print each kind of warning once: nothing learned, or a problem reported by the method."""

    def __init__(self, warn: Callable[[str], None], of_method: Callable[[dict[str, float]], str | None]) -> None:
        self._warn, self._of_method = warn, of_method
        self._warned: set[str] = set()

    def check(self, step: int, share: float, figures: dict[str, float]) -> None:
        """Raises TrainingError if the loss is not finite."""
        if not math.isfinite(figures["loss"]):
            raise TrainingError(f"the loss is {figures['loss']} at step {step}: try a lower --lr, or --precision fp32")
        if share < PATIENCE:
            return
        self.say("learning", at_chance(figures))
        self.say("method", self._of_method(figures))

    def say(self, kind: str, text: str | None) -> None:
        """Warn, unless there is no problem or this kind was reported before."""
        if text is not None and kind not in self._warned:
            self._warned.add(kind)
            self._warn(text)


def at_chance(figures: dict[str, float]) -> str | None:
    """A sentence if the pretext accuracy is at chance, or the error at that of a trivial predictor."""
    accuracy, chance = figures.get("accuracy"), figures.get("chance")
    if accuracy is not None and chance is not None and accuracy <= chance * CHANCE_MARGIN:
        return f"the pretext task is still at chance ({accuracy:.3f} against {chance:.3f}): nothing is learned"
    error, trivial = figures.get("error"), figures.get("trivial")
    if error is not None and trivial is not None and error >= trivial * TRIVIAL_MARGIN:
        return f"the error is still that of a trivial predictor ({error:.3f} against {trivial:.3f}): nothing is learned"
    return None
