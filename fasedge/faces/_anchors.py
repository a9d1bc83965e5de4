"""Where BlazeFace looks: the centres that its box offsets count from."""

from __future__ import annotations

import numpy as np

from fasedge.types import FloatArray

#: Side of the network's input in pixels.
INPUT_PX = 128
#: Strides of the anchor layers. Layers of equal stride share one grid, two anchors per layer and place.
STRIDES = (8, 16, 16, 16)
ANCHORS_PER_LAYER = 2


def anchor_centers() -> FloatArray:
    """Anchor centres of BlazeFace short range.

    Every anchor has the same size, so a centre is all that there is to it. The order is that of the network's
    outputs: the finer grid first, row by row, the anchors of one place together.

    Returns:
        float32 (896, 2), x and y as fractions of the input's side.

    Source:
        Bazarevsky et al., BlazeFace (2019), section 3.2: 16x16 places with 2 anchors and 8x8 places with 6.
    """
    grids = []
    for stride in dict.fromkeys(STRIDES):
        side = INPUT_PX // stride
        per_place = ANCHORS_PER_LAYER * STRIDES.count(stride)
        middle = (np.arange(side, dtype=np.float32) + 0.5) / side
        x, y = np.meshgrid(middle, middle, indexing="xy")
        grids.append(np.repeat(np.stack([x.ravel(), y.ravel()], axis=1), per_place, axis=0))
    return np.concatenate(grids).astype(np.float32)
