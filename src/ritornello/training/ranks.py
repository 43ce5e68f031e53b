"""Many processes as one trainer: torchrun starts them, each has the whole model and some of the lanes.

Rank 0 alone writes, reports and decides; the others follow. Gradients and losses are summed on the devices (NCCL, or
gloo between CPUs), everything small goes between the hosts by gloo.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ritornello.errors import RitornelloError

LONGEST_WAIT = timedelta(minutes=10)  # for another rank that is there: it may compile, or rank 0 may write


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; alone, every method gives back what it is given."""

    rank: int = 0
    size: int = 1
    of_feed: Any = None
    """the group of the thread that makes batches, whose exchanges must not meet the loop's"""

    def share(self, lanes: int) -> slice:
        """This rank's of so many lanes. Raises RitornelloError where they are fewer than the ranks."""
        if lanes < self.size:
            raise RitornelloError(f"lanes is {lanes}; with {self.size} ranks it must be {self.size} at least")
        return slice(lanes * self.rank // self.size, lanes * (self.rank + 1) // self.size)

    def decided(self, value: float) -> float:
        """Rank 0's."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64)
        with _together():
            dist.broadcast(tensor, 0)
        return float(tensor)

    def all(self, value: Any) -> list[Any]:
        """Every rank's, in order."""
        return [value] if self.size == 1 else self._gathered(value, None)

    def merged(self, values: dict[int, int]) -> dict[int, int]:
        """Those of all ranks' feeds; for their threads."""
        if self.size == 1:
            return values
        return {key: value for part in self._gathered(values, self.of_feed) for key, value in part.items()}

    def _gathered(self, value: Any, group: Any) -> list[Any]:
        values: list[Any] = [None] * self.size
        with _together():
            dist.all_gather_object(values, value, group=group)
        return values

    def add_up(self, parameters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
        """Gives gradients the sum over all ranks in place, in one exchange; and that of the loss, (), back."""
        if self.size == 1:
            return loss
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([*(g.flatten() for g in gradients), loss.detach().flatten().to(gradients[0].dtype)])
        with _together():
            dist.all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([*(g.numel() for g in gradients), 1])):
            gradient.copy_(part.view_as(gradient))
        return flat[-1]

    def joined(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """All ranks' lanes, which are a tensor's first axis, one after the other; of use on rank 0 alone.

        Where another axis is longer on one rank, it is of memories, the newest of which is the last.
        """
        if self.size == 1:
            return tensors
        parts: list[Any] | None = [None] * self.size if self.rank == 0 else None
        with _together():
            dist.gather_object({name: t.cpu() for name, t in tensors.items()}, parts)
        return {name: _stacked([part[name] for part in parts]) for name in tensors} if parts else {}

    def check_same(self, **facts: Any) -> None:
        """Raises RitornelloError on every rank if one has others than rank 0."""
        first, *others = self.all(facts)
        for rank, theirs in enumerate(others, 1):
            for name in facts:
                if theirs[name] != first[name]:
                    raise RitornelloError(f"rank {rank} has another {name} than rank 0; start all ranks alike")


ALONE = Ranks()


@contextmanager
def ranks_of(device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """This process among those that torchrun started with it, and the device that is its own."""
    if launched()[1] == 1:
        yield ALONE, device
        return
    device = own_device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=LONGEST_WAIT)
    try:
        of_feed = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
        yield Ranks(dist.get_rank(), dist.get_world_size(), of_feed), device
    finally:
        dist.destroy_process_group()


def launched() -> tuple[int, int]:
    """This process's rank among those that torchrun started with it, and how many they are; alone (0, 1)."""
    if not dist.is_torchelastic_launched():
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def own_device(device: torch.device) -> torch.device:
    """Of a machine's GPUs the one that is this rank's; without torchrun, and on a CPU, the device itself."""
    if device.type == "cuda" and dist.is_torchelastic_launched():
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def is_first() -> bool:
    """Whether this process speaks for all: it is rank 0 or alone."""
    return launched()[0] == 0


@contextmanager
def _together() -> Iterator[None]:
    """What a rank that has ended makes of an exchange, in one line."""
    try:
        yield
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0][:160]
        raise RitornelloError(f"another rank has ended ({first}); a training goes on with --resume") from None


def _stacked(parts: list[Tensor]) -> Tensor:
    shape = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts))]
    return torch.cat([F.pad(part, _before(part, shape)) for part in parts])


def _before(part: Tensor, shape: list[int]) -> list[int]:
    """Zeros before every axis but the first, as `F.pad` has them: last axis first."""
    return [side for size, whole in zip(part.shape[:0:-1], shape[::-1]) for side in (whole - size, 0)]
