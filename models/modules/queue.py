"""The rows of the last batches, to compare with where a batch alone is too small (He et al. 2020, "MoCo", section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sslfeat.models.engine.distributed import gather, world_size


class Queue(nn.Module):
    """The last ``size`` rows of ``dim`` numbers, in no order; a buffer, so that a run that goes on still has them."""

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
        """(at most size, dim): what has come so far."""
        return self.kept[: int(self.seen)]

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Let rows (N, dim) take the place of the oldest; where several processes train, the rows of all.

        They come in the order of the batch, whose images went to the processes in turns: so the same rows are the oldest,
        whatever the number of processes.
        """
        rows = gather(rows.detach().float())
        in_turns = rows.reshape(world_size(), -1, rows.shape[1]).transpose(0, 1)
        rows = in_turns.reshape(rows.shape)[-len(self.kept) :]
        places = (int(self.seen) + torch.arange(len(rows), device=rows.device)) % len(self.kept)
        self.kept[places] = rows
        self.seen += len(rows)
