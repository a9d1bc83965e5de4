"""``fasedge detect``: judge every face in pictures, folders, videos or a camera."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from fasedge._views import MissingDepth
from fasedge.cards import DEFAULT_MODEL
from fasedge.cli._draw import AnnotationWriter
from fasedge.cli._output import (
    Column,
    ExitCode,
    Rows,
    Session,
    decision_text,
    failure_document,
    judged_by,
    observation_document,
    plural,
    printable,
    reason_words,
    score_text,
    session_of,
)
from fasedge.cli._services import DetectorOptions
from fasedge.detector import Detector
from fasedge.errors import InputError
from fasedge.sources import BadItem
from fasedge.types import Decision, Frame, Observation


class Engine(enum.StrEnum):
    """Choices of ``--engine``."""

    AUTO = "auto"
    OPENVINO = "openvino"
    LITERT = "litert"
    ONNXRUNTIME = "onnxruntime"


class PrecisionChoice(enum.StrEnum):
    """Choices of ``--precision``."""

    INT8 = "int8"
    FP32 = "fp32"


class Finder(enum.StrEnum):
    """Choices of ``--finder``."""

    AUTO = "auto"
    MEDIAPIPE = "mediapipe"
    BLAZEFACE = "blazeface"


ModelOption = Annotated[str, typer.Option("--model", "-m", help="A model of 'fasedge models', or a model's folder.")]
EngineOption = Annotated[Engine, typer.Option(help="Program library that runs the model; auto takes the first found.")]
PrecisionOption = Annotated[
    PrecisionChoice, typer.Option(help="int8 is small and fast, fp32 is the full-precision reference.")
]
FinderOption = Annotated[Finder, typer.Option(help="What finds the faces in a picture.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Processor threads; the engine chooses if not given.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON for programs and nothing else.")]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Options that shape the sources."""

    recursive: bool = False
    depth: bool = True
    every: int = 1
    max_frames: int | None = None


@dataclass(slots=True)
class Tally:
    """What was seen in a run."""

    frames: int = 0
    faces: dict[Decision, int] = field(default_factory=lambda: dict.fromkeys(Decision, 0))
    undecided: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, observation: Observation) -> None:
        """Count a frame."""
        self.frames += 1
        self.undecided += observation.decision is Decision.NON_RESPONSE and not observation.results
        for result in observation.results:
            self.faces[result.decision] += 1

    @property
    def exit_code(self) -> ExitCode:
        """A broken file outweighs an attack, an attack outweighs no decision."""
        if self.failed:
            return ExitCode.BAD_FILES
        if self.faces[Decision.ATTACK]:
            return ExitCode.ATTACK
        if self.undecided or self.faces[Decision.NON_RESPONSE] or not self.frames:
            return ExitCode.NO_DECISION
        return ExitCode.BONA_FIDE

    def summary(self) -> str:
        """The last line of a run."""
        n = self.faces
        line = (
            f"{plural(self.frames, 'frame')}, {plural(sum(n.values()), 'face')}: {n[Decision.BONA_FIDE]} bona fide, "
            f"{plural(n[Decision.ATTACK], 'attack')}, {n[Decision.NON_RESPONSE]} not checked"
        )
        if self.undecided:
            line += f"; {plural(self.undecided, 'frame')} without a face that could be judged"
        return f"{line}; {plural(len(self.failed), 'failed file')}"


def detect(
    context: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SRC", help="Pictures, folders, patterns like 'photos/*.jpg', videos, or a camera: webcam:0."
        ),
    ],
    *,
    model: ModelOption = DEFAULT_MODEL,
    engine: EngineOption = Engine.AUTO,
    precision: PrecisionOption = PrecisionChoice.INT8,
    operating_point: Annotated[
        str | None,
        typer.Option(
            help="How strict to be, as a named threshold of the model: bpcer5 wrongly rejects about 5 in 100 living "
            "people on the data it was chosen on. 'fasedge models' lists them."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Your own threshold in place of an operating point: higher is stricter."),
    ] = None,
    finder: FinderOption = Finder.AUTO,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
    save_dir: Annotated[Path | None, typer.Option(help="Write annotated pictures into this folder.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Of a video or camera, judge every N-th frame.")] = 1,
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="Of each video or camera, judge at most so many frames.")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Go into subfolders.")] = False,
    depth: Annotated[
        bool, typer.Option(help="Load the depth picture NAME_depth_mm.png beside NAME_rgb.png, if there is one.")
    ] = True,
    missing_depth: Annotated[
        MissingDepth,
        typer.Option(
            help="Of a model that looks at depth, what a picture without any means. refuse: its faces are not checked; "
            "rgb: colour alone decides, by a threshold of its own."
        ),
    ] = "refuse",
) -> None:
    """Judge every face in pictures, videos or a camera: living person or trick?

    The [bold]score[/bold] lies between 0 and 1; higher means more surely a living person. At or above the threshold
    a face is [bold]bona fide[/bold] (a living person in front of the camera), below it is an [bold]attack[/bold]
    (a print, a screen, a mask). A face that cannot be judged is [bold]not checked[/bold], with the reason.

    A file that cannot be read does not stop the run; it is reported, and the exit code is then 3.

    With --json each frame is one line: name, timestamp_s, decision (bona_fide, attack, non_response), reasons, faces,
    timings_ms, annotated, error.
    """
    session = session_of(context)
    options = DetectorOptions(
        model=model,
        engine=engine.value,
        precision=precision.value,
        operating_point=operating_point,
        threshold=threshold,
        finder=finder.value,
        threads=threads,
        missing_depth=missing_depth,
    )
    sampling = Sampling(recursive=recursive, depth=depth, every=every, max_frames=max_frames)
    writer = AnnotationWriter(save_dir, sources, recursive=recursive) if save_dir else None
    with session.services.open_detector(options) as detector:
        printer: Printer = JsonPrinter(session) if as_json else TablePrinter(session, detector)
        tally = Tally()
        items = chain.from_iterable(read_items(session, spec, sampling, tally.skipped) for spec in sources)
        session.exit_code = _judge_all(items, tally, detector, printer, writer)


class Printer:
    """Shows a run as it goes."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def frame(self, observation: Observation, saved: Path | None) -> None:
        """Show a frame."""
        raise NotImplementedError

    def failure(self, item: BadItem) -> None:
        """Show something that could not be read."""
        raise NotImplementedError

    def end(self, tally: Tally) -> None:
        """Show the summary."""


class JsonPrinter(Printer):
    """One JSON document per frame."""

    def frame(self, observation: Observation, saved: Path | None) -> None:
        """Write the frame's document."""
        self.session.write_json(observation_document(observation, None if saved is None else str(saved)))

    def failure(self, item: BadItem) -> None:
        """Write a document that says what went wrong."""
        self.session.write_json(failure_document(item.name, item.error))


class TablePrinter(Printer):
    """One row per face."""

    def __init__(self, session: Session, detector: Detector) -> None:
        super().__init__(session)
        session.say(describe(detector))
        session.say()
        columns = (
            Column("File"),
            Column("Face", 4, right=True),
            Column("Score", 5, right=True),
            Column("Decision", 11),
            Column("Why"),
            Column("ms", 6, right=True),
        )
        self._rows = Rows(session, columns)

    def frame(self, observation: Observation, saved: Path | None) -> None:
        """Print a row per face, or one that says why there is none."""
        ms = f"{observation.timings.total_ms:.1f}"
        if not observation.results:
            why = reason_words(observation.reasons)
            self._rows.add(observation.name, "-", "-", decision_text(observation.decision), why, ms)
        for number, result in enumerate(observation.results, start=1):
            words = (judged_by(result), reason_words((*observation.reasons, *result.reasons)))
            why = "; ".join(part for part in words if part)
            name, time = (observation.name, ms) if number == 1 else ("", "")
            self._rows.add(name, str(number), score_text(result.score), decision_text(result.decision), why, time)

    def failure(self, item: BadItem) -> None:
        """Print a row with the error."""
        self._rows.add(item.name, "-", "-", Text("failed", style="bold reverse"), str(item.error), "-")

    def end(self, tally: Tally) -> None:
        """Print what was skipped, what failed, and the summary."""
        self.session.say()
        if tally.skipped:
            shown = ", ".join(Path(name).name for name in tally.skipped[:5])
            more = f" and {len(tally.skipped) - 5} more" if len(tally.skipped) > 5 else ""
            self.session.say(f"Not pictures or videos, left out: {shown}{more}")
        self.session.say(tally.summary(), style="bold")
        if tally.failed:
            self.session.say("Some files could not be read and were not checked; the run went on without them.")


def describe(detector: Detector) -> str:
    """What really runs, in one line."""
    info = detector.info
    point = f"operating point {info.operating_point}" if info.operating_point else "own threshold"
    limits = [f"{limit:.3f}{_on(seen, info.modalities)}" for seen, limit in info.thresholds.items()]
    return (
        f"Model {info.model} {info.version} ({info.precision}, {info.engine} {info.backend.version}), "
        f"{point}: bona fide from a score of {', '.join(limits)}; faces found by {info.finder}"
    )


def _on(seen: tuple[str, ...], everything: tuple[str, ...]) -> str:
    """What a threshold is for, where that must be said."""
    if everything == ("rgb",):
        return ""
    return " on colour and depth" if seen == everything else " on colour alone"


def _judge_all(
    items: Iterable[Frame | BadItem],
    tally: Tally,
    detector: Detector,
    printer: Printer,
    writer: AnnotationWriter | None,
) -> ExitCode:
    try:
        for item in items:
            _judge(item, detector, tally, printer, writer)
    except KeyboardInterrupt:
        printer.end(tally)
        return ExitCode.INTERRUPTED
    printer.end(tally)
    return tally.exit_code


def _judge(
    item: Frame | BadItem, detector: Detector, tally: Tally, printer: Printer, writer: AnnotationWriter | None
) -> None:
    if isinstance(item, BadItem):
        tally.failed.append(item.name)
        printer.failure(item)
        return
    observation = detector.detect(item)
    saved = writer.save(item, observation) if writer else None
    tally.add(observation)
    printer.frame(observation, saved)


def read_items(session: Session, spec: str, sampling: Sampling, skipped: list[str]) -> Iterator[Frame | BadItem]:
    """Deliver the items of a source; one that cannot be opened or breaks off is delivered as a bad item.

    Args:
        session: Gives the opener.
        spec: What to open.
        sampling: How to thin it out.
        skipped: Takes the names of files that are neither pictures nor videos.
    """
    try:
        source = session.services.open_source(
            spec,
            recursive=sampling.recursive,
            depth=sampling.depth,
            every=sampling.every,
            max_frames=sampling.max_frames,
        )
    except InputError as error:
        yield BadItem(printable(spec), error)
        return
    skipped.extend(getattr(source, "skipped", ()))
    try:
        yield from source
    except InputError as error:
        yield BadItem(source.name, error)
    finally:
        source.close()
