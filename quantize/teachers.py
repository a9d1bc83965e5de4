"""Those who teach a student: full-precision networks, on a CPU through OpenVINO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from quantize.errors import ConversionError
from quantize.openvino_export import to_openvino
from training.build import ImitatedTask
from training.errors import ConfigError


class Taught(NamedTuple):
    """What a student imitates.

    Attributes:
        cells: Values of the cells, float32 (N, m, m): cosines or logits, by the method.
        features: The trunk's map, float32 (N, C, m, m).
    """

    cells: Tensor
    features: Tensor


class Teacher(Protocol):
    """Somebody who answers."""

    @property
    def method(self) -> str:
        """Name of the method."""
        ...

    @property
    def map_side(self) -> int | None:
        """Cells along a side of the map, m; ``None`` where there is one answer to the whole picture."""
        ...

    @property
    def channels(self) -> int:
        """Channels of the map whose features can be imitated, C; 0 if there are none."""
        ...

    def to_device(self, device: torch.device) -> None:
        """Answer from there from now on.

        Raises:
            ConfigError: It cannot.
        """
        ...

    def __call__(self, rgb: Tensor) -> Taught:
        """Answer to pictures, uint8 (N, S, S, 3), red first; without gradients."""
        ...


class TorchTeacher(nn.Module):
    """A method's network as it is.

    Args:
        task: A trained method; it is switched to evaluation and learns no more.
    """

    def __init__(self, task: ImitatedTask) -> None:
        super().__init__()
        self._task = task
        # Registered for the converter; its first layer is the task's, so that `to_device` moves everything.
        self.network = task.module.eval().requires_grad_(False)
        self.method, self.map_side, self.channels = task.method, task.map_side, task.channels

    def to_device(self, device: torch.device) -> None:
        """Move it."""
        self._task.to(device)

    @torch.no_grad()
    def forward(self, rgb: Tensor) -> Taught:
        """As :class:`Teacher`."""
        features = self._task.features(rgb)
        return Taught(self._task.cells_of(features), features.float())


class _Answers(nn.Module):
    """As the converter wants it: a module with a plain tuple."""

    def __init__(self, teacher: TorchTeacher) -> None:
        super().__init__()
        self._teacher = teacher

    def forward(self, rgb: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(self._teacher(rgb))


class OpenVinoTeacher:
    """A method's network through OpenVINO: the same answers sooner, in the precision that the CPU is fastest in.

    Args:
        task: A trained method on the CPU.
        size_px: Side of the pictures.
        threads: Of OpenVINO; as many as torch has by default.

    Raises:
        ConversionError: OpenVINO refuses the network, or is not installed.
    """

    def __init__(self, task: ImitatedTask, size_px: int, *, threads: int | None = None) -> None:
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise ConversionError("OpenVINO is not installed; let the network itself teach") from error

        teacher = TorchTeacher(task)
        self.method, self.map_side, self.channels = teacher.method, teacher.map_side, teacher.channels
        model = to_openvino(_Answers(teacher), size_px, outputs=Taught._fields)
        options = {"INFERENCE_NUM_THREADS": threads or torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
        self._request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()

    def to_device(self, device: torch.device) -> None:
        """Stay on the CPU.

        Raises:
            ConfigError: Another device is asked for.
        """
        if device.type != "cpu":
            raise ConfigError(f"a teacher in OpenVINO answers on the CPU, not on {device}; take the network itself")

    def __call__(self, rgb: Tensor) -> Taught:
        """As :class:`Teacher`."""
        found = self._request.infer([np.ascontiguousarray(rgb.numpy())])
        # Copies: the request writes its next answers into the same memory.
        return Taught(*(torch.from_numpy(np.array(found[output], np.float32)) for output in range(len(Taught._fields))))


def together(teachers: Sequence[Teacher], rgb: Tensor) -> Taught:
    """Mean of what the teachers say of the cells, and the features of the first: those of others mean other things."""
    first, *others = [teacher(rgb) for teacher in teachers]
    return Taught(torch.stack([first.cells, *(other.cells for other in others)]).mean(0), first.features)
