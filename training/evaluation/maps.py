"""Overlay pictures that show where a network looks. They show people: nothing here runs unless it is asked for."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fasedge.types import UInt8Array
from training.attention_maps import a_deeppixbis_map, cmfl_grad_cam, to_picture
from training.config import TrainConfig
from training.data.batches import plain_batch, usable
from training.data.samples import SampleSet
from training.errors import ConfigError, DataError
from training.evaluation.tables import frame_of, video_of
from training.meta_task import DomainTask
from training.methods.a_deeppixbis import ADeepPixBiS
from training.methods.cmfl import CMFL
from training.tasks import Batch, MethodStep, StepTask

#: Share of the colour of the map where it is strongest.
_STRENGTH = 0.6
#: From a batch to maps (N, side, side) in [0, 1] by the name of what they lie over: ``rgb`` or ``depth``.
MapMaker = Callable[[Batch], Mapping[str, Tensor]]


def map_maker(task: StepTask, side_px: int) -> tuple[str, MapMaker]:
    """What kind of map a method has, and what makes it.

    Args:
        task: The network, in evaluation mode.
        side_px: Side of the input.

    Raises:
        ConfigError: The method has none.
    """
    module = task.module
    if isinstance(task, DomainTask):
        model, see = task.module, task.see

        def cam(batch: Batch) -> Mapping[str, Tensor]:
            with torch.no_grad():
                return {"rgb": to_picture(model.attention(see(batch.rgb)), side_px)}

        return "class activation map of the classifier, what speaks for bona fide", cam
    if isinstance(task, MethodStep) and isinstance(module, ADeepPixBiS):
        pixel = module

        def cosine(batch: Batch) -> Mapping[str, Tensor]:
            return {"rgb": to_picture(a_deeppixbis_map(pixel, task.see(batch)), side_px)}

        return "cosine map, what speaks for bona fide", cosine
    if isinstance(task, MethodStep) and isinstance(module, CMFL):
        streams, head = module, module.config.score_head

        def gradients(batch: Batch) -> Mapping[str, Tensor]:
            rgb, depth = cmfl_grad_cam(streams, task.see(batch), head)
            return {"rgb": to_picture(rgb, side_px), "depth": to_picture(depth, side_px)}

        return f"Grad-CAM of the score {head!r}, what speaks for bona fide", gradients
    raise ConfigError(f"no attention maps for {type(module).__name__}; leave --maps out")


def choose_samples(samples: SampleSet, each: int, *, measured: bool = False) -> dict[str, list[int]]:
    """Choose samples of every species, spread over its recordings.

    Args:
        samples: The set.
        each: How many of each species, bona fide included; fewer where there are fewer.
        measured: Only those whose face has depth.

    Returns:
        Positions by species, the same at every call.
    """
    places: dict[str, list[int]] = {}
    for i in usable(samples, measured=measured):
        row = samples.table[i]
        places.setdefault(row.species, []).append(i)
    chosen = {}
    for species, there in sorted(places.items()):
        # One frame of each recording before a second one of any.
        seen: dict[str, int] = {}
        turns = []
        for i in there:
            video = video_of(samples.table[i]) or str(i)
            seen[video] = seen.get(video, 0) + 1
            turns.append((seen[video], i))
        first = [i for turn, i in sorted(turns) if turn == 1]
        pool = first if len(first) >= each else [i for _, i in sorted(turns)][:each]
        chosen[species] = [pool[k] for k in np.linspace(0, len(pool) - 1, min(each, len(pool))).round().astype(int)]
    return chosen


def write_maps(  # noqa: PLR0917 - the parts of an evaluation, in their order
    folder: Path, task: StepTask, samples: SampleSet, config: TrainConfig, scores: NDArray[np.float64], each: int
) -> list[Path]:
    """Write ``<species>_<k>.png`` (picture and map over it, side by side; then depth likewise) and ``index.csv``.

    Every map is scaled by its own largest value: maps can be compared in shape, not in strength. Red is strongest.

    Args:
        folder: Made if missing.
        task: The network, in evaluation mode.
        samples: The set.
        config: Whose crops.
        scores: float64 (n,), for the index.
        each: How many of each species.

    Returns:
        The pictures.

    Raises:
        ConfigError: The method has no maps.
        DataError: The network looks at depth and the set has none, or a picture cannot be written.
    """
    _, make = map_maker(task, config.input.size_px)
    folder.mkdir(parents=True, exist_ok=True)
    device = next(task.module.parameters()).device
    files = []
    with (folder / "index.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "species", "subtype", "video", "frame", "index", "score"])
        for species, places in choose_samples(samples, each, measured=task.needs.depth).items():
            for k, place in enumerate(places):
                batch = plain_batch(samples, [place], config, task.needs)
                panels = _panels(batch, make(batch.to(device)))
                files.append(folder / f"{_plain(species)}_{k:02d}.png")
                _write(files[-1], np.concatenate(panels, axis=1))
                row = samples.table[place]
                about = [video_of(row), frame_of(row), row.index, repr(float(scores[place]))]
                writer.writerow([files[-1].name, species, row.subtype, *about])
    return files


def overlay(picture: UInt8Array, heat: NDArray[np.float32]) -> UInt8Array:
    """Lay a map over a picture, the stronger the less of the picture is seen.

    Args:
        picture: uint8 (S, S, 3), red first.
        heat: float32 (S, S) in [0, 1].

    Returns:
        uint8 (S, S, 3), red first. Where the map is 0 the picture is unchanged.
    """
    levels = np.round(heat * 255).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB).astype(np.float32)
    share = (_STRENGTH * heat)[..., None]
    return np.round(picture * (1 - share) + colours * share).astype(np.uint8)


def _panels(batch: Batch, maps: Mapping[str, Tensor]) -> list[UInt8Array]:
    depth = None if batch.depth is None else batch.depth[0].numpy()
    pictures = {"rgb": batch.rgb[0].numpy()}
    if depth is not None:
        # Near is bright to look at; bytes count the other way round, and 0 is also what did not return.
        pictures["depth"] = np.repeat(np.where(depth > 0, 255 - depth, 0)[..., None], 3, axis=2).astype(np.uint8)
    panels = []
    for name, found in maps.items():
        panels += [pictures[name], overlay(pictures[name], found[0].cpu().numpy())]
    return panels


def _plain(species: str) -> str:
    """A species as part of a file name."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in species) or "unnamed"


def _write(path: Path, picture: UInt8Array) -> None:
    if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise DataError(f"{path}: the picture cannot be written; is the disk full?")
