"""Weights in a file, for networks of timm and torchvision: what a machine without a network is given instead of a download."""

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
INSIDE = ("state_dict_ema", "model_ema", "state_dict", "model")  # where checkpoints keep weights, in timm's order
NAMED = 3  # weights in one message


def read_state(path: Path) -> State:
    """The tensors of a ``.safetensors`` file, or of one that ``torch.save`` wrote; nothing but tensors is unpickled.

    Raises InputError naming the file.
    """
    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is damaged, or holds more than weights, which could run code",
            "where it is trusted, keep the weights alone: safetensors.torch.save_file(model.state_dict(), FILE)",
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"{path} is no file of weights, or a damaged one", "fetch it again, whole") from error
    if isinstance(found, dict):
        found = next((found[name] for name in INSIDE if isinstance(found.get(name), dict)), found)
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"{path} holds no weights by their names: give the state_dict of the network")
    return {str(name).removeprefix("module."): value for name, value in found.items()}  # DistributedDataParallel's prefix


def load_weights(
    network: nn.Module, path: Path, name: str, heads: Sequence[str], convert: Callable[[State, nn.Module], State] | None = None
) -> None:
    """Load the weights of ``path`` into ``network``, all of them and no others; only the classifier, in ``heads``, may differ.

    ``convert`` brings weights that do not fit to the network's names and shapes, as their authors had others. Raises
    InputError.
    """
    found = read_state(path)
    if convert is not None and _misfits(network, found, heads):
        with contextlib.suppress(Exception):  # whatever timm stumbles over in weights of another network, which is said below
            found = convert(dict(found), network)
    if misfits := _misfits(network, found, heads):
        raise InputError(f"{path} holds other weights than those of {name}: {misfits}", "name the network that they are of")
    network.load_state_dict({key: value for key, value in found.items() if not _in(key, heads)}, strict=False)


def _misfits(network: nn.Module, found: State, heads: Sequence[str]) -> str:
    """What is missing, strange or of another shape; empty if nothing is."""
    wanted = {key: value.shape for key, value in network.state_dict().items() if not _in(key, heads)}
    given = {key: value.shape for key, value in found.items() if not _in(key, heads)}
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}  # older files have none
    faults = {
        "it lacks": [key for key in wanted if key not in given and key not in counters],
        "the network has no": [key for key in given if key not in wanted],
        "of another shape is": [key for key in given if key in wanted and given[key] != wanted[key]],
    }
    return "; ".join(
        f"{what} {', '.join(keys[:NAMED])}" + (f" and {len(keys) - NAMED} more" if len(keys) > NAMED else "")
        for what, keys in faults.items()
        if keys
    )


def _in(key: str, heads: Sequence[str]) -> bool:
    return any(key.startswith(f"{head}.") for head in heads)
