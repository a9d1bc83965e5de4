"""The README says what the cards and the code say."""

import ast
import re
from pathlib import Path

import msgspec
import pytest

import fasedge
from fasedge.cards import Evaluation, LatencyRecord, ParityRecord, Rate, Span
from fasedge.testing import fake_card
from quantize import readme
from quantize.errors import QuantizeError


@pytest.fixture(scope="module")
def text(repository: Path) -> str:
    return (repository / "README.md").read_text(encoding="utf-8")


def test_model_tables_are_those_of_the_cards(repository: Path) -> None:
    files = ["--readme", str(repository / "README.md"), "--page", str(repository / "docs" / "models.md")]
    assert readme.main(["--check", *files]) == 0


def test_every_decision_and_reason_is_explained_and_no_other(text: str) -> None:
    by_hand = re.sub(r"<!-- models:begin -->.*<!-- models:end -->", "", text, flags=re.DOTALL)
    rows = re.findall(r"^\| `([a-z_]+)` \|", by_hand, flags=re.MULTILINE)
    decisions_and_reasons = {str(d) for d in fasedge.Decision} | {str(r) for r in fasedge.Reason}
    assert set(rows) == decisions_and_reasons
    assert len(rows) == len(decisions_and_reasons)


def test_python_examples_use_names_that_exist(text: str) -> None:
    examples = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert examples
    for example in examples:
        for node in ast.walk(ast.parse(example)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fasedge":
                assert node.attr in fasedge.__all__, f"fasedge.{node.attr}"


def test_links_lead_to_files(text: str, repository: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
    assert links
    for link in links:
        assert (repository / link).is_file(), link


def test_folders_of_the_map_exist(text: str, repository: Path) -> None:
    folders = re.findall(r"^\| `([a-z/]+/)` \|", text, flags=re.MULTILINE)
    assert "fasedge/" in folders
    for folder in folders:
        if folder == "fasedge/models/" and not fasedge.list_models():
            continue  # git keeps no empty folders
        assert (repository / folder).is_dir(), folder


def test_no_error_in_n_is_reported_as_at_most_three_over_n() -> None:
    assert readme.format_rate(Rate(value=0.0, errors=0, n=300, low=0.0, high=0.0122)) == "≤ 1.00 % (0 of 300)"
    assert readme.format_rate(Rate(value=0.0, errors=0, n=2, low=0.0, high=0.84)) == "≤ 100.00 % (0 of 2)"
    some = Rate(value=0.025, errors=5, n=200, low=0.0082, high=0.0574)
    assert readme.format_rate(some) == "2.50 % (5 of 200; 0.82 to 5.74)"


def test_section_shows_the_figures_of_the_card() -> None:
    card = fake_card(threshold=0.4321)
    evaluation = Evaluation(
        dataset="held-out captures",
        kind="real",
        n_bona_fide=12,
        n_attack=34,
        auc=0.8765,
        auc_low=0.8,
        auc_high=0.95,
        eer=0.2,
        by_source_auc={"here": 0.9, "there": 0.8},
        n_non_response=7,
    )
    parity = ParityRecord(
        engine="litert",
        precision="int8",
        n=10,
        score_abs_diff_p99=0.0123,
        score_abs_diff_max=0.02,
        auc=0.99,
        auc_reference=0.99,
        acer_points=1.0,
        acer_points_reference=1.0,
        decision_flips_percent=0.25,
    )
    latency = LatencyRecord(
        engine="litert", precision="int8", threads=1, n=240, median_ms=1.234, p95_ms=2.0, cpu="A Processor"
    )
    card = msgspec.structs.replace(card, evaluation=(evaluation,), parity=(parity,), latency=(latency,))
    section = readme.model_section(card)
    assert "| `bpcer5` (default) | rgb | int8 | 0.4321 | 5.00 % (5 of 100; 1.60 to 11.30), print |" in section
    assert "| held-out captures | **real** | 12 / 34 | 7 | 0.8765 (0.8000 to 0.9500) | 0.850 | 20.00 % |" in section
    assert "| `fake-int8.tflite` | litert | int8 | 0 kB | 1.23 ms | 0.0123 | 0.25 % |" in section
    assert "Latency of the network alone: median of 240 runs on one crop each, 1 thread, A Processor." in section
    assert "| `fake-int8.onnx` | onnxruntime | int8 | 0 kB | — | — | — |" in section
    assert "- does not exist" in section


def test_section_shows_the_default_point_by_source_and_over_people_where_the_card_knows_them() -> None:
    def rate(errors: int, n: int, people: Span | None = None) -> Rate:
        return Rate(value=errors / n, errors=errors, n=n, low=0.01, high=0.5, people=people)

    card = fake_card(depth=True, precisions=("fp32", "int8"))
    assert "portraits of" not in readme.model_section(card)
    of_all, of_lab = Span(low=0.025, high=0.09), Span(low=0.05, high=0.4)
    points = tuple(
        msgspec.structs.replace(
            point,
            apcer={"mask": rate(3, 60), "print": rate(6, 60, of_all)},
            bpcer=rate(5, 100, of_all),
            apcer_by_source={
                "lab": {"mask": rate(3, 20, of_lab), "print": rate(1, 20)},
                "street": {"mask": rate(0, 40), "print": rate(5, 40)},
            },
            bpcer_by_source={"lab": rate(0, 75), "street": rate(5, 25, of_lab)},
        )
        for point in card.operating_points
    )
    section = readme.model_section(msgspec.structs.replace(card, operating_points=points))
    head, _, rest = section.partition("`bpcer5` in INT8 by the collection that the portraits come from.")
    assert readme.model_section(card).startswith(head[: head.index("| operating point")])
    rows = [line for line in rest.split("\n\n")[1].splitlines() if "rgb + depth" in line]
    assert rows == [
        "| all | rgb + depth | 10.00 % (6 of 60; 1.00 to 50.00), print | 2.50 to 9.00 % "
        "| 5.00 % (5 of 100; 1.00 to 50.00) | 2.50 to 9.00 % |",
        "| lab | rgb + depth | 15.00 % (3 of 20; 1.00 to 50.00), mask | 5.00 to 40.00 % | ≤ 4.00 % (0 of 75) | — |",
        "| street | rgb + depth | 12.50 % (5 of 40; 1.00 to 50.00), print | — "
        "| 20.00 % (5 of 25; 1.00 to 50.00) | 5.00 to 40.00 % |",
    ]
    assert rest.count("| lab | rgb |") == 1


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    old = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    new = readme.replace_between_markers(old, "new")
    assert new == f"before\n{readme.BEGIN}\n\nnew\n\n{readme.END}\nafter\n"
    assert readme.replace_between_markers(new, "new") == new


@pytest.mark.parametrize(
    "broken", ["no markers", readme.BEGIN, f"{readme.END} {readme.BEGIN}", f"{readme.BEGIN}{readme.BEGIN}{readme.END}"]
)
def test_missing_or_disordered_markers_are_an_error(broken: str) -> None:
    with pytest.raises(QuantizeError, match="models:begin"):
        readme.replace_between_markers(broken, "new")


def test_check_changes_nothing_and_says_what_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "README.md", tmp_path / "models.md"]
    arguments = ["--readme", str(paths[0]), "--page", str(paths[1])]
    for path in paths:
        path.write_text(f"{readme.BEGIN}\nout of date\n{readme.END}\n")
    assert readme.main(["--check", *arguments]) == 1
    assert all("out of date" in path.read_text() for path in paths)
    said = capsys.readouterr().err
    assert all(f"{path} is not what the model cards say: run python -m quantize.readme" in said for path in paths)
    assert readme.main(arguments) == 0
    assert readme.main(["--check", *arguments]) == 0
    paths[1].write_text(paths[1].read_text().replace("bpcer5", "bpcer6"))
    assert readme.main(["--check", *arguments]) == 1


def test_the_summary_has_a_row_for_each_score_that_decides() -> None:
    one, both = fake_card(precisions=("fp32", "int8")), fake_card(depth=True, precisions=("fp32", "int8"))
    rows = readme.summary_text([one, both]).splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == ["rgb", "rgb + depth", "rgb"]
    assert rows[0].startswith("| `fake-model` 0 | rgb | `bpcer5` | 5.0 % (print) | ")
    assert readme.summary_text([]) == readme.NO_MODELS
    # What the columns are looked up by is how the programs that measure word it.
    shipped = [row for row in readme.summary_text(readme.embedded_cards()).splitlines()[2:] if "| rgb | `" in row]
    assert all("—" not in row for row in shipped if "`edge-rgbd`" not in row)


def test_a_missing_readme_is_an_error_not_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert readme.main(["--readme", str(tmp_path / "none.md")]) == 3
    assert "none.md" in capsys.readouterr().err
