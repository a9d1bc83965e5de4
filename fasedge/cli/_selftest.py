"""``fasedge selftest``: does this device compute what the published model computed?"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from fasedge.backends import ENGINES
from fasedge.cards import DEFAULT_MODEL
from fasedge.cli._detect import JsonOption, PrecisionChoice, PrecisionOption
from fasedge.cli._output import Column, ExitCode, Rows, Session, plural, session_of
from fasedge.errors import EngineUnavailableError, FasEdgeError

if TYPE_CHECKING:
    from fasedge.selftest import SelftestReport


class EngineOrAll(enum.StrEnum):
    """Choices of ``--engine``."""

    ALL = "all"
    OPENVINO = "openvino"
    LITERT = "litert"
    ONNXRUNTIME = "onnxruntime"


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one engine: ``passed``, ``failed`` or ``not installed``."""

    engine: str
    result: str
    report: SelftestReport | None
    problems: tuple[str, ...]


def selftest(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="A model of 'fasedge models', or a model's folder.")] = DEFAULT_MODEL,
    engine: Annotated[EngineOrAll, typer.Option(help="One engine, or all that the model has a file for.")] = (
        EngineOrAll.ALL
    ),
    precision: PrecisionOption = PrecisionChoice.INT8,
    as_json: JsonOption = False,
) -> None:
    """Check that this device gives the same scores as the published model.

    Runs pictures with known scores through each installed engine and compares. Ends with 0 only if at least one
    engine ran and none failed.
    """
    session = session_of(context)
    outcomes = _run_all(session, model, engine, precision.value)
    ran = [outcome for outcome in outcomes if outcome.result != _ABSENT]
    good = bool(ran) and all(outcome.result == _PASSED for outcome in ran)
    session.exit_code = ExitCode.BONA_FIDE if good else ExitCode.FAILED
    if as_json:
        session.write_json([_document(outcome, model, precision.value) for outcome in outcomes])
        return
    columns = (
        Column("Engine", 12),
        Column("Result", 13),
        Column("Difference", 10, right=True),
        Column("Allowed", 8, right=True),
        Column("Problems"),
    )
    rows = Rows(session, columns)
    for outcome in outcomes:
        rows.add(*_cells(outcome))
    session.say()
    session.say(_verdict(ran, good), style="bold")


_PASSED, _FAILED, _ABSENT = "passed", "failed", "not installed"


def _run_all(session: Session, model: str, engine: EngineOrAll, precision: str) -> list[_Outcome]:
    services = session.services
    if engine is not EngineOrAll.ALL:
        return [_run(session, model, engine.value, precision, asked_for=True)]
    offered = {item.engine for item in services.load_card(model).files if item.precision == precision}
    names = [name for name in ENGINES if name in offered]
    if not names:
        services.load_card(model).file("any engine", precision)  # raises, and names what there is
    return [_run(session, model, name, precision, asked_for=False) for name in names]


def _run(session: Session, model: str, engine: str, precision: str, *, asked_for: bool) -> _Outcome:
    try:
        report = session.services.run_selftest(model, engine, precision)
    except EngineUnavailableError as error:
        return _Outcome(engine, _FAILED if asked_for else _ABSENT, None, (str(error),))
    except FasEdgeError as error:
        return _Outcome(engine, _FAILED, None, (str(error),))
    return _Outcome(engine, _PASSED if report.passed else _FAILED, report, report.failures)


def _cells(outcome: _Outcome) -> tuple[str | Text, ...]:
    style = {_PASSED: "bold bright_blue", _FAILED: "bold dark_orange"}.get(outcome.result, "bold bright_black")
    report = outcome.report
    difference, allowed = ("-", "-") if report is None else (f"{report.score_difference:.4f}", f"{report.tolerance:g}")
    return outcome.engine, Text(outcome.result, style=style), difference, allowed, "; ".join(outcome.problems)


def _verdict(ran: list[_Outcome], good: bool) -> str:
    if good:
        return f"{plural(len(ran), 'engine')} passed: this device computes what the published model computed."
    if not ran:
        return "No engine is installed, so nothing was tested. 'fasedge doctor' shows how to install one."
    return "Do not trust decisions of an engine that failed on this device."


def _document(outcome: _Outcome, model: str, precision: str) -> dict[str, object]:
    report = outcome.report
    return {
        "model": model,
        "engine": outcome.engine,
        "version": report.backend.version if report else None,
        "precision": precision,
        "result": outcome.result.replace(" ", "_"),
        "score_difference": report.score_difference if report else None,
        "tolerance": report.tolerance if report else None,
        "n": report.n if report else None,
        "problems": list(outcome.problems),
    }
