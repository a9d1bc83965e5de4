"""The command line as a whole: its verbs, and what becomes of errors.

Every way in which a run can end has its own exit code (:class:`fasedge.cli._output.ExitCode`), so that a script can
never take a crash, a typing error or Ctrl-C for "bona fide", "attack" or "no decision".
"""

from __future__ import annotations

import inspect
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import cv2
import typer
from typer.main import get_command

import fasedge
from fasedge.cli import _demo, _detect, _doctor, _models, _selftest
from fasedge.cli._output import ExitCode, OutputClosedError, Session, printable
from fasedge.cli._services import Services
from fasedge.errors import (
    EngineError,
    EngineUnavailableError,
    FasEdgeError,
    IntegrityError,
    ModelNotFoundError,
    OutputError,
)

_HELP = """Tell whether the face in front of a camera is a living person or a trick.

A [bold]bona fide[/bold] presentation is a living person in front of the camera. An [bold]attack[/bold] is anything
that only shows a face: a printed photo, a screen, a mask. A face that cannot be judged (too small, blurred, cut off,
no face at all) is [bold]not checked[/bold]: that is neither a pass nor an accusation.

Everything runs on this device; nothing is sent anywhere.
"""

_EPILOG = (
    "Exit codes: 0 every face is bona fide, 1 an attack, 2 something was not checked, 3 a file could not be read, "
    "4 the run failed, 5 wrong usage, 130 stopped with Ctrl-C."
)


def _unwrapped(text: str | None) -> str:
    """Join the lines of each paragraph: the help page breaks them where the terminal ends."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


app = typer.Typer(
    name="fasedge",
    help=_unwrapped(_HELP),
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _verb in (_detect.detect, _demo.demo, _models.models, _doctor.doctor, _selftest.selftest):
    app.command(_verb.__name__, help=_unwrapped(_verb.__doc__))(_verb)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fasedge {fasedge.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and end.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Take the options that come before the verb."""


def main(argv: Sequence[str] | None = None, *, services: Services | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; ``None`` takes those of the process.
        services: What the verbs stand on; tests pass fakes.

    Returns:
        The exit code; see :class:`fasedge.cli._output.ExitCode`.
    """
    session = Session(services or Services())
    try:
        with _quiet(session):
            code = _run(argv, session)
        sys.stdout.flush()
    except (BrokenPipeError, OutputClosedError):
        _discard_stdout()
        return ExitCode.PIPE_CLOSED
    return code


def _run(argv: Sequence[str] | None, session: Session) -> int:
    """Turn every way of ending into an exit code."""
    try:
        get_command(app)(args=None if argv is None else list(argv), prog_name="fasedge", obj=session)
    except SystemExit as stop:
        return _code_of(stop, session)
    except FasEdgeError as error:
        session.complain(f"Error: {error}", hint_for(error))
        return ExitCode.FAILED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except (BrokenPipeError, OutputClosedError):
        raise
    except Exception:  # noqa: BLE001 - Python's own exit code for a crash is 1, which here means "attack"
        session.complain("Error: fasedge itself failed; please report the lines below.")
        session.complain(traceback.format_exc())
        return ExitCode.CRASHED
    return session.exit_code


def _code_of(stop: SystemExit, session: Session) -> int:
    """The command-line library ends with 0 (done), 2 (usage), 130 or 1 (stopped by the user or a closed pipe)."""
    if stop.code in (0, None):
        return session.exit_code
    return ExitCode.USAGE if stop.code == 2 else ExitCode.INTERRUPTED


def hint_for(error: FasEdgeError) -> str:
    """What to do about an error, in one line; empty if the message says it all."""
    if isinstance(error, EngineUnavailableError):
        return "'fasedge doctor' shows what is installed and how to install what is missing."
    if isinstance(error, EngineError):
        return "'fasedge selftest' checks every engine on this device."
    if isinstance(error, IntegrityError):
        return "Reinstall with: pip install --force-reinstall --no-deps fasedge"
    if isinstance(error, ModelNotFoundError):
        return "'fasedge models' lists the models that come with this installation."
    if isinstance(error, OutputError):
        return "Choose a folder that you may write to."
    return ""


class _OneLine(logging.Formatter):
    """Log records without traceback: the error's own message is what helps a user."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        return printable(f"{record.levelname.lower()}: {record.getMessage()}" + (f": {error}" if error else ""))


@contextmanager
def _quiet(session: Session) -> Iterator[None]:
    """Keep the chatter of codecs out of the terminal: each broken file is reported by fasedge itself.

    Put back afterwards, as :func:`main` may be called from a program of its own.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    level = cv2.utils.logging.getLogLevel()
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    logger = logging.getLogger("fasedge")
    propagate = logger.propagate
    handler = logging.StreamHandler(session.stderr)
    handler.setFormatter(_OneLine())
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
        cv2.utils.logging.setLogLevel(level)


def _discard_stdout() -> None:
    """Let Python's own flush at exit go nowhere once the reader of a pipe is gone."""
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is not a real file, as in tests
        return
