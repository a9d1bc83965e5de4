"""How long the artefacts take on the machine that publishes them, one picture at a time."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np
from rich.progress import track

from fasedge.backends import Backend, open_backend
from fasedge.cards import CARD_NAME, LatencyRecord, ModelCard, dump_card, load_card, verified_model_path
from fasedge.selftest import load_golden
from fasedge.types import UInt8Array
from quantize.about import read_about, write_about
from quantize.errors import PublishError
from quantize.export import Artefact
from quantize.files import complete_file
from quantize.pictures import feed

LATENCY_NAME = "latency.json"
_SETTLING, _TIMED = 4, 12


def cpu_name() -> str:
    """The processor's name as OpenVINO knows it; without OpenVINO what Python knows."""
    if find_spec("openvino") is None:
        return platform.processor() or platform.machine()
    import openvino

    return str(openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")).strip()


def interleaved(runs: Sequence[tuple[Backend, UInt8Array]], rounds: int) -> list[list[float]]:
    """Time networks in turn, so that a machine that slows down slows all of them.

    Args:
        runs: Networks, and pictures uint8 (n, S, S, C) for each.
        rounds: Of twelve timed pictures each, after four that bring the caches back.

    Returns:
        Seconds per picture of every network, 12 * rounds.
    """
    times: list[list[float]] = [[] for _ in runs]
    for _ in track(range(rounds), description="timing", transient=True):
        for taken, (backend, pictures) in zip(times, runs, strict=True):
            for number in range(_SETTLING + _TIMED):
                place = number % len(pictures)
                picture = feed(pictures[place : place + 1])
                start = time.perf_counter()
                backend.infer(picture)
                if number >= _SETTLING:
                    taken.append(time.perf_counter() - start)
    return times


def measure_latency(
    items: Sequence[Artefact], pictures: UInt8Array, *, rounds: int = 20, threads: int = 1
) -> tuple[LatencyRecord, ...]:
    """Time every artefact in its engine: the network alone, without finding and cutting out the face.

    Args:
        items: Artefacts.
        pictures: uint8 (n, S, S, C), at least one.
        rounds: See :func:`interleaved`.
        threads: Of the engine.

    Raises:
        EngineError: An engine cannot load or run an artefact.
    """
    cpu = cpu_name()
    with ExitStack() as stack:
        runs = [
            (stack.enter_context(closing(open_backend(item.engine, item.path, threads=threads))), pictures)
            for item in items
        ]
        times = interleaved(runs, rounds)
    return tuple(
        LatencyRecord(
            engine=item.engine,
            precision=item.precision,
            threads=threads,
            n=len(taken),
            median_ms=round(1e3 * float(np.median(taken)), 3),
            p95_ms=round(1e3 * float(np.quantile(taken, 0.95)), 3),
            cpu=cpu,
        )
        for item, taken in zip(items, times, strict=True)
    )


def time_published(folder: Path, *, rounds: int = 20) -> ModelCard:
    """Time the files of a published model on this machine and put the figures into its card.

    Args:
        folder: Of the model; its card is replaced in one step, nothing else changes.
        rounds: See :func:`interleaved`.

    Returns:
        The new card.

    Raises:
        ModelNotFoundError: There is no card, or a file is missing.
        CardError: The card or its golden vectors are malformed.
        IntegrityError: A file was altered.
        EngineError: An engine cannot load or run a file.
    """
    card = load_card(folder)
    golden = load_golden(folder, card)
    shown = golden.rgb if golden.depth is None else np.concatenate([golden.rgb, golden.depth], axis=3)
    items = [Artefact(file.engine, file.precision, verified_model_path(folder, file)) for file in card.files]
    timed = msgspec.structs.replace(card, latency=measure_latency(items, shown, rounds=rounds))
    with complete_file(folder / CARD_NAME) as temporary:
        temporary.write_text(dump_card(timed), encoding="utf-8")
    return timed


def write_latency(folder: Path, items: Sequence[Artefact], records: Sequence[LatencyRecord]) -> Path:
    """Write ``latency.json``."""
    return write_about(folder / LATENCY_NAME, items, records)


def read_latency(folder: Path, items: Sequence[Artefact]) -> tuple[LatencyRecord, ...]:
    """Read ``latency.json`` and make sure that it is about these files.

    Raises:
        PublishError: It is missing or malformed, or a file has changed since.
    """
    return read_about(folder / LATENCY_NAME, items, LatencyRecord, PublishError)
