"""Which convolution costs what at INT8: scores with one of them rounded and all others in float, and the reverse.

Rounded means, in PyTorch: the input on 256 steps over the range that it has on calibration pictures, the filters on
symmetric steps per output channel. It is what the engines' integer kernels have in common and not what any of them does
in full (biases, grids of additions, ranges that are found as a network runs): :mod:`quantize.parity` compares files. It
works on any network that is made of ``nn.Conv2d``, trained for it or not: students with their normalisations folded,
and networks of full size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from fasedge.types import FloatArray, UInt8Array
from quantize.errors import CalibrationDataError, ConversionError
from quantize.files import complete_file
from quantize.parity import reference_scores
from quantize.pictures import parts
from quantize.rounding import ActivationGrid, GridConv
from quantize.students import Exportable

_BATCH = 32


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """How far scores lie from those of full precision.

    Attributes:
        mean: Mean of the absolute difference.
        p99: Its 99th percentile.
    """

    mean: float
    p99: float


class LayerError(msgspec.Struct, frozen=True, kw_only=True):
    """What rounding one convolution does.

    Attributes:
        name: Its name in the network.
        weights: Number of its weights.
        stays_in_float: Whether the files keep it in float anyway: it costs nothing there.
        alone: Difference of the score where nothing else is rounded.
        without: Difference where everything but this one is rounded; ``None`` where it was not measured.
    """

    name: str
    weights: int
    stays_in_float: bool
    alone: Difference
    without: Difference | None = None


class LayerReport(msgspec.Struct, frozen=True, kw_only=True):
    """What rounding does to scores, which lie in [0, 1], convolution by convolution.

    Attributes:
        bits: Of the weights.
        n: Pictures scored.
        everything: Difference where every convolution is rounded.
        as_in_files: Difference where those are rounded that the files round.
        layers: The guiltiest first: by what they do alone.
        unused: Convolutions that no picture reaches, such as heads that only training needs.
        checkpoint_sha256: Of the checkpoint; empty for a network that has none.
    """

    bits: int
    n: int
    everything: Difference
    as_in_files: Difference
    layers: tuple[LayerError, ...]
    unused: tuple[str, ...] = ()
    checkpoint_sha256: str = ""

    @property
    def guilty(self) -> LayerError:
        """The convolution that does most alone."""
        return self.layers[0]


class _Rounding:
    """Rounds a convolution while it is on; looks at what it reads while it learns."""

    def __init__(self, name: str, conv: nn.Conv2d, code_max: int) -> None:
        self.name, self.on, self.learns = name, False, False
        self._conv, self._grid = conv, ActivationGrid()
        self._low, self._high = np.inf, -np.inf
        self._exact = conv.weight.data
        self._rounded = GridConv(conv, code_max).rounded_weight().detach()
        self._hook = conv.register_forward_pre_hook(self._before)

    @property
    def weights(self) -> int:
        return self._exact.numel()

    def _before(self, _: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        (x,) = inputs
        if self.learns:
            # NumPy's minimum passes NaN on.
            self._low = float(np.minimum(self._low, float(x.min())))
            self._high = float(np.maximum(self._high, float(x.max())))
        return (self._grid(x),) if self.on else None

    def learnt(self) -> bool:
        """Take the range of what was read; whether anything was.

        Raises:
            ConversionError: It read NaN or infinity.
        """
        self.learns = False
        if self._low > self._high:
            return False
        if not np.isfinite([self._low, self._high]).all():
            raise ConversionError(f"the convolution {self.name} reads values that are not finite")
        self._grid.set_range(self._low, self._high)
        return True

    def switch(self, *, on: bool) -> None:
        self.on = on
        self._conv.weight.data = self._rounded if on else self._exact

    def remove(self) -> None:
        self.switch(on=False)
        self._hook.remove()


class Layers:
    """The convolutions of a network, each of which can be rounded; a context, after which the network is as before.

    Args:
        model: The network; it is switched to evaluation.
        calibration: Pictures of the train split, uint8 (n, S, S, C), for the ranges.
        bits: Of the weights: 8, or 7 as for CPUs without VNNI.
        in_float: Names of convolutions that the files keep in float.

    Attributes:
        bits: The same.
        unused: Names of convolutions that no picture reached; they are left alone.

    Raises:
        CalibrationDataError: There are no pictures.
        ConversionError: The network has no ``nn.Conv2d`` that pictures reach, one that reads NaN, a name of
            ``in_float`` that it has not, or bits that no engine has.
    """

    def __init__(
        self, model: Exportable, calibration: UInt8Array, bits: int = 8, *, in_float: Collection[str] = ()
    ) -> None:
        if not len(calibration):
            raise CalibrationDataError("the ranges of layers are measured on calibration pictures, got none")
        if bits not in {7, 8}:
            raise ConversionError(f"weights have 7 or 8 bits, got {bits}")
        self._model = model.eval()
        self.bits = bits
        found = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.Conv2d)]
        if strangers := set(in_float) - {name for name, _ in found}:
            raise ConversionError(f"the network has no convolutions {sorted(strangers)}")
        self._in_float = frozenset(in_float)
        self.unused: tuple[str, ...] = ()
        self._found = {name: _Rounding(name, conv, 2 ** (bits - 1) - 1) for name, conv in found}
        try:
            self._learn(calibration)
        except BaseException:
            self.close()
            raise

    def _learn(self, calibration: UInt8Array) -> None:
        for layer in self._found.values():
            layer.learns = True
        with torch.inference_mode():
            for part in parts(calibration, _BATCH):
                self._model(torch.from_numpy(part))
        self.unused = tuple(name for name, layer in self._found.items() if not layer.learnt())
        for name in self.unused:
            self._found.pop(name).remove()
        if not self._found:
            raise ConversionError("no picture reaches a convolution (nn.Conv2d) of this network")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the convolutions, in the order of the network's parts."""
        return tuple(self._found)

    def weights(self, name: str) -> int:
        """Number of weights of a convolution."""
        return self._found[name].weights

    def stays_in_float(self, name: str) -> bool:
        """Whether the files keep a convolution in float."""
        return name in self._in_float

    @contextmanager
    def rounded(self, names: Iterable[str]) -> Iterator[None]:
        """Round some of the convolutions, and no others; before and after none is.

        Raises:
            ConversionError: There is no such convolution.
        """
        chosen = set(names)
        if strangers := chosen - self._found.keys():
            raise ConversionError(f"the network has no convolutions {sorted(strangers)} that pictures reach")
        for name, layer in self._found.items():
            layer.switch(on=name in chosen)
        try:
            yield
        finally:
            for layer in self._found.values():
                layer.switch(on=False)

    def scores(self, shown: UInt8Array, rounded: Iterable[str] = ()) -> FloatArray:
        """Scores with some of the convolutions rounded, float32 (n,)."""
        with self.rounded(rounded):
            return reference_scores(self._model, shown)

    def close(self) -> None:
        """Give the network back as it was."""
        for layer in self._found.values():
            layer.remove()

    def __enter__(self) -> Layers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def measure_layers(
    layers: Layers, shown: UInt8Array, *, closer: int = 5, progress: Callable[[Sequence[str]], Iterable[str]] = iter
) -> LayerReport:
    """Round each convolution alone, then all, then all but each of the guiltiest.

    Args:
        layers: The network's.
        shown: Pictures to score, not those of calibration: uint8 (n, S, S, C).
        closer: How many of the guiltiest are looked at closer.
        progress: Wraps the names that are worked through, such as ``rich.progress.track``.

    Raises:
        CalibrationDataError: There are no pictures.
    """
    if not len(shown):
        raise CalibrationDataError("layers are compared on held-out pictures, got none")
    exact = layers.scores(shown).astype(np.float64)

    def difference(rounded: Iterable[str]) -> Difference:
        delta = np.abs(layers.scores(shown, rounded) - exact)
        return Difference(mean=float(delta.mean()), p99=float(np.quantile(delta, 0.99)))

    alone = {name: difference([name]) for name in progress(layers.names)}
    order = sorted(alone, key=lambda name: -alone[name].mean)
    without = {name: difference(other for other in layers.names if other != name) for name in progress(order[:closer])}
    return LayerReport(
        bits=layers.bits,
        n=len(shown),
        everything=difference(layers.names),
        as_in_files=difference(name for name in layers.names if not layers.stays_in_float(name)),
        layers=tuple(
            LayerError(
                name=name,
                weights=layers.weights(name),
                stays_in_float=layers.stays_in_float(name),
                alone=alone[name],
                without=without.get(name),
            )
            for name in order
        ),
        unused=layers.unused,
    )


def write_layers(path: Path, report: LayerReport) -> None:
    """Write the report as JSON, in one step."""
    with complete_file(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
