"""Configuration of a training run: frozen, typed, from TOML; unknown keys are errors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import msgspec

from fasedge.preprocess import InputSpec
from training.data.samples import CropJitter
from training.errors import ConfigError
from training.inputs import BrightnessNorm
from training.precision import Precision


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base: unknown keys are errors."""


class InputConfig(_Section, frozen=True):
    """What the network sees.

    Attributes:
        size_px: Side of the input.
        crop_scale: Side of the crop over the side of the face box.
        brightness: Normalise each picture's brightness inside the graph.
    """

    size_px: int = 224
    crop_scale: float = 1.0
    brightness: bool = False

    def spec(self) -> InputSpec:
        """The crop that this input needs."""
        return InputSpec(size_px=self.size_px, crop_scale=self.crop_scale)

    def normalisation(self) -> BrightnessNorm | None:
        """The brightness rule, or ``None``."""
        return BrightnessNorm() if self.brightness else None


class MethodConfig(_Section, frozen=True):
    """Which network.

    Attributes:
        name: Method.
        profile: ``paper``, ``official`` or ``default`` (see the method's own configuration).
        trunk: Name in ``training.backbones.TRUNKS``.
        width: Width of the trunk, where it has one; 1 is the published network.
        pretrained: Start from ImageNet weights, where the trunk's package carries them.
        weights: File with the trunk's ImageNet weights (torchvision's names).
        scale: Factor on the cosines; ``None`` keeps the profile's.
        margin: Angular margin in radians; ``None`` keeps the profile's.
    """

    name: Literal["a-deeppixbis"] = "a-deeppixbis"
    profile: Literal["paper", "official", "default"] = "default"
    trunk: str = "densenet161"
    width: float = 1.0
    pretrained: bool = False
    weights: str | None = None
    scale: float | None = None
    margin: float | None = None


class OptimiserConfig(_Section, frozen=True):
    """Adam and its schedule; the defaults are the paper's.

    Attributes:
        learning_rate: Peak learning rate.
        weight_decay: L2 in Adam, as the sources have it; ``decoupled`` makes it AdamW.
        decoupled: Decoupled weight decay.
        batch: Samples per step.
        epochs: Passes over the set.
        warmup_steps: Linear warm-up.
        schedule: ``constant`` or ``cosine`` to zero.
        average: Decay of the exponential moving average of the weights; 0 switches it off.
        label_smoothing: Labels become ``e/2`` and ``1 - e/2``.
        clip_norm: Largest norm of the gradient; 0 switches it off.
        precision: ``float32``, or ``bfloat16`` for the convolutions: on GPUs, and on CPUs with AMX or AVX-512 BF16.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    decoupled: bool = False
    batch: int = 64
    epochs: int = 10
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    average: float = 0.0
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    precision: Precision = "float32"


class AugmentConfig(_Section, frozen=True):
    """Augmentation; the defaults are those of A-DeepPixBiS (methods: flip and colour jitter).

    Attributes:
        flip: Probability of a horizontal flip.
        brightness: Largest relative change of brightness.
        contrast: Largest relative change of contrast.
        saturation: Largest relative change of saturation.
        colour: Largest relative gain per channel.
        grey: Probability of a grey picture.
        blur: Probability of losing resolution (down and up again by up to 2.5).
        noise: Largest standard deviation of added noise, in 8-bit steps.
        erase: Probability of a filled rectangle of up to a quarter of the area.
        shift: Largest shift of the face box, share of its side.
        zoom: Largest relative change of the face box.
    """

    flip: float = 0.5
    brightness: float = 0.15
    contrast: float = 0.15
    saturation: float = 0.15
    colour: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    erase: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0

    def jitter(self) -> CropJitter | None:
        """Jitter of the face box, or ``None``."""
        return CropJitter(self.shift, self.zoom) if self.shift or self.zoom else None


class TrainConfig(_Section, frozen=True):
    """A whole run."""

    seed: int = 42
    input: InputConfig = InputConfig()
    method: MethodConfig = MethodConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    augment: AugmentConfig = AugmentConfig()


def load_config(path: Path) -> TrainConfig:
    """Read a TOML file.

    Raises:
        ConfigError: Not readable, not TOML, an unknown key, a wrong type or an impossible value.
    """
    try:
        config = msgspec.toml.decode(path.read_bytes(), type=TrainConfig)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{path}: {error}") from error
    try:
        check_config(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config


def check_config(config: TrainConfig) -> None:
    """Refuse values that cannot work, before hours are spent.

    Raises:
        ConfigError: Names the value and what was expected.
    """
    o, i, a, m = config.optimiser, config.input, config.augment, config.method
    shares = (a.flip, a.grey, a.blur, a.erase)
    changes = (a.brightness, a.contrast, a.saturation, a.colour)
    rules = (
        # Seeds of numpy's generators; a negative one fails in the middle of a run.
        (config.seed >= 0, f"seed must be >= 0, got {config.seed}"),
        (0 < o.learning_rate < math.inf, f"optimiser.learning_rate must be > 0, got {o.learning_rate}"),
        (0 <= o.weight_decay < math.inf, f"optimiser.weight_decay must be >= 0, got {o.weight_decay}"),
        (o.warmup_steps >= 0, f"optimiser.warmup_steps must be >= 0, got {o.warmup_steps}"),
        (0 <= o.clip_norm < math.inf, f"optimiser.clip_norm must be >= 0, got {o.clip_norm}"),
        (o.batch >= 2, f"optimiser.batch must be >= 2 (batch normalisation), got {o.batch}"),
        (o.epochs >= 1, f"optimiser.epochs must be >= 1, got {o.epochs}"),
        (0 <= o.average < 1, f"optimiser.average must lie in [0, 1), got {o.average}"),
        (0 <= o.label_smoothing < 1, f"optimiser.label_smoothing must lie in [0, 1), got {o.label_smoothing}"),
        (i.size_px >= 16 and i.size_px % 16 == 0, f"input.size_px must be a multiple of 16, got {i.size_px}"),
        (0 < i.crop_scale < 100, f"input.crop_scale must lie in (0, 100), got {i.crop_scale}"),
        (0 < m.width < math.inf, f"method.width must be > 0, got {m.width}"),
        (all(0 <= p <= 1 for p in shares), f"augment: flip, grey, blur and erase must lie in [0, 1], got {shares}"),
        (
            all(0 <= c <= 1 for c in changes),
            f"augment: brightness, contrast, saturation and colour must lie in [0, 1], got {changes}",
        ),
        (0 <= a.noise <= 255, f"augment.noise must lie in [0, 255], got {a.noise}"),
        (
            all(0 <= c <= 1 for c in (a.shift, a.zoom)),
            f"augment: shift and zoom must lie in [0, 1], got {a.shift}, {a.zoom}",
        ),
    )
    for holds, message in rules:
        if not holds:
            raise ConfigError(message)
