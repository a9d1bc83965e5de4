"""Aggregates over captures are those of their scores, and a card's thresholds are tried on what has a score."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks.real_summary import main, rates
from fasedge.cards import CARD_NAME, Evaluation, dump_card
from fasedge.testing import fake_card

#: File, label, source, score; the last one has no box and no score.
_CAPTURES = [
    ("a.png", "live", "x", 0.9),
    ("b.png", "spoof", "x", 0.2),
    ("c.png", "live", "y", 0.4),
    ("d.png", "spoof", "y", 0.6),
    ("e.png", "live", "y", None),
]


@pytest.fixture
def captures(tmp_path: Path) -> Path:
    folder = tmp_path / "captures"
    folder.mkdir()
    lines = [f"{file},{label},{source},crop,112" for file, label, source, _ in _CAPTURES]
    lines += ["f.png,live,x,crop,native", "g.png,spoof,x,crop,native"]  # of a size that was not scored
    (folder / "manifest.csv").write_text("\n".join(["file,label,source,kind,size", *lines]) + "\n")
    (folder / "scores.csv").write_text(
        "\n".join(["file,score", *(f"{file},{'' if s is None else s}" for file, *_, s in _CAPTURES)]) + "\n"
    )
    return folder


def test_thresholds_are_tried_on_captures_that_have_a_score() -> None:
    rows = [{"file": file, "label": label} for file, label, *_ in _CAPTURES]
    scores = {file: score for file, *_, score in _CAPTURES if score is not None}
    points = [p for p in fake_card(threshold=0.5).operating_points if p.precision == "int8"]
    found = {name: (threshold, apcer, bpcer) for name, threshold, apcer, bpcer in rates(rows, scores, points)}
    threshold, apcer, bpcer = found["bpcer5"]
    assert (threshold, apcer.errors, apcer.n, bpcer.errors, bpcer.n) == (0.5, 1, 2, 1, 2)
    threshold, apcer, bpcer = found["bpcer10"]
    assert (threshold, apcer.errors, bpcer.errors) == (0.7, 0, 1)


def test_evaluations_and_a_table_of_rates_are_written(
    captures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "fake"
    model.mkdir()
    (model / CARD_NAME).write_text(dump_card(fake_card(threshold=0.5)))
    out = tmp_path / "real.json"
    main(captures=captures, scores=captures / "scores.csv", out=out, model=str(model))
    (found,) = msgspec.json.decode(out.read_bytes(), type=list[Evaluation])
    assert (found.kind, found.n_bona_fide, found.n_attack, found.auc) == ("real", 2, 2, 0.75)
    assert found.n_non_response == 1
    assert found.by_source_auc == {"source 1": 1.0, "source 2": 0.0}
    printed = capsys.readouterr().out
    assert "AUC 0.750" in printed
    assert "AUC pooled over sources; mean AUC within sources 0.500" in printed
    assert "not counted for want of a box: 1 bona fide, 0 attack" in printed
    assert "| face crops | 112 | bpcer5 | 0.500 | 50.00 % (1 of 2; " in printed
