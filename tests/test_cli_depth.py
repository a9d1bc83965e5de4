"""``fasedge detect`` with a model of colour and depth: what decided is said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

from fasedge.cli._draw import _headline
from fasedge.cli._output import ExitCode
from fasedge.cli._services import DetectorOptions, Services
from fasedge.detector import Detector
from fasedge.testing import FakeBackend, FakeFaceFinder, fake_card, synthetic_face
from fasedge.types import Box, Decision, Face, PadResult
from tests.cli_fakes import Capture, documents, picture, run

SCORES = {"score": 0.8, "score_rgb": 0.35, "score_depth": 0.9}


def services(scores: Mapping[str, float] = SCORES) -> Services:
    def open_detector(options: DetectorOptions) -> Detector:
        backend = FakeBackend(outputs={name: np.full(1, value, np.float32) for name, value in scores.items()})
        card = fake_card(depth=True, threshold=0.6)
        finder = FakeFaceFinder((synthetic_face(),))
        return Detector.from_parts(backend, finder, card, missing_depth=options.missing_depth, quality=None)

    return Services(open_detector=open_detector)


@pytest.fixture
def with_depth(tmp_path: Path) -> Path:
    path = picture(tmp_path / "one_rgb.png")
    assert cv2.imwrite(str(tmp_path / "one_depth_mm.png"), np.full((240, 320), 700, np.uint16))
    return path


def test_depth_beside_a_picture_is_used_and_can_be_left_out(with_depth: Path, capsys: Capture) -> None:
    assert run(services(), "detect", with_depth, "--json") == ExitCode.BONA_FIDE
    (document,) = documents(capsys)
    (face,) = document["faces"]
    assert (face["modalities"], face["threshold"], face["score"]) == (["rgb", "depth"], 0.6, 0.8)
    assert face["heads"] == {"rgb": 0.35, "depth": 0.9}
    assert run(services(), "detect", with_depth, "--no-depth", "--json") == ExitCode.NO_DECISION
    (document,) = documents(capsys)
    assert (document["faces"][0]["reasons"], document["faces"][0]["score"]) == (["depth_missing"], None)


def test_where_colour_alone_decides_the_table_says_so_and_states_both_thresholds(
    tmp_path: Path, with_depth: Path, capsys: Capture
) -> None:
    alone = picture(tmp_path / "two.png")
    assert run(services(), "detect", with_depth, alone, "--missing-depth", "rgb") == ExitCode.BONA_FIDE
    out = " ".join(capsys.readouterr().out.split())
    assert "bona fide from a score of 0.600 on colour and depth, 0.300 on colour alone" in out
    assert out.count("colour alone") == 2  # once above the table, once in the row of the picture without depth


def test_a_broken_head_is_a_document_and_no_crash(with_depth: Path, capsys: Capture) -> None:
    assert run(services({**SCORES, "score_rgb": float("nan")}), "detect", with_depth, "--json") == ExitCode.NO_DECISION
    (document,) = documents(capsys)
    assert (document["faces"][0]["reasons"], document["faces"][0]["heads"]) == (["engine_fault"], {})


def test_the_drawn_label_says_when_colour_alone_decided() -> None:
    face = Face(Box(0, 0, 10, 10))
    alone = PadResult(face, 0.35, Decision.BONA_FIDE, 0.3, heads={"rgb": 0.35})
    both = PadResult(face, 0.8, Decision.BONA_FIDE, 0.6, heads={"rgb": 0.35, "depth": 0.9}, modalities=("rgb", "depth"))
    plain = PadResult(face, 0.8, Decision.BONA_FIDE, 0.6)
    assert "needs 0.30, colour alone" in _headline(alone)
    assert "colour alone" not in _headline(both) + _headline(plain)
