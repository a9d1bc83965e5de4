"""``fasedge demo``: judge the sample pack and show the truth beside each decision."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
from rich.text import Text

from fasedge.cards import DEFAULT_MODEL
from fasedge.cli._detect import (
    Engine,
    EngineOption,
    JsonOption,
    ModelOption,
    PrecisionChoice,
    PrecisionOption,
    Sampling,
    describe,
    read_items,
)
from fasedge.cli._draw import AnnotationWriter, write_atomically
from fasedge.cli._output import (
    Column,
    ExitCode,
    Rows,
    Session,
    decision_text,
    failure_document,
    observation_document,
    plural,
    reason_words,
    score_text,
    session_of,
)
from fasedge.cli._services import DetectorOptions
from fasedge.detector import Detector
from fasedge.errors import SourceError
from fasedge.sources import BadItem
from fasedge.types import Decision, Frame

_ATTRIBUTION_FILE = "ATTRIBUTION.txt"
#: Of a sample video, a few frames show enough.
_VIDEO = Sampling(every=10, max_frames=3)


class Sample(msgspec.Struct, frozen=True):
    """One entry of the sample pack's ``index.json``."""

    file: str
    kind: Literal["image", "video", "rgbd"]
    truth: Literal["bona_fide", "attack"]
    species: str | None = None
    attribution: str = ""


def load_index(folder: Path) -> tuple[Sample, ...]:
    """Read the list of samples.

    Raises:
        SourceError: There is no sample pack, or its index is malformed.
    """
    path = folder / "index.json"
    try:
        samples = msgspec.json.decode(path.read_bytes(), type=tuple[Sample, ...])
    except OSError as error:
        raise SourceError(
            f"the sample pack is not part of this installation (no {path}); use your own pictures: fasedge detect FILE"
        ) from error
    except msgspec.MsgspecError as error:
        raise SourceError(f"{path} is not a valid list of samples: {error}") from error
    if not samples:
        raise SourceError(f"{path} lists no samples")
    for sample in samples:
        if not (folder / sample.file).resolve().is_relative_to(folder.resolve()):
            raise SourceError(f"{path} names a file outside its own folder: {sample.file}")
    return samples


def demo(
    context: typer.Context,
    *,
    out: Annotated[Path, typer.Option(help="Folder for the annotated pictures.")] = Path("demo-output"),
    model: ModelOption = DEFAULT_MODEL,
    engine: EngineOption = Engine.AUTO,
    precision: PrecisionOption = PrecisionChoice.INT8,
    as_json: JsonOption = False,
) -> None:
    """Judge the sample pictures that come with fasedge, and show the truth beside each decision.

    Writes annotated pictures. The samples show how fasedge works, not how well: error rates stand in 'fasedge models'.
    """
    session = session_of(context)
    folder = session.services.samples
    samples = load_index(folder)
    writer = AnnotationWriter(out, [str(folder)])
    options = DetectorOptions(model, engine.value, precision.value)
    with session.services.open_detector(options) as detector:
        rows = None if as_json else _table(session, detector)
        run = _Run(session, detector, rows, writer)
        for sample in samples:
            run.judge(sample, folder)
    attribution = out / _ATTRIBUTION_FILE
    write_atomically(attribution, _attributions(samples).encode())
    session.exit_code = ExitCode.BAD_FILES if run.failed else ExitCode.BONA_FIDE
    if not as_json:
        session.say()
        session.say(run.summary(), style="bold")
        session.say(f"Annotated pictures: {out}")
        session.say(f"Who made the samples, and their licences: {attribution}")


def _table(session: Session, detector: Detector) -> Rows:
    session.say(describe(detector))
    session.say()
    columns = (
        Column("Sample"),
        Column("Truth", 9),
        Column("Face", 4, right=True),
        Column("Decision", 11),
        Column("Score", 5, right=True),
        Column("OK?", 3),
        Column("ms", 5, right=True),
        Column("Why"),
    )
    return Rows(session, columns)


@dataclass(slots=True)
class _Run:
    """One run over the samples, and how its decisions compare with the truth."""

    session: Session
    detector: Detector
    rows: Rows | None
    writer: AnnotationWriter
    frames: dict[str, int] = field(default_factory=lambda: {"bona_fide": 0, "attack": 0})
    right: dict[str, int] = field(default_factory=lambda: {"bona_fide": 0, "attack": 0})
    unchecked: int = 0
    failed: int = 0

    def judge(self, sample: Sample, folder: Path) -> None:
        """Judge one sample."""
        sampling = _VIDEO if sample.kind == "video" else Sampling()
        for item in read_items(self.session, str(folder / sample.file), sampling, []):
            if isinstance(item, BadItem):
                self._failure(sample, item)
            else:
                self._frame(sample, item)

    def _failure(self, sample: Sample, item: BadItem) -> None:
        self.failed += 1
        if self.rows is None:
            self.session.write_json({**failure_document(item.name, item.error), **_truth_document(sample, None)})
        else:
            self.rows.add(Path(item.name).name, _truth(sample), "-", "failed", "-", "-", "-", str(item.error))

    def _frame(self, sample: Sample, frame: Frame) -> None:
        observation = self.detector.detect(frame)
        saved = self.writer.save(frame, observation)
        decision = observation.decision
        right = None if decision is Decision.NON_RESPONSE else decision.value == sample.truth
        self.frames[sample.truth] += 1
        self.unchecked += right is None
        self.right[sample.truth] += right is True
        if self.rows is None:
            document = {**observation_document(observation, str(saved)), **_truth_document(sample, right)}
            self.session.write_json(document)
            return
        scores = [result.score for result in observation.results if result.score is not None]
        reasons = [*observation.reasons, *(reason for result in observation.results for reason in result.reasons)]
        self.rows.add(
            Path(frame.name).name,
            _truth(sample),
            str(len(observation.results) or "-"),
            decision_text(decision),
            score_text(min(scores, default=None)),
            Text({True: "yes", False: "NO", None: "-"}[right], style="bold"),
            f"{observation.timings.total_ms:.1f}",
            reason_words(tuple(dict.fromkeys(reasons))),
        )

    def summary(self) -> str:
        """The last line of a run."""
        return (
            f"{plural(sum(self.frames.values()), 'picture')}: "
            f"{self.right['bona_fide']} of {self.frames['bona_fide']} bona fide accepted, "
            f"{self.right['attack']} of {self.frames['attack']} attacks caught, {self.unchecked} not checked, "
            f"{plural(self.failed, 'failed file')}"
        )


def _truth(sample: Sample) -> str:
    return "bona fide" if sample.truth == "bona_fide" else sample.species or "attack"


def _truth_document(sample: Sample, right: bool | None) -> dict[str, object]:
    return {"truth": sample.truth, "species": sample.species, "right": right}


def _attributions(samples: tuple[Sample, ...]) -> str:
    lines = [f"{sample.file}: {sample.attribution or 'no attribution given'}" for sample in samples]
    return "The annotated pictures in this folder were made from these samples.\n\n" + "\n".join(lines) + "\n"
