"""``python -m quantize distil``: train a student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console

from fasedge.cards import find_model, load_card, sha256_of
from fasedge.errors import ModelNotFoundError
from quantize.cross_modal import CrossModalTask
from quantize.distill import DistilTask, load_teacher
from quantize.export import load_trained
from quantize.imitation import Imitation
from quantize.options import (
    AlphaOption,
    BeginOption,
    ColourOption,
    DevOption,
    FeaturesOption,
    MixupOption,
    StartOption,
    SteadyOption,
    TeachersOption,
    TrainsOption,
)
from quantize.published import begin_as, begin_as_published, weights_of
from quantize.rgbd import METHOD, take_colour
from quantize.rgbd_task import RgbdTask, RgbdTeacher, check_same_crop, load_rgbd_teacher
from quantize.teachers import OpenVinoTeacher, TorchTeacher
from training.build import ImitatedTask, TeachingTask
from training.checkpoint import load_checkpoint
from training.config import TrainConfig, load_config
from training.data.joined import joined
from training.data.samples import SampleSet
from training.distributed import choose_device
from training.errors import ConfigError
from training.loop import Trainer
from training.trained import config_of

#: Crops on which the normalisations of a published model are measured.
_SETTLED_ON = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """How a student is taught.

    Attributes:
        teachers: Checkpoints of full-precision methods.
        how: How they are imitated.
        start: Whether the student starts from the first one's weights.
        begin: Student that it starts from instead, see :func:`start_from_another`.
        colour: Of a student of CMFL: model whose branch of colour it takes, see :func:`quantize.rgbd.take_colour`.
    """

    teachers: tuple[Path, ...] = ()
    how: Imitation = field(default_factory=Imitation)
    start: bool = False
    begin: str | None = None
    colour: str | None = None

    def models(self) -> dict[str, Path]:
        """Folders of the published models that the student begins with, by what they are named for: from, colour.

        Raises:
            ConfigError: There is neither a checkpoint nor a model of that name to start from.
            ModelNotFoundError: There is no model of that name to take colour from.
            CardError: A model's card is malformed.
        """
        found = {}
        if self.begin is not None and not Path(self.begin).is_file():
            found["from"] = _model_to_begin_with(self.begin)
        if self.colour is not None:
            found["colour"] = find_model(self.colour)
        return found

    def recorded(self) -> dict[str, str]:
        """In words, files and models by their SHA-256: lessons that differ teach something else.

        Raises:
            ConfigError: There is no student of that name to start from.
            ModelNotFoundError: A teacher cannot be read, or there is no model of that name to take colour from.
            CardError: A model's card is malformed.
        """
        said = {"teachers": ", ".join(map(sha256_of, self.teachers)), "imitation": str(self.how)}
        if self.start:
            said["start"] = "from the first teacher"
        if self.begin is not None and (path := Path(self.begin)).is_file():
            said["from"] = sha256_of(path)
        models = self.models().items()
        return said | {name: load_card(folder).file("onnxruntime", "fp32").sha256 for name, folder in models}


def distil(
    config: Annotated[Path, typer.Argument(help="TOML file of the student, e.g. quantize/student.toml.")],
    *,
    train: TrainsOption,
    dev: DevOption,
    out: Annotated[Path, typer.Option(help="Folder of checkpoints and history; a run in it is resumed.")],
    teacher: TeachersOption = None,
    alpha: AlphaOption = 0.5,
    features: FeaturesOption = 0.0,
    mixup: MixupOption = 0.0,
    steady: SteadyOption = 0.0,
    start: StartOption = False,
    begin: BeginOption = None,
    colour: ColourOption = None,
) -> None:
    """Train the student, with or without teachers."""
    how = Imitation(alpha=alpha, features=features, mixup=mixup, steady=steady)
    lessons = Lessons(teachers=tuple(teacher or ()), how=how, start=start, begin=begin, colour=colour)
    train_student(load_config(config), lessons, train, dev, out)


def train_student(config: TrainConfig, lessons: Lessons, train: Sequence[Path], dev: Path, out: Path) -> None:
    """Train a student to the end; a run in the folder is resumed.

    Args:
        config: Its configuration.
        lessons: How it is taught.
        train: Sample sets of the train split, which are put together.
        dev: Sample set of the dev split.
        out: Folder of checkpoints and history.

    Raises:
        BadParameter: There are no such lessons for students of that method.
        CheckpointError: A checkpoint is missing or damaged, or the folder holds another run.
        DataError: A set is missing or malformed, or the sets do not fit each other.
        ConfigError: Settings, student, teachers or sets do not fit each other; for what else :func:`new_task`,
            :func:`new_rgbd_task` and :func:`start_from_another` raise, see there.
    """
    check_lessons(lessons, config.method.name)
    task: DistilTask | RgbdTask | CrossModalTask
    if config.method.name == METHOD:
        task, note = new_rgbd_task(config, lessons.teachers, lessons.how.alpha, lessons.colour)
    elif see_depth(lessons.teachers):
        task, note = new_cross_modal_task(config, lessons.teachers, lessons.how.alpha)
    else:
        task, note = new_task(config, lessons.teachers, lessons.how, start=lessons.start)
    depth = isinstance(task, RgbdTask | CrossModalTask)
    samples = joined([SampleSet.load(path) for path in train], depth=depth)
    if lessons.begin is not None and not isinstance(task, RgbdTask):
        learner = task.student if isinstance(task, CrossModalTask) else task
        note |= start_from_another(learner, config, lessons.begin, samples)
    console = Console()
    for record in Trainer(task, config, samples, SampleSet.load(dev), out, note).run():
        console.print(record.line())


def check_lessons(lessons: Lessons, method: str) -> None:
    """Refuse options that contradict each other, or that students of a method do not have.

    Raises:
        BadParameter: Names them.
        CheckpointError: The first teacher is missing or damaged, or carries no configuration.
    """
    if lessons.start and not lessons.teachers:
        raise typer.BadParameter("--start needs --teacher")
    if lessons.start and lessons.begin is not None:
        raise typer.BadParameter("a student starts --from another one or with --start from its teacher, not both")
    more = lessons.how != Imitation(alpha=lessons.how.alpha) or lessons.start
    if method == METHOD:
        if more or lessons.begin is not None:
            raise typer.BadParameter("a student of cmfl has --teacher, --alpha and --colour only")
    elif lessons.colour is not None:
        raise typer.BadParameter("--colour is for students of cmfl")
    elif more and see_depth(lessons.teachers):
        raise typer.BadParameter("of a teacher of cmfl a student of colour imitates the answer: --alpha only")


def new_rgbd_task(
    config: TrainConfig, teachers: Sequence[Path], alpha: float, colour: str | None
) -> tuple[RgbdTask, dict[str, str | float | bool]]:
    """A student of CMFL ready to be taught.

    Args:
        config: Its configuration; its first weights come from the configuration's seed.
        teachers: Checkpoints of CMFL.
        alpha: Weight of the imitation of their logits.
        colour: Id or folder of a published model, see :func:`quantize.rgbd.take_colour`.

    Returns:
        As :func:`new_task`.

    Raises:
        CheckpointError: A file is missing or damaged.
        CheckpointMismatchError: A file is of something else.
        ConfigError: Settings, student and teachers do not fit each other.
        StateMismatchError: The branch of colour is of another trunk.
        ModelNotFoundError: There is no such model.
        CardError: Its card is malformed.
        IntegrityError: The model's file was altered.
    """
    torch.manual_seed(config.seed)
    task = RgbdTask(config, _rgbd_teachers(config, teachers), alpha)
    note: dict[str, str | float | bool] = {}
    if teachers:
        note |= {"teacher_sha256": ", ".join(map(sha256_of, teachers)), "alpha": alpha}
    if colour is not None:
        card = load_card(find_model(colour))
        check_same_crop(config, card.input_spec(), f"the model {card.id}")
        take_colour(task.module, weights_of(colour))
        note |= {"colour_of": f"{card.id} {card.version}", "colour_sha256": card.file("onnxruntime", "fp32").sha256}
    return task, note


def see_depth(teachers: Sequence[Path]) -> bool:
    """Whether the first of some teachers is one of colour and depth."""
    return bool(teachers) and config_of(load_checkpoint(teachers[0])).method.name == METHOD


def new_cross_modal_task(
    config: TrainConfig, teachers: Sequence[Path], alpha: float
) -> tuple[CrossModalTask, dict[str, str | float | bool]]:
    """A student of colour ready to be taught by networks of colour and depth; see :func:`new_rgbd_task`."""
    torch.manual_seed(config.seed)
    task = CrossModalTask(DistilTask(config), _rgbd_teachers(config, teachers), alpha)
    return task, {"teacher_sha256": ", ".join(map(sha256_of, teachers)), "alpha": alpha, "teachers_see_depth": True}


def _rgbd_teachers(config: TrainConfig, teachers: Sequence[Path]) -> list[RgbdTeacher]:
    masters = [load_rgbd_teacher(path) for path in teachers]
    for path, (_, known) in zip(teachers, masters, strict=True):
        check_same_crop(config, known.input.spec(), f"the teacher in {path}")
    return [master for master, _ in masters]


def _with_trunk(teacher: ImitatedTask) -> TeachingTask:
    if not isinstance(teacher, TeachingTask):
        raise ConfigError(f"a student cannot start from a teacher of {teacher.method}, which is another network")
    return teacher


def new_task(
    config: TrainConfig, teachers: Sequence[Path], how: Imitation, *, start: bool = False
) -> tuple[DistilTask, dict[str, str | float | bool]]:
    """A student ready to be taught.

    Args:
        config: Its configuration; its first weights come from the configuration's seed.
        teachers: Checkpoints of full-precision methods; on a CPU with OpenVINO they answer through it.
        how: How they are imitated.
        start: Whether the student starts with the weights of the first teacher; otherwise, if it imitates features, it
            starts with its head, where that is a filter of the features.

    Returns:
        The task, and what the records of its run say of all this: a run that is taken up again must say the same.

    Raises:
        CheckpointError: A file is missing or damaged.
        CheckpointMismatchError: A file is of something else.
        ConfigError: Settings, student and teachers do not fit each other.
        StateMismatchError: The weights that it is to start with belong to another trunk.
    """
    torch.manual_seed(config.seed)
    masters = [load_teacher(path)[0] for path in teachers]
    on_cpu = choose_device(config.machine.device).type == "cpu"
    through_openvino = on_cpu and find_spec("openvino") is not None
    task = DistilTask(
        config,
        [OpenVinoTeacher(one, config.input.size_px) if through_openvino else TorchTeacher(one) for one in masters],
        how,
    )
    note: dict[str, str | float | bool] = {"mixup": how.mixup}
    if how.steady:
        note |= {"steady": how.steady, "steady_views": how.views}
    if masters:
        note |= {"teacher_sha256": ", ".join(map(sha256_of, teachers)), "alpha": how.alpha, "features": how.features}
        note |= {"started_from_it": start, "teachers_answer_in": "openvino" if through_openvino else "torch"}
    if start:
        task.start_from(_with_trunk(masters[0]))
    elif how.features and masters and isinstance(masters[0], TeachingTask):
        task.start_with_head(masters[0])
    return task, note


def start_from_another(
    task: DistilTask, config: TrainConfig, begin: str, samples: SampleSet
) -> dict[str, str | float | bool]:
    """Give a student the weights of another one of the same trunk.

    Args:
        task: Changed in place.
        config: Its configuration.
        begin: A checkpoint that ``distil`` left, or id or folder of a published model of plain convolutions. Its
            normalisations are gone, so they are measured on crops of the samples, drawn with the configuration's seed.
            Activations that end in the model (:func:`quantize.equalise.bound`) go on in the student.
        samples: What it will be trained on.

    Returns:
        What the records of its run say of it.

    Raises:
        CheckpointError: The file is damaged, or of something else.
        CheckpointMismatchError: The model is no student of plain convolutions with one logit.
        ConfigError: There is neither such a file nor such a model, or the model's pictures are normalised otherwise.
        StateMismatchError: The weights belong to another trunk.
        CardError: The model's card is malformed.
        IntegrityError: The model's file was altered.
    """
    if (path := Path(begin)).is_file():
        before, _ = load_trained(path)
        begin_as(task.module, before, what=f"the student in {begin}")
        return {"began_as_sha256": sha256_of(path)}
    folder = _model_to_begin_with(begin)
    card = load_card(folder)
    if not config.input.brightness:
        raise ConfigError(f"{card.id} normalises the brightness of its pictures: set input.brightness")
    n = len(samples)
    chosen = np.random.default_rng(config.seed).choice(n, min(_SETTLED_ON, n), replace=False)
    seen = task.inputs(torch.from_numpy(samples.crops(sorted(chosen.tolist()), config.input.spec())))
    begin_as_published(task.module, weights_of(folder), seen)
    return {
        "began_as": f"{card.id} {card.version}",
        "began_as_sha256": card.file("onnxruntime", "fp32").sha256,
        "began_with_crop_scale": card.input_spec().crop_scale,
    }


def _model_to_begin_with(begin: str) -> Path:
    try:
        return find_model(begin)
    except ModelNotFoundError as error:
        raise ConfigError(f"--from {begin}: there is neither such a checkpoint nor such a model ({error})") from error
