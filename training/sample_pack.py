"""The sample pack: a few licensed pictures that ship with fasedge and that ``fasedge demo`` judges.

Everything in it follows from the face pack and the constants below; no picture is chosen by what a model says of it.

* People come from the *test* split: London with groups in turn (:func:`london_order`), Congress by the SHA-256 of the
  identity. The first six of each are bona fide, the next four attacks; London's eleventh is in the clip, its twelfth
  has depth. Nobody is in two of these.
* An attack is the first sample of the simulator (seed :data:`SEED`, numbers from 0 up) that shows the wanted person on
  the wanted medium, in which the face finder finds exactly one face, which passes fasedge's own quality gates, and
  whose room, if it can be seen, fills the picture. How strong or plain the attack looks is left as drawn.
* All still colour pictures are stored in the same way (JPEG, :data:`JPEG_QUALITY`), whatever they show.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import itertools
import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from fasedge.errors import FasEdgeError
from fasedge.faces import FaceFinder, open_finder
from fasedge.quality import assess
from fasedge.sources import open_source
from fasedge.types import Frame, UInt8Array, UInt16Array
from training.data.manifest import FacePicture, read_manifest
from training.data.simulate import SPECIES, Simulator
from training.data.simulate.draws import Draws, Value
from training.data.simulate.scene import build_tiles, read_backgrounds
from training.errors import DataError
from training.sample_credits import attribution_page, credit
from training.sample_depth import render_depth

SEED = 20260
JPEG_QUALITY = 88
#: Longer side of the photographs; smaller ones are not enlarged.
PHOTO_PX = 600
#: Simulated pictures: side, and sensor sides with their shares, as in training but 2.5 times as fine.
ATTACK_PX, ATTACK_SENSORS_PX, ATTACK_TILE_PX = 480, {"480": 0.7, "600": 0.3}, 800
#: The clip, a little smaller.
CLIP_PX, CLIP_SENSORS_PX, CLIP_TILE_PX = 400, {"400": 0.7, "500": 0.3}, 666
CLIP_FPS, CLIP_FRAMES = 15.0, 23
#: Rooms behind the attacks: CC0 only, so that an attack carries no licence but that of its face.
ROOMS = ("skimage_brick.jpg", "skimage_coffee.jpg", "skimage_grass.jpg", "skimage_gravel.jpg")
#: (species, subtype) of the attacks; even places show London, odd ones Congress.
ATTACKS = tuple((name, subtype) for name in ("replay", "print") for subtype in SPECIES[name].subtypes)
_BONA_FIDE_EACH, _ATTACKS_EACH = 6, len(ATTACKS) // 2
_MAX_TRIES = 200_000

Entry = dict[str, object]


@dataclass(slots=True)
class _Pack:
    """The folder under construction: what was written, and the finder that checks it."""

    out: Path
    finder: FaceFinder
    entries: list[Entry] = field(default_factory=list)

    def usable(self, frame: Frame) -> bool:
        """Whether the finder finds exactly one face, fit to be judged."""
        faces = self.finder.find(frame.rgb)
        return len(faces) == 1 and assess(frame, faces[0]).is_usable

    def reads_usable(self, name: str) -> bool:
        """Whether a file, read back as the demo reads it, is usable in every frame."""
        with contextlib.closing(open_source(str(self.out / name))) as source:
            return all(isinstance(frame, Frame) and self.usable(frame) for frame in source)

    def write(self, name: str, data: bytes) -> None:
        """Write one file of the pack."""
        (self.out / name).write_bytes(data)

    def write_photo(self, name: str, picture: FacePicture) -> None:
        """Write a photograph.

        Raises:
            DataError: It is not usable.
        """
        self.write(name, jpeg(_photo(picture)))
        if not self.reads_usable(name):
            raise DataError(f"{picture.key}: the face finder does not find exactly one face that is fit to be judged")

    def add(self, name: str, kind: str, picture: FacePicture, change: str, **more: object) -> None:
        """List a file in the index; ``more`` may name the species and whatever else is known."""
        species = more.pop("species", None)
        self.entries.append(
            {
                "file": name,
                "kind": kind,
                "truth": "attack" if species else "bona_fide",
                "species": species,
                "attribution": credit(picture.source, change),
                "licence": picture.licence,
                "source": picture.source,
                "made_from": picture.key,
                "changes": change,
                **more,
            }
        )


def build_pack(data: Path, out: Path) -> list[Path]:
    """Build the sample pack.

    Args:
        data: Folder of the face pack.
        out: Folder to write; files of an earlier pack in it are replaced.

    Returns:
        The files of the pack.

    Raises:
        DataError: The face pack lacks what is needed, a photograph shows no usable face, no engine for the face finder
            is installed, or ``out`` holds files that do not belong to the pack.
    """
    out.mkdir(parents=True, exist_ok=True)
    london, congress = london_order(data), congress_order(data)
    n = _BONA_FIDE_EACH
    try:
        with open_finder("blazeface") as finder:
            pack = _Pack(out, finder)
            _photographs(pack, [*london[:n], *congress[:n]])
            people = [p for pair in zip(london[n:], congress[n : n + _ATTACKS_EACH], strict=False) for p in pair]
            _attacks(pack, data, people)
            _clip(pack, data, london[n + _ATTACKS_EACH])
            _with_depth(pack, data, london[n + _ATTACKS_EACH + 1])
    except FasEdgeError as error:
        raise DataError(f"the sample pack is checked with fasedge's face finder, which failed: {error}") from error
    pack.write("index.json", (json.dumps(pack.entries, indent=1) + "\n").encode())
    pack.write("ATTRIBUTION.md", attribution_page(pack.entries).encode())
    files = {"index.json", "ATTRIBUTION.md"} | {
        str(entry[key]) for entry in pack.entries for key in ("file", "depth_file") if key in entry
    }
    if strays := sorted(p.name for p in out.iterdir() if p.name not in files):
        raise DataError(f"{out} holds files that are not part of the sample pack, delete them: {', '.join(strays)}")
    return [out / name for name in sorted(files)]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def london_order(data: Path) -> list[FacePicture]:
    """London people of the test split in the order in which the pack takes them, a picture each.

    Within each self-reported group people are sorted by the SHA-256 of their identity; the groups take turns in
    alphabetical order until all are used up. Even places show the neutral face, odd ones the smiling one.

    Raises:
        DataError: Too few people.
    """
    pictures = {p.key: p for p in read_manifest(data, ["test"]) if p.source == "london"}
    by_group: dict[str, dict[str, dict[str, FacePicture]]] = defaultdict(lambda: defaultdict(dict))
    with (data / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            if row["path"] in pictures:
                attributes = dict(item.split("=", 1) for item in row["attributes"].split(";"))
                people = by_group[attributes["eth_self"]]
                people[row["identity"]][attributes["expression"]] = pictures[row["path"]]
    queues = [sorted(people.items(), key=lambda item: _sha256(item[0])) for _, people in sorted(by_group.items())]
    longest = max((len(queue) for queue in queues), default=0)
    order = [queue[turn][1] for turn in range(longest) for queue in queues if turn < len(queue)]
    chosen = [faces[("neutral", "smiling")[place % 2]] for place, faces in enumerate(order)]
    return _enough(chosen, _BONA_FIDE_EACH + _ATTACKS_EACH + 2, "london")


def congress_order(data: Path) -> list[FacePicture]:
    """Congress people of the test split, by the SHA-256 of their identity.

    Raises:
        DataError: Too few people.
    """
    pictures = [p for p in read_manifest(data, ["test"]) if p.source == "congress"]
    return _enough(sorted(pictures, key=lambda p: _sha256(p.identity)), _BONA_FIDE_EACH + _ATTACKS_EACH, "congress")


def _enough(pictures: list[FacePicture], needed: int, source: str) -> list[FacePicture]:
    if len(pictures) < needed:
        raise DataError(f"the sample pack needs {needed} people of {source} in the test split, got {len(pictures)}")
    return pictures


def _photo(picture: FacePicture) -> UInt8Array:
    """The photograph, at most ``PHOTO_PX`` along its longer side."""
    rgb = picture.read(verify=True)
    factor = min(1.0, PHOTO_PX / max(rgb.shape[:2]))
    size = (round(rgb.shape[1] * factor), round(rgb.shape[0] * factor))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def _encode(ending: str, pixels: UInt8Array | UInt16Array, options: Sequence[int]) -> bytes:
    ok, data = cv2.imencode(ending, pixels, list(options))
    if not ok:
        raise DataError(f"OpenCV could not write a {ending} file: is that codec missing?")
    return data.tobytes()


def jpeg(rgb: UInt8Array) -> bytes:
    """A picture, uint8 (h, w, 3), red first, as a JPEG file of the pack's quality."""
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    return _encode(".jpg", np.ascontiguousarray(rgb[..., ::-1]), options)


def _photographs(pack: _Pack, pictures: Sequence[FacePicture]) -> None:
    for number, picture in enumerate(pictures, 1):
        name = f"{number:02d}_bona_fide_{picture.source}.jpg"
        pack.write_photo(name, picture)
        pack.add(name, "image", picture, "resized")


def free_rooms(data: Path) -> UInt8Array:
    """The backgrounds :data:`ROOMS`, uint8 (4, h, w, 3).

    Raises:
        DataError: The face pack lacks one.
    """
    rooms = read_backgrounds(data)
    names = [path.name for path in sorted((data / "backgrounds").glob("*.jpg"))]
    if missing := sorted(set(ROOMS) - set(names)):
        raise DataError(f"{data / 'backgrounds'} lacks {', '.join(missing)}")
    return rooms[[names.index(name) for name in ROOMS]]


def _simulator(data: Path, people: Sequence[FacePicture], px: int, sensors: dict[str, float], tile: int) -> Simulator:
    rooms = free_rooms(data)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        tiles = np.array(build_tiles(people, Path(folder) / "tiles.npy", tile_px=tile))
    return Simulator(people, tiles, rooms, seed=SEED, picture_px=px, sensors_px=sensors, bona_fide_share=0.0)


def _within_cuts(picture: UInt8Array, values: dict[str, Value]) -> UInt8Array:
    """Cut off the margins that the simulator fills with the repeated edge, as a crop for the network would."""
    side = picture.shape[0]
    left, top, right, bottom = (int(float(values[f"cut_{s}"]) * side) for s in ("left", "top", "right", "bottom"))
    return np.ascontiguousarray(picture[top : side - bottom, left : side - right])


def _room_fills(values: dict[str, Value]) -> bool:
    """Whether the room's picture covers the view; beyond it the simulator repeats its edge, which shows as streaks."""
    reach = max(abs(float(values["room_x"])), abs(float(values["room_y"])))
    return not values["edge_visible"] or float(values["room_zoom"]) + reach <= 1


def _candidates(simulator: Simulator, person: int, **wanted: Value) -> Iterator[tuple[int, Draws]]:
    """Samples that show a person and have the wanted parameters, by rising number."""
    for index in range(_MAX_TRIES):
        draws = simulator.draw(index)
        values = draws.values
        if values["picture"] == person and all(values.get(k) == v for k, v in wanted.items()) and _room_fills(values):
            yield index, draws


def _attacks(pack: _Pack, data: Path, people: Sequence[FacePicture]) -> None:
    simulator = _simulator(data, people, ATTACK_PX, ATTACK_SENSORS_PX, ATTACK_TILE_PX)
    for person, (species, subtype) in enumerate(ATTACKS):
        name = f"{len(pack.entries) + 1:02d}_attack_{species}_{subtype}.jpg"
        index, draws = _write_attack(pack, name, simulator, person, subtype)
        made = {"seed": SEED, "index": index, "picture_px": ATTACK_PX, "params": draws.values}
        what = f"altered: simulated presentation attack ({species}, {subtype.replace('_', ' ')})"
        pack.add(name, "image", people[person], what, species=species, subtype=subtype, simulation=made)


def _write_attack(pack: _Pack, name: str, simulator: Simulator, person: int, subtype: str) -> tuple[int, Draws]:
    for index, draws in _candidates(simulator, person, subtype=subtype):
        pack.write(name, jpeg(_within_cuts(simulator.render([draws])[0].picture, draws.values)))
        if pack.reads_usable(name):
            return index, draws
    raise DataError(f"none of the first {_MAX_TRIES} samples gives a usable picture of a {subtype}")


def moved(values: dict[str, Value], frame: int) -> dict[str, Value]:
    """Parameters of one frame of the clip: a medium held in an unsteady hand, and the screen's bands rolling on.

    Args:
        values: Parameters of the first frame.
        frame: Number of the frame, from 0.
    """
    t = 2 * math.pi * frame / CLIP_FRAMES
    return {
        **values,
        "view_roll": float(values["view_roll"]) + 0.045 * math.sin(t),
        "view_zoom": float(values["view_zoom"]) * (1 + 0.05 * math.sin(0.7 * t)),
        "view_x": float(values["view_x"]) + 0.035 * math.sin(0.9 * t),
        "view_y": float(values["view_y"]) + 0.025 * math.sin(1.3 * t),
        "view_tilt_x": float(values["view_tilt_x"]) + 0.03 * math.sin(0.6 * t),
        "display_band_phase": float(values["display_band_phase"]) + 0.5 * frame,
    }


def _clip_frames(simulator: Simulator, index: int, values: dict[str, Value]) -> Iterator[Frame]:
    for number in range(CLIP_FRAMES):
        draws = Draws(SEED, index * CLIP_FRAMES + number)  # fresh sensor noise for every frame
        draws.values = moved(values, number)
        yield Frame(rgb=simulator.render([draws])[0].picture)


def _clip(pack: _Pack, data: Path, person: FacePicture) -> None:
    simulator = _simulator(data, [person], CLIP_PX, CLIP_SENSORS_PX, CLIP_TILE_PX)
    name = f"{len(pack.entries) + 1:02d}_attack_replay_clip.mp4"
    index, draws = _find_clip(pack, name, simulator)
    subtype = str(draws.values["subtype"])
    made = {"seed": SEED, "index": index, "picture_px": CLIP_PX, "fps": CLIP_FPS, "frames": CLIP_FRAMES}
    what = f"altered: simulated presentation attack (replay, {subtype}, in motion)"
    more = {"subtype": subtype, "simulation": {**made, "params": draws.values}}
    pack.add(name, "video", person, what, species="replay", **more)


def _find_clip(pack: _Pack, name: str, simulator: Simulator) -> tuple[int, Draws]:
    """Write the first uncut sample with a visible edge of the screen of which every frame is usable, in motion."""
    for index, draws in _candidates(simulator, 0, species="replay", edge_visible=1, cut=0):
        frames = list(itertools.takewhile(pack.usable, _clip_frames(simulator, index, draws.values)))
        if len(frames) < CLIP_FRAMES:
            continue  # found out at the first bad frame, before the rest is rendered
        _write_clip(pack.out / name, [frame.rgb for frame in frames])
        if pack.reads_usable(name):
            return index, draws
    raise DataError(f"none of the first {_MAX_TRIES} samples gives a usable clip")


def _write_clip(path: Path, frames: Sequence[UInt8Array]) -> None:
    """MPEG-4 part 2, which the FFmpeg inside every OpenCV wheel writes and reads; no date gets into the file."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), CLIP_FPS, (width, height))
    try:
        if not writer.isOpened():
            raise DataError(f"{path} cannot be written: this OpenCV lacks FFmpeg, or the folder is read-only")
        for frame in frames:
            writer.write(np.ascontiguousarray(frame[..., ::-1]))
    finally:
        writer.release()


def _with_depth(pack: _Pack, data: Path, picture: FacePicture) -> None:
    rgb = _photo(picture)
    with np.load(data / "landmarks" / f"{picture.source}.npz", allow_pickle=False) as landmarks:
        if picture.key not in landmarks:
            raise DataError(f"{data / 'landmarks'} has no face mesh of {picture.key}")
        points = landmarks[picture.key].astype(np.float64)
    full = picture.read()
    depth = render_depth(rgb, points * (rgb.shape[1] / full.shape[1]), SEED)
    stem = f"{len(pack.entries) + 1:02d}_bona_fide_with_depth"
    pack.write(f"{stem}_depth_mm.png", _encode(".png", depth, [cv2.IMWRITE_PNG_COMPRESSION, 9]))
    pack.write_photo(f"{stem}_rgb.jpg", picture)
    change = "resized; depth map rendered from face landmarks, not measured"
    pack.add(f"{stem}_rgb.jpg", "rgbd", picture, change, depth_file=f"{stem}_depth_mm.png", depth_is="rendered")
