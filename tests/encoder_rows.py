"""Features of some of the drawn images, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from sslfeat import Encoder

Rows = npt.NDArray[np.float32]


def rows(loaded: Encoder, image_folder: Path) -> Rows:
    return np.stack(list(loaded.embed(sorted(image_folder.rglob("*.jpg"))[:6])))
