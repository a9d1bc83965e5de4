"""The eight operators of FAS-Aug and the policy by which they are drawn.

Five of them turn a picture into an attack; three (trembling, resolution, camera colour) happen to both classes. Each
has a range of magnitudes; a policy applies two operators, drawn with replacement, at one of ten even steps of their
ranges, where step 0 means "not at all". Ranges, probabilities and policy are those of the released program
(``FAS_Augmentations.py``, ``transform.py``), at whose picture size of 256 px lengths in pixels are meant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from benchmarks.rivals import colour_spaces, textures
from fasedge.types import UInt8Array
from training.data.simulate.draws import Draws

#: Side of the pictures that FAS-Aug works on.
REFERENCE_PX = 256
#: Number of even steps of a magnitude.
STEPS = 10


def blend(picture: UInt8Array, layer: UInt8Array, alpha: float) -> UInt8Array:
    """``(1 - alpha) * picture + alpha * layer``; uint8 (H, W, 3) in and out."""
    mixed = (1 - alpha) * picture.astype(np.float32) + alpha * layer.astype(np.float32)
    return np.rint(mixed).astype(np.uint8)


def color_diversity(picture: UInt8Array, magnitude: float, d: Draws, slot: str) -> UInt8Array:
    """Another camera's colours: from one working space to another, both drawn evenly.

    The magnitude is without effect, as in the released program. Of its eleven spaces ten are known, see
    :data:`benchmarks.rivals.colour_spaces.RGB_SPACES`.
    """
    del magnitude
    names = list(colour_spaces.RGB_SPACES)
    return colour_spaces.convert(picture, d.choice(f"{slot}_from", names), d.choice(f"{slot}_to", names))


def color_distortion(picture: UInt8Array, magnitude: float, d: Draws, slot: str) -> UInt8Array:
    """A print's colours: complements as inks without black, a press, read into a working space; drawn evenly.

    The magnitude is without effect, as in the released program; its seven press profiles are six stand-ins here, see
    :data:`benchmarks.rivals.colour_spaces.PRESSES`.
    """
    del magnitude
    press = d.choice(f"{slot}_press", list(colour_spaces.PRESSES))
    return colour_spaces.print_and_read(picture, press, d.choice(f"{slot}_to", list(colour_spaces.RGB_SPACES)))


def hand_trembling(picture: UInt8Array, magnitude: float, d: Draws, slot: str) -> UInt8Array:
    """Motion blur along one of four directions over 1 to 16 px (of 256)."""
    direction = d.choice(f"{slot}_direction", ("horizontal", "vertical", "falling", "rising"))
    length = max(1, round(int(magnitude) * picture.shape[0] / REFERENCE_PX))
    kernel = np.zeros((length, length), np.float32)
    if direction == "horizontal":
        kernel[(length - 1) // 2] = 1
    elif direction == "vertical":
        kernel[:, (length - 1) // 2] = 1
    else:
        kernel += np.eye(length, dtype=np.float32)[:: 1 if direction == "falling" else -1]
    return np.asarray(cv2.filter2D(picture, -1, kernel / kernel.sum()), np.uint8)


_SHRINK = {
    "area": cv2.INTER_AREA,
    "cubic": cv2.INTER_CUBIC,
    "linear": cv2.INTER_LINEAR,
    "lanczos": cv2.INTER_LANCZOS4,
    "nearest": cv2.INTER_NEAREST,
}


def low_resolution(picture: UInt8Array, magnitude: float, d: Draws, slot: str) -> UInt8Array:
    """Shrunk to between 0.99 (magnitude 0.01) and 0.25 (0.9) of its side, and enlarged without smoothing.

    Five ways of shrinking and two of enlarging, drawn evenly.
    """
    shrink, enlarge = d.choice(f"{slot}_shrink", list(_SHRINK)), d.choice(f"{slot}_enlarge", ("area", "nearest"))
    height, width = picture.shape[:2]
    factor = 1 - magnitude * 5 / 6
    size = max(1, int(factor * width)), max(1, int(factor * height))
    small = cv2.resize(picture, size, interpolation=_SHRINK[shrink])
    return np.asarray(cv2.resize(small, (width, height), interpolation=_SHRINK[enlarge]), np.uint8)


def moire_pattern(picture: UInt8Array, magnitude: float, d: Draws, slot: str) -> UInt8Array:
    """A screen's pixels blended over the picture with alpha 0.01 to 0.3.

    The released program holds drawn textures and cuts out three times the picture's side; the pitch of theirs, 2 to
    15 of these finer pixels, was read off them.
    """
    layout = d.choice(f"{slot}_layout", list(textures.LAYOUTS))
    pitch = d.loguniform(f"{slot}_pitch", 2.2, 15.0)
    rng = np.random.default_rng(d.integer(f"{slot}_texture", 0, 1 << 30))
    return blend(picture, textures.screen(picture.shape[0], layout, pitch, rng), magnitude)


def bn_halftone(picture: UInt8Array, magnitude: float, d: Draws, slot: str) -> UInt8Array:
    """Blue noise, grey or coloured, blended over the picture with alpha 0.01 to 0.4.

    The name says halftone, yet the released program blends the noise itself; so does this one.
    """
    colourful = d.chance(f"{slot}_colourful", 0.5)
    rng = np.random.default_rng(d.integer(f"{slot}_texture", 0, 1 << 30))
    return blend(picture, textures.blue_texture(picture.shape[0], colourful, rng), magnitude)


def sfc_halftone(picture: UInt8Array, magnitude: float, d: Draws, slot: str) -> UInt8Array:
    """A two-level halftone of the picture in 3 x 3 dots, blended over it with alpha 0.01 to 0.2."""
    del d, slot
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return blend(picture, np.repeat(textures.halftone(grey)[..., None], 3, 2), magnitude)


class Reflection:
    """A room blended over the picture with alpha 0.01 to 0.2.

    The released program uses 90 photographs; here the rooms of the face pack, which show no people.

    Args:
        rooms: uint8 (m, h, w, 3), red first.
    """

    def __init__(self, rooms: UInt8Array) -> None:
        self._rooms = rooms

    def __call__(self, picture: UInt8Array, magnitude: float, d: Draws, slot: str) -> UInt8Array:
        """Blend one of the rooms, cut at random and half the time mirrored, over the picture."""
        room = self._rooms[d.integer(f"{slot}_room", 0, len(self._rooms))]
        share, mirrored = d.uniform(f"{slot}_cut", 0.6, 1.0), d.chance(f"{slot}_mirrored", 0.5)
        left, top = d.uniform(f"{slot}_left", 0, 1), d.uniform(f"{slot}_top", 0, 1)
        height, width = (max(1, int(share * side)) for side in room.shape[:2])
        y, x = int(top * (room.shape[0] - height)), int(left * (room.shape[1] - width))
        cut = np.ascontiguousarray(room[y : y + height, x : x + width][:, :: -1 if mirrored else 1])
        size = (picture.shape[1], picture.shape[0])
        return blend(picture, np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_LINEAR), np.uint8), magnitude)


Apply = Callable[[UInt8Array, float, Draws, str], UInt8Array]


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of FAS-Aug.

    Attributes:
        low: Magnitude at step 0.
        high: Magnitude at the last step.
        attack: Whether it makes an attack of a live picture.
        apply: ``(picture, magnitude, draws, prefix of the draws' names) -> picture``, both uint8 (P, P, 3).
    """

    low: float
    high: float
    attack: bool
    apply: Apply

    def magnitude(self, step: int) -> float:
        """Magnitude at one of the :data:`STEPS` steps."""
        return self.low + (self.high - self.low) * step / (STEPS - 1)


def operators(rooms: UInt8Array) -> dict[str, Operator]:
    """The eight operators by name; ``rooms`` as for :class:`Reflection`."""
    return {
        "color_diversity": Operator(0.1, 10, False, color_diversity),
        "color_distortion": Operator(0.1, 10, True, color_distortion),
        "reflection": Operator(0.01, 0.2, True, Reflection(rooms)),
        "bn_halftone": Operator(0.01, 0.4, True, bn_halftone),
        "moire_pattern": Operator(0.01, 0.3, True, moire_pattern),
        "sfc_halftone": Operator(0.01, 0.2, True, sfc_halftone),
        "hand_trembling": Operator(1, 16, False, hand_trembling),
        "low_resolution": Operator(0.01, 0.9, False, low_resolution),
    }


def draw_policy(known: dict[str, Operator], d: Draws, *, attack: bool) -> list[tuple[str, int]]:
    """Draw two operators and their steps, given what they must make of the picture.

    Args:
        known: The operators.
        d: Draws of the sample; pairs that make the other class are drawn again, so the result has the distribution of
            the published policy within the class.
        attack: Class wanted.

    Returns:
        Two names with their steps, in order of application.
    """
    rng = np.random.default_rng(d.integer("policy", 0, 1 << 30))
    names = list(known)
    while True:
        pair = [(names[int(rng.integers(len(names)))], int(rng.integers(STEPS))) for _ in range(2)]
        if any(known[name].attack and step for name, step in pair) == attack:
            return pair


def apply_policy(
    picture: UInt8Array, policy: Sequence[tuple[str, int]], known: dict[str, Operator], d: Draws
) -> UInt8Array:
    """Apply a policy and record what it does; uint8 (P, P, 3), red first, in and out."""
    for place, (name, step) in enumerate(policy, 1):
        slot = f"op{place}"
        d.derive(slot, name)
        d.derive(f"{slot}_step", step)
        if step:
            magnitude = known[name].magnitude(step)
            d.derive(f"{slot}_magnitude", round(magnitude, 4))
            picture = known[name].apply(picture, magnitude, d, slot)
    return picture
