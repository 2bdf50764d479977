"""Processes that torchrun started."""

from __future__ import annotations

import os
import sys


def quiet_false_alarm() -> None:
    """Called before torch is loaded, which reads its level of messages then: the one of each process that no parameter was
    unused at a step is none here. That is looked for since a method may leave any of its parameters out of a step, as SwAV
    and DINO do with their prototypes at first.
    """
    if "WORLD_SIZE" in os.environ and "torch" not in sys.modules:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
