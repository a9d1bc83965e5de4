"""The pictures of the simulator's page, ``docs/simulator.md``.

    python -m benchmarks.simulator_pictures --out docs/images

Everything is shown on generated faces (Synthetic Faces High Quality, Text 2 Image; MIT): no picture of a person gets
into the repository. Rooms behind media are CC0 textures of scikit-image. But for ``simulator-chance``, which shows the
first samples of a seed as they come, parameters are set by hand so that the thing to be seen is seen: a quiet camera,
and one operator at a time. Pictures are JPEG files, since a sensor's noise makes PNG files ten times as large.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from rich.console import Console

from fasedge.types import UInt8Array
from training.data.manifest import data_folder, read_manifest
from training.data.preview import colour_depth
from training.data.simulate import BONA_FIDE, SPECIES, Simulator
from training.data.simulate.draws import Draws, Value
from training.data.simulate.mesh import build_meshes
from training.data.simulate.operators import OPERATORS, switch_off
from training.data.simulate.profiles import PROFILES
from training.data.simulate.scene import build_tiles, read_backgrounds
from training.data.work import depth_of
from training.errors import DataError
from training.program import run_program

app = typer.Typer(no_args_is_help=False, add_completion=False)
console = Console()

#: Generated faces of adults, with room round them.
FACES = tuple(f"faces/sfhq/{number}.jpg" for number in ("0029", "0042", "0217", "0222", "0031", "0170", "0322", "0188"))
ROOMS = ("skimage_brick.jpg", "skimage_coffee.jpg", "skimage_grass.jpg", "skimage_gravel.jpg")
MOST_BYTES = 150_000
_SEED, _SEARCHED = 2026, 4000
_GAP, _BAND, _INK, _PAPER = 6, 20, (40, 40, 40), 255

#: A camera and a place that draw no attention to themselves.
QUIET: Mapping[str, Value] = {
    "sensor_px": "192", "background": 0,
    "light_gradient": 0.2, "light_angle": 2.4, "light_offset": 0.0, "light_kelvin": 5200.0, "light_mix": 0.0,
    "exposure_target": 0.2, "awb_strength": 0.1, "awb_red": 1.0, "awb_blue": 1.0, "surrounding_light": 1.0,
    "awb_residue": 0.0,
    "flare": 0.0, "vignette": 0.1, "aberration": 0.0, "lens_blur": 0.45, "defocus": 0.0, "native_ratio": 3.0,
    "native_lens": 0.4, "motion": 0.0, "shot_noise": 1e-4, "read_noise": 1e-3, "denoise": 0.0, "chroma_denoise": 0.8,
    "camera_saturation": 1.0, "tone_gamma": 1.0, "auto_black": 0.3, "auto_white": 0.2, "tone_contrast": 0.05,
    "sharpen": 0.3, "small": 0.0, "jpeg_quality": 95, "jpeg_twice": 0, "h264": 0, "cut": 0, "cut_tight": 0,
    "cut_left": 0.0, "cut_top": 0.0, "cut_right": 0.0, "cut_bottom": 0.0, "view_roll": 0.0, "view_zoom": 1.1,
    "view_x": 0.0, "view_y": 0.0, "view_tilt_x": 0.0, "view_tilt_y": 0.0, "view_mirror": 0, "clutter": 0.0,
    "frame": 0, "lens_softness": 0.0,
}  # fmt: skip
#: The attacker's capture, the medium and its surroundings, as quiet.
QUIET_MEDIUM: Mapping[str, Value] = {
    "capture_blur": 0.3, "capture_small": 0.0, "capture_gamma": 1.0, "capture_contrast": 0.2, "capture_sharpen": 0.0,
    "capture_saturation": 1.0, "capture_quality": 92, "finger": 0.0, "controls": 0.0, "glare": 0.0, "lamp": 0.0,
    "room_reflection": 0.0, "room_level": 0.35, "room_zoom": 0.8, "room_x": 0.0, "room_y": 0.0, "room_blur": 1.5,
    "display_gamma": 1.1, "display_saturation": 1.1, "display_kelvin": 7200.0, "display_adaptation": 0.6,
    "display_black": 0.004, "display_metering": 1.0, "display_over": 0.0, "display_fill": 0.8,
    "display_banding": 0.0, "screen_gradient": 0.0, "play_button": 0.0, "print_floor": 0.015, "print_white": 0.8,
    "print_saturation": 0.9, "print_gamma": 1.1, "print_screen": 0.5, "print_grain": 0.5, "print_grey": 0,
    "print_red": 1.0, "print_blue": 1.0, "paper_noise": 0.01, "print_banding": 0.0, "bend": 0.0, "crease": 0.0,
    "contour": 0.0, "holes": 0.0, "status_bar": 0.0, "notch": 0.0, "pointer": 0.0, "call": 0.0, "inset": 0.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cell:
    """One small picture of a figure.

    Attributes:
        caption: The words below it.
        draws: The sample's parameters.
        whole: The whole picture, or only the middle three quarters of it, pixel by pixel.
    """

    caption: str
    draws: Draws
    whole: bool = True


@dataclass(slots=True)
class Studio:
    """Finds samples of a kind and quietens them."""

    simulator: Simulator
    _found: dict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for index in range(_SEARCHED):
            values = self.simulator.draw(index).values
            kind = (BONA_FIDE, "") if values["bona_fide"] else (str(values["species"]), str(values["subtype"]))
            self._found[kind].append(index)

    def draw(
        self,
        species: str,
        subtype: str = "",
        face: int = 0,
        changes: Mapping[str, Value] | None = None,
        having: tuple[str, ...] = (),
    ) -> Draws:
        """Parameters of the first sample of a kind that has something, shown on a face, quiet but for the changes."""
        drawn = (self.simulator.draw(index) for index in self._found[species, subtype])
        d = next(d for d in drawn if all(d.values[name] for name in having))
        keys = [picture.key for picture in self.simulator.pictures]
        quiet: dict[str, Value] = {**QUIET, **QUIET_MEDIUM, "picture": keys.index(FACES[face % len(FACES)])}
        if "holder" in d.values:
            quiet["holder"] = keys.index(FACES[(face + 1) % len(FACES)])
        if "victim" in d.values:
            quiet["victim"] = keys.index(FACES[(face + 1) % len(FACES)])
        d.values |= {name: value for name, value in quiet.items() if name in d.values} | dict(changes or {})
        return d


def framed(half_width: float, aspect: float, rim: float) -> dict[str, Value]:
    """A medium whose edges are seen: half its width in halves of the face box, its shape, its rim."""
    return {
        "edge_hidden": 0, "edge_visible": 1, "edge_width": half_width, "edge_height": half_width * aspect,
        "edge_x": 0.0, "edge_y": 0.0, "rim": rim, "view_zoom": 1.12,
    }  # fmt: skip


def close() -> dict[str, Value]:
    """A medium that fills the picture."""
    return {"edge_hidden": 1, "edge_visible": 0, "edge_width": 3.05, "edge_height": 3.05, "edge_x": 0.0, "edge_y": 0.0}


def chance(studio: Studio) -> list[list[Cell]]:
    """The first samples of each species, as they come: whoever wants to see the simulator's average looks here."""
    rows: dict[str, list[Cell]] = {name: [] for name in (BONA_FIDE, *SPECIES)}
    index = 0
    while any(len(row) < 6 for row in rows.values()):
        d = studio.simulator.draw(index)
        index += 1
        species = BONA_FIDE if d.values["bona_fide"] else str(d.values["species"])
        if len(rows[species]) < 6:
            caption = str(d.values.get("subtype", "bona fide")).replace("_", " ")
            rows[species].append(Cell(caption, d))
    return list(rows.values())


def media(studio: Studio) -> list[list[Cell]]:
    """Kinds of screens and prints, their edges seen."""
    forms = {
        "phone": (1.15, 1.9, 0.06), "tablet": (1.35, 1.33, 0.2), "laptop": (1.95, 0.625, 0.12),
        "monitor": (2.1, 0.5625, 0.08), "laser": (1.25, 1.41, 0.1), "inkjet": (1.3, 1.41, 0.0),
        "photo_paper": (1.35, 1.5, 0.12), "newsprint": (1.3, 1.2, 0.3),
    }  # fmt: skip
    rows = []
    for species in ("replay", "print"):
        cells = []
        for i, subtype in enumerate(SPECIES[species].subtypes):
            changes = framed(*forms[subtype])
            if subtype == "newsprint":
                changes |= {"print_floor": 0.045, "print_white": 0.6, "print_saturation": 0.7, "native_ratio": 2.0}
            if species == "replay":
                changes |= {"bezel": "black", "background": i, "glare": 0.12, "glare_x": 0.5, "glare_y": -0.6,
                            "glare_size": 0.25, "display_black": 0.01}  # fmt: skip
            else:
                changes |= {"background": 3 - i, "bend": 0.5, "room_level": 0.6}
            cells.append(Cell(subtype.replace("_", " "), studio.draw(species, subtype, i, changes)))
        rows.append(cells)
    return rows


def worn(studio: Studio) -> list[list[Cell]]:
    """Who is before the camera, and what may be worn on the face."""
    kinds = [(s, k) for s in ("mask", "partial") for k in SPECIES[s].subtypes]
    cells = [Cell("bona fide", studio.draw(BONA_FIDE, face=7))]
    for species, subtype in kinds:
        changes: dict[str, Value] = {"mask_shadow": 0.5} if subtype != "mannequin" else {}
        cells.append(Cell(subtype.replace("_", " "), studio.draw(species, subtype, 7, changes)))
    return [cells[:4], cells[4:]]


def cameras(studio: Studio) -> list[list[Cell]]:
    """One face and one replay of it through each victim camera, camera parameters as they come."""
    names: dict[str, dict[str, Value]] = {}
    own = {name for name in QUIET if not name.startswith(("view", "light", "cut", "clutter", "frame", "sensor"))}
    for index in range(_SEARCHED):
        values = studio.simulator.draw(index).values
        # A face in the middle of the exposures: the other parameters are to be seen.
        if 0.12 < float(values["exposure_target"]) < 0.25:
            chosen = {name: values[name] for name in own if name in values and name != "background"}
            names.setdefault(str(values["camera"]), chosen | {"camera": values["camera"]})
    rows = []
    for species, subtype in ((BONA_FIDE, ""), ("replay", "tablet")):
        shape: dict[str, Value] = {} if species == BONA_FIDE else framed(1.35, 1.33, 0.2) | {"bezel": "black"}
        rows.append(
            [Cell(name.replace("_", " "), studio.draw(species, subtype, 6, names[name] | shape)) for name in PROFILES]
        )
    return rows


def operators(studio: Studio) -> list[list[Cell]]:
    """Operators on and off, the same sample otherwise."""
    strong: list[tuple[str, str, str, dict[str, Value], bool]] = [
        ("moire", "replay", "monitor", {**close(), "display_face_px": 183.0, "display_fill": 0.55, "view_roll": 0.03,
         "display_layout": "stripe", "native_ratio": 4.0, "native_lens": 0.3, "lens_blur": 0.3}, False),
        ("halftone", "print", "newsprint", {**close(), "print_halftone": "am", "print_lines": 36.0, "print_screen": 0.9,
         "native_ratio": 3.0, "native_lens": 0.3, "lens_blur": 0.25, "view_zoom": 0.92}, False),
        ("glare", "replay", "tablet", {**framed(1.35, 1.33, 0.2), "glare": 0.25, "glare_x": 0.35, "glare_y": -0.3,
         "glare_size": 0.25, "glare_stretch": 1.0, "bezel": "black"}, True),
        ("flare", BONA_FIDE, "", {"flare": 0.5, "flare_slope": 0.7, "flare_angle": 2.5, "surrounding_light": 2.2,
         "auto_black": 0.0, "auto_white": 0.0}, True),
        ("bend", "print", "photo_paper", {**framed(1.3, 1.5, 0.12), "bend": 0.9, "bend_angle": 0.2, "room_level": 0.6},
         True),
        ("visible_edge", "replay", "phone", {**framed(1.1, 1.9, 0.08), "edge_close": 3.05, "edge_place_x": 0.0,
         "edge_place_y": 0.0, "bezel": "black"}, True),
        ("display_black", "replay", "laptop", {**close(), "display_black": 0.015, "auto_black": 0.0}, True),
        ("banding", "replay", "monitor", {**close(), "display_banding": 0.1, "display_band_period": 0.4}, True),
        ("print_gamut", "print", "laser", {**close(), "print_saturation": 0.7, "print_grey": 1}, True),
    ]  # fmt: skip
    pairs = []
    for i, (name, species, subtype, changes, whole) in enumerate(strong):
        if not OPERATORS[name].species & {species}:
            raise DataError(f"the operator {name} does not concern {species}")
        on = studio.draw(species, subtype, i, changes)
        pairs.append([Cell(f"{name}: off", switch_off(on, name), whole), Cell("on", on, whole)])
    return [[cell for pair in pairs[i : i + 3] for cell in pair] for i in range(0, len(pairs), 3)]


def depth(studio: Studio) -> list[list[Cell]]:
    """Colour and, below it, depth of each kind of presentation; near is red, no return black."""
    shown = [(BONA_FIDE, ""), ("replay", "tablet"), ("print", "photo_paper"), ("mask", "paper_mask"),
             ("mask", "rigid_mask"), ("partial", "printed_glasses")]  # fmt: skip
    cells = []
    for species, subtype in shown:
        changes: dict[str, Value] = {}
        if subtype == "tablet":
            changes = framed(1.35, 1.33, 0.2) | {"bezel": "black", "view_tilt_x": 0.08}
        if subtype == "photo_paper":
            changes = framed(1.3, 1.5, 0.12) | {"bend": 0.8}
        cells.append(Cell((subtype or species).replace("_", " "), studio.draw(species, subtype, 5, changes)))
    return [cells]


def held(studio: Studio) -> list[list[Cell]]:
    """What screens show beside the picture, hands, and prints cut with scissors; depth below."""
    bar: dict[str, Value] = {"status_bar": 0.8, "status_bar_height": 0.035, "status_bar_tone": 0.05}
    desk = bar | {"status_bar_tone": 0.9, "status_bar_height": 0.05, "pointer": 0.2, "pointer_x": 0.3, "pointer_y": 0.5}
    call: dict[str, Value] = {"notch": 0.35, "notch_height": 0.03, "call": 0.9, "call_size": 0.08, "call_height": 0.1}
    corner: dict[str, Value] = {"inset": 0.24, "inset_level": 0.8, "inset_corner": "lower_right", "background": 2}
    hand: dict[str, Value] = {
        "finger": 0.2, "finger_side": "left", "finger_count": 4, "finger_place": -0.1, "finger_reach": 0.45,
        "finger_uneven": 0.5, "finger_fan": 0.15, "finger_tone": 0.3, "finger_light": 0.3,
    }  # fmt: skip
    cut: dict[str, Value] = {
        "contour": 0.12, "contour_hair": 0.35, "contour_neck": 0.4, "contour_waves": 0.012, "contour_paper": 0.05,
        "rim": 0.0, "edge_visible": 1, "room_level": 0.6,
    }  # fmt: skip
    eyes: dict[str, Value] = {
        "holes": 1.2, "holes_height": 0.9, "holes_mouth": 0.0, "holes_rim": 0.006, "holes_shadow": 0.3,
    }  # fmt: skip
    shown: list[tuple[str, str, str, dict[str, Value], tuple[str, ...]]] = [
        ("call", "replay", "phone", framed(1.15, 1.9, 0.06) | {"bezel": "black", **bar, **call}, ()),
        ("window", "replay", "laptop", framed(1.95, 0.625, 0.12) | {"bezel": "dark", **desk, **corner}, ()),
        ("hand", "replay", "tablet", framed(1.35, 1.33, 0.2) | {"bezel": "black", **hand}, ()),
        ("contour", "print", "inkjet", cut | {"depth_holder": 0}, ("contour",)),
        ("eye holes", "print", "laser", framed(1.25, 1.41, 0.1) | eyes, ("holes",)),
        ("contour, holes", "print", "photo_paper", cut | {"contour_paper": 0.0} | eyes, ("contour", "holes")),
    ]
    cells = []
    for face, (words, species, subtype, changes, having) in enumerate(shown):
        smooth: dict[str, Value] = {"depth_smoothed": 1, "depth_smooth_passes": 2, "depth_least_return": 0.02}
        cells.append(Cell(words, studio.draw(species, subtype, face, smooth | changes, having)))
    return [cells]


#: Figures that show depth below colour.
WITH_DEPTH = frozenset({"depth", "held"})
#: Figures by name, and how wide a cell is drawn.
FIGURES: dict[str, tuple[Callable[[Studio], list[list[Cell]]], int]] = {
    "chance": (chance, 136),
    "media": (media, 192),
    "worn": (worn, 192),
    "cameras": (cameras, 144),
    "operators": (operators, 144),
    "depth": (depth, 144),
    "held": (held, 144),
}


def sheet(simulator: Simulator, rows: Sequence[Sequence[Cell]], side: int, *, with_depth: bool = False) -> UInt8Array:
    """Render a figure's cells and put them in rows on white, captions below; uint8, red first."""
    out = []
    for row in rows:
        samples = simulator.render([cell.draws for cell in row])
        pictures = [[_fitted(s.picture, side, whole=c.whole)] for s, c in zip(samples, row, strict=True)]
        for sample, column in zip(samples, pictures, strict=True):
            found = depth_of(sample) if with_depth else None
            if found is not None:
                column.append(_fitted(colour_depth(found), side))
        cells = [_cell(np.concatenate(p, 0), c.caption) for p, c in zip(pictures, row, strict=True)]
        out.append(np.concatenate(cells, 1))
    widest = max(part.shape[1] for part in out)
    parts = [np.pad(p, ((0, 0), (0, widest - p.shape[1]), (0, 0)), constant_values=_PAPER) for p in out]
    return np.asarray(np.concatenate(parts, 0)[: -_GAP or None, : -_GAP or None], np.uint8)


def _fitted(picture: UInt8Array, side: int, *, whole: bool = True) -> UInt8Array:
    if not whole:
        margin = (len(picture) - side) // 2
        return picture[margin : margin + side, margin : margin + side]
    return np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def _cell(picture: UInt8Array, caption: str) -> UInt8Array:
    band = np.full((_BAND, picture.shape[1], 3), _PAPER, np.uint8)
    cv2.putText(band, caption, (1, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, _INK, 1, cv2.LINE_AA)
    cell = np.concatenate([picture, band], 0)
    return np.asarray(np.pad(cell, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=_PAPER), np.uint8)


def encode(picture: UInt8Array) -> bytes:
    """A JPEG without loss of colour resolution, as good as fits into :data:`MOST_BYTES`.

    Raises:
        DataError: Nothing fits.
    """
    for quality in range(95, 50, -3):
        options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
                   cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, cv2.IMWRITE_JPEG_OPTIMIZE, 1]  # fmt: skip
        done, data = cv2.imencode(".jpg", picture[..., ::-1], options)
        if done and len(data) <= MOST_BYTES:
            return bytes(data)
    raise DataError(f"a picture of {picture.shape[1]} x {picture.shape[0]} px does not fit into {MOST_BYTES} bytes")


def make_studio(data: Path, cache: Path) -> Studio:
    """A simulator over the generated faces and the free rooms.

    Raises:
        DataError: The face pack lacks one of them.
    """
    wanted = {p.key: p for p in read_manifest(data, ["train", "dev", "test"])}
    names = [path.name for path in sorted((data / "backgrounds").glob("*.jpg"))]
    missing = [*(set(FACES) - set(wanted)), *(set(ROOMS) - set(names))]
    if missing:
        raise DataError(f"{data} lacks {', '.join(sorted(missing))}")
    pictures = [wanted[key] for key in FACES]
    rooms = read_backgrounds(data)[[names.index(name) for name in ROOMS]]
    tiles, meshes = build_tiles(pictures, cache / "tiles.npy"), build_meshes(data, pictures, cache / "meshes.npy")
    return Studio(Simulator(pictures, tiles, rooms, seed=_SEED, meshes=meshes, depth=True))


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder of the pictures.")] = Path("docs/images"),
    data: Annotated[Path | None, typer.Option(help="Folder of the face pack; default: $FASEDGE_DATA.")] = None,
    only: Annotated[list[str] | None, typer.Option("--only", help="Only these figures; can be repeated.")] = None,
) -> None:
    """Draw the pictures of the simulator's page."""
    unknown = set(only or ()) - set(FIGURES)
    if unknown:
        raise typer.BadParameter(f"no figure {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:
        studio = make_studio(data_folder(data), Path(cache))
        for name, (figure, side) in FIGURES.items():
            if only and name not in only:
                continue
            picture = encode(sheet(studio.simulator, figure(studio), side, with_depth=name in WITH_DEPTH))
            path = out / f"simulator-{name}.jpg"
            path.write_bytes(picture)
            console.print(f"{path}: {len(picture):,} bytes")


if __name__ == "__main__":
    sys.exit(run_program(app))
