"""The command ``fasedge``. One file per verb; :func:`main` is the entry point."""

from fasedge.cli._main import main

__all__ = ["main"]
