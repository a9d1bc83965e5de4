"""``python -m training results``: published rows as printed, ours in the cells where they belong."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.training.fixtures.toy_sets import toy_row
from training.__main__ import main
from training.data.titles import Title
from training.errors import ConfigError, DataError
from training.evaluation.document import Document, RunRecord, RunResult, SetRecord, read_document
from training.evaluation.measure import measure_levels, summarise
from training.evaluation.published import LAYOUTS
from training.evaluation.report import render
from training.evaluation.results import placed, render_tables
from training.evaluation.tables import ScoreTable


def scores(split: str, passing: int) -> ScoreTable:
    """Ten bona fide presentations and ten prints, separable, save ``passing`` prints that look bona fide."""
    rows = [
        toy_row(i, i // 10, split=split, species="bona_fide" if i // 10 else "print", identity=f"{split}{i}")
        for i in range(20)
    ]
    # Two sets with the very same scores would be taken for one.
    found = [0.1 + i / 100 + (split == "dev") / 1000 for i in range(10)] + [0.7 + i / 100 for i in range(10)]
    found[:passing] = [0.9] * passing
    return ScoreTable(rows, split, {"map": np.array(found)})


def document(
    title: str,
    passing: int,
    *,
    seed: int = 1,
    dev: str | None = None,
    train: str | None = None,
    method: str = "ours",
    resamples: int = 0,
) -> Document:
    """A run with ``passing`` of ten attacks accepted at the EER threshold of a dev set without errors."""

    def record(split: str, name: str) -> SetRecord:
        return SetRecord(folder=split, split=split, n=20, n_videos=0, origin=f"{name}; rule; 0" if name else "", seed=0,
                         depth=False, dropped={})  # fmt: skip

    run = RunRecord(folder="run", checkpoint="best", epoch=1, method=method, profile="default", width=1, seed=seed,
                    parameters=1, trained_on=title if train is None else train)  # fmt: skip
    levels = measure_levels(scores("dev", 0), scores("test", passing), fixed=0.5, resamples=resamples)
    result = RunResult(name="", run=run, dev=record("dev", title if dev is None else dev), test=record("test", title),
                       primary="map", overrides={}, levels=levels)  # fmt: skip
    return Document(runs=[result], summary=summarise([result]))


def lines(text: str, start: str) -> list[list[str]]:
    """Cells of the lines of a table that begin with a name."""
    found = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found]


def test_published_rows_are_those_of_the_papers() -> None:
    text = render_tables([])
    assert lines(text, "A-DeepPixBiS (binary) |")[0][1:] == ["0.83", "0.58", "0.7"]
    assert lines(text, "RFMeta |")[0][1:] == ["13.89/93.98", "20.27/88.16", "17.3/90.48", "16.45/91.16"]
    # Put right: the source prints 3.9 under RM->OULU.
    assert lines(text, "IQM-SVM |")[-1][1:] == ["24.6", "31.6", "42.3", "3.9"]
    assert "could not be verified" in text


def test_the_page_has_the_tables_as_they_stand() -> None:
    page = Path(__file__).parents[2] / "docs" / "tables.md"
    assert page.read_text() == render_tables([]), "write it anew: python -m training results --out docs/tables.md"


def test_published_rates_agree_among_themselves() -> None:
    # ACER is the mean of the other two; the sources round each of them, and CPqD's own do not add up to a digit.
    for row in LAYOUTS["oulu"].rows:
        if "±" in "".join(row.cells.values()):
            continue
        apcer, bpcer, acer = (float(row.cells[name]) for name in ("APCER", "BPCER", "ACER"))
        assert abs((apcer + bpcer) / 2 - acer) <= 0.11, row


def test_rows_of_wmca_are_marked_as_unverified_and_their_means_follow_from_their_cells() -> None:
    """One digit is printed; some sources cut where others round."""
    wmca = LAYOUTS["wmca"]
    assert [row.method for row in wmca.rows] == ["MC-PixBiS", "MCCNN-OCCL-GMM", "MC-ResNetDLAS", "CMFL"]
    for row in wmca.rows:
        attacks = [float(row.cells[name]) for name in wmca.columns[1:-1]]
        mean, spread = map(float, row.cells["mean ± std"].split("±"))
        assert abs(np.mean(attacks) - mean) < 0.1, row
        assert abs(np.std(attacks) - spread) < 0.1, row
    text = render_tables([], ["wmca"])
    found = lines(text, "CMFL (as quoted; not verified against the source) |")
    assert found[0][1:] == ["1.7", "12.4", "1.0", "2.5", "0.7", "33.5", "1.8", "1.7", "7.6±11.2"]
    assert text.count("not verified against the source") == 4
    assert not any(row.remark for name, layout in LAYOUTS.items() if name != "wmca" for row in layout.rows)


def test_folds_are_averaged_with_the_spread_that_is_asked_for() -> None:
    # Six folds with 0, 1, 1, 2, 2, 3 of ten attacks accepted: mean 15 %, squares of deviations sum to 550.
    ours = [("", document(f"oulu_npu 3, fold {k}", n)) for k, n in enumerate((0, 1, 1, 2, 2, 3), 1)]
    for std, spread in (("population", (550 / 6) ** 0.5), ("sample", (550 / 5) ** 0.5)):
        text = render_tables(ours, ["oulu"], std=std)  # type: ignore[arg-type]
        (row,) = lines(text, "**ours (map), frames**")
        assert row[1:] == [f"15.00±{spread:.2f}", "0.00±0.00", f"7.50±{spread / 2:.2f}"]
    missing = lines(render_tables(ours[:4], ["oulu"]), "**ours")[0]
    assert missing[1].endswith("(4 of 6 folds)")


def test_seeds_of_a_fold_are_averaged_before_folds_are() -> None:
    # Fold 1: 0 and 40 %, fold 2: 10 %. Mean of the folds: 15 %, not that of three runs.
    ours = [("", document("oulu_npu 4, fold 1", n, seed=n)) for n in (0, 4)] + [("", document("oulu_npu 4, fold 2", 1))]
    (row,) = lines(render_tables(ours, ["oulu"]), "**ours (map), frames**")
    assert row[1] == "15.00±5.00 (2 of 6 folds)"


def test_different_networks_are_never_averaged_in_one_line() -> None:
    first, second = document("oulu_npu 1", 0), document("oulu_npu 1", 4)
    (run,) = second.runs
    paper = msgspec.structs.replace(run, run=msgspec.structs.replace(run.run, profile="paper"))
    other = msgspec.structs.replace(second, runs=[paper])
    with pytest.raises(ConfigError, match=r"'ours' would average .*profile default.*profile paper.*LABEL=PATH"):
        render_tables([("", first), ("", other)], ["oulu"])
    text = render_tables([("", first), ("as printed", other)], ["oulu"])
    assert lines(text, "**ours (map), frames**")[0][1:] == ["0.00", "0.00", "0.00"]
    assert lines(text, "**as printed (map), frames**")[0][1:] == ["40.00", "0.00", "20.00"]


def test_our_numbers_stand_in_the_columns_of_their_protocols() -> None:
    ours = [
        ("a", document("oulu_npu 1", 1)),
        ("a", document("replay_mobile grandtest", 2)),
        ("a", document("domains oulu_npu:1->replay_mobile:grandtest", 3)),
        ("b", document("domains C&I&O->M", 4)),
        ("c", document("wmca grandtest", 1)),
        ("c", document("wmca LOO_replay", 2)),
        ("c", document("wmca LOO_glasses", 4)),
    ]
    text = render_tables(ours)
    # OULU->OULU is the ACER, 10 % / 2; the others are HTERs.
    assert lines(text, "**a (map), frames**")[-1][1:] == ["5.00", "15.00", "", "10.00"]
    # The sources' order does not matter. Threshold of dev: FAR 40 %, FRR 0, HTER 20 %.
    assert lines(text, "**b (map), frames, source dev**")[0][1].startswith("20.00/")
    assert lines(text, "**b (map), frames, source dev**")[0][2:] == ["", "", ""]
    pooled = lines(text, "**c (map), frames, pooled**")[0]
    # seen, flexiblemask, replay, fakehead, prints, glasses, papermask, rigidmask, mean over two attacks
    assert pooled[1:] == ["5.00", "", "10.00", "", "", "20.00", "", "", "15.00±5.00 (2 of 7 attacks)"]
    assert "Not in these tables" not in text


def test_simulated_sets_and_foreign_thresholds_are_in_no_table() -> None:
    simulated = document("", 1)
    foreign = document("oulu_npu 1", 1, dev="replay_mobile grandtest")
    trained = [document("oulu_npu 3, fold 1", 1, train=name) for name in ("oulu_npu 3, fold 2", "simulated", "")]
    partial = document("oulu_npu 1, incomplete", 1)
    others = [simulated, foreign, *trained, partial]
    assert [placed(other.runs[0]) for other in others] == [None] * len(others)
    assert placed(document("oulu_npu 3, fold 1", 1).runs[0]) == Title("oulu_npu", "3", 1)
    text = render_tables([("", other) for other in others])
    assert "**ours" not in text
    assert text.count(", tested on ") == len(others)
    assert "trained on oulu_npu 3, fold 2, tested on oulu_npu 3, fold 1" in text
    assert "## Not in these tables" in text


def without_threshold(found: Document, criterion: str) -> Document:
    """The same run, had dev met a criterion with no threshold."""
    (run,) = found.runs
    (measures,) = run.levels["frame"].values()
    at = {name: rates for name, rates in measures.at.items() if name != criterion}
    measures = msgspec.structs.replace(measures, at=at, missing={criterion: "everything would be accepted"})
    run = msgspec.structs.replace(run, levels={"frame": {"map": measures}})
    return Document(runs=[run], summary=summarise([run]))


def test_a_run_without_a_threshold_counts_as_one_that_accepts_everything() -> None:
    """Left out, it would make the mean of the others look like that of all."""
    ours = [("", document("wmca LOO_glasses", 2)), ("", document("wmca LOO_glasses", 2, seed=2))]
    (row,) = lines(render_tables(ours, ["wmca"]), "**ours (map), frames, max**")
    assert "10.00±0.00" in row
    ours[1] = ("", without_threshold(ours[1][1], "bpcer1"))
    (row,) = lines(render_tables(ours, ["wmca"]), "**ours (map), frames, max**")
    assert row.count("30.00±20.00 [1 of 2 accept all]") == 1
    assert row[-1] == "30.00 (1 of 7 attacks) [1 of 2 accept all]"
    alone = render_tables([("", without_threshold(document("oulu_npu 1", 1), "eer"))], ["oulu"])
    (row,) = lines(alone, "**ours (map), frames**")
    assert row[1:] == [f"{rate} [1 of 1 accept all]" for rate in ("100.00", "0.00", "50.00")]
    assert "Not in these tables" not in alone


def test_a_mean_that_is_not_there_is_explained() -> None:
    runs = [*document("oulu_npu 1", 1).runs, *without_threshold(document("oulu_npu 1", 2, seed=2), "apcer5").runs]
    runs = [msgspec.structs.replace(run, name=f"run{k}") for k, run in enumerate(runs)]
    text = render(Document(runs=runs, summary=summarise(runs)))
    assert "- no mean at `apcer5`: `run1` met it with no threshold" in text


def test_a_model_of_one_data_set_that_is_tested_on_another_stands_between_them() -> None:
    """As the paper has it: the same model is in the cell of its own data set and in that of the other."""
    oulu, mobile = "oulu_npu 1", "replay_mobile grandtest"
    ours = [("", document(oulu, 1)), ("", document(mobile, 3, dev=oulu, train=oulu))]
    text = render_tables(ours, ["inter"])
    (row,) = lines(text, "**ours (map), frames**")
    cells = dict(zip(LAYOUTS["inter"].columns, row[1:], strict=True))
    assert cells == {"OULU->OULU": "5.00", "RM->RM": "", "OULU->RM": "15.00", "RM->OULU": ""}
    assert "Not in these tables" not in text
    # Another protocol, or a threshold from a third set, is another question.
    for tested, dev, train in (
        (mobile, "oulu_npu 2", "oulu_npu 2"),
        (mobile, oulu, mobile),
        (f"{mobile}, incomplete", oulu, oulu),
    ):
        found = document(tested, 3, dev=dev, train=train)
        assert "Not in these tables" in render_tables([("", found)], ["inter"])


def test_results_read_what_evaluate_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.json").write_bytes(msgspec.json.encode(document("oulu_npu 2", 1)))
    out = tmp_path / "tables" / "results.md"
    arguments = ["training", "results", f"Mine={tmp_path}", "--table", "oulu", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert main() == 0
    assert lines(out.read_text(), "**Mine (map), frames**")[0][1:] == ["10.00", "0.00", "5.00"]
    monkeypatch.setattr(sys, "argv", ["training", "results", "--table", "nothing"])
    assert main() == 3
    assert "no table 'nothing'" in capsys.readouterr().err


def test_files_from_before_rates_had_intervals_over_people_are_read(tmp_path: Path) -> None:
    written = document("oulu_npu 2", 1, resamples=1000)
    raw = msgspec.to_builtins(written)
    at = raw["runs"][0]["levels"]["frame"]["map"]["at"]["fixed"]
    for name in ("apcer_max", "apcer_pooled", "bpcer", "hter"):
        assert at.pop(f"{name}_span") is not None
    (tmp_path / "metrics.json").write_bytes(msgspec.json.encode(raw))
    old, new = (d.runs[0].levels["frame"]["map"].at["fixed"] for d in (read_document(tmp_path), written))
    assert (old.acer_span, old.apcer_max_span, old.hter_span) == (new.acer_span, None, None)


def test_the_report_has_exact_intervals_and_those_over_people() -> None:
    (row,) = lines(render(document("oulu_npu 2", 4, resamples=1000)), "`fixed`")
    # 4 of 10 attacks pass, each of a person of its own; no bona fide presentation is rejected.
    assert row[2].startswith("40.00, people [")
    assert row[4].startswith("40.00 (4/10) [12.16, 73.76], people [")
    assert row[5] == "0.00 (0/10) [0.00, 30.85], people [0.00, 0.00]"
    assert row[6] == row[7]
    assert row[6].startswith("20.00, people [")
    (row,) = lines(render(document("oulu_npu 2", 4)), "`fixed`")
    assert row[2:] == ["40.00", "print", "40.00 (4/10) [12.16, 73.76]", "0.00 (0/10) [0.00, 30.85]", "20.00", "20.00"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_document(tmp_path / "metrics.json")
    (tmp_path / "metrics.json").write_text('{"test_auc": 1.0}')
    with pytest.raises(DataError, match=r"not a metrics\.json"):
        read_document(tmp_path)
    other = msgspec.structs.replace(document("oulu_npu 2", 1), format="fasedge-evaluation-0")
    (tmp_path / "metrics.json").write_bytes(msgspec.json.encode(other))
    with pytest.raises(DataError, match="fasedge-evaluation-0"):
        read_document(tmp_path)
    with pytest.raises(ConfigError, match="no table"):
        render_tables([], ["other"])
