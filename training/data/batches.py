"""From samples to batches: crops with a jittered box, depth that goes with them, augmentation, labels, domains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fasedge.depth import SMALLEST_SPREAD_MM, FaceDepth, crop_depth, measure_face_depth
from fasedge.preprocess import InputSpec
from fasedge.types import Box, UInt8Array
from training.config import TrainConfig
from training.data.augment import augment, drawn_flips
from training.data.clues import recolour_attacks
from training.data.domains import domain_of
from training.data.holes import with_hole
from training.data.samples import SampleSet
from training.errors import ConfigError, DataError
from training.tasks import Batch, Needs

#: Keeps the draws of recoloured pictures apart.
_RECOLOURED = 0x5C
#: And those of holes in depth.
_HOLES = 0x40


def face_depth(samples: SampleSet, index: int, box: Box | None = None) -> FaceDepth | None:
    """How far a face is and how much relief it has; ``None`` where nothing in its box returns.

    Prepared recordings say what was measured before the face was cut out; all others are measured here, in another box
    than the set's if one is given.

    Raises:
        DataError: The set has no depth.
    """
    row, depth_mm = samples.table[index], samples.depth_mm(index)
    median, spread = row.params.get("depth_median_mm"), row.params.get("depth_spread_mm")
    if isinstance(median, int | float) and isinstance(spread, int | float):
        # How much of the box returned was looked at when the recording was prepared; nothing here asks for it.
        return FaceDepth(float(median), max(float(spread), SMALLEST_SPREAD_MM), 1.0)
    return measure_face_depth(depth_mm, Box(*row.box_xyxy) if box is None else box)


def check_crops(samples: SampleSet, spec: InputSpec) -> None:
    """Refuse to cut prepared recordings wider than they are: what their pictures do not show would be made up.

    Raises:
        DataError: The set's pictures show fewer face boxes than ``spec.crop_scale``.
    """
    if not samples.info.origin or spec.crop_scale <= 1 or not len(samples):
        return
    # All boxes of a prepared set are the same. Where they are the whole picture, what the set says of its canvas is
    # what simulated sets have.
    x1, _, x2, _ = samples.table[0].box_xyxy
    shown = samples.info.canvas_scale if x2 - x1 < samples.picture(0).shape[0] else 1.0
    if spec.crop_scale > shown:
        what = "are face crops already" if shown <= 1 else f"show {shown:g} face boxes"
        raise DataError(
            f"the pictures of the set {samples.info.origin!r} {what}, but input.crop_scale = {spec.crop_scale:g} cuts "
            f"beyond their edges; prepare the set again with --scale {spec.crop_scale:g}, or train with "
            f"input.crop_scale = {max(1.0, shown):g}"
        )


def usable(samples: SampleSet, *, measured: bool) -> list[int]:
    """Places of the samples that a method can look at: all of them, or those whose face has depth.

    Args:
        samples: The set.
        measured: Whether measured depth is needed. A face without any is nothing to learn from and nothing to score:
            zeros in its place would be taken for something very near.

    Raises:
        DataError: Depth is needed, but the set has none.
    """
    return [i for i in range(len(samples)) if not measured or face_depth(samples, i) is not None]


def depth_crops(
    samples: SampleSet,
    indices: Sequence[int],
    spec: InputSpec,
    boxes: Sequence[Box] | None = None,
    *,
    found: bool = False,
    holes: float = 0.0,
    rng: np.random.Generator | None = None,
) -> UInt8Array:
    """Depth of the crops that :meth:`SampleSet.crops` cuts by the same boxes.

    Args:
        samples: Where they are.
        indices: Which, by position; see :func:`usable`.
        spec: Size and crop scale.
        boxes: What to cut by; by default the boxes of the set. They say only where the crop lies: the face as it was
            found decides the scale of its depth.
        found: Whether the boxes are those of a finder, in which a detector would measure the scale.
        holes: Share of the maps that lose a part of the face, see :mod:`training.data.holes`; their scale is measured
            on what is left, as it would be in front of a camera.
        rng: Where these come from.

    Returns:
        uint8 (n, S, S), see :func:`fasedge.depth.depth_to_bytes`.

    Raises:
        DataError: The set has no depth, a face has none, or holes are wanted but nothing to draw them from.
    """
    if holes and rng is None:
        raise DataError("depth with holes needs rng, a numpy random generator; pass one, or no holes")
    boxes = samples.boxes(indices) if boxes is None else boxes
    out = np.empty((len(indices), spec.size_px, spec.size_px), np.uint8)
    for place, (index, box) in enumerate(zip(indices, boxes, strict=True)):
        measured = (face_depth(samples, index, box) if found else None) or face_depth(samples, index)
        if measured is None:
            raise DataError(
                f"sample {samples.table[index].index} has no depth inside its face box: leave it out, as feeds and "
                "scoring do with those that training.data.batches.usable does not name"
            )
        depth_mm = samples.depth_mm(index)
        if rng is not None and rng.random() < holes:
            depth_mm = with_hole(depth_mm, box, rng)
            measured = measure_face_depth(depth_mm, box) or measured
        out[place] = crop_depth(depth_mm, box, spec, measured)
    return out


def make_batch(
    samples: SampleSet, indices: Sequence[int], config: TrainConfig, needs: Needs, key: Sequence[int]
) -> Batch:
    """A batch for training: jittered crops, augmented, labels smoothed; depth and its targets move along.

    Args:
        samples: Where they are.
        indices: Which, by position.
        config: The run.
        needs: What the task looks at.
        key: All randomness comes from these numbers: a resumed run sees the same batches.

    Raises:
        ConfigError: Recoloured attacks are wanted, and the task sees depth.
        DataError: The task needs depth and the set, or a face, has none; or see :func:`check_crops`.
    """
    a, o, spec = config.augment, config.optimiser, config.input.spec()
    check_crops(samples, spec)
    rng = np.random.default_rng(key)
    seed = int(rng.integers(1 << 62))
    boxes = samples.boxes(indices, jitter=a.jitter(), rng=rng)
    pictures, labels = samples.crops(indices, spec, boxes=boxes), _labels(samples, indices)
    if a.recoloured:
        if needs.depth:
            raise ConfigError(
                "augment.recoloured makes attacks of living people's colours, but this method sees their depth too; "
                "set it to 0"
            )
        # A key of its own: what is drawn without it stays what it was.
        own = np.random.default_rng([*key, _RECOLOURED])
        pictures, _ = recolour_attacks(pictures, labels.numpy().astype(np.int64), a.recoloured, own)
    crops = torch.from_numpy(pictures)
    flips = drawn_flips(len(indices), a, torch.Generator().manual_seed(seed)).view(-1, 1, 1)

    def turned(maps: Tensor) -> Tensor:
        return torch.where(flips, maps.flip(2), maps)

    depth = None
    if needs.depth:
        # A key of its own, as above.
        own = np.random.default_rng([*key, _HOLES])
        depth = turned(torch.from_numpy(depth_crops(samples, indices, spec, boxes, holes=a.holes, rng=own)))
    targets = needs.targets
    return Batch(
        rgb=augment(crops, a, torch.Generator().manual_seed(seed)),
        labels=labels * (1 - o.label_smoothing) + o.label_smoothing / 2,
        depth=depth,
        depth_targets=turned(torch.from_numpy(targets.batch(samples, indices, spec, boxes))) if targets else None,
        domains=[domain_of(samples.table[i], config.data.domain) for i in indices],
        indices=[samples.table[i].index for i in indices],
    )


def plain_batch(samples: SampleSet, indices: Sequence[int], config: TrainConfig, needs: Needs) -> Batch:
    """A batch for scoring: plain crops, labels as they are.

    Raises:
        DataError: The task needs depth and the set, or a face, has none; or see :func:`check_crops`.
    """
    spec = config.input.spec()
    check_crops(samples, spec)
    return Batch(
        rgb=torch.from_numpy(samples.crops(indices, spec)),
        labels=_labels(samples, indices),
        depth=torch.from_numpy(depth_crops(samples, indices, spec)) if needs.depth else None,
        domains=[domain_of(samples.table[i], config.data.domain) for i in indices],
        indices=[samples.table[i].index for i in indices],
    )


def _labels(samples: SampleSet, indices: Sequence[int]) -> Tensor:
    return torch.tensor([samples.table[i].label for i in indices], dtype=torch.float32)
