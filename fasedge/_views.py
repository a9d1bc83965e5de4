"""What a network is shown of the faces of a frame, and what its answers mean for each of them.

A network that looks at colour and depth decides by both where both are there. Where a frame has no depth at all, colour
alone may decide, if that was asked for: by another output of the network, with a threshold of its own. Where a frame
has depth but not over a face, that face is never judged: screens and mirrors swallow the light of depth cameras, and
whoever shows one to the camera must not choose what he is judged by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Literal

import numpy as np

from fasedge._outputs import read_outputs, read_scores
from fasedge.backends import Array
from fasedge.cards import ModelCard
from fasedge.depth import crop_faces_rgbd, measure_face_depth
from fasedge.errors import CardError, InputError
from fasedge.preprocess import InputSpec, crop_faces
from fasedge.scoring import is_score
from fasedge.types import Face, FloatArray, Frame, Reason, UInt8Array

#: What a frame without depth means to a network that looks at depth. ``refuse``: not checked. ``rgb``: colour alone
#: decides.
MissingDepth = Literal["refuse", "rgb"]
MISSING_DEPTH: tuple[MissingDepth, ...] = ("refuse", "rgb")
#: Smallest share of a face box that must have depth. Of simulated living people one in a hundred has less.
MIN_DEPTH_FRACTION = 0.5

_RGB, _RGBD = ("rgb",), ("rgb", "depth")
_ALONE = "score_rgb"
_MISSING = (Reason.DEPTH_MISSING,)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a network says of a face.

    Attributes:
        score: As the engine gave it; ``None`` if the face was not shown to the network.
        modalities: What the score is made from.
        reasons: Why the face was not shown to it.
        heads: Scores of colour and of depth alone, if the network has them.
        score_map: float32 (m, m), or ``None``.
    """

    score: float | None
    modalities: tuple[str, ...]
    reasons: tuple[Reason, ...] = ()
    heads: Mapping[str, float] = field(default_factory=dict)
    score_map: FloatArray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """What a network is shown of a frame.

    Attributes:
        inputs: uint8 (N, S, S, C) by the names of the network's inputs, N >= 1; empty if there is nothing to show.
        shown: For each face of the frame, whether it is among them; they keep their order.
        modalities: What the scores will be made from.
    """

    inputs: Mapping[str, UInt8Array]
    shown: tuple[bool, ...]
    modalities: tuple[str, ...]


class Viewer:
    """Shows a network what it wants to see.

    Args:
        card: Of the network.
        missing_depth: See :data:`MissingDepth`.

    Attributes:
        modalities: What the network looks at.

    Raises:
        InputError: No such policy, or colour alone for a network that looks at nothing else.
        CardError: The network needs inputs that cannot be made, of several crops, or cannot judge colour alone.
    """

    def __init__(self, card: ModelCard, missing_depth: str = "refuse") -> None:
        if missing_depth not in MISSING_DEPTH:
            raise InputError(f"missing_depth must be one of {', '.join(MISSING_DEPTH)}, got {missing_depth!r}")
        self.modalities = tuple(i.modality for i in card.inputs)
        crops = {(i.size_px, i.crop_scale) for i in card.inputs}
        if tuple(i.name for i in card.inputs) != self.modalities or self.modalities not in (_RGB, _RGBD):
            have = ", ".join(f"{i.name} ({i.modality})" for i in card.inputs)
            raise CardError(
                f"model {card.id!r} needs inputs {have}; this version of fasedge makes rgb (rgb), and beside it depth "
                "(depth)"
            )
        if len(crops) > 1:
            raise CardError(f"model {card.id!r} wants another crop of depth than of colour; this version makes one")
        self._spec: InputSpec = card.input_spec("rgb")
        self._colour_alone = missing_depth == "rgb"
        if self._colour_alone and not self.sees_depth:
            raise InputError(
                f"model {card.id!r} looks at colour alone, missing_depth='rgb' would change nothing; leave it out, or "
                "choose a model that looks at depth"
            )
        if self._colour_alone and _ALONE not in {o.name for o in card.outputs}:
            raise CardError(f"model {card.id!r} cannot judge colour alone: it has no output {_ALONE!r}")

    @property
    def sees_depth(self) -> bool:
        """Whether the network looks at depth."""
        return "depth" in self.modalities

    @property
    def decided_by(self) -> tuple[tuple[str, ...], ...]:
        """Every set of modalities that may come to decide, the usual one first."""
        return (self.modalities, _RGB) if self._colour_alone else (self.modalities,)

    def blank(self) -> dict[str, UInt8Array]:
        """A grey picture, for warming up."""
        side = self._spec.size_px
        channels = {"rgb": 3, "depth": 1}
        return {name: np.full((1, side, side, channels[name]), 127, np.uint8) for name in self.modalities}

    def cut(self, frame: Frame, faces: Sequence[Face]) -> Views:
        """Cut the network's inputs out.

        Args:
            frame: The picture.
            faces: One or more faces in it.
        """
        if not self.sees_depth:
            return Views({"rgb": crop_faces(frame, faces, self._spec)}, (True,) * len(faces), _RGB)
        depth_mm, side = frame.depth_mm, self._spec.size_px
        if depth_mm is None:
            if not self._colour_alone:
                return Views({}, (False,) * len(faces), _RGBD)
            # What stands there does not matter: the output that is read does not depend on it.
            nothing = np.zeros((len(faces), side, side, 1), np.uint8)
            return Views({"rgb": crop_faces(frame, faces, self._spec), "depth": nothing}, (True,) * len(faces), _RGB)
        found = [measure_face_depth(depth_mm, face.box) for face in faces]
        shown = tuple(depth is not None and depth.valid_fraction >= MIN_DEPTH_FRACTION for depth in found)
        if not any(shown):
            return Views({}, shown, _RGBD)
        judged, measured = list(compress(faces, shown)), list(compress(found, shown))
        rgbd = crop_faces_rgbd(frame, judged, self._spec, measured)
        return Views({"rgb": rgbd[..., :3], "depth": rgbd[..., 3:]}, shown, _RGBD)

    def check(self, outputs: Mapping[str, Array]) -> None:
        """Make sure that an answer to :meth:`blank` has everything that may come to decide.

        Raises:
            EngineError: An output is missing, or has a wrong shape.
        """
        read_outputs(outputs, 1)
        if self._colour_alone:
            read_scores(outputs, _ALONE, 1)

    def lost(self, views: Views) -> list[Answer]:
        """What is left to say of the faces of a frame where the engine failed."""
        return [Answer(None, views.modalities, () if shown else _MISSING) for shown in views.shown]

    def read(self, outputs: Mapping[str, Array], views: Views) -> list[Answer]:
        """What the network's outputs mean for each face of the frame.

        Args:
            outputs: As the engine gave them; not looked at if nothing was shown to it.
            views: As :meth:`cut` returned it.

        Raises:
            EngineError: An output is missing, has a wrong shape, or is a map that is not finite.
        """
        n = sum(views.shown)
        answers = iter(self._answers(outputs, views.modalities, n) if n else ())
        return [next(answers) if shown else Answer(None, views.modalities, _MISSING) for shown in views.shown]

    def _answers(self, outputs: Mapping[str, Array], modalities: tuple[str, ...], n: int) -> list[Answer]:
        if self.sees_depth and modalities == _RGB:
            return [Answer(score, _RGB, heads={"rgb": score}) for score in read_scores(outputs, _ALONE, n)]
        scores, maps = read_outputs(outputs, n)
        heads = {name: read_scores(outputs, f"score_{name}", n) for name in _RGBD if f"score_{name}" in outputs}
        own = [{name: values[i] for name, values in heads.items()} for i in range(n)]
        return [
            # An engine that says something impossible of a single head is broken: its score is not to be trusted.
            Answer(score, modalities, (), found, score_map)
            if all(is_score(value) for value in found.values())
            else Answer(None, modalities)
            for score, found, score_map in zip(scores, own, maps, strict=True)
        ]
