"""Clues of an attack that are put onto pictures of living people: what they become is an attack.

A recoloured face next to the same face as it was teaches a network what colour says, in every direction and not only in
those that the simulated screens, papers and inks have.

Source: He et al., "Joint Physical-Digital Facial Attack Detection Via Simulating Spoofing Clues", CVPR workshops 2024
(SPSC); ranges of the released program.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fasedge.types import FloatArray, UInt8Array
from training.data.simulate.draws import Draws
from training.inputs import LUMA_WEIGHTS

_LUMA = np.array(LUMA_WEIGHTS, np.float32)[:, None]


def shift_hue(picture: UInt8Array, turn: float) -> UInt8Array:
    """Turn the hue by a share of the colour circle; uint8 (H, W, 3), red first, in and out."""
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(turn * 255) % 256)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL), np.uint8)


def colour_jitter(picture: UInt8Array, d: Draws) -> UInt8Array:
    """Clue of a print: brightness, contrast, saturation within 40 %, hue within 0.4 of the circle; in any order.

    Args:
        picture: uint8 (H, W, 3), red first.
        d: Draws of the sample.

    Returns:
        uint8 (H, W, 3), red first.

    Source: the definition of torchvision's ``ColorJitter(0.4, 0.4, 0.4, 0.4)``.
    """
    factors = {name: d.uniform(f"jitter_{name}", 0.6, 1.4) for name in ("brightness", "contrast", "saturation")}
    turn = d.uniform("jitter_hue", -0.4, 0.4)
    order = np.random.default_rng(d.integer("jitter_order", 0, 1 << 30)).permutation([*factors, "hue"])
    for name in order:
        if name == "hue":
            picture = shift_hue(picture, turn)
            continue
        values = picture.astype(np.float32)
        anchor: FloatArray | float = 0.0
        if name == "contrast":
            anchor = round(float(luma(values).mean()))
        elif name == "saturation":
            anchor = luma(values)
        picture = np.rint(np.clip(anchor + (values - anchor) * factors[name], 0, 255)).astype(np.uint8)
    return picture


def luma(picture: FloatArray) -> FloatArray:
    """Luma of a picture, red first: float32 (H, W, 3) to (H, W, 1)."""
    return picture @ _LUMA


def recolour_attacks(
    crops: UInt8Array, labels: NDArray[np.int64], share: float, rng: np.random.Generator
) -> tuple[UInt8Array, NDArray[np.intp]]:
    """Put recoloured copies of bona fide crops in the place of some attacks of the same batch.

    Args:
        crops: uint8 (N, S, S, 3), red first; not changed.
        labels: (N,), 1 bona fide, 0 attack; they stay as they are.
        share: Of the attacks that are replaced, rounded down; at most as many as there are bona fide crops.
        rng: Source of every random number.

    Returns:
        The crops, and the positions of those that were replaced.
    """
    bona_fide, attacks = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    n = min(len(bona_fide), int(share * len(attacks)))
    sources, places = rng.choice(bona_fide, n, replace=False), rng.choice(attacks, n, replace=False)
    out = crops.copy()
    for source, place in zip(sources, places, strict=True):
        out[place] = colour_jitter(np.ascontiguousarray(crops[source]), Draws(int(rng.integers(1 << 40)), 0))
    return out, places
