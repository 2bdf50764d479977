"""Queue of rows of previous batches, as negatives for small batches (He et al. 2020, "MoCo", section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslfeat.models.engine.distributed import gather, world_size


class Queue(nn.Module):
    """The last ``size`` rows of dimension ``dim``, unordered; a buffer, so that it is part of checkpoints."""

    kept: Tensor
    seen: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(size, dim))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @property
    def full(self) -> bool:
        return int(self.seen) >= len(self.kept)

    @property
    def rows(self) -> Tensor:
        """The rows added so far, (at most size, dim)."""
        return self.kept[: int(self.seen)]

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Replace the oldest rows with rows (N, dim); in distributed training with the rows of all processes.

        They are added in the order of the batch, whose images are distributed round-robin, so the oldest rows are the same for
        any number of processes.
        """
        rows = gather(rows.detach().float())
        in_turns = rows.reshape(world_size(), -1, rows.shape[1]).transpose(0, 1)
        rows = in_turns.reshape(rows.shape)[-len(self.kept) :]
        places = (int(self.seen) + torch.arange(len(rows), device=rows.device)) % len(self.kept)
        self.kept[places] = rows
        self.seen += len(rows)
