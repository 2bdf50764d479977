"""Description of the machine, stored with the results of each benchmark."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sslfeat.system.cores import THREAD_VARIABLES, available_cores, processor

KEY = "machine"
PACKAGES = ("sslfeat", "numpy", "pillow", "onnxruntime", "torch", "faiss-cpu", "pyarrow", "scikit-learn", "lightly")


def machine() -> dict[str, Any]:
    """Processor, cores, thread settings, date (UTC), and versions of installed PACKAGES."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    threads = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    return {
        "processor": processor(),
        "cores": available_cores(),
        "threads": threads,
        "system": platform.system(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": versions,
    }


def save_measured(path: Path, found: dict[str, Any], *, sort_keys: bool = False) -> None:
    """Write ``found`` as JSON to ``path``, with the machine under ``machine``."""
    path.write_text(json.dumps({**found, KEY: machine()}, indent=1, sort_keys=sort_keys) + "\n")
