"""Does this device compute what the model computed when it was published?

A model's folder holds golden vectors: pictures and what the published model said about them. The self-test runs
them through an engine of this device and compares. It also spoils the pictures in the two ways in which integrations
usually go wrong (blue and red swapped, pixels scaled to 0..1) and insists that *this* is noticed: a comparison that
would pass with spoilt input proves nothing.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fasedge._outputs import read_outputs, read_scores
from fasedge.backends import Backend, BackendInfo, open_backend
from fasedge.cards import DEFAULT_MODEL, ModelCard, find_model, load_card, verified_model_path, verify_file
from fasedge.engine_choice import choose_engine
from fasedge.errors import CardError, EngineError
from fasedge.types import FloatArray, UInt8Array

_BATCH = 8
#: Difference of two scores that are the same but for the order of additions.
_SAME = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """Golden vectors of a model.

    Attributes:
        rgb: uint8 (N, S, S, 3), network inputs, red first.
        score: float32 (N,), published scores in [0, 1].
        score_map: float32 (N, m, m), published maps in [0, 1]; ``None`` for a model without a map.
        depth: uint8 (N, S, S, 1), see :func:`fasedge.depth.depth_to_bytes`; ``None`` for a model of colour alone.
        heads: Published scores (N,) of single heads, by the names of the outputs.
    """

    rgb: UInt8Array
    score: FloatArray
    score_map: FloatArray | None
    depth: UInt8Array | None = None
    heads: Mapping[str, FloatArray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SelftestReport:
    """What the self-test found.

    Attributes:
        model: Id of the model.
        precision: ``fp32`` or ``int8``.
        backend: What ran, and where.
        n: Number of golden vectors.
        tolerance: Largest difference that passes.
        score_difference: Largest absolute difference of a score.
        map_difference: Largest mean absolute difference of a map (over its cells); ``None`` without maps. The mean,
            as single cells of a quantised map may be off by several steps where the score is right.
        swapped_difference: Largest change of a score when red and blue are swapped; must exceed the tolerance. Of a
            model that sees depth too, the score of colour alone.
        scaled_difference: Largest change of a score when pixels are scaled to 0..1; must exceed the tolerance.
        failures: What went wrong, in words; empty when all is well.
        blind_difference: Largest change of a score when nothing stands where depth should be; must exceed the
            tolerance. ``None`` for a model that sees colour alone.
    """

    model: str
    precision: str
    backend: BackendInfo
    n: int
    tolerance: float
    score_difference: float
    map_difference: float | None
    swapped_difference: float
    scaled_difference: float
    failures: tuple[str, ...]
    blind_difference: float | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing went wrong."""
        return not self.failures

    def raise_for_failure(self) -> None:
        """Turn a failed self-test into an error.

        Raises:
            EngineError: The self-test failed; the message says how.
        """
        if self.failures:
            raise EngineError(
                f"self-test of model {self.model!r} ({self.precision}) on {self.backend.engine} "
                f"{self.backend.version} failed: {'; '.join(self.failures)}. Do not trust decisions on this device; "
                "try another engine or precision"
            )


def load_golden(folder: Path, card: ModelCard) -> Golden:
    """Read the golden vectors beside a card, hash first.

    Raises:
        ModelNotFoundError: The file is missing.
        IntegrityError: The file was altered.
        CardError: The file is not what the card describes.
    """
    path = verify_file(folder, card.golden.path, card.golden.sha256)
    try:
        # Opened here and not by NumPy, which leaves the file open when it is no archive.
        with path.open("rb") as stream:
            arrays = np.load(stream, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise CardError(f"{path} is not an npz file of plain arrays: it holds one lone array")
            named = {name: np.asarray(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CardError(f"{path} is not an npz file of plain arrays: {error}") from error
    return _check_golden(named, card, path)


def _check_golden(named: Mapping[str, NDArray[np.generic]], card: ModelCard, path: Path) -> Golden:
    missing = {"rgb", "score"} - set(named)
    if missing:
        raise CardError(f"{path} lacks {', '.join(sorted(missing))}; it has {', '.join(sorted(named)) or 'nothing'}")
    n, side = card.golden.n, card.input_spec("rgb").size_px
    rgb, score, score_map, depth = named["rgb"], named["score"], named.get("map"), named.get("depth")
    if (depth is not None) != any(i.name == "depth" for i in card.inputs):
        raise CardError(f"{path} {'lacks' if depth is None else 'has'} depth, unlike the model")
    if depth is not None and (depth.dtype != np.uint8 or depth.shape != (n, side, side, 1)):
        raise CardError(f"{path}: expected depth as uint8 ({n}, {side}, {side}, 1), got {depth.dtype} {depth.shape}")
    heads = {name: values for name, values in named.items() if name.startswith("score_")}
    wanted = {o.name for o in card.outputs if o.name.startswith("score_")}
    if set(heads) != wanted:
        found, expected = sorted(heads) or "none", sorted(wanted) or "none"
        raise CardError(f"{path} has scores of the heads {found}, the model {expected}")
    if rgb.dtype != np.uint8 or rgb.shape != (n, side, side, 3):
        raise CardError(f"{path}: expected rgb as uint8 ({n}, {side}, {side}, 3), got {rgb.dtype} {rgb.shape}")
    for name, values in {"score": score, **heads}.items():
        if values.dtype != np.float32 or values.shape != (n,) or not _in_unit_range(values):
            raise CardError(f"{path}: expected {name} as float32 ({n},) in [0, 1], got {values.dtype} {values.shape}")
    if score_map is not None and (
        score_map.dtype != np.float32 or score_map.ndim != 3 or len(score_map) != n or not _in_unit_range(score_map)
    ):
        raise CardError(
            f"{path}: expected map as float32 ({n}, m, m) in [0, 1], got {score_map.dtype} {score_map.shape}"
        )
    return Golden(
        rgb=rgb.astype(np.uint8),
        score=score.astype(np.float32),
        score_map=None if score_map is None else score_map.astype(np.float32),
        depth=None if depth is None else depth.astype(np.uint8),
        heads={name: values.astype(np.float32) for name, values in heads.items()},
    )


def _in_unit_range(values: NDArray[np.generic]) -> bool:
    numbers = values.astype(np.float64)
    return bool(np.all((numbers >= 0) & (numbers <= 1)))


def run_selftest(
    model: str | Path = DEFAULT_MODEL,
    engine: str = "auto",
    precision: str = "int8",
    *,
    threads: int | None = None,
    device: str = "CPU",
) -> SelftestReport:
    """Replay the golden vectors of a model through an engine of this device.

    Args:
        model: Id of an embedded model, or the folder of one.
        engine: ``auto`` or one of :data:`fasedge.backends.ENGINES`.
        precision: ``int8`` or ``fp32``.
        threads: Threads for inference; ``None`` leaves it to the engine.
        device: Device in the engine's own words.

    Returns:
        What was found. Look at ``passed``, or call ``raise_for_failure()``.

    Raises:
        InputError: No such engine name.
        ModelNotFoundError: No such model or file.
        CardError: The card or the golden vectors are malformed.
        IntegrityError: A file was altered.
        EngineUnavailableError: The engine is not installed.
        EngineError: The engine cannot load or run the model.
    """
    folder = find_model(model)
    card = load_card(folder)
    item = choose_engine(card, engine, precision)
    golden = load_golden(folder, card)
    path = verified_model_path(folder, item)
    backend = open_backend(item.engine, path, names=item.tensor_names(), threads=threads, device=device)
    with closing(backend):
        return compare_golden(backend, card, golden, precision=item.precision)


def compare_golden(backend: Backend, card: ModelCard, golden: Golden, *, precision: str = "int8") -> SelftestReport:
    """Compare a loaded model with golden vectors and probe that the comparison can fail.

    Args:
        backend: The loaded model; stays open.
        card: Its card; gives the tolerance.
        golden: What it must reproduce.
        precision: For the report.

    Returns:
        What was found.

    Raises:
        EngineError: The engine failed or returned something of the wrong shape.
    """
    tolerance = card.golden.tolerance
    wanted = {"score": golden.score, **golden.heads}
    scores, maps = _replay(backend, golden.rgb, golden.depth, tuple(wanted))
    swapped, _ = _replay(backend, np.ascontiguousarray(golden.rgb[..., ::-1]), golden.depth, tuple(wanted))
    # What a network sees that is handed pixels in 0..1 as bytes: 255 becomes 1, everything else 0.
    scaled, _ = _replay(backend, (golden.rgb // 255).astype(np.uint8), golden.depth, tuple(wanted))
    map_difference, failures = _compare_maps(maps, golden.score_map, tolerance)
    differences = {name: _largest(scores[name] - values) for name, values in wanted.items()}
    score_difference = float(np.max(list(differences.values())))  # not Python's max, which may pass NaN over
    for name, difference in differences.items():
        if not difference <= tolerance:
            what = "scores" if name == "score" else name
            failures.append(f"{what} differ by up to {difference:.4f}, allowed are {tolerance:g}")
    # Depth may outvote colour: what colour says alone shows what was done to it.
    alone = "score_rgb" if "score_rgb" in wanted else "score"
    swapped_difference, scaled_difference = (_largest(spoilt[alone] - wanted[alone]) for spoilt in (swapped, scaled))
    probes = {"swapped colours": swapped_difference, "pixels in 0..1": scaled_difference}
    if golden.depth is not None:
        blind, _ = _replay(backend, golden.rgb, np.zeros_like(golden.depth), tuple(wanted))
        probes["missing depth"] = _largest(blind["score"] - golden.score)
        # Where depth is missing colour alone decides: what it says must not depend on what stands in depth's place.
        if alone == "score_rgb" and not (moved := _largest(blind[alone] - scores[alone])) <= _SAME:
            failures.append(f"the score of colour alone changes by {moved:.4f} when depth is taken away")
    for what, difference in probes.items():
        if not difference > tolerance:
            failures.append(f"the test would not notice {what}: scores change by {difference:.4f} only")
    return SelftestReport(
        model=card.id,
        precision=precision,
        backend=backend.info,
        n=len(golden.score),
        tolerance=tolerance,
        score_difference=score_difference,
        map_difference=map_difference,
        swapped_difference=swapped_difference,
        scaled_difference=scaled_difference,
        failures=tuple(failures),
        blind_difference=probes.get("missing depth"),
    )


def _compare_maps(
    maps: FloatArray | None, expected: FloatArray | None, tolerance: float
) -> tuple[float | None, list[str]]:
    if expected is None:
        return None, []
    if maps is None:
        return None, ["the model returned no map, but the golden vectors hold one"]
    if maps.shape != expected.shape:
        return None, [f"maps have shape {maps.shape}, expected {expected.shape}"]
    difference = float(np.abs(maps - expected).mean(axis=(1, 2)).max())
    if difference <= tolerance:
        return difference, []
    return difference, [f"maps differ by {difference:.4f} on average, allowed are {tolerance:g}"]


def _replay(
    backend: Backend, rgb: UInt8Array, depth: UInt8Array | None, names: tuple[str, ...]
) -> tuple[dict[str, FloatArray], FloatArray | None]:
    scores: dict[str, list[float]] = {name: [] for name in names}
    maps: list[FloatArray] = []
    for start in range(0, len(rgb), _BATCH):
        chosen = slice(start, start + _BATCH)
        shown = {"rgb": rgb[chosen]} if depth is None else {"rgb": rgb[chosen], "depth": depth[chosen]}
        n, outputs = len(rgb[chosen]), backend.infer(shown)
        _, got_maps = read_outputs(outputs, n)
        for name in names:
            scores[name] += read_scores(outputs, name, n)
        maps += [m for m in got_maps if m is not None]
    found = {name: np.array(values, np.float32) for name, values in scores.items()}
    return found, np.stack(maps) if maps else None


def _largest(difference: FloatArray) -> float:
    """Largest absolute value; NaN if any is NaN, which no comparison above lets pass."""
    return float(np.abs(difference).max())
