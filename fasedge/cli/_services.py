"""What the verbs stand on, in one place, so that tests can put fakes there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fasedge._views import MissingDepth
from fasedge.cards import ModelCard, find_model, list_models, load_card
from fasedge.sources import FrameSource, open_source

if TYPE_CHECKING:
    from fasedge.detector import Detector
    from fasedge.selftest import SelftestReport


@dataclass(frozen=True, slots=True)
class DetectorOptions:
    """Options of the command line that shape the detector; see :class:`fasedge.detector.Detector`."""

    model: str
    engine: str = "auto"
    precision: str = "int8"
    operating_point: str | None = None
    threshold: float | None = None
    finder: str = "auto"
    threads: int | None = None
    missing_depth: MissingDepth = "refuse"


class SourceOpener(Protocol):
    """Signature of :func:`fasedge.sources.open_source`."""

    def __call__(
        self,
        spec: str | Path | int,
        *,
        recursive: bool = False,
        depth: bool = True,
        every: int = 1,
        max_frames: int | None = None,
    ) -> FrameSource:
        """Open a source."""
        ...


def _open_detector(options: DetectorOptions) -> Detector:
    from fasedge.detector import Detector

    return Detector(
        options.model,
        engine=options.engine,
        precision=options.precision,
        operating_point=options.operating_point,
        threshold=options.threshold,
        finder=options.finder,
        threads=options.threads,
        missing_depth=options.missing_depth,
    )


def _run_selftest(model: str, engine: str, precision: str) -> SelftestReport:
    from fasedge.selftest import run_selftest

    return run_selftest(model, engine, precision)


def _load_model_card(model: str) -> ModelCard:
    return load_card(find_model(model))


def _installed_engines() -> Mapping[str, str]:
    from fasedge.backends import available_engines

    return available_engines()


def _missing_engines() -> Mapping[str, str]:
    from fasedge.backends import missing_engines

    return missing_engines()


def _try_python(code: str) -> str:
    """Run Python code in a process of its own, as a broken engine may take the whole process down.

    Returns:
        Empty if it ended well, else the last line that it wrote, or how it died.
    """
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode < 0:
        return f"killed by signal {-done.returncode} (does this processor have what the engine needs?)"
    return lines[-1] if lines else f"ended with code {done.returncode}"


def _samples_folder() -> Path:
    return Path(str(resources.files("fasedge") / "assets" / "samples"))


@dataclass(frozen=True, slots=True)
class Services:
    """What the verbs stand on.

    Attributes:
        open_detector: Makes the detector.
        open_source: Opens pictures, videos and cameras.
        model_ids: Ids of the embedded models.
        load_card: Model id or folder to its card.
        run_selftest: Model, engine and precision to a report.
        installed_engines: Engine to version.
        missing_engines: Engine to the reason why it cannot be used.
        try_python: Runs code in a process of its own; empty if that went well, else what went wrong.
        samples: Folder of the sample pack.
    """

    open_detector: Callable[[DetectorOptions], Detector] = _open_detector
    open_source: SourceOpener = open_source
    model_ids: Callable[[], tuple[str, ...]] = list_models
    load_card: Callable[[str], ModelCard] = _load_model_card
    run_selftest: Callable[[str, str, str], SelftestReport] = _run_selftest
    installed_engines: Callable[[], Mapping[str, str]] = _installed_engines
    missing_engines: Callable[[], Mapping[str, str]] = _missing_engines
    try_python: Callable[[str], str] = _try_python
    samples: Path = field(default_factory=_samples_folder)
