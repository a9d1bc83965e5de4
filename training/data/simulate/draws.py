"""Random numbers that remember their names: what was drawn for a sample is its metadata."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from training.data.simulate.moment import Moment

Value = float | int | str


def _normal_values(n: int = 1 << 16) -> NDArray[np.float32]:
    """Values of the standard normal distribution, one for each n-th of its probability, of variance 1; float32 (n,)."""
    half = torch.special.ndtri((torch.arange(n // 2, dtype=torch.float64, device="cpu") + 0.5) / n).numpy()
    values = np.concatenate([half, -half[::-1]])
    return np.asarray(values / values.std(), np.float32)


_NORMAL = _normal_values()


class Draws:
    """Draws the parameters of one sample and records them.

    Args:
        seed: Seed of the whole set.
        index: Number of the sample in the set; ``(seed, index)`` fixes everything that is drawn.
        purpose: Further numbers that keep draws for another purpose apart.

    Attributes:
        values: Everything that was drawn, by name.
        moment: What a frame of a sequence has of its own; ``None`` for a still sample.
    """

    moment: Moment | None = None

    def __init__(self, seed: int, index: int, *purpose: int) -> None:
        self._key = (seed, index, *purpose)
        self._rng = np.random.default_rng(self._key)
        self.values: dict[str, Value] = {}

    def _record(self, name: str, value: Value) -> None:
        if name in self.values:
            raise ValueError(f"parameter {name!r} drawn twice for one sample")
        self.values[name] = value

    def uniform(self, name: str, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        value = float(self._rng.uniform(low, high))
        self._record(name, value)
        return value

    def loguniform(self, name: str, low: float, high: float) -> float:
        """Log-uniform in [low, high), 0 < low < high."""
        value = float(np.exp(self._rng.uniform(np.log(low), np.log(high))))
        self._record(name, value)
        return value

    def normal(self, name: str, mean: float, std: float) -> float:
        """Normal, cut at three standard deviations."""
        value = mean + std * float(np.clip(self._rng.standard_normal(), -3, 3))
        self._record(name, value)
        return value

    def chance(self, name: str, probability: float) -> bool:
        """True with the given probability; recorded as 0 or 1."""
        value = bool(self._rng.random() < probability)
        self._record(name, int(value))
        return value

    def sometimes(self, name: str, probability: float, low: float, high: float) -> float:
        """Uniform in [low, high) with the given probability, else 0."""
        on, value = self._rng.random() < probability, float(self._rng.uniform(low, high))
        value = value if on else 0.0
        self._record(name, value)
        return value

    def choice(self, name: str, options: Sequence[str], weights: Sequence[float] | None = None) -> str:
        """One of the options."""
        p = None if weights is None else np.asarray(weights, float) / np.sum(weights)
        value = str(options[int(self._rng.choice(len(options), p=p))])
        self._record(name, value)
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        """Integer in [low, high)."""
        value = int(self._rng.integers(low, high))
        self._record(name, value)
        return value

    def derive(self, name: str, value: Value) -> None:
        """Record a value that follows from others."""
        self._record(name, value)

    def generator(self, *purpose: int) -> np.random.Generator:
        """A generator of its own, fixed by the sample and the purpose."""
        return np.random.default_rng([*self._key, 1 << 20, *purpose])

    def noise_from(self, rng: np.random.Generator) -> None:
        """Take noise from another generator from here on."""
        self._rng = rng

    def at(self, moment: Moment, changes: Mapping[str, Value]) -> Draws:
        """The same sample at one moment of a sequence: some parameters changed, the same noise before the camera."""
        out = copy.deepcopy(self)
        out.values |= changes
        out.moment = moment
        return out

    def noise(self, *shape: int) -> Tensor:
        """Standard normal noise, float32; not recorded, fixed by the seed."""
        whole = math.prod(shape)
        # Two bytes of the generator choose one of 65,536 equally likely normal values: eight times as fast as drawing
        # them one by one. From the CPU wherever the picture is worked out, so that it is the same picture.
        chosen = np.frombuffer(self._rng.bytes(2 * whole), "<u2")
        noise = torch.from_numpy(_NORMAL.take(chosen).reshape(shape))
        return noise.to(torch.get_default_device())


def column(draws: Sequence[Draws], name: str, default: float = 0.0) -> Tensor:
    """Collect a numeric parameter over a batch: float32 (B, 1, 1, 1), ``default`` where it was not drawn."""
    values = np.array([float(d.values.get(name, default)) for d in draws], np.float32).reshape(-1, 1, 1, 1)
    return torch.from_numpy(values).to(torch.get_default_device())
