"""Weights from a file for networks of timm and torchvision, for machines without access to a download."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sslfeat.errors import InputError

State = dict[str, Tensor]
INSIDE = ("state_dict_ema", "model_ema", "state_dict", "model")  # keys of the weights in checkpoints, in timm's order
NAMED = 3  # maximum number of weights listed in a message


def read_state(path: Path) -> State:
    """Tensors of a ``.safetensors`` file or of a file written by ``torch.save``; only tensors are unpickled.

    Raises InputError naming the file.
    """
    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is damaged, or contains pickled objects besides weights, which could run code",
            "if you trust it, save only the weights: safetensors.torch.save_file(model.state_dict(), FILE)",
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not a file of weights, or is damaged", "download it again") from error
    if isinstance(found, dict):
        found = next((found[name] for name in INSIDE if isinstance(found.get(name), dict)), found)
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"{path} contains no named weights: save the state_dict of the network")
    return {str(name).removeprefix("module."): value for name, value in found.items()}  # prefix of DistributedDataParallel


def load_weights(
    network: nn.Module, path: Path, name: str, heads: Sequence[str], convert: Callable[[State, nn.Module], State] | None = None
) -> None:
    """Load the weights of ``path`` into ``network``; names and shapes must match except those of the classifier, ``heads``.

    ``convert`` converts weights that do not fit, such as those with the original authors' names. Raises InputError.
    """
    found = read_state(path)
    if convert is not None and _misfits(network, found, heads):
        with contextlib.suppress(Exception):  # timm's errors for weights of another network; reported below
            found = convert(dict(found), network)
    if misfits := _misfits(network, found, heads):
        raise InputError(f"{path} does not contain the weights of {name}: {misfits}", "name the network of these weights")
    network.load_state_dict({key: value for key, value in found.items() if not _in(key, heads)}, strict=False)


def _misfits(network: nn.Module, found: State, heads: Sequence[str]) -> str:
    """Missing, unexpected and misshapen weights; empty if there are none."""
    wanted = {key: value.shape for key, value in network.state_dict().items() if not _in(key, heads)}
    given = {key: value.shape for key, value in found.items() if not _in(key, heads)}
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}  # absent in older files
    faults = {
        "missing:": [key for key in wanted if key not in given and key not in counters],
        "unexpected:": [key for key in given if key not in wanted],
        "of another shape:": [key for key in given if key in wanted and given[key] != wanted[key]],
    }
    return "; ".join(
        f"{what} {', '.join(keys[:NAMED])}" + (f" and {len(keys) - NAMED} more" if len(keys) > NAMED else "")
        for what, keys in faults.items()
        if keys
    )


def _in(key: str, heads: Sequence[str]) -> bool:
    return any(key.startswith(f"{head}.") for head in heads)
