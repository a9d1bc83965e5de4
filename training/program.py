"""How the programs of this repository end: errors made on purpose are one line, never a traceback."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.markup import escape

from fasedge.errors import FasEdgeError
from training.errors import TrainingError


def run_program(app: typer.Typer) -> int:
    """Run a command line.

    Returns:
        0; 2 for a wrong command line; 3 for an error; 130 when the user stopped it.
    """
    try:
        app()
    except SystemExit as stop:  # how the command-line library ends every run
        return stop.code if isinstance(stop.code, int) else 0
    except (FasEdgeError, TrainingError, OSError) as error:
        # Escaped: a bracket in a path is no mark-up. Not wrapped: a line stays a line for whoever searches the log.
        message = escape(" ".join(str(error).splitlines()))
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[red]error[/red] {message}")
        return 3
    return 0
