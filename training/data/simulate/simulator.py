"""The simulator: from a sample's number to its picture, physics in order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fasedge.types import UInt8Array, UInt16Array
from training.data.manifest import FacePicture
from training.data.simulate import (
    camera,
    capture,
    colour,
    compose,
    cutout,
    depth,
    display,
    light,
    mask,
    moment,
    overlay,
    paper,
    partial,
    wearing,
)
from training.data.simulate.casting import WORN, Cast
from training.data.simulate.draws import Draws, Value, column
from training.data.simulate.facefit import WINDOW
from training.data.simulate.mesh import FaceMeshes, MeshBatch
from training.data.simulate.optics import apply, blur, sample
from training.data.simulate.scene import to_tensor
from training.data.simulate.species import BONA_FIDE, SPECIES
from training.data.simulate.threads import one_thread
from training.errors import DataError

if TYPE_CHECKING:
    from training.data.simulate.sequence import Clip

#: Side of a simulated picture in pixels; the face box is about 96 px wide in it.
PICTURE_PX = 192
#: Sensor pixels along the canvas of such a picture, and how often: small and medium faces on the victim's sensor.
SENSORS_PX = {"192": 0.7, "240": 0.3}
#: Samples of a kind that the CPU works out together.
_AT_ONCE = 4


def sensors_for(picture_px: int) -> dict[str, float]:
    """Sensors for pictures of this side, as :data:`SENSORS_PX` are for 192 px: even numbers, and how often."""
    return {str(2 * round(int(px) * picture_px / PICTURE_PX / 2)): share for px, share in SENSORS_PX.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One simulated presentation.

    Attributes:
        picture: uint8 (P, P, 3), P the simulator's ``picture_px``, red first, ``canvas_scale``
            times as wide as the face box, about.
        box_xyxy: Face box in the picture, pixels.
        label: 1 bona fide, 0 attack.
        species: PAI species, or ``bona_fide``.
        subtype: Kind of medium, or ``bona_fide``.
        source: Number of the face picture in the simulator's list.
        params: Everything that was drawn.
        depth_mm: uint16 (P, P), what a depth camera measures at each place of the picture, millimetres, 0 where
            nothing returns; ``None`` where depth is not simulated.
    """

    picture: UInt8Array
    box_xyxy: tuple[float, float, float, float]
    label: int
    species: str
    subtype: str
    source: int
    params: dict[str, Value]
    depth_mm: UInt16Array | None = None


class Simulator:
    """Draws samples from licensed face pictures.

    Args:
        pictures: The face pictures of one split.
        tiles: Their tiles, uint8 (n, T, T, 3), see :func:`training.data.simulate.scene.build_tiles`; ``T`` should grow
            with ``picture_px``.
        backgrounds: Rooms without people, uint8 (m, h, w, 3).
        seed: Seed of the set.
        bona_fide_share: Share of bona fide presentations.
        picture_px: Side of the pictures in pixels; the same parameters are drawn for any, but for the sensors.
        canvas_scale: Side of the pictures over the side of the face box, 2.0 to 2.6.
        sensors_px: Sensor pixels along the canvas, even numbers, and how often each is drawn; by default 1.0 and 1.25
            times ``picture_px``, see :func:`sensors_for`.
        meshes: Meshes of the pictures, see :func:`training.data.simulate.mesh.build_meshes`. Without, and where no two
            people have one, no masks and no partial attacks are drawn.
        depth: Simulate a depth camera too; the pictures are the same with and without.
        device: Where pictures are worked out; random numbers and codecs stay on the CPU, so that pictures are the same
            but for rounding.

    Raises:
        DataError: Lists of different lengths, nothing to draw from, a canvas too narrow or too wide, or a sensor with
            half a Bayer cell.
    """

    def __init__(
        self,
        pictures: Sequence[FacePicture],
        tiles: UInt8Array,
        backgrounds: UInt8Array,
        *,
        seed: int,
        bona_fide_share: float = 0.5,
        picture_px: int = PICTURE_PX,
        canvas_scale: float = compose.CANVAS_SCALE,
        sensors_px: Mapping[str, float] | None = None,
        meshes: FaceMeshes | None = None,
        depth: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        if not pictures or len(pictures) != len(tiles) or not len(backgrounds):
            raise DataError(
                f"the simulator needs a tile per picture and a background: {len(pictures)} pictures, "
                f"{len(tiles)} tiles, {len(backgrounds)} backgrounds"
            )
        if meshes is not None and len(meshes) != len(pictures):
            raise DataError(f"the simulator needs a mesh per picture: {len(pictures)} pictures, {len(meshes)} meshes")
        if not compose.CANVAS_SCALE <= canvas_scale <= compose.WIDEST_CANVAS:
            raise DataError(
                f"a canvas is {compose.CANVAS_SCALE} to {compose.WIDEST_CANVAS} face boxes wide, got {canvas_scale}"
            )
        sensors_px = sensors_for(picture_px) if sensors_px is None else sensors_px
        if not sensors_px or any(int(px) < 2 or int(px) % 2 for px in sensors_px):
            raise DataError(f"a sensor needs an even number of pixels along its side, got {', '.join(sensors_px)}")
        self.pictures = tuple(pictures)
        self._tiles = tiles
        self._backgrounds = backgrounds
        self._seed = seed
        self._share = bona_fide_share
        self._picture_px = picture_px
        self._canvas_scale = canvas_scale
        self._sensors_px = dict(sensors_px)
        self._meshes = meshes
        self._depth = depth
        self._device = torch.device(device)
        self._cast = Cast(pictures, meshes)

    def draw(self, index: int) -> Draws:
        """Draw every parameter of one sample: what it is first, then how it looks."""
        d = Draws(self._seed, index)
        if self._canvas_scale != compose.CANVAS_SCALE:
            d.derive("canvas_scale", self._canvas_scale)
        bona_fide = d.chance("bona_fide", self._share)
        weights = self._cast.species
        species = BONA_FIDE if bona_fide else d.choice("species", list(weights), list(weights.values()))
        self._cast.draw_picture(d, species)
        d.integer("background", 0, len(self._backgrounds))
        d.choice("sensor_px", list(self._sensors_px), list(self._sensors_px.values()))
        light.draw_room_light(d)
        camera.draw_camera(d)
        compose.draw_truncation(d)
        if species == BONA_FIDE:
            _draw_living(d)
        elif species in WORN:
            subtype = d.choice("subtype", SPECIES[species].subtypes, SPECIES[species].shares)
            _draw_living(d)
            if subtype != "mannequin":
                self._cast.draw_victim(d)
            (mask.draw_mask if species == "mask" else partial.draw_partial)(d, subtype)
        else:
            self._draw_attack(d, species)
        if self._depth:
            measured = self.more_draws(index, depth.PURPOSE)
            depth.draw_depth(measured, d.values)
            d.values |= measured.values
        return d

    def _draw_attack(self, d: Draws, species: str) -> None:
        subtype = d.choice("subtype", SPECIES[species].subtypes, SPECIES[species].shares)
        compose.draw_view(d, 0.22)
        capture.draw_capture(d, capture.REPLAYED_VIDEO if species == "replay" else capture.PRINTED_VIDEO)
        if species == "replay":
            compose.draw_surroundings(d, subtype, (0.03, 0.3))
            display.draw_display(d, subtype)
            overlay.draw_overlay(d)
            overlay.draw_interface(d, subtype)
            light.draw_glare(d, 0.45, 0.25)
            d.sometimes("screen_gradient", 0.6, 0.0, 0.6)
            d.choice("bezel", ("black", "dark", "white", "silver"), (0.6, 0.2, 0.12, 0.08))
        else:
            cutout.draw_cutout(d, subtype, held=self._cast.can_be_held(d))
            if d.values.get("holes"):
                self._cast.draw_holder(d)
            compose.draw_surroundings(d, subtype, (0.0, 0.35))
            paper.draw_paper(d, subtype)
            light.draw_glare(d, 0.35 if subtype == "photo_paper" else 0.08, 0.25)

    def samples(self, indices: Sequence[int]) -> list[Sample]:
        """Make samples by their numbers.

        Args:
            indices: Numbers of the samples; each stands for the same picture in any batch.

        Returns:
            The samples, in the order of ``indices``.
        """
        return self.render([self.draw(i) for i in indices])

    def clip(self, index: int, seconds: float = 2.0, fps: float = 15.0) -> Clip:
        """Make a short sequence of a sample: see :func:`training.data.simulate.sequence.make_clip`."""
        from training.data.simulate.sequence import make_clip

        return make_clip(self, index, seconds, fps)

    def more_draws(self, index: int, purpose: int) -> Draws:
        """Draws of a sample for another purpose, independent of those of its picture."""
        return Draws(self._seed, index, purpose)

    def scene_of(self, picture: int) -> tuple[UInt8Array, MeshBatch | None]:
        """Tile of a face picture, uint8 (T, T, 3), and its mesh, if the simulator has meshes."""
        return self._tiles[picture], None if self._meshes is None else self._meshes[[picture]]

    def cut_of(self, draws: Sequence[Draws]) -> cutout.Cut | None:
        """Where the sheets of some samples are cut, ``None`` where none is."""
        return cutout.plan(draws, self._meshes)

    def render(self, draws: Sequence[Draws]) -> list[Sample]:
        """Make samples from parameters, drawn by :meth:`draw` or altered since.

        Args:
            draws: Parameters of each sample; their noise generators move on, so each is good for one picture.

        Returns:
            The samples, in the order of ``draws``.
        """
        groups: dict[tuple[str, int, float], list[int]] = defaultdict(list)
        for place, d in enumerate(draws):
            species = BONA_FIDE if d.values["bona_fide"] else str(d.values["species"])
            groups[species, int(d.values["sensor_px"]), compose.half_canvas([d])].append(place)
        out: dict[int, Sample] = {}
        # A few at a time stay in a core's cache; an accelerator wants many.
        at_once = _AT_ONCE if self._device.type == "cpu" else len(draws)
        for (species, sensor_px, _), places in groups.items():
            for start in range(0, len(places), at_once):
                some = places[start : start + at_once]
                with one_thread(), self._on_device():
                    group = self._group(species, sensor_px, [draws[p] for p in some])
                out |= zip(some, group, strict=True)
        return [out[place] for place in range(len(draws))]

    def _on_device(self) -> AbstractContextManager[object]:
        """What operators make inside, they make on the device; the context takes time, so the CPU does without."""
        return nullcontext() if self._device.type == "cpu" else self._device

    def _group(self, species: str, sensor_px: int, draws: list[Draws]) -> list[Sample]:
        chosen = [int(d.values["picture"]) for d in draws]
        tiles = to_tensor(np.stack([moment.tile_of(d, self._tiles[i]) for d, i in zip(draws, chosen, strict=True)]))
        matrices = compose.view_matrices(draws)
        plane = moment.moved(apply(matrices, compose.canvas(sensor_px, draws)), draws)
        px = compose.px_per_tile_unit(sensor_px, draws)
        worn = self._wear(tiles, draws) if species in WORN else None
        cut = self.cut_of(draws) if species == "print" else None
        pattern: Tensor | None
        if worn is not None:
            radiance, pattern = self._worn(worn, plane, px, draws)
        elif species == "print":
            radiance, pattern = self._print(tiles, plane, px, draws, cut)
        else:
            present = {BONA_FIDE: self._bona_fide, "replay": self._replay}[species]
            radiance, pattern = present(tiles, plane, px, draws)
        moment.enter_camera(draws)
        pictures = camera.capture(radiance, draws, self._picture_px, pattern)
        maps = self._measure(species, worn, cut, draws) if self._depth else [None] * len(draws)
        # What is left is small and made of parts of single samples.
        with torch.device("cpu"):
            pictures = compose.truncate(torch.from_numpy(pictures), draws).numpy()
            boxes = compose.face_boxes(matrices.cpu(), self._picture_px, compose.half_canvas(draws))
        return [
            Sample(
                picture=pictures[i],
                box_xyxy=boxes[i],
                label=int(species == BONA_FIDE),
                species=species,
                subtype=str(d.values.get("subtype", BONA_FIDE)),
                source=chosen[i],
                params=d.values,
                depth_mm=maps[i],
            )
            for i, d in enumerate(draws)
        ]

    def _measure(
        self, species: str, worn: wearing.Worn | None, cut: cutout.Cut | None, draws: list[Draws]
    ) -> list[UInt16Array]:
        mesh = None if self._meshes is None else self._meshes[[cutout.stands_behind(d.values) for d in draws]]
        found = depth.depth_maps(draws, mesh, worn, self._picture_px, flat=species in depth.FLAT, cut=cut)
        return list(found.numpy().astype(np.uint16))

    def _room(self, draws: Sequence[Draws], size: int) -> Tensor:
        pictures = to_tensor(np.stack([self._backgrounds[int(d.values["background"])] for d in draws]))
        return compose.room(colour.bytes_to_linear(pictures), draws, size)

    @staticmethod
    def _look(tiles: Tensor, plane: Tensor, px: Tensor) -> Tensor:
        """Look tiles up through the view; tiles that are finer than the sensor are smoothed first."""
        ratio = tiles.shape[-1] / 2 / px
        return sample(blur(tiles, 0.45 * (ratio - 1).clamp_min(0), 5), plane)

    # Each presentation returns its light and the factor by which the sensor sees a fine pattern in it, if there is one.

    def _bona_fide(self, tiles: Tensor, plane: Tensor, px: Tensor, draws: list[Draws]) -> tuple[Tensor, None]:
        return self._living(colour.bytes_to_linear(tiles), plane, px, draws), None

    def _living(self, scene: Tensor, plane: Tensor, px: Tensor, draws: list[Draws]) -> Tensor:
        scene = blur(scene, column(draws, "lens_softness"), 7)
        seen = compose.clutter(self._look(scene, plane, px), plane, draws, px)
        framed = [i for i, d in enumerate(draws) if d.values["frame"]]
        if framed:
            some = [draws[i] for i in framed]
            shown = self._room(some, plane.shape[1])
            seen[framed] = compose.frame(seen[framed], plane[framed], some, px[framed], shown)
        return seen * light.room_light(draws, plane.shape[1])

    def _wear(self, tiles: Tensor, draws: list[Draws]) -> wearing.Worn:
        if self._meshes is None:
            raise DataError("masks and partial attacks need meshes; make the simulator with meshes")
        numbers = [int(d.values["picture"]) for d in draws]
        victims = [int(d.values.get("victim", d.values["picture"])) for d in draws]
        shown = to_tensor(np.stack([self._tiles[i] for i in victims]))
        return mask.wear(tiles, shown, self._meshes[numbers], self._meshes[victims], draws)

    def _worn(self, worn: wearing.Worn, plane: Tensor, px: Tensor, draws: list[Draws]) -> tuple[Tensor, Tensor]:
        seen = self._living(worn.light, plane, px, draws)
        pattern = torch.ones_like(seen)
        printed = worn.paper.amax((1, 2, 3)).nonzero().flatten()
        if len(printed):
            some, where = [draws[i] for i in printed.tolist()], plane[printed] / WINDOW
            sheet = sample(worn.sheet[printed].permute(0, 3, 1, 2), where).permute(0, 2, 3, 1)
            ink, paper_share = sample(worn.printed[printed], where), sample(worn.paper[printed], where)
            halftone = paper.screen(sheet, ink, some, camera.native_sensor(some))
            pattern[printed] = 1 + paper_share * (halftone - 1)
        return seen, pattern

    def _replay(self, tiles: Tensor, plane: Tensor, px: Tensor, draws: list[Draws]) -> tuple[Tensor, Tensor]:
        size = plane.shape[1]
        # The screen's scaler works on sRGB values; light comes after it.
        shown = self._look(capture.attackers_capture(tiles, draws), plane, px)
        behind = self._room(draws, size) * light.room_light(draws, size)
        shown = overlay.interface(shown, plane, draws, px, behind)
        emitted = display.emit(shown, draws) * display.banding(draws, size) * light.fall_off(draws, size)
        emitted = overlay.play_button(emitted, plane, draws, px)
        content = emitted + light.glare(draws, size, behind)
        levels = {"black": 0.006, "dark": 0.03, "white": 0.6, "silver": 0.35}
        rim = torch.tensor([levels[str(d.values["bezel"])] for d in draws]).view(-1, 1, 1, 1)
        rim_colour = (rim * column(draws, "room_level", 1.0)).expand(-1, 3, -1, -1)
        lit, shows = compose.surround(content, plane, behind=behind, rim_colour=rim_colour, draws=draws, px=px)
        # Only the screen's own light has its pixels; reflections veil them.
        structure = display.pixel_structure(plane, draws, camera.native_sensor(draws))
        return lit, 1 + shows * emitted / content.clamp_min(1e-6) * (structure - 1)

    def _print(
        self, tiles: Tensor, plane: Tensor, px: Tensor, draws: list[Draws], cut: cutout.Cut | None
    ) -> tuple[Tensor, Tensor]:
        size = plane.shape[1]
        bent, shading = paper.bend(plane, draws)
        reflectance = paper.reflect(self._look(capture.attackers_capture(tiles, draws), bent, px), draws)
        noise = paper.fibres(draws, size)
        content = (reflectance * (1 + noise)).clamp_min(0.002)
        white = (column(draws, "print_white", 0.8) * (1 + noise)).expand(-1, 3, -1, -1)
        illumination = light.room_light(draws, size)
        behind = self._room(draws, size) * illumination
        room = behind / illumination
        if cut is not None and cut.pierced:
            room[cut.pierced] = self._holders(plane, px, draws, cut) * cutout.under_sheet(bent, draws, px, cut)
        lit, shows = compose.surround(
            content * shading, bent, behind=room, rim_colour=white * shading, draws=draws, px=px, cut=cut
        )
        gloss = light.glare(draws, size, behind)
        diffuse = content * shading * illumination
        halftone = paper.screen(bent, reflectance, draws, camera.native_sensor(draws))
        return lit * illumination + gloss, 1 + shows * diffuse / (diffuse + gloss).clamp_min(1e-6) * (halftone - 1)

    def _holders(self, plane: Tensor, px: Tensor, draws: list[Draws], cut: cutout.Cut) -> Tensor:
        """Who stands behind sheets with holes, and their own rooms: linear light (m, 3, H, W)."""
        tiles = to_tensor(np.stack([self._tiles[int(draws[i].values["holder"])] for i in cut.pierced]))
        return self._look(colour.bytes_to_linear(tiles), cutout.onto_holder(plane, cut), px[cut.pierced])


def _draw_living(d: Draws) -> None:
    """What is drawn for a head that stands before the camera, alive or not: pose, things behind, softness."""
    compose.draw_view(d, 0.06)
    compose.draw_clutter(d)
    compose.draw_frame(d)
    d.sometimes("lens_softness", 0.5, 0.3, 1.3)
