"""Configuration of a training run: frozen, typed, from TOML; unknown keys are errors."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from fasedge.preprocess import InputSpec
from training.data.samples import CropJitter
from training.data.simulate.compose import CANVAS_SCALE, WIDEST_CANVAS
from training.data.subsets import parse
from training.errors import ConfigError, DataError
from training.inputs import BrightnessNorm
from training.precision import Precision

#: Value of ``data.train`` and ``data.dev`` instead of a folder.
SIMULATE = "simulate"
#: What chooses the epoch that is kept, see :mod:`training.keep`.
KeepRule: TypeAlias = Literal["eer", "acer", "loss", "last"]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base: unknown keys are errors."""


class InputConfig(_Section, frozen=True):
    """What the network sees.

    Attributes:
        size_px: Side of the input.
        crop_scale: Side of the crop over the side of the face box.
        brightness: Normalise each picture's brightness inside the graph.
        grey_world: Normalise each channel by itself, and so take a colour cast away too; instead of ``brightness``.
    """

    size_px: int = 224
    crop_scale: float = 1.0
    brightness: bool = False
    grey_world: bool = False

    def spec(self) -> InputSpec:
        """The crop that this input needs."""
        return InputSpec(size_px=self.size_px, crop_scale=self.crop_scale)

    def normalisation(self) -> BrightnessNorm | None:
        """The rule of brightness or colour, or ``None``."""
        return BrightnessNorm(grey_world=self.grey_world) if self.brightness or self.grey_world else None


class MethodConfig(_Section, frozen=True):
    """Which network.

    Attributes:
        name: Name in ``training.build.METHODS``.
        profile: ``paper``, ``official`` or ``default`` (see the method's own configuration).
        trunk: Name in ``training.backbones.TRUNKS``.
        width: Width of the trunk, where it has one; 1 is the published network.
        pretrained: Start from ImageNet weights: those of densenet161 come through torchvision, which fetches them once
            into torch's cache, those of efficientnet_lite0 from an installed package.
        weights: File with ImageNet weights of densenet161 (torchvision's names), instead of ``pretrained``.
        scale: Factor on the cosines; ``None`` keeps the profile's.
        margin: Angular margin in radians; ``None`` keeps the profile's.
        options: Further settings of the method, by the names of its own configuration's fields.
    """

    name: str = "a-deeppixbis"
    profile: Literal["paper", "official", "default"] = "default"
    trunk: str = "densenet161"
    width: float = 1.0
    pretrained: bool = False
    weights: str | None = None
    scale: float | None = None
    margin: float | None = None
    options: dict[str, bool | int | float | str] = msgspec.field(default_factory=dict)


class OptimiserConfig(_Section, frozen=True):
    """Adam and its schedule; the defaults are the paper's.

    Attributes:
        learning_rate: Peak learning rate.
        weight_decay: L2 in Adam, as the sources have it; ``decoupled`` makes it AdamW.
        decoupled: Decoupled weight decay.
        batch: Samples per forward pass, those of all processes together.
        accumulate: Forward passes whose gradients are averaged before the weights move; a step takes
            ``batch * accumulate`` samples.
        epochs: Passes over the set, or over ``data.samples`` simulated samples.
        warmup_steps: Linear warm-up.
        schedule: ``constant``, ``cosine`` to zero, or ``step``: lower after every ``step_epochs``.
        step_epochs: Epochs between two steps; 0 without them.
        step_factor: What each of them multiplies the learning rate by.
        average: Decay of the exponential moving average of the weights; 0 switches it off.
        label_smoothing: Labels become ``e/2`` and ``1 - e/2``.
        clip_norm: Largest norm of the gradient; 0 switches it off.
        frozen_norm: Batch normalisation keeps the statistics that it starts with: for small batches, and for results
            that do not depend on how a batch is split over processes.
        keep: Which epoch is kept: the one with the lowest ``eer``, ``acer`` (of the worst species) or ``loss`` on dev,
            or the ``last``; see :mod:`training.keep`.
        precision: ``float32``, or ``bfloat16`` for the convolutions: on GPUs, and on CPUs with AMX or AVX-512 BF16.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    decoupled: bool = False
    batch: int = 64
    accumulate: int = 1
    epochs: int = 10
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine", "step"] = "constant"
    step_epochs: int = 0
    step_factor: float = 0.5
    average: float = 0.0
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    frozen_norm: bool = False
    keep: KeepRule = "eer"
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
        recoloured: Share of the attacks of each batch in whose place recoloured bona fide pictures are put, see
            :mod:`training.data.clues`; for methods that see colour alone.
        holes: Share of the depth maps from which a part of the face is taken, see :mod:`training.data.holes`.
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
    recoloured: float = 0.0
    holes: float = 0.0

    def jitter(self) -> CropJitter | None:
        """Jitter of the face box, or ``None``."""
        return CropJitter(self.shift, self.zoom) if self.shift or self.zoom else None


class DataConfig(_Section, frozen=True):
    """What is trained on, and what chooses the epoch that is kept.

    Attributes:
        train: ``simulate``: samples are made while training goes on, and none is seen twice. Otherwise the folder of
            a set.
        dev: ``simulate``: a set is made once and kept in the cache. Otherwise the folder of a set.
        samples: Simulated training samples per epoch.
        seed: Seed of the simulated training samples.
        dev_samples: Samples of the simulated dev set.
        dev_seed: Its seed.
        picture_px: Side of the simulated pictures.
        canvas_scale: Their side over the side of the face box; as much of the surroundings as crops may show.
        depth: Simulate a depth camera even if the method does not look at depth.
        domain: What methods that learn from several domains call one: the simulated ``camera``, or the collection of
            the face picture (``source``); ``auto`` takes the camera where there is one.
        leave_out: Parts of train and dev that are left out, to be measured on: ``COLUMN=VALUE``, see
            :mod:`training.data.subsets`.
        balance: As many attacks as bona fide presentations in a training set on disk, by leaving out some of the larger
            class at random: ``once`` for the whole run, or drawn anew for each ``epoch``; ``none`` takes all, ``auto``
            does so ``once`` with recordings and takes all that is simulated, where the classes are drawn evenly. See
            :mod:`training.data.balance`.
    """

    train: str = SIMULATE
    dev: str = SIMULATE
    samples: int = 9600
    seed: int = 101
    dev_samples: int = 1200
    dev_seed: int = 202
    picture_px: int = 192
    canvas_scale: float = CANVAS_SCALE
    depth: bool = False
    domain: Literal["auto", "camera", "source"] = "auto"
    leave_out: tuple[str, ...] = ()
    balance: Literal["none", "auto", "once", "epoch"] = "none"


class MachineConfig(_Section, frozen=True):
    """Where and how it is worked out: an interrupted run may go on with other values.

    Attributes:
        device: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``cuda:N``.
        compile: Compile the network (``torch.compile``): a minute or more at the start, faster steps on a GPU.
        channels_last: Lay the weights out as the pictures lie.
        sync_norm: With several processes on GPUs, batch normalisation takes the statistics of the whole batch instead
            of each process's share, as a single process does. Refused for methods that learn domain by domain.
        workers: Processes that simulate; by default all cores but one, 0 for none.
        ahead: Batches that a thread makes while the present one is trained on; 0 for none. What is learnt is the same.
        save_minutes: Minutes after which a run is saved within an epoch too, as soon as a step is done: no more is lost
            when it is killed. 0 saves after every step.
        log_every: Steps between two lines of ``log.csv``.
        tensorboard: Write the same figures for TensorBoard too; needs its package.
    """

    device: str = "auto"
    compile: bool = False
    channels_last: bool = True
    sync_norm: bool = False
    workers: int | None = None
    ahead: int = 2
    save_minutes: float = 10.0
    log_every: int = 10
    tensorboard: bool = False


class TrainConfig(_Section, frozen=True):
    """A whole run."""

    seed: int = 42
    data: DataConfig = DataConfig()
    input: InputConfig = InputConfig()
    method: MethodConfig = MethodConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    augment: AugmentConfig = AugmentConfig()
    machine: MachineConfig = MachineConfig()

    def learnt(self) -> TrainConfig:
        """The part that decides what is learnt: an interrupted run goes on only with the same.

        What the samples are is not told by the names of their folders; a run knows them by their description.
        """
        data = DataConfig(domain=self.data.domain, leave_out=self.data.leave_out, balance=self.data.balance)
        return msgspec.structs.replace(self, data=data, machine=MachineConfig())


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
    # Seeds of numpy's generators; a negative one fails in the middle of a run.
    rules = [(config.seed >= 0, f"seed must be >= 0, got {config.seed}")]
    rules += [*_of_optimiser(config.optimiser), *_of_input(config), *_of_augment(config.augment), *_of_data(config)]
    for holds, message in rules:
        if not holds:
            raise ConfigError(message)


_Rules: TypeAlias = list[tuple[bool, str]]


def _of_optimiser(o: OptimiserConfig) -> _Rules:
    return [
        (0 < o.learning_rate < math.inf, f"optimiser.learning_rate must be > 0, got {o.learning_rate}"),
        (0 <= o.weight_decay < math.inf, f"optimiser.weight_decay must be >= 0, got {o.weight_decay}"),
        (o.warmup_steps >= 0, f"optimiser.warmup_steps must be >= 0, got {o.warmup_steps}"),
        (
            o.step_epochs >= 1 if o.schedule == "step" else o.step_epochs == 0,
            f"optimiser.step_epochs must be >= 1 with schedule = 'step' and 0 without, got {o.step_epochs}",
        ),
        (0 < o.step_factor < 1, f"optimiser.step_factor must lie in (0, 1), got {o.step_factor}"),
        (0 <= o.clip_norm < math.inf, f"optimiser.clip_norm must be >= 0, got {o.clip_norm}"),
        (o.batch >= 2, f"optimiser.batch must be >= 2 (batch normalisation), got {o.batch}"),
        (o.accumulate >= 1, f"optimiser.accumulate must be >= 1, got {o.accumulate}"),
        (o.epochs >= 1, f"optimiser.epochs must be >= 1, got {o.epochs}"),
        (0 <= o.average < 1, f"optimiser.average must lie in [0, 1), got {o.average}"),
        (0 <= o.label_smoothing < 1, f"optimiser.label_smoothing must lie in [0, 1), got {o.label_smoothing}"),
    ]


def _of_input(config: TrainConfig) -> _Rules:
    i, m = config.input, config.method
    return [
        (i.size_px >= 16 and i.size_px % 16 == 0, f"input.size_px must be a multiple of 16, got {i.size_px}"),
        (0 < i.crop_scale < 100, f"input.crop_scale must lie in (0, 100), got {i.crop_scale}"),
        (0 < m.width < math.inf, f"method.width must be > 0, got {m.width}"),
    ]


def _of_augment(a: AugmentConfig) -> _Rules:
    shares = (a.flip, a.grey, a.blur, a.erase, a.recoloured, a.holes)
    changes = (a.brightness, a.contrast, a.saturation, a.colour)
    return [
        (
            all(0 <= p <= 1 for p in shares),
            f"augment: flip, grey, blur, erase, recoloured and holes must lie in [0, 1], got {shares}",
        ),
        (
            all(0 <= c <= 1 for c in changes),
            f"augment: brightness, contrast, saturation and colour must lie in [0, 1], got {changes}",
        ),
        (0 <= a.noise <= 255, f"augment.noise must lie in [0, 255], got {a.noise}"),
        (
            all(0 <= c <= 1 for c in (a.shift, a.zoom)),
            f"augment: shift and zoom must lie in [0, 1], got {a.shift}, {a.zoom}",
        ),
    ]


def _of_leave_out(texts: tuple[str, ...]) -> _Rules:
    try:
        parse(texts)
    except DataError as error:
        return [(False, f"data.leave_out: {error}")]
    return []


def _of_data(config: TrainConfig) -> _Rules:
    d, m, o = config.data, config.machine, config.optimiser
    step = o.batch * o.accumulate
    return [
        *_of_leave_out(d.leave_out),
        (bool(d.train and d.dev), f"data.train and data.dev must name a folder or say {SIMULATE!r}"),
        (
            d.train != SIMULATE or d.samples >= step,
            f"data.samples must be >= optimiser.batch * optimiser.accumulate = {step}, got {d.samples}",
        ),
        (d.dev_samples >= 2, f"data.dev_samples must be >= 2, got {d.dev_samples}"),
        (min(d.seed, d.dev_seed) >= 0, f"data.seed and data.dev_seed must be >= 0, got {d.seed}, {d.dev_seed}"),
        (32 <= d.picture_px <= 2048, f"data.picture_px must lie in [32, 2048], got {d.picture_px}"),
        (
            CANVAS_SCALE <= d.canvas_scale <= WIDEST_CANVAS,
            f"data.canvas_scale must lie in [{CANVAS_SCALE:g}, {WIDEST_CANVAS:g}], got {d.canvas_scale}",
        ),
        (
            re.fullmatch(r"auto|cpu|cuda(:\d+)?", m.device) is not None,
            f"machine.device must be auto, cpu, cuda or cuda:N, got {m.device!r}",
        ),
        (m.workers is None or m.workers >= 0, f"machine.workers must be >= 0, got {m.workers}"),
        (m.ahead >= 0, f"machine.ahead must be >= 0, got {m.ahead}"),
        (m.save_minutes >= 0, f"machine.save_minutes must be >= 0, got {m.save_minutes}"),
        (m.log_every >= 1, f"machine.log_every must be >= 1, got {m.log_every}"),
    ]
