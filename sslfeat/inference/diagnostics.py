"""Check which providers and optional packages work on this machine, and how to install missing ones."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import numpy as np
from packaging.requirements import Requirement

from sslfeat.errors import SslfeatError, install_line
from sslfeat.inference.backends import PROVIDERS, onnxruntime
from sslfeat.inference.encoder import Encoder, gpu_count
from sslfeat.inference.registry import DEFAULT
from sslfeat.system.cores import available_cores, available_memory

FLAGS = {"avx2": "AVX2", "avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX VNNI", "amx_int8": "AMX int8", "amx_bf16": "AMX bf16",
         "asimddp": "dot product", "i8mm": "int8 matrix products"}  # fmt: skip
EXTRAS = (
    "train",
    "export",
    "timm",
    "probe",
    "umap",
    "openvino",
    "ncnn",
    "executorch",
    "coreml",
    "litert",
    "heif",
    "flow",
    "serve",
    "milvus",
    "pgvector",
    "lancedb",
    "qdrant",
    "ray",
    "fast",
    "video",
    "remote",
    "docs",
)
WHEELS = ("onnxruntime-gpu", "onnxruntime", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-rocm")


@dataclass(frozen=True)
class Check:
    """``state`` is ``works`` (tried), ``installed`` (not tried), ``missing``, or ``broken``; ``cure`` is a command."""

    name: str
    state: str
    message: str
    cure: str = ""


def machine() -> dict[str, Any]:
    """Describe the machine, for JSON."""
    return {
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "cores": available_cores(),
        "memory_gib": round(available_memory() / 2**30, 1),
        "instructions": _flags(),
        "gpus": gpu_count(),
    }


def providers() -> list[Check]:
    """Test each provider with an encoder."""
    mixed = conflict()
    found = [] if mixed is None else [mixed]
    for name in PROVIDERS:
        if name == "cuda" and not gpu_count():
            found.append(Check("provider cuda", "missing", "no NVIDIA GPU is visible here"))
            continue
        try:
            encoder = Encoder.load(DEFAULT, name)
            size = encoder.card.preprocess.size
            encoder.run(np.full((1, size, size, 3), 128, np.uint8))
            found.append(Check(f"provider {name}", "works", f"onnxruntime {onnxruntime.__version__}"))
        except SslfeatError as error:  # includes the cure
            found.append(Check(f"provider {name}", "broken", str(error)))
    return found


def extras() -> list[Check]:
    """Check for each extra whether its packages are installed in the required versions, without importing them."""
    return [_extra(name) for name in EXTRAS]


def _extra(name: str) -> Check:
    needed = [(item, installed_version(item.name)) for item in _requirements(name)]
    if not needed:
        return Check(name, "missing", "sslfeat itself is not installed", install_line(name))
    absent = [item.name for item, number in needed if number is None]
    old = [f"{item.name} {number}, not {item.specifier}" for item, number in needed if number and number not in item.specifier]
    if absent or old:
        message = "; ".join([f"{', '.join(absent)} not installed"] * bool(absent) + old)
        return Check(name, "missing" if absent else "broken", message, install_line(name))
    return Check(name, "installed", ", ".join(f"{item.name} {number}" for item, number in needed))


def _requirements(extra: str) -> list[Requirement]:
    """Requirements of ``extra`` from the metadata of the installed sslfeat; empty if it is not installed."""
    try:
        every = [Requirement(line) for line in requires("sslfeat") or []]
    except PackageNotFoundError:
        return []
    marked = [item for item in every if item.marker is not None and "extra" in str(item.marker)]
    return [item for item in marked if item.marker and item.marker.evaluate({"extra": extra})]


def conflict() -> Check | None:
    """Detect several wheels of onnxruntime: they install into the same folder, and the mixture may not run."""
    there = [name for name in WHEELS if installed_version(name) is not None]
    if len(there) < 2:
        return None
    built = platform.system() in ("Linux", "Windows") and platform.machine() in ("x86_64", "AMD64")  # as in pyproject.toml
    keep = WHEELS[0] if built and gpu_count() else WHEELS[1]
    cure = f"pip uninstall -y {' '.join(there)} && pip install {keep}"
    return Check("onnxruntime", "broken", f"{' and '.join(there)} are installed over one another", cure)


def installed_version(package: str) -> str | None:
    """Installed version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _flags() -> list[str]:
    """CPU features that accelerate int8 and bf16, where the system reports them."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [title for flag, title in FLAGS.items() if flag in words]
