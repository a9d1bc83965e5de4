"""Contact sheets of simulated samples: the first quality control is to look.

One picture per species with a row per kind of medium (bona fide: per collection of faces), the main parameters under
each tile, depth beside it where it is simulated; and ``index.md``, which lists every parameter of every tile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fasedge.types import UInt8Array, UInt16Array
from training.data.making import explained
from training.data.manifest import Split
from training.data.shards import encode_picture, replace_file
from training.data.simulate import BONA_FIDE, SPECIES, Sample, Simulator
from training.data.simulate.compose import CANVAS_SCALE
from training.data.simulate.draws import Value
from training.data.simulate.simulator import PICTURE_PX
from training.data.work import depth_of, make_simulator
from training.errors import DataError

#: Parameters that are written under a tile, by the species to which they belong; the first that were drawn are shown.
KEY_PARAMETERS: dict[str, tuple[str, ...]] = {
    BONA_FIDE: ("exposure_target", "lens_softness", "light_gradient", "light_kelvin", "clutter", "frame"),
    "replay": ("display_face_px", "display_layout", "display_black", "display_gamma", "glare", "edge_visible"),
    "print": ("print_lines", "print_dots", "print_white", "bend", "crease", "print_saturation", "edge_visible"),
    "mask": ("mask_size", "mask_rim", "mask_gloss", "mask_smooth", "mask_wrinkles", "mask_stand_off", "mask_colour"),
    "partial": ("mask_size", "mask_edge", "mask_stand_off", "mask_flat", "mask_crease", "print_lines", "print_dots"),
}
#: Of species that are not listed above: what belongs to every sample is left out.
_COMMON = (
    "awb",
    "cut",
    "light",
    "view",
    "room",
    "jpeg",
    "h264",
    "capture",
    "edge",
    "finger",
    "camera",
    "native",
    "tone",
)
_LINES, _LINE_PX, _PAD_PX = 4, 13, 4
_INK, _PAPER = (235, 235, 235), 24
#: More draws than this per wanted tile, and a rare kind of medium is given up: its row stays short.
_PATIENCE = 400
#: Millimetres over which the colours of a depth map are spread: a face and what is round it.
_DEPTH_SPAN_MM = 150.0
_BATCH = 16
#: The list of parameters, and how it begins.
_INDEX, _TITLE = "index.md", "# Simulated samples"


@dataclass(frozen=True, slots=True, eq=False)
class _Tile:
    index: int
    sample: Sample


def contact_sheets(
    data: Path,
    out: Path,
    split: Split,
    *,
    seed: int,
    tiles: int = 8,
    depth: bool = False,
    picture_px: int = PICTURE_PX,
    canvas_scale: float = CANVAS_SCALE,
) -> Iterator[tuple[int, int]]:
    """Draw samples of every kind and write a sheet per species and ``index.md``.

    Args:
        data: Folder of the face pack.
        out: Folder of the sheets; tiles of the simulator are cached beside it, as those of sets are.
        split: Which identities.
        seed: Seed; the samples are those of a set with the same seed.
        tiles: Samples per row, at least 1.
        depth: Simulate a depth camera too.
        picture_px: Side of the pictures.
        canvas_scale: Side of the pictures over the side of the face box.

    Yields:
        ``(done, n)`` samples, for a progress bar.

    Raises:
        DataError: A number is out of range, the folder holds files of somebody else, or a sheet cannot be written.
    """
    if tiles < 1 or seed < 0:
        raise DataError(f"contact sheets need at least 1 tile per row and a seed >= 0, got {tiles} and {seed}")
    _check_folder(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        simulator = make_simulator(
            data, out.parent, split, seed, depth=depth, picture_px=picture_px, canvas_scale=canvas_scale
        )
        rows = choose(simulator, tiles)
        n, done = sum(len(indices) for kinds in rows.values() for indices in kinds.values()), 0
        text = [f"{_TITLE}, split {split}, seed {seed}\n"]
        # First: sheets without it are not ours.
        replace_file(out / _INDEX, text[0].encode())
        for species, kinds in rows.items():
            made: dict[str, list[_Tile]] = {}
            for kind, indices in kinds.items():
                made[kind] = []
                for start in range(0, len(indices), _BATCH):
                    part = indices[start : start + _BATCH]
                    made[kind] += [_Tile(i, s) for i, s in zip(part, simulator.samples(part), strict=True)]
                    done += len(part)
                    yield done, n
            replace_file(out / f"{species}.png", encode_picture(_sheet(made, tiles), "png"))
            text.append(_section(species, made))
        replace_file(out / _INDEX, "\n".join(text).encode())
    except OSError as error:
        raise DataError(f"{out}: cannot write the contact sheets: {explained(error)}") from error


def _check_folder(out: Path) -> None:
    """Refuse to overwrite what is not ours."""
    index = out / _INDEX
    if index.is_file() and index.read_bytes().startswith(_TITLE.encode()):
        return
    foreign = [name for name in (_INDEX, *(f"{s}.png" for s in (BONA_FIDE, *SPECIES))) if (out / name).exists()]
    if foreign:
        raise DataError(
            f"{out} holds {foreign[0]}, which is no contact sheet of `simulate` and would be overwritten; choose "
            f"another folder, or move away: {', '.join(foreign)}"
        )


def choose(simulator: Simulator, tiles: int) -> dict[str, dict[str, list[int]]]:
    """Numbers of the first samples of each kind: species, then kind of medium or collection, then ``tiles`` numbers.

    Only parameters are drawn for it, no picture is made. It stops when no kind has got a tile for long, since rare
    kinds would else take ever more draws.
    """
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    index = since = 0
    while since < _PATIENCE:
        values = simulator.draw(index).values
        species = BONA_FIDE if values["bona_fide"] else str(values["species"])
        row = found[species][str(values["source"] if values["bona_fide"] else values["subtype"])]
        since = since + 1
        if len(row) < tiles:
            row.append(index)
            since = 0
        index += 1
    return {species: dict(sorted(kinds.items())) for species, kinds in sorted(found.items())}


def captions(sample: Sample, index: int) -> list[str]:
    """Lines under a tile: what it is and through which camera, then the parameters that matter for its species."""
    values = sample.params
    head = f"#{index} {sample.subtype if sample.species != BONA_FIDE else values['source']}"
    camera = values.get("camera")
    names = KEY_PARAMETERS.get(sample.species)
    if names is None:
        names = tuple(n for n in values if n not in {"subtype", "species"} and n.split("_")[0] not in _COMMON)
    shown = [f"{_short(name)} {_plain(values[name])}" for name in names if values.get(name) not in {None, 0}]
    lines = [f"{head} {camera}" if camera is not None else head]
    for text in shown:
        if len(lines) > 1 and len(lines[-1]) + len(text) < 30:
            lines[-1] += f", {text}"
        else:
            lines.append(text)
    return lines[:_LINES]


def _short(name: str) -> str:
    return name.removeprefix("display_").removeprefix("print_")


def _plain(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def colour_depth(depth_mm: UInt16Array) -> UInt8Array:
    """Depth as colours: near is red, far is blue over 15 cm from the nearest face; no return is black.

    Args:
        depth_mm: uint16 (P, P), millimetres, 0 where nothing returns.

    Returns:
        uint8 (P, P, 3), red first.
    """
    returned = depth_mm > 0
    side = len(depth_mm)
    middle = depth_mm[side // 4 : -(side // 4), side // 4 : -(side // 4)]
    near = float(np.percentile(middle[middle > 0], 2)) if (middle > 0).any() else 0.0
    share = np.clip((depth_mm - near + 10.0) / _DEPTH_SPAN_MM, 0, 1)
    colours = cv2.applyColorMap((255 * (1 - share)).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    return np.where(returned[..., None], colours, 0).astype(np.uint8)


def _cell(tile: _Tile) -> UInt8Array:
    """Picture with its face box, depth beside it, words below."""
    picture = tile.sample.picture.copy()
    x1, y1, x2, y2 = (round(v) for v in tile.sample.box_xyxy)
    cv2.rectangle(picture, (x1, y1), (x2, y2), (0, 255, 0), 1)
    depth_mm = depth_of(tile.sample)
    parts = [picture] if depth_mm is None else [picture, colour_depth(depth_mm)]
    shown = np.concatenate(parts, 1)
    words = np.full((_LINES * _LINE_PX + _PAD_PX, shown.shape[1], 3), _PAPER, np.uint8)
    for i, line in enumerate(captions(tile.sample, tile.index)):
        place = (3, (i + 1) * _LINE_PX - 2)
        cv2.putText(words, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.35, _INK, 1, cv2.LINE_AA)
    cell = np.concatenate([shown, words], 0)
    return np.asarray(np.pad(cell, ((0, _PAD_PX), (0, _PAD_PX), (0, 0)), constant_values=_PAPER), np.uint8)


def _sheet(rows: dict[str, list[_Tile]], columns: int) -> UInt8Array:
    out = []
    for tiles in rows.values():
        cells = [_cell(tile) for tile in tiles]
        out.append(np.concatenate(cells + [np.full_like(cells[0], _PAPER)] * (columns - len(cells)), 1))
    return np.concatenate(out, 0)


def _section(species: str, rows: dict[str, list[_Tile]]) -> str:
    lines = [f"## {species}\n", f"![{species}]({species}.png)\n"]
    for kind, tiles in rows.items():
        lines.append(f"### {species}: {kind}\n")
        lines += [f"- `{tile.index}`: {_all(tile.sample.params)}" for tile in tiles]
        lines.append("")
    return "\n".join(lines)


def _all(params: dict[str, Value]) -> str:
    return ", ".join(f"{name} {_plain(value)}" for name, value in params.items())


def strip(frames: Sequence[UInt8Array], columns: int = 8) -> UInt8Array:
    """Frames side by side, ``columns`` per row: a clip at a glance; uint8, red first."""
    cells = [*frames, *[np.zeros_like(frames[0])] * (-len(frames) % columns)]
    return np.concatenate([np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)], 0)
