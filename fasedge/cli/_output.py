"""What all verbs share in talking to people and to programs: exit codes, words, rows, JSON."""

from __future__ import annotations

import enum
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fasedge.cli._services import Services
from fasedge.errors import FasEdgeError
from fasedge.types import Decision, Observation, PadResult, Reason

#: Width of tables that go into a file or a pipe.
_PIPE_WIDTH = 120


class ExitCode(enum.IntEnum):
    """How a run ended."""

    BONA_FIDE = 0
    ATTACK = 1
    NO_DECISION = 2
    BAD_FILES = 3
    FAILED = 4
    USAGE = 5
    CRASHED = 70
    INTERRUPTED = 130
    PIPE_CLOSED = 141


DECISION_WORDS = {
    Decision.BONA_FIDE: "bona fide",
    Decision.ATTACK: "attack",
    Decision.NON_RESPONSE: "not checked",
}
#: Blue, orange and grey stay apart for every kind of colour vision; the word is always there as well.
DECISION_STYLES = {
    Decision.BONA_FIDE: "bold bright_blue",
    Decision.ATTACK: "bold dark_orange",
    Decision.NON_RESPONSE: "bold bright_black",
}
REASON_WORDS = {
    Reason.NO_FACE: "no face found",
    Reason.UNUSABLE_IMAGE: "picture cannot be used",
    Reason.FACE_TOO_SMALL: "face too small: come closer",
    Reason.FACE_BLURRED: "face blurred: hold still, focus",
    Reason.FACE_TOO_DARK: "face too dark",
    Reason.FACE_OVER_EXPOSED: "face too bright",
    Reason.FACE_CUT_BY_FRAME: "face cut off by the picture's edge",
    Reason.EXTREME_POSE: "face turned away",
    Reason.DEPTH_MISSING: "no depth in the picture",
    Reason.ENGINE_FAULT: "engine failed",
    Reason.SCORE_BELOW_THRESHOLD: "score below threshold",
}


def judged_by(result: PadResult) -> str:
    """What decided, where a model that looks at depth had to do without; empty otherwise."""
    return "colour alone" if result.modalities == ("rgb",) and result.heads else ""


def reason_words(reasons: Sequence[Reason]) -> str:
    """Reasons in plain words."""
    return "; ".join(REASON_WORDS.get(reason, reason.value.replace("_", " ")) for reason in reasons)


def plural(n: int, noun: str) -> str:
    """``1 frame``, ``2 frames``."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def printable(text: str) -> str:
    """Make a text safe for a terminal: file names may hold control sequences or bytes that are no text."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


class OutputClosedError(Exception):
    """Whoever read the output is gone (``fasedge … | head``). Not an OSError, which click would turn into exit 1."""


class _PipeConsole(Console):
    """A console that reports a closed pipe in place of ending the program with 1, which here means *attack*."""

    def on_broken_pipe(self) -> None:
        raise OutputClosedError


class Session:
    """One run of the command line.

    Args:
        services: What the verbs stand on.

    Attributes:
        services: What the verbs stand on.
        exit_code: How the run ends if nothing else happens.
        out: Console of the results.
        err: Console of complaints.
        stderr: Stream of complaints.
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self.exit_code: int = ExitCode.BONA_FIDE
        self.stderr = sys.stderr
        self.out = _console(sys.stdout)
        self.err = _console(sys.stderr)

    def say(self, text: str = "", style: str = "") -> None:
        """Print a line of results."""
        self.out.print(Text(printable(text), style=style), soft_wrap=True)

    def complain(self, *lines: str) -> None:
        """Print lines to stderr; empty ones are left out."""
        for line in lines:
            if line:
                self.err.print(Text(printable(line)), soft_wrap=True)

    def write_json(self, document: object) -> None:
        """Write one JSON document on one line of stdout.

        Raises:
            OutputClosedError: Nobody reads any more.
        """
        try:
            sys.stdout.write(json.dumps(document, allow_nan=False) + "\n")
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise OutputClosedError from error


def session_of(context: typer.Context) -> Session:
    """The session that :func:`fasedge.cli.main` put into the context."""
    session = context.obj
    if not isinstance(session, Session):
        raise TypeError("the command line is started through fasedge.cli.main")
    return session


def _console(stream: TextIO) -> Console:
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return _PipeConsole(file=stream, width=width, markup=False, highlight=False, emoji=False)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: Heading.
        width: Characters; 0 takes a share of what is left.
        right: Set numbers to the right.
    """

    title: str
    width: int = 0
    right: bool = False


class Rows:
    """A table that is printed row by row, so that a long run or a camera shows something at once.

    Args:
        session: Where to print.
        columns: The columns; nothing is cut off, long cells go on in the next line.
    """

    def __init__(self, session: Session, columns: Sequence[Column]) -> None:
        self._session = session
        self._columns = columns
        gaps = 2 * (len(columns) - 1)
        flexible = sum(1 for column in columns if not column.width)
        left = session.out.width - gaps - sum(column.width for column in columns)
        self._flexible = max(12, left // max(1, flexible))
        self._headed = False

    def add(self, *cells: str | Text) -> None:
        """Print a row; the first call prints the headings."""
        if not self._headed:
            self._headed = True
            self._print([Text(column.title, style="bold underline") for column in self._columns])
        self._print([cell if isinstance(cell, Text) else Text(printable(cell)) for cell in cells])

    def _print(self, cells: Sequence[Text]) -> None:
        table = Table.grid(padding=(0, 2, 0, 0))
        for column in self._columns:
            width = column.width or self._flexible
            table.add_column(width=width, justify="right" if column.right else "left", overflow="fold")
        table.add_row(*cells)
        self._session.out.print(table)


def decision_text(decision: Decision) -> Text:
    """A decision in its word and colour."""
    return Text(DECISION_WORDS[decision], style=DECISION_STYLES[decision])


def score_text(score: float | None) -> str:
    """A score with three decimals, or a dash."""
    return "-" if score is None else f"{score:.3f}"


def observation_document(observation: Observation, saved: str | None = None) -> dict[str, object]:
    """The JSON document of a frame. Keys are always the same; see ``fasedge detect --help``."""
    timings = observation.timings
    return {
        "name": observation.name,
        "timestamp_s": observation.timestamp_s,
        "decision": observation.decision.value,
        "reasons": [reason.value for reason in observation.reasons],
        "faces": [_result_document(result) for result in observation.results],
        "timings_ms": {
            "find": round(timings.find_ms, 3),
            "crop": round(timings.crop_ms, 3),
            "infer": round(timings.infer_ms, 3),
            "total": round(timings.total_ms, 3),
        },
        "annotated": saved,
        "error": None,
    }


def _result_document(result: PadResult) -> dict[str, object]:
    return {
        "box_xyxy": [round(v, 2) for v in result.face.box.xyxy],
        "face_score": round(result.face.score, 6),
        "score": None if result.score is None else round(result.score, 6),
        "threshold": result.threshold,
        "decision": result.decision.value,
        "reasons": [reason.value for reason in result.reasons],
        "heads": {name: round(score, 6) for name, score in result.heads.items()},
        "modalities": list(result.modalities),
    }


def failure_document(name: str, error: FasEdgeError) -> dict[str, object]:
    """The JSON document of something that could not be read: same keys, never a pass."""
    return {
        "name": name,
        "timestamp_s": 0.0,
        "decision": Decision.NON_RESPONSE.value,
        "reasons": [Reason.UNUSABLE_IMAGE.value],
        "faces": [],
        "timings_ms": None,
        "annotated": None,
        "error": {"type": type(error).__name__, "message": str(error)},
    }
