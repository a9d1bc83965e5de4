"""A fake model behind the command line, shared by its tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pytest

from fasedge.cli import main
from fasedge.cli._services import DetectorOptions, Services
from fasedge.detector import Detector
from fasedge.testing import FakeBackend, FakeFaceFinder, fake_card, synthetic_face, synthetic_frame
from fasedge.types import Face

GOOD, EVIL = 0.9, 0.1  # the fake card's threshold is 0.5


@dataclass
class Made:
    """What the fake factory made."""

    options: DetectorOptions | None = None
    backend: FakeBackend | None = None


def fake_services(
    scores: Sequence[float] = (GOOD,),
    faces: Sequence[Face] | None = None,
    *,
    map_side: int = 0,
    made: Made | None = None,
) -> Services:
    """Services around a scripted detector."""
    made = made or Made()
    found = (synthetic_face(),) if faces is None else faces

    def open_detector(options: DetectorOptions) -> Detector:
        made.options = options
        made.backend = FakeBackend(scores, map_side=map_side)
        return Detector.from_parts(
            made.backend,
            FakeFaceFinder(found),
            fake_card(),
            operating_point=options.operating_point,
            threshold=options.threshold,
        )

    return Services(open_detector=open_detector)


def picture(path: Path, width: int = 320, height: int = 240) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = synthetic_frame(width, height)
    assert cv2.imwrite(str(path), frame.rgb[..., ::-1])
    return path


def run(services: Services, *arguments: object) -> int:
    return main([str(argument) for argument in arguments], services=services)


Capture = pytest.CaptureFixture[str]


def documents(capsys: Capture) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]
