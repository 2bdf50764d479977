"""Benchmarks that require a GPU: resume, providers compared with the CPU, throughput, training, two processes. See ``gpu.sh``.

Parts are run independently: the error of a failed part is recorded in the JSON, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from safetensors.torch import load_file

from sslfeat.data.decode import decode
from sslfeat.data.synthetic import draw_samples
from sslfeat.errors import ProviderError
from sslfeat.inference.encoder import Encoder
from sslfeat.inference.onnx_model import read_encoder_file
from sslfeat.inference.registry import DEFAULT, resolve
from sslfeat.models.engine.config import TrainConfig
from sslfeat.models.engine.trainer import Reporter, TrainProgress, train

IMAGES = 640
BATCHES = (1, 8, 64, 256)


class Stopped(Exception):
    """Simulates a killed run."""


def config_of(method: str, work: Path, steps: int, device: str, backbone: str, **more: Any) -> TrainConfig:
    return TrainConfig(
        method, (str(work / "drawn"),), backbone, image_size=64 if device == "cuda" else 32,
        batch_size=64 if device == "cuda" else 16, steps=steps, accelerator=device, **more,
    )  # fmt: skip


def resume(work: Path, device: str) -> dict[str, float]:
    """Largest weight difference between a run resumed at step 40 and an uninterrupted run."""
    config = config_of("simclr", work, 60, device, "resnet10_w8", precision="32-true")

    def stop(progress: TrainProgress) -> None:
        if progress.step == 40:
            raise Stopped

    train(config, work / "whole")
    try:
        train(config, work / "broken", reporter=Reporter(training=stop), checkpoint_steps=10)
    except Stopped:
        train(config, work / "broken", resume=True)
    whole, broken = (load_file(work / name / "encoder.safetensors") for name in ("whole", "broken"))
    worst = max(float((whole[key].float() - broken[key].float()).abs().max()) for key in whole)
    return {"largest difference": worst, "largest weight": max(float(value.float().abs().max()) for value in whole.values())}


def providers(work: Path, device: str) -> dict[str, Any]:
    """Features of the shipped encoder with each provider, compared with the CPU."""
    paths = sorted((work / "drawn").rglob("*.jpg"))[:64]
    expected = np.stack(list(Encoder.load(DEFAULT, "cpu").embed(paths)))
    found: dict[str, Any] = {}
    for name in ("cpu", "cuda", "tensorrt"):
        try:
            rows = tensorrt(paths) if name == "tensorrt" else np.stack(list(Encoder.load(DEFAULT, name).embed(paths)))
        except ProviderError as error:
            found[name] = str(error)
            continue
        cosine = (rows * expected).sum(1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(expected, axis=1)
        found[name] = {"max abs diff": float(np.abs(rows - expected).max()), "least cosine": float(cosine.min())}
    return found


def tensorrt(paths: list[Path]) -> npt.NDArray[np.float32]:
    """Features with TensorRT in onnxruntime, which sslfeat does not support. Raises ProviderError if unavailable."""
    file = read_encoder_file(resolve(DEFAULT))
    session = onnxruntime.InferenceSession(file.data, providers=["TensorrtExecutionProvider"])
    if session.get_providers()[0] != "TensorrtExecutionProvider":
        raise ProviderError("TensorRT is not available in onnxruntime")
    pixels = np.stack([decode(path, file.card.preprocess).pixels for path in paths])
    return np.asarray(session.run(["embedding"], {"image": pixels})[0])


def throughput(work: Path, device: str) -> dict[str, Any]:
    """Images/s by batch size, median of five, of the encoder file and its fp16 version."""
    half = work / "fp16.onnx"
    command = ["export", DEFAULT, "--target", "fp16", "--images", work / "drawn", "--out", half, "--overwrite", "--allow"]
    subprocess.run([sys.executable, "-m", "sslfeat", *map(str, command)], check=True, capture_output=True)
    found: dict[str, Any] = {}
    for name, file in (("fp32", DEFAULT), ("fp16", str(half))):
        encoder = Encoder.load(file, device)
        size = encoder.card.preprocess.size
        for batch in BATCHES if device == "cuda" else BATCHES[:3]:
            pixels = np.zeros((batch, size, size, 3), np.uint8)
            encoder.run(pixels)
            seconds = []
            for _ in range(5):
                began = time.perf_counter()
                encoder.run(pixels)
                seconds.append(time.perf_counter() - began)
            found[f"{name}, batch {batch}"] = round(batch / float(np.median(seconds)))
    return found


def training(work: Path, device: str) -> dict[str, float]:
    """Images/s of SimCLR with a ResNet-18 and of MAE with a ViT, last reported value."""
    steps, backbone = (200, "resnet18") if device == "cuda" else (20, "resnet10_w16")
    found = {}
    for method, network in (("simclr", backbone), ("mae", "vit_tiny")):
        rates: list[float] = []
        reporter = Reporter(training=lambda progress, rates=rates: rates.append(progress.images_per_second))  # type: ignore[misc]
        train(config_of(method, work, steps, device, network), work / f"rate-{method}", reporter=reporter)
        found[f"{method}, {network}"] = round(rates[-1])
    return found


def two_processes(work: Path, device: str) -> dict[str, Any]:
    """Train one run with two processes: on two GPUs, or on the CPU if there are fewer."""
    ours = device if torch.cuda.device_count() >= 2 else "cpu"
    config = config_of("simclr", work, 20, ours, "resnet10_w8")
    arguments = ["train", config.method, work / "drawn", "--out", work / "two", "--backbone", config.backbone,
                 "--image-size", 64, "--batch-size", 64, "--steps", 20, "--provider", ours]  # fmt: skip
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "sslfeat"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *launcher, *map(str, arguments)], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-500:])
    return {"device": ours, "weights": len(load_file(work / "two" / "encoder.safetensors"))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--cpu", action="store_true", help="run the parts that do not need a GPU")
    options = parser.parse_args()
    if not options.cpu and not torch.cuda.is_available():
        raise SystemExit("no GPU found by torch: use --cpu for the parts that do not need one")
    device = "cpu" if options.cpu else "cuda"
    options.work.mkdir(parents=True)
    draw_samples(options.work / "drawn", IMAGES if device == "cuda" else IMAGES // 4)
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    result: dict[str, Any] = {"device": name, "torch": torch.__version__}
    failed = False
    parts: tuple[Callable[[Path, str], dict[str, Any]], ...] = (resume, providers, throughput, training, two_processes)
    for part in parts:
        began = time.perf_counter()
        try:
            result[part.__name__] = part(options.work, device)
        except Exception as error:
            result[part.__name__], failed = {"error": f"{type(error).__name__}: {error}"}, True
        result[part.__name__]["seconds"] = round(time.perf_counter() - began, 1)
    print(json.dumps(result, indent=1))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
