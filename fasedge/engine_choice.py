"""Which artefact of a model runs on this machine."""

from __future__ import annotations

from collections.abc import Collection

from fasedge.backends import ENGINES, available_engines
from fasedge.cards import FileCard, ModelCard
from fasedge.errors import EngineUnavailableError, InputError


def choose_engine(
    card: ModelCard, engine: str = "auto", precision: str = "int8", *, installed: Collection[str] | None = None
) -> FileCard:
    """Choose the artefact to run.

    ``auto`` takes the first engine of :data:`fasedge.backends.ENGINES` that is installed *and* that the card has a
    file for. It never changes the model, the modality or the precision; and a named engine is never replaced by
    another.

    Args:
        card: The model's card.
        engine: ``auto`` or one of :data:`fasedge.backends.ENGINES`.
        precision: ``int8`` or ``fp32``.
        installed: Engines that may be chosen; ``None`` looks what is installed.

    Returns:
        The file of the card to load.

    Raises:
        InputError: No such engine name.
        ModelNotFoundError: The card has no file for the engine, or for any engine, at this precision.
        EngineUnavailableError: The card has files, but none of their engines is installed.
    """
    if engine != "auto":
        if engine not in ENGINES:
            raise InputError(f"engine must be auto or one of {', '.join(ENGINES)}, got {engine!r}")
        return card.file(engine, precision)
    offered = [f.engine for f in card.files if f.precision == precision]
    if not offered:
        return card.file("any engine", precision)  # raises, and names what there is
    usable = available_engines() if installed is None else installed
    for name in ENGINES:
        if name in offered and name in usable:
            return card.file(name, precision)
    raise EngineUnavailableError(
        f"model {card.id!r} at {precision} runs in {' or '.join(offered)}, but none of these is installed; "
        f"install one with: pip install 'fasedge[{offered[0]}]'"
    )
