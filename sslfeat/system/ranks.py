"""Processes started by torchrun."""

from __future__ import annotations

import os
import sys


def quiet_false_alarm() -> None:
    """Silence the warning of DistributedDataParallel that no unused parameters were found; call it before torch is loaded.

    Unused parameters must be searched for, because methods may not use all parameters in each step, such as the prototypes of
    SwAV and DINO in the first steps.
    """
    if "WORLD_SIZE" in os.environ and "torch" not in sys.modules:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
