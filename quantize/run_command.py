"""``python -m quantize run``: from a full-precision network to a published model, every step in its turn."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from fasedge.cards import Precision, models_folder, sha256_of
from quantize.calibrate import DEFAULT_CROPS
from quantize.distil_command import Lessons, train_student
from quantize.export import SUFFIXES, artefact
from quantize.facts import golden_indices, held_out, picture_licences, read_evaluations
from quantize.facts_command import facts_command
from quantize.files import remove_unfinished
from quantize.finetune import DEFAULT_STEPS
from quantize.imitation import Imitation
from quantize.latency import LATENCY_NAME, cpu_name
from quantize.options import (
    AlphaOption,
    BeginOption,
    ColourOption,
    CropScaleOption,
    CropsOption,
    DataOption,
    DevOption,
    EvaluationOption,
    FeaturesOption,
    FolderOption,
    IdOption,
    LeadingOption,
    MixupOption,
    ModelsOption,
    OriginOption,
    PointOption,
    StartOption,
    SteadyOption,
    StepsOption,
    TeachersOption,
    TestOption,
    ToleranceOption,
    VersionOption,
)
from quantize.parity import PARITY_NAME
from quantize.pictures import usable_part
from quantize.points import DEFAULT_POINT, check_point
from quantize.publish import DEFAULT_TOLERANCE, check_names
from quantize.rgbd import METHOD
from quantize.rounded import with_crop
from quantize.run_checks import (
    DEFAULT_STUDENTS,
    METHODS,
    check_leading,
    check_replaced,
    check_sets,
    student_to_be,
    trained_student,
)
from quantize.step_commands import calibrate, export, int8, latency, parity, publish_command, round_command
from quantize.steps import STEPS_NAME, Steps, set_sha256
from training.config import TrainConfig
from training.data.manifest import data_folder
from training.loop import BEST, LAST

#: Folder of the distillation, in that of the run.
STUDENT = "student"
_CONSOLE = Console(soft_wrap=True)


def run(
    method: Annotated[
        str | None,
        typer.Argument(help=f"What it is a student of: {', '.join(METHODS)}. Default: as --student or --checkpoint."),
    ] = None,
    *,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A student that `distil` has left. Without it, one is distilled in OUT."),
    ] = None,
    student: Annotated[
        Path | None,
        typer.Option(help="TOML file of the student. Default: the method's own, with the crops of the first teacher."),
    ] = None,
    teacher: TeachersOption = None,
    alpha: AlphaOption = 0.5,
    features: FeaturesOption = 0.0,
    mixup: MixupOption = 0.0,
    steady: SteadyOption = 0.0,
    start: StartOption = False,
    begin: BeginOption = None,
    colour: ColourOption = None,
    out: FolderOption,
    train: Annotated[
        list[Path],
        typer.Option(
            help="Sample set of the train split; several are put together to distil, INT8 is fitted on the first alone."
        ),
    ],
    dev: DevOption,
    test: TestOption,
    data: DataOption = None,
    evaluation: EvaluationOption = None,
    version: VersionOption = "0.1.0",
    model_id: IdOption,
    origin: OriginOption = "",
    default_point: PointOption = DEFAULT_POINT,
    models: ModelsOption = None,
    crops: CropsOption = DEFAULT_CROPS,
    steps: StepsOption = DEFAULT_STEPS,
    crop_scale: CropScaleOption = None,
    leading_float: LeadingOption = None,
    tolerance: ToleranceOption = DEFAULT_TOLERANCE,
) -> None:
    """From a full-precision network, or a student of it, to a published model: every step from `distil` to `publish`.

    A step that would read the same as before is skipped while what it wrote is whole; steps.json in OUT keeps account.
    Nothing is published when a step fails.
    """
    how = Imitation(alpha=alpha, features=features, mixup=mixup, steady=steady)
    lessons = Lessons(teachers=tuple(teacher or ()), how=how, start=start, begin=begin, colour=colour)
    _check_begin(method, checkpoint, student, lessons, len(train))
    check_point(default_point)
    check_names(model_id, version)
    models = models or models_folder()
    check_replaced(lessons, models / model_id)
    loaded = held_out(dev, test)
    config = student_to_be(method, student, lessons) if checkpoint is None else trained_student(checkpoint, method)
    check_sets(train, loaded, config.method.name, lessons)
    if leading_float is not None:
        check_leading(config, leading_float)
    seen = with_crop(config, crop_scale).input.crop_scale
    read_evaluations(evaluation or [])
    faces = data_folder(data)
    golden_indices(usable_part(loaded["test"], depth=config.method.name == METHOD), picture_licences(faces))
    if checkpoint is None and student is None:
        name, crop = DEFAULT_STUDENTS[config.method.name].name, config.input
        _CONSOLE.print(f"student: quantize/{name}, {crop.size_px} px, {crop.crop_scale:g} face boxes")
    made = _Making(
        steps=_open(out),
        out=out,
        train=tuple(train),
        dev=dev,
        test=test,
        data=faces,
        models=models,
        model_id=model_id,
        sets={path: set_sha256(path) for path in dict.fromkeys((*train, dev, test))},
    )
    trained = made.distil(config, lessons) if checkpoint is None else checkpoint
    made.round(trained, crops, steps, seen)
    made.calibrate()
    made.export()
    made.int8(leading_float)
    made.facts(trained, evaluation or [], version, origin, default_point)
    made.parity()
    made.latency()
    made.publish(tolerance)


def _check_begin(method: str | None, checkpoint: Path | None, student: Path | None, lessons: Lessons, n: int) -> None:
    """Refuse a command line that says twice, or not at all, what is to be begun with."""
    if method not in (None, *METHODS):
        raise typer.BadParameter(f"there are no students of {method!r}; there are of {', '.join(METHODS)}")
    named = lessons.teachers or lessons.begin is not None or lessons.colour is not None
    if checkpoint is None and student is None and (method is None or not named):
        raise typer.BadParameter(
            "what to begin with? METHOD and --teacher for a network of full size, METHOD and --from or --colour for a "
            "model, --checkpoint for a student, --student for one that is to learn without a teacher"
        )
    if checkpoint is not None and (student is not None or lessons != Lessons() or n > 1):
        raise typer.BadParameter(
            "--checkpoint names a student that has learnt already: --student, the options of its lessons, such as "
            "--teacher, and a second --train are for one that is to be distilled"
        )


def _open(out: Path) -> Steps:
    """The steps of a folder; what a killed run left unfinished in it is removed."""
    out.mkdir(parents=True, exist_ok=True)
    written = ["rounded.safetensors", "calibration.json", "fp32", "int8", "facts.json", "golden.npy"]
    written += [PARITY_NAME, LATENCY_NAME, STEPS_NAME, f"{STUDENT}/{BEST}", f"{STUDENT}/{LAST}"]
    remove_unfinished(*(out / name for name in written))
    return Steps(out / STEPS_NAME, partial(_CONSOLE.print, markup=False, highlight=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Making:
    """The steps of a run: what each reads, what it writes, and what it calls.

    Attributes:
        steps: Does or skips them.
        out: Folder of what is made.
        train: Sets for training; the first for INT8.
        dev: Set that thresholds come from.
        test: Set that rates come from.
        data: Folder of the face pack.
        models: Where model folders lie.
        model_id: Name of the model.
        sets: SHA-256 of the sets, by their folder.
    """

    steps: Steps
    out: Path
    train: tuple[Path, ...]
    dev: Path
    test: Path
    data: Path
    models: Path
    model_id: str
    sets: Mapping[Path, str]

    @property
    def rounded(self) -> Path:
        """The rounded student."""
        return self.out / "rounded.safetensors"

    @property
    def calibration(self) -> Path:
        """How its score is made."""
        return self.out / "calibration.json"

    @property
    def facts_file(self) -> Path:
        """What its card will say."""
        return self.out / "facts.json"

    @property
    def golden(self) -> Path:
        """Pictures for the self-test."""
        return self.out / "golden.npy"

    def artefacts(self, precision: Precision) -> list[Path]:
        """Files of all engines."""
        items = [artefact(self.out, engine, precision) for engine in SUFFIXES]
        return [path for item in items for path in (item.path, *item.companions)]

    def distil(self, config: TrainConfig, lessons: Lessons) -> Path:
        """Train a student; what was made by other lessons is put aside, for it took hours."""
        folder = self.out / STUDENT
        inputs = {
            "student": hashlib.sha256(msgspec.json.encode(config.learnt())).hexdigest(),
            **lessons.recorded(),
            "train": ", ".join(self.sets[path] for path in self.train),
            "dev": self.sets[self.dev],
        }
        work = partial(train_student, config, lessons, self.train, self.dev, folder)
        self.steps.take("distil", inputs, [folder / BEST], work, give_way=partial(put_aside, folder))
        return folder / BEST

    def round(self, student: Path, crops: int, steps: int, crop_scale: float) -> None:
        """Put its weights on their INT8 grid."""
        inputs = {"student": sha256_of(student), "train": self.sets[self.train[0]]}
        inputs |= {"crops": str(crops), "steps": str(steps), "crop scale": str(crop_scale)}
        work = partial(round_command, student, self.rounded, self.train[0], crops, steps, crop_scale=crop_scale)
        self.steps.take("round", inputs, [self.rounded], work)

    def calibrate(self) -> None:
        """Fit its score."""
        inputs = _hashes([self.rounded]) | {"dev": self.sets[self.dev]}
        work = partial(calibrate, checkpoint=self.rounded, dev=self.dev, calibration=self.calibration)
        self.steps.take("calibrate", inputs, [self.calibration], work)

    def export(self) -> None:
        """Write it in FP32."""
        work = partial(export, self.rounded, self.calibration, self.out)
        self.steps.take("export", self._network(), self.artefacts("fp32"), work)

    def int8(self, leading_float: int | None) -> None:
        """Write it in INT8."""
        leading = "by the network" if leading_float is None else str(leading_float)
        inputs = self._network() | {"train": self.sets[self.train[0]], "leading convolutions in float": leading}
        work = partial(int8, self.rounded, self.calibration, self.out, self.train[0], leading_float)
        self.steps.take("int8", inputs, self.artefacts("int8"), work)

    def facts(self, student: Path, evaluation: list[Path], version: str, origin: str, default_point: str) -> None:
        """Measure it, and choose the golden pictures."""
        inputs = {"student": sha256_of(student)} | self._network() | _hashes(self.artefacts("int8")) | self._held_out()
        inputs |= _hashes([self.data / "manifest.csv"]) | {"evaluation": ", ".join(map(sha256_of, evaluation))}
        inputs |= {"id": self.model_id, "version": version, "origin": origin, "default point": default_point}
        work = partial(
            facts_command,
            student=student,
            checkpoint=self.rounded,
            calibration=self.calibration,
            out=self.out,
            dev=self.dev,
            test=self.test,
            facts=self.facts_file,
            golden=self.golden,
            data=self.data,
            evaluation=evaluation,
            version=version,
            model_id=self.model_id,
            origin=origin,
            default_point=default_point,
        )
        self.steps.take("facts", inputs, [self.facts_file, self.golden], work)

    def parity(self) -> None:
        """Compare the artefacts with it."""
        inputs = self._network() | self._artefacts() | _hashes([self.facts_file]) | {"test": self.sets[self.test]}
        work = partial(parity, self.rounded, self.calibration, self.out, self.test, self.facts_file)
        self.steps.take("parity", inputs, [self.out / PARITY_NAME], work)

    def latency(self) -> None:
        """Time the artefacts on this machine."""
        inputs = self._artefacts() | _hashes([self.golden]) | {"processor": cpu_name()}
        work = partial(latency, out=self.out, golden=self.golden)
        self.steps.take("latency", inputs, [self.out / LATENCY_NAME], work)

    def publish(self, tolerance: float) -> None:
        """Put it into the package."""
        measured = [self.facts_file, self.golden, self.out / PARITY_NAME, self.out / LATENCY_NAME]
        inputs = self._network() | self._artefacts() | _hashes(measured)
        inputs |= {"tolerance": str(tolerance), "models": str(self.models.resolve())}
        work = partial(
            publish_command,
            checkpoint=self.rounded,
            calibration=self.calibration,
            out=self.out,
            facts=self.facts_file,
            golden=self.golden,
            models=self.models,
            tolerance=tolerance,
        )
        self.steps.take("publish", inputs, [self.models / self.model_id], work)

    def _network(self) -> dict[str, str]:
        return _hashes([self.rounded, self.calibration])

    def _artefacts(self) -> dict[str, str]:
        return _hashes([*self.artefacts("fp32"), *self.artefacts("int8")])

    def _held_out(self) -> dict[str, str]:
        return {"dev": self.sets[self.dev], "test": self.sets[self.test]}


def _hashes(paths: Sequence[Path]) -> dict[str, str]:
    """SHA-256 of files by their names."""
    return {path.name: sha256_of(path) for path in paths}


def put_aside(folder: Path) -> None:
    """Rename a folder, if it is there: ``student`` to ``student.1``, or the first number that is free."""
    if folder.exists():
        numbered = (folder.with_name(f"{folder.name}.{number}") for number in count(1))
        folder.rename(next(path for path in numbered if not path.exists()))
