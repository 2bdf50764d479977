"""Checkpoints without pickle: tensors as safetensors, everything else as JSON in the file's header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sslfeat import store
from sslfeat.errors import TrainingError

LAST_NAME, ENCODER_NAME = "last.ckpt", "encoder.safetensors"
META_KEY = "sslfeat"


def save_checkpoint(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, progress: dict[str, Any]) -> None:
    """Write weights, optimiser state and ``progress`` (JSON) to ``path``, whole or not at all."""
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    scalars: dict[str, Any] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                scalars[f"{index}.{name}"] = value
    write_tensors(path, tensors, {"progress": progress, "optimizer": scalars})


def load_checkpoint(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Restore what ``save_checkpoint`` wrote, strictly, and return its ``progress``. Raises TrainingError."""
    tensors, meta = read_tensors(path)
    weights = {name.removeprefix("module."): value for name, value in tensors.items() if name.startswith("module.")}
    try:
        module.load_state_dict(weights)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Any]] = {}
        entries = {
            name.removeprefix("optimizer."): value for name, value in tensors.items() if name.startswith("optimizer.")
        }
        for key, value in {**entries, **meta["optimizer"]}.items():
            index, name = key.split(".", 1)
            state.setdefault(int(index), {})[name] = _like(value, parameters[int(index)])
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        progress: dict[str, Any] = meta["progress"]
    except (RuntimeError, KeyError, ValueError, IndexError) as error:
        raise TrainingError(f"{path} does not fit this run: {error}") from error
    return progress


def write_tensors(path: Path, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
    """Tensors and JSON-able ``meta`` to one safetensors file, written whole or not at all."""
    contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    store.write_atomic(path, save(contiguous, {META_KEY: json.dumps(meta, sort_keys=True)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and ``meta`` that ``write_tensors`` wrote. Raises TrainingError; nothing is ever unpickled."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            meta: dict[str, Any] = json.loads((file.metadata() or {})[META_KEY])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"{path} is not a checkpoint of sslfeat, or a damaged one: {error}") from error
    return tensors, meta


def _like(value: Any, parameter: Tensor) -> Any:
    """A state tensor in its parameter's memory layout: another layout adds up in another order, to other last bits."""
    if isinstance(value, Tensor) and value.shape == parameter.shape:
        return torch.empty_like(parameter).copy_(value)
    return value
