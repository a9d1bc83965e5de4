"""What ``python -m quantize run`` looks at before hours are spent: does everything belong to one method?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import torch

from fasedge.types import Label
from quantize.distil_command import Lessons, check_lessons, see_depth
from quantize.errors import CalibrationDataError, CheckpointMismatchError
from quantize.export import empty_student, is_rounded, is_student
from quantize.facts import TEXTS
from quantize.pictures import training_set
from quantize.rgbd import METHOD
from quantize.rounded import UNCALIBRATED
from quantize.step_commands import leading
from quantize.students import STUDENTS, PixelLogitStudent
from training.checkpoint import load_checkpoint
from training.config import TrainConfig, load_config
from training.data.samples import SampleSet
from training.errors import ConfigError
from training.trained import config_of

_CLASSES = {int(Label.BONA_FIDE): "bona fide presentation", int(Label.ATTACK): "attack"}
#: Methods that there are students of.
METHODS = tuple(TEXTS)
#: The student that is trained where none is named, by its method.
DEFAULT_STUDENTS: Mapping[str, Path] = {
    method: Path(__file__).parent / name
    for method, name in (
        ("a-deeppixbis", "a_deeppixbis.toml"),
        ("binary-trunk", "edge.toml"),
        ("rfmeta", "rfmeta.toml"),
        ("cmfl", "cmfl.toml"),
    )
}


def trained_student(path: Path, method: str | None) -> TrainConfig:
    """Configuration of a student that exists already.

    Args:
        path: Its checkpoint.
        method: What it must be a student of; ``None`` for any method.

    Raises:
        CheckpointMismatchError: The checkpoint is of another method, or of no student that could be rounded.
        CheckpointError: It is missing or damaged, or carries no configuration.
    """
    checkpoint = load_checkpoint(path)
    config = config_of(checkpoint)
    if is_rounded(checkpoint):
        raise CheckpointMismatchError(f"{path} is rounded already; name the student that it was rounded from")
    if not is_student(checkpoint):
        raise CheckpointMismatchError(
            f"{path} is a network of full size of {config.method.name}, and no student: give it as --teacher"
        )
    if method not in (None, config.method.name):
        raise CheckpointMismatchError(
            f"{path} is a checkpoint of another method: a student of {config.method.name}, not of {method}"
        )
    return config


def student_to_be(method: str | None, file: Path | None, lessons: Lessons) -> TrainConfig:
    """Configuration of a student that is yet to be taught.

    Args:
        method: What it is a student of; ``None`` for whatever the file says.
        file: TOML file; ``None`` for the bundled one of the method, which is given the crops of the first teacher.
        lessons: How it is taught.

    Raises:
        ConfigError: The file cannot be used, or is of another method; there is no such method.
        CheckpointMismatchError: A teacher is of another method.
        CheckpointError: A teacher's file is missing or damaged, or carries no configuration.
        BadParameter: The options of the lessons contradict each other, or the method.
    """
    if file is not None:
        config = load_config(file)
        if method not in (None, config.method.name):
            raise ConfigError(f"{file} is a student of another method: of {config.method.name}, not of {method}")
        method = config.method.name
    if method not in METHODS:
        raise ConfigError(f"there are no students of {method}; there are of {', '.join(METHODS)}")
    taught_by = [_teacher(path, method) for path in lessons.teachers]
    check_lessons(lessons, method)
    if file is None:
        config = load_config(DEFAULT_STUDENTS[method])
        if taught_by:
            config = _as_seen_by(taught_by[0], config)
    return config


def _as_seen_by(teacher: TrainConfig, config: TrainConfig) -> TrainConfig:
    """A student's configuration with the crops that its teacher was trained on."""
    seen = teacher.input
    own = msgspec.structs.replace(config.input, size_px=seen.size_px, crop_scale=seen.crop_scale)
    changed = msgspec.structs.replace(config, input=own)
    if teacher.method.name == METHOD != config.method.name:
        # Other colours on the depth of a living face would be an attack to the labels and none to the teacher.
        changed = msgspec.structs.replace(changed, augment=msgspec.structs.replace(changed.augment, recoloured=0.0))
    return changed


def _teacher(path: Path, method: str) -> TrainConfig:
    """The configuration of somebody who can teach a student of a method: of the same, or of colour and depth."""
    config = config_of(load_checkpoint(path))
    found = config.method.name
    # Students with one logit may also learn from those who see depth, see quantize.cross_modal.
    if found != method and not (found == METHOD and STUDENTS.get(method) is PixelLogitStudent):
        raise CheckpointMismatchError(
            f"{path} is a checkpoint of another method: a network of {found} cannot teach a student of {method}"
        )
    return config


def check_replaced(lessons: Lessons, folder: Path) -> None:
    """Refuse to begin with the model that is replaced: once it is, the same command would begin with the student.

    Args:
        lessons: How the student is taught.
        folder: Where it will be published.

    Raises:
        ConfigError: It is the folder of a model that the student begins with, or there is no model to start from.
        ModelNotFoundError: There is no model to take colour from.
        CardError: A model's card is malformed.
    """
    for name, model in lessons.models().items():
        if folder.exists() and folder.samefile(model):
            raise ConfigError(
                f"--{name} {model}: a model cannot begin as the one that it replaces: copy its folder and name the copy"
            )


def check_leading(config: TrainConfig, n: int) -> None:
    """Refuse a number of convolutions in float that would leave a student none in INT8.

    Raises:
        ConversionError: It would.
        CheckpointMismatchError: There is no student of that configuration.
    """
    with torch.random.fork_rng(devices=[]):  # the weights do not matter
        student = empty_student(config)
    leading(student.exported(UNCALIBRATED, config.input.normalisation()), n)


def check_sets(train: Sequence[Path], held_out: Mapping[str, SampleSet], method: str, lessons: Lessons) -> None:
    """Refuse sets that a step would refuse after hours.

    Args:
        train: Sets for training and rounding.
        held_out: Sets for calibration and figures, by their split.
        method: What the student is one of.
        lessons: How it is taught.

    Raises:
        CalibrationDataError: A set for training is of another split, a set lacks a class, or a network of colour and
            depth, the student or a teacher, would look at a set without depth.
        DataError: A set is missing or malformed.
        CheckpointError: The first teacher is missing or damaged, or carries no configuration.
    """
    sets = [training_set(path) for path in train]
    for samples in (*sets, *held_out.values()):
        if lacking := _CLASSES.keys() - {*samples.labels.tolist()}:
            without = " and no ".join(_CLASSES[label] for label in sorted(lacking))
            raise CalibrationDataError(f"the set of the {samples.info.split} split has no {without}")
    if method == METHOD:
        looks, seen = f"students of {METHOD} look", [*sets, *held_out.values()]
    elif see_depth(lessons.teachers):
        looks, seen = f"teachers of {METHOD} look", [*sets, held_out["dev"]]  # the student is tested on colour alone
    else:
        return
    if not all(samples.has_depth for samples in seen):
        raise CalibrationDataError(f"{looks} at depth, but a sample set has none; make it with --depth")
