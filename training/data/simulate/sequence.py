"""Sequences of one to three seconds: the sample of a number, seen at several moments.

What is drawn for the sample stays (who, medium, light, camera); what moves is drawn beside it:

- the camera, and a medium in a hand, drift and tremble: the view changes, as one plane;
- a living head turns about its neck, with parallax from its height over the tile, blinks and moves its mouth; a worn
  mask turns as the head does, without expression (eye holes are not told apart);
- a replayed video shows such a head on its flat screen, at the video's own frame rate, and jumps when it restarts;
  a replayed picture and a print show none;
- bands of a screen wander, its brightness flickers; noise of the sensor is fresh in every frame; exposure, colour and
  levels are held or follow slowly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fasedge.types import FloatArray, UInt8Array, UInt16Array
from training.data.simulate import compose
from training.data.simulate.draws import Draws, Value
from training.data.simulate.moment import Memory, Moment
from training.data.simulate.motion import UNIT_MM, MovingHead, Path, Pose, blink_closure
from training.data.simulate.optics import apply, grid, sample
from training.data.simulate.simulator import Sample, Simulator
from training.data.simulate.species import BONA_FIDE
from training.data.simulate.threads import one_thread
from training.errors import DataError

#: Frames that are rendered together; bounds the memory.
_BATCH = 8
#: Longest clip in frames: a request beyond it is a mistake.
MAX_FRAMES = 1000
#: Longest motion blur in a sequence, canvas pixels; that of single pictures is drawn up to 11.
_LONGEST_BLUR_PX = 9.0
#: Keeps the draws of sequences apart from those of samples.
_PURPOSE = 1
_FLAT = frozenset({"replay", "print"})
_STANDING = frozenset({"laptop", "monitor"})
Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A simulated sequence.

    Attributes:
        frames: uint8 (T, P, P, 3), red first.
        boxes_xyxy: float32 (T, 4), face box in each frame, pixels.
        timestamps_s: float64 (T,), from 0.
        label: 1 bona fide, 0 attack.
        species: PAI species, or ``bona_fide``.
        subtype: Kind of medium, or ``bona_fide``.
        source: Number of the face picture in the simulator's list.
        params: Everything that was drawn once; names of the sequence begin with ``clip_``.
        tracks: Everything that changes, float32 (T,) each, by name; angles in radians, lengths in tile units.
        depth_mm: uint16 (T, P, P), 0 where nothing returns, or ``None`` where depth is not simulated.
    """

    frames: UInt8Array
    boxes_xyxy: FloatArray
    timestamps_s: Times
    label: int
    species: str
    subtype: str
    source: int
    params: dict[str, Value]
    tracks: dict[str, FloatArray]
    depth_mm: UInt16Array | None


def make_clip(simulator: Simulator, index: int, seconds: float = 2.0, fps: float = 15.0) -> Clip:
    """Make the sequence of a sample's number.

    Args:
        simulator: Draws and renders; its meshes give heads their shape, without them heads are ellipsoids.
        index: Number of the sample; the same number and times give the same bytes.
        seconds: Length, more than 0.
        fps: Frames per second, more than 0.

    Returns:
        The clip, of ``max(1, round(seconds * fps))`` frames.

    Raises:
        DataError: Length or rate are not positive numbers, or too many frames.
    """
    check_times(seconds, fps)
    times = np.arange(max(1, round(seconds * fps))) / fps
    still = simulator.draw(index)
    species = BONA_FIDE if still.values["bona_fide"] else str(still.values["species"])
    d = simulator.more_draws(index, _PURPOSE)
    draw_clip(d, species, str(still.values.get("subtype", BONA_FIDE)), str(still.values.get("camera", "")))
    still.values |= d.values
    with one_thread():
        tracks = view_tracks(d, still, times) | head_tracks(d, species, times)
        draws = _frames(simulator, d, still, tracks, times)
    samples: list[Sample] = []
    for start in range(0, len(draws), _BATCH):
        samples += simulator.render(draws[start : start + _BATCH])
    return _clip(samples, still, tracks, times, draws)


def check_times(seconds: float, fps: float) -> None:
    """Refuse what no clip can be.

    Raises:
        DataError: Length or rate are not positive numbers, or too many frames.
    """
    if not (0 < seconds < math.inf and 0 < fps < math.inf) or seconds * fps > MAX_FRAMES:
        raise DataError(f"a clip needs seconds > 0, fps > 0 and at most {MAX_FRAMES} frames, got {seconds} at {fps}/s")


def draw_clip(d: Draws, species: str, subtype: str, camera: str) -> None:
    """Draw what a sequence needs beside its sample: amplitudes, rates and time constants.

    Ranges: physiological tremor 8 to 12 Hz at tenths of a millimetre (Deuschl, Bain and Brin 1998); drift of a hand
    below 3 Hz at millimetres; 5 to 30 blinks a minute of 0.15 to 0.4 s (Bentivoglio et al. 1997: 17 at rest).
    """
    held = d.chance("clip_camera_held", 0.9 if "phone" in camera else 0.1 if camera else 0.5)
    d.loguniform("clip_camera_drift", *((0.5, 6.0) if held else (0.001, 0.05)))
    d.loguniform("clip_camera_tremor", *((0.05, 0.4) if held else (0.001, 0.02)))
    flat = species in _FLAT
    in_hand = d.chance("clip_medium_held", (0.1 if subtype in _STANDING else 0.8) if flat else 0.0)
    d.loguniform("clip_medium_drift", *((1.0, 12.0) if in_hand else (0.001, 0.05)))
    d.loguniform("clip_medium_tremor", *((0.1, 0.6) if in_hand else (0.001, 0.02)))
    d.loguniform("clip_medium_tilt", *((0.003, 0.05) if in_hand else (1e-5, 1e-4)))
    for name in ("yaw", "pitch", "roll"):
        d.loguniform(f"clip_head_{name}_deg", 0.5, 9.0 if name == "yaw" else 5.0)
    d.loguniform("clip_head_sway", 1.0, 12.0)
    d.uniform("clip_blinks_per_minute", 5, 30)
    d.uniform("clip_blink_s", 0.15, 0.4)
    d.sometimes("clip_expression", 0.6, 0.1, 1.0)
    d.loguniform("clip_distance_mm", 350, 1000)
    video = d.chance("clip_video", 0.75 if species == "replay" else 0.0)
    d.derive("clip_head_moves", int(video or not flat))
    d.loguniform("clip_loop_s", 0.6, 8.0)
    d.uniform("clip_loop_start", 0.0, 1.0)
    d.choice("clip_video_fps", ("24", "25", "30"))
    d.uniform("clip_band_hz", -12.0, 12.0)
    d.sometimes("clip_flicker", 0.3, 0.005, 0.06)
    d.uniform("clip_flicker_hz", 0.5, 15.0)
    d.loguniform("clip_exposure_s", 0.002, 0.04)
    d.loguniform("clip_adaptation_s", 0.3, 30.0)


def view_tracks(d: Draws, still: Draws, times: Times) -> dict[str, FloatArray]:
    """How the view changes: hands at camera and medium, screen; every track by the parameter that it replaces."""
    rng, v, base = d.generator(0), d.values, still.values
    span = 1 / UNIT_MM

    def path(name: str, slow: float, fast: float = 0.0) -> Times:
        drift = Path(rng, 0.2, 3.0, slow)
        tremor = Path(rng, 8.0, 12.0, fast)
        return drift(times) + tremor(times)

    def total(drift: str, tremor: str) -> Times:
        return path(drift, float(v[drift]) * span, float(v[tremor]) * span)

    camera = [total("clip_camera_drift", "clip_camera_tremor") for _ in range(3)]
    medium = [total("clip_medium_drift", "clip_medium_tremor") for _ in range(3)]
    tilt = float(v["clip_medium_tilt"])
    shifts = {
        "view_x": camera[0] + medium[0],
        "view_y": camera[1] + medium[1],
        "view_roll": 0.5 * (camera[2] + medium[2]),
        "view_tilt_x": path("tilt", tilt),
        "view_tilt_y": path("tilt", tilt),
    }
    tracks = {name: float(base[name]) + change for name, change in shifts.items()}
    nearer = path("zoom", 0.7 * span * (float(v["clip_camera_drift"]) + float(v["clip_medium_drift"])))
    tracks["view_zoom"] = float(base["view_zoom"]) * np.exp(nearer)
    tracks |= _blur(tracks, still, times, float(v["clip_exposure_s"]))
    if "display_band_phase" in base:
        phase = float(base["display_band_phase"]) + 2 * math.pi * float(v["clip_band_hz"]) * times
        tracks["display_band_phase"] = phase % (2 * math.pi)
        swing = float(v["clip_flicker"]) * np.sin(2 * math.pi * float(v["clip_flicker_hz"]) * times)
        tracks["display_over"] = np.maximum(0.0, float(base["display_over"]) + swing)
    return {name: np.asarray(values, np.float32) for name, values in tracks.items()}


def _blur(tracks: dict[str, Times], still: Draws, times: Times, exposure_s: float) -> dict[str, Times]:
    """Motion blur from the view's own speed over the exposure time, in canvas pixels."""
    px = int(still.values["sensor_px"]) / 2 / (compose.half_canvas([still]) * compose.BASE_ZOOM)
    if len(times) < 2:
        zero = np.zeros(len(times))
        return {"motion": zero, "motion_angle": zero}
    vx, vy = np.gradient(tracks["view_x"], times), np.gradient(tracks["view_y"], times)
    length = np.hypot(vx, vy) * exposure_s * px
    # Below half a pixel there is nothing to see, and a filter saved.
    return {"motion": np.where(length < 0.5, 0.0, np.minimum(length, _LONGEST_BLUR_PX)),
            "motion_angle": np.arctan2(vy, vx) % math.pi}  # fmt: skip


def head_tracks(d: Draws, species: str, times: Times) -> dict[str, FloatArray]:
    """Pose and expression of the head, before the camera or in the replayed video; zero where no head moves."""
    rng, v = d.generator(1), d.values
    clock = content_times(d, times) if species == "replay" else times
    degree, span = math.pi / 180, 1 / UNIT_MM
    moves = float(v["clip_head_moves"])
    tracks = {
        name: Path(rng, 0.1, 1.0, float(v[f"clip_head_{name}_deg"]) * degree)(clock)
        for name in ("yaw", "pitch", "roll")
    }
    tracks |= {name: Path(rng, 0.1, 0.8, float(v["clip_head_sway"]) * span)(clock) for name in ("x", "y")}
    gaps = rng.exponential(60 / float(v["clip_blinks_per_minute"]), 64)
    starts = np.cumsum(gaps) - rng.uniform(0, 2)
    alive = 0.0 if species in {"mask", "partial"} else 1.0
    tracks["blink"] = alive * blink_closure(clock, starts, float(v["clip_blink_s"]))
    strength = alive * float(v["clip_expression"])
    tracks["smile"] = strength * Path(rng, 0.1, 0.8, 0.008)(clock)
    tracks["jaw"] = strength * Path(rng, 0.3, 2.5, 0.010)(clock)
    tracks["content_s"] = clock
    return {
        f"head_{name}": np.asarray(values * (1 if name == "content_s" else moves), np.float32)
        for name, values in tracks.items()
    }


def content_times(d: Draws, times: Times) -> Times:
    """Time within the replayed video: it starts somewhere, restarts at its end, and advances in its own frames."""
    loop, rate = float(d.values["clip_loop_s"]), float(d.values["clip_video_fps"])
    inside = (times + float(d.values["clip_loop_start"]) * loop) % loop
    return np.floor(inside * rate + 1e-9) / rate


def _frames(simulator: Simulator, d: Draws, still: Draws, tracks: dict[str, FloatArray], times: Times) -> list[Draws]:
    """The sample's parameters at each moment."""
    tile, mesh = simulator.scene_of(int(still.values["picture"]))
    distance = float(d.values["clip_distance_mm"]) / UNIT_MM
    head = MovingHead(
        None if mesh is None else mesh.relief[0, 0], None if mesh is None else mesh.landmarks[0], distance
    )
    memory = Memory(float(d.values["clip_adaptation_s"]))
    moves = bool(d.values["clip_head_moves"])
    changing = [name for name in tracks if not name.startswith("head_")]
    out: list[Draws] = []
    last: tuple[float, Tensor] | None = None
    for k in range(len(times)):
        content = float(tracks["head_content_s"][k])
        if moves and (last is None or last[0] != content):
            last = content, head.flow(pose_at(tracks, k))
        flow = last[1] if last is not None else None
        video = still.values.get("species") == "replay"
        moment = Moment(
            elapsed_s=float(times[k] - times[k - 1]) if k else 0.0,
            noise=d.generator(2, k),
            memory=memory,
            tile=_warp(tile, flow) if video and flow is not None else None,
            flow=None if video else flow,
        )
        out.append(still.at(moment, {name: float(tracks[name][k]) for name in changing}))
    return out


def pose_at(tracks: dict[str, FloatArray], k: int) -> Pose:
    """The head's pose in a frame."""
    return Pose(
        **{n: float(tracks[f"head_{n}"][k]) for n in ("yaw", "pitch", "roll", "x", "y", "blink", "smile", "jaw")}
    )


def _warp(tile: UInt8Array, flow: Tensor) -> UInt8Array:
    """A tile with its head moved: uint8 (T, T, 3)."""
    size = len(tile)
    fine = torch.nn.functional.interpolate(flow[None], (size, size), mode="bilinear", align_corners=False)
    pixels = torch.from_numpy(np.array(tile)).permute(2, 0, 1)[None].float()
    out = sample(pixels, grid(size, size)[None] + fine.permute(0, 2, 3, 1))
    return np.asarray(out[0].permute(1, 2, 0).round().to(torch.uint8).numpy(), np.uint8)


def _clip(
    samples: Sequence[Sample], still: Draws, tracks: dict[str, FloatArray], times: Times, draws: Sequence[Draws]
) -> Clip:
    first = samples[0]
    maps = [m for s in samples if (m := s.depth_mm) is not None]
    boxes = np.array([s.box_xyxy for s in samples], np.float32)
    boxes += np.tile(_drift(draws, first.picture.shape[0]), (1, 2))
    return Clip(
        frames=np.stack([s.picture for s in samples]),
        boxes_xyxy=boxes,
        timestamps_s=times,
        label=first.label,
        species=first.species,
        subtype=first.subtype,
        source=first.source,
        params=dict(still.values),
        tracks=tracks,
        depth_mm=np.stack(maps) if len(maps) == len(samples) else None,
    )


def _drift(draws: Sequence[Draws], size: int) -> FloatArray:
    """How far the moved heads' middles lie from the view's, pixels (T, 2): the box follows the head."""
    matrices = compose.view_matrices(draws)
    middle = torch.zeros(len(draws), 1, 1, 2)
    flows = [d.moment.flow if d.moment is not None else None for d in draws]
    for i, flow in enumerate(flows):
        if flow is not None:
            h, w = flow.shape[1:]
            middle[i, 0, 0] = -flow[:, h // 2 - 8 : h // 2 + 8, w // 2 - 8 : w // 2 + 8].mean((1, 2))
    inverse = torch.linalg.inv(matrices)
    offset = apply(inverse, middle) - apply(inverse, torch.zeros_like(middle))
    return np.asarray((offset[:, 0, 0] * (size / (2 * compose.half_canvas(draws)))).numpy(), np.float32)
