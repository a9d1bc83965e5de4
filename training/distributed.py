"""Several processes that train one network: started by ``torchrun``, alike after every step.

Each process takes its share of every batch; gradients are averaged before the weights move. Nothing is wrapped round
the network: a method may do in its step what it likes, and a step with an inner gradient (meta-learning) passes that
through :func:`mean_over_processes`, so that its outer gradient is the one of the joined batch too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.errors import ConfigError

_LOG = logging.getLogger("training")
#: How long processes wait for each other: the first one may have tiles to cut and a dev set to simulate.
_PATIENCE = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Processes:
    """Who this process is.

    Attributes:
        rank: Number of this process, from 0; 0 writes the files.
        world: How many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0


def processes() -> Processes:
    """The process group that is running, or a single process."""
    if dist.is_available() and dist.is_initialized():
        return Processes(dist.get_rank(), dist.get_world_size())
    return Processes()


def choose_device(name: str = "auto") -> torch.device:
    """The device of this process.

    Args:
        name: ``auto`` takes a GPU where there is one; with several processes on a machine, each takes its own.

    Raises:
        ConfigError: A GPU is asked for that is not there.
    """
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "auto":
        return torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    device = torch.device(name)
    if device.type == "cuda":
        wanted = local if device.index is None else device.index
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if wanted >= count:
            raise ConfigError(f"machine.device asks for GPU {wanted}, but {count} can be used; try device = 'auto'")
        return torch.device("cuda", wanted)
    return device


@contextmanager
def process_group(device: torch.device) -> Iterator[Processes]:
    """Join the process group that ``torchrun`` describes in the environment; alone, do nothing.

    Args:
        device: Of this process; GPUs talk through NCCL, CPUs through gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield processes()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield processes()
    finally:
        dist.destroy_process_group()


def average_gradients(gradients: Iterable[Tensor]) -> None:
    """Replace every gradient by its mean over the processes; alone, do nothing."""
    world = processes().world
    if world == 1:
        return
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for gradient in gradients:
        groups.setdefault((gradient.dtype, gradient.device), []).append(gradient)
    for some in groups.values():
        # One message for all: hundreds of small ones take longer to start than to send.
        flat = torch.cat([g.reshape(-1) for g in some])
        dist.all_reduce(flat)
        flat /= world
        for gradient, part in zip(some, torch.split(flat, [g.numel() for g in some]), strict=True):
            gradient.copy_(part.view_as(gradient))


def first_says(answer: bool, device: torch.device) -> bool:
    """What the first process answers, in all of them; alone, the answer itself.

    Args:
        answer: This process's.
        device: Of this process.
    """
    if processes().world == 1:
        return answer
    told = torch.tensor([answer], dtype=torch.uint8, device=device)
    dist.broadcast(told, 0)
    return bool(told.item())


@torch.no_grad()
def average_buffers(module: nn.Module) -> None:
    """Replace running statistics by their mean over the processes, so that all of them score alike."""
    world = processes().world
    if world == 1:
        return
    for buffer in module.buffers():
        if buffer.dtype.is_floating_point:
            dist.all_reduce(buffer)
            buffer.div_(world)


@torch.no_grad()
def start_alike(module: nn.Module) -> None:
    """Give every process the weights and buffers of the first."""
    if processes().world > 1:
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor, 0)


def synchronise_norm(module: nn.Module, device: torch.device) -> None:
    """Let batch normalisation take the statistics of a whole batch, not of each process's share; alone, do nothing.

    Layers are replaced, parameters and their names stay. PyTorch's layer does it, in each pass a message per layer, and
    works on GPUs only.

    Args:
        module: The network, before its parameters are handed to an optimiser.
        device: Where it lives.

    Raises:
        ConfigError: There are several processes, but the network lives on a CPU.
    """
    world = processes().world
    if world == 1:
        _LOG.info("machine.sync_norm: one process sees the whole batch; there is nothing to synchronise")
        return
    if device.type != "cuda":
        raise ConfigError(
            f"machine.sync_norm works on GPUs only (torch.nn.SyncBatchNorm), and this run is on the {device.type}: "
            "switch it off, or keep the statistics still with optimiser.frozen_norm"
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]  # torch does not annotate it
    found = sum(isinstance(part, nn.SyncBatchNorm) for part in module.modules())
    _LOG.info("machine.sync_norm: %d layers take their statistics over %d processes", found, world)


def mean_over_processes(value: Tensor) -> Tensor:
    """Mean of a tensor over the processes, differentiable; alone, the tensor itself.

    The gradient of what is made of it is that of the mean of all processes' losses: a meta-learner averages the
    gradient of its inner step with this, and the outer one comes out as if the batches had been joined.
    """
    if processes().world == 1:
        return value
    return cast(Tensor, _Mean.apply(value))  # type: ignore[no-untyped-call]  # torch does not annotate it


class _Mean(torch.autograd.Function):
    """Mean over the processes; so is the gradient, because every process's loss depends on every process's value."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _mean(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _mean(gradients[0])


def _mean(value: Tensor) -> Tensor:
    summed = value.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(summed)
    return summed / processes().world


def mean_of_numbers(values: Tensor) -> Tensor:
    """Mean of logged numbers over the processes; not finite if any process's is not."""
    world = processes().world
    if world > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= world
    return values


def gathered(value: object) -> list[object]:
    """What every process has to say, in the order of their numbers."""
    world = processes().world
    if world == 1:
        return [value]
    found: list[object] = [None] * world
    dist.all_gather_object(found, value)
    return found


def wait_for_all() -> None:
    """Go on when every process is here."""
    if processes().world > 1:
        dist.barrier()
