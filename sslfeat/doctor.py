"""What can this machine run, what is missing, and which line adds it?"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sslfeat.cores import available_cores, available_memory
from sslfeat.encoder import Encoder, gpu_count
from sslfeat.errors import SslfeatError
from sslfeat.installation import install_line
from sslfeat.zoo import DEFAULT

FLAGS = {"avx2": "AVX2", "avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX VNNI", "amx_int8": "AMX int8", "amx_bf16": "AMX bf16",
         "asimddp": "dot product", "i8mm": "int8 matrix products"}  # fmt: skip
EXTRAS = {
    "train": ("torch", "torchvision", "lightning-fabric"),
    "export": ("torch", "onnxscript"),
    "probe": ("scikit-learn", "matplotlib", "scipy"),
    "umap": ("umap-learn",),
    "openvino": ("openvino",),
    "ncnn": ("ncnn", "pnnx"),
    "executorch": ("executorch",),
    "coreml": ("coremltools",),
    "litert": ("ai-edge-litert",),
    "heif": ("pillow-heif",),
    "flow": ("opencv-python-headless",),
}


@dataclass(frozen=True)
class Check:
    """``state`` is ``works``, ``missing`` or ``broken``; ``cure`` is the line that mends it."""

    name: str
    state: str
    told: str
    cure: str = ""


def machine() -> dict[str, Any]:
    """The machine, for JSON."""
    return {
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "cores": available_cores(),
        "memory_gib": round(available_memory() / 2**30, 1),
        "instructions": _flags(),
        "gpus": gpu_count(),
    }


def providers() -> list[Check]:
    """Each provider, tried with an encoder."""
    conflict = _conflict()
    found = [] if conflict is None else [conflict]
    for name in ("cpu", "cuda"):
        try:
            encoder = Encoder.load(DEFAULT, name)
            size = encoder.card.preprocess.size
            encoder.run(_grey(size))
            found.append(
                Check(f"provider {name}", "works", f"onnxruntime {_version('onnxruntime-gpu', 'onnxruntime')}")
            )
        except SslfeatError as error:
            missing = name == "cuda" and not gpu_count()
            cure = "" if missing else "pip install 'onnxruntime-gpu[cuda,cudnn]'"
            found.append(Check(f"provider {name}", "missing" if missing else "broken", str(error), cure))
    return found


def extras() -> list[Check]:
    """The optional parts."""
    found = []
    for extra, packages in EXTRAS.items():
        there = {package: _version(package) for package in packages}
        absent = [package for package, number in there.items() if number is None]
        told = ", ".join(f"{package} {number}" for package, number in there.items() if number is not None)
        cure = install_line(extra) if absent else ""
        lacking = f"{', '.join(absent)} not installed" if absent else told
        found.append(Check(extra, "missing" if absent else "works", lacking, cure))
    return found


def _conflict() -> Check | None:
    """Two wheels of onnxruntime write to one folder: the one installed last decides whether there is CUDA."""
    if _version("onnxruntime-gpu") is None or _version("onnxruntime") is None:
        return None
    cure = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    return Check("onnxruntime", "broken", "onnxruntime and onnxruntime-gpu are both installed, over one another", cure)


def _version(*packages: str) -> str | None:
    for package in packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None


def _flags() -> list[str]:
    """What speeds int8 and bf16 up, where the system tells."""
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [title for flag, title in FLAGS.items() if flag in words]


def _grey(size: int) -> Any:
    import numpy as np

    return np.full((1, size, size, 3), 128, np.uint8)
