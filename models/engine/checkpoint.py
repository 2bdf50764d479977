"""Checkpoints without pickle: tensors as safetensors, everything else as JSON in the header of the file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sslfeat.errors import TrainingError
from sslfeat.storage import atomic
from sslfeat.storage.records import build_record

LAST_NAME, ENCODER_NAME = "last.ckpt", "encoder.safetensors"
META_KEY = "sslfeat"


@dataclass(frozen=True)
class Progress:
    """Progress of a run: steps, seconds of training, and seconds of evaluation (``looking``), since its start."""

    step: int
    seconds: float
    looking: float = 0.0


@dataclass(frozen=True)
class KeptWith:
    """Metadata of an encoder's weights: number of images, steps, and the kNN accuracy if they are the best so far."""

    images: int
    steps: int = 0
    knn: float | None = None


def save_checkpoint(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Atomically write weights, optimizer state and ``progress`` to ``path``."""
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    scalars: dict[str, Any] = {}
    for parameter_name, parameter in module.named_parameters():
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{parameter_name}.{name}"] = value
            else:
                scalars[f"{parameter_name}.{name}"] = value
    write_tensors(path, tensors, {"progress": asdict(progress), "optimizer": scalars})


def load_checkpoint(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Strictly restore what ``save_checkpoint`` wrote, and return its ``progress``. Raises TrainingError.

    The module must be on its device; the optimizer state is moved to the device of its parameters.
    """
    tensors, meta = read_tensors(path)
    weights = {name.removeprefix("module."): value for name, value in tensors.items() if name.startswith("module.")}
    try:
        module.load_state_dict(weights)
        names = {parameter: name for name, parameter in module.named_parameters()}
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        places = {names[parameter]: index for index, parameter in enumerate(trained)}
        state: dict[int, dict[str, Any]] = {}
        entries = {name.removeprefix("optimizer."): value for name, value in tensors.items() if name.startswith("optimizer.")}
        for key, value in {**entries, **meta["optimizer"]}.items():
            parameter_name, name = key.rsplit(".", 1)
            index = places[parameter_name]
            state.setdefault(index, {})[name] = _like(value, trained[index])
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        return build_record(Progress, meta["progress"], str(path), TrainingError)
    except (RuntimeError, KeyError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise TrainingError(f"{path} does not fit this run: {error}") from error


def all_finite(module: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Whether all weights, buffers and optimizer states are finite."""
    states = (value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor))
    return all(bool(value.isfinite().all()) for value in (*module.state_dict().values(), *states))


def write_tensors(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Atomically write tensors and JSON-serializable ``meta`` to one safetensors file."""
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    atomic.write_atomic(path, save(contiguous, {META_KEY: json.dumps(meta, sort_keys=True)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and ``meta`` written by ``write_tensors``; nothing is unpickled. Raises TrainingError."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            meta: dict[str, Any] = json.loads((file.metadata() or {})[META_KEY])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"{path} is not a checkpoint of sslfeat, or is damaged: {error}") from error
    return tensors, meta


def write_weights(path: Path, weights: dict[str, Tensor], noted: KeptWith) -> None:
    """Write an encoder's weights with their metadata."""
    write_tensors(path, weights, {name: value for name, value in asdict(noted).items() if value is not None})


def read_weights(path: Path) -> tuple[dict[str, Tensor], KeptWith]:
    """Read what ``write_weights`` wrote. Raises TrainingError."""
    weights, meta = read_tensors(path)
    return weights, build_record(KeptWith, meta, str(path), TrainingError)


def _like(value: Any, parameter: Tensor) -> Any:
    """A state tensor in the memory format of its parameter; another one changes the order of summation and the last bits."""
    if not isinstance(value, Tensor):
        return value
    if value.shape == parameter.shape:
        return torch.empty_like(parameter).copy_(value)
    if value.ndim:
        raise ValueError(f"state of shape {tuple(value.shape)} for a parameter of shape {tuple(parameter.shape)}")
    return value
