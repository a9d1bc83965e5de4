"""Parts of the simulation to hold out: train without one, test on it, and see what an unseen attack costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from training.data.simulate.draws import Value
from training.data.simulate.profiles import PROFILES
from training.data.simulate.species import SPECIES
from training.errors import ConfigError

Values = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A part of the simulation.

    Attributes:
        summary: What it is.
        matches: Whether a sample, by its parameters, belongs to it.
        both_classes: Living people belong to it too (cameras and their codec); else it is a kind of attack, and is
            tested against all living people.
    """

    summary: str
    matches: Callable[[Values], bool]
    both_classes: bool = False


def _number(values: Values, name: str) -> float:
    return float(values.get(name, 0.0))


def _is(name: str, value: str) -> Callable[[Values], bool]:
    return lambda values: values.get(name) == value


def _on(name: str) -> Callable[[Values], bool]:
    return lambda values: _number(values, name) > 0


def _shiny(values: Values) -> bool:
    return any(_number(values, name) > 0 for name in ("glare", "lamp", "room_reflection"))


def _bent(values: Values) -> bool:
    return abs(_number(values, "bend")) > 0 or abs(_number(values, "crease")) > 0


def _edgeless(values: Values) -> bool:
    return values.get("edge_visible") == 0


def _parts() -> Iterator[tuple[str, HeldOut]]:
    yield "pentile", HeldOut("screens with a PenTile layout", _is("display_layout", "pentile"))
    yield "error_diffusion", HeldOut("prints of scattered dots", _is("print_halftone", "fm"))
    yield "glare", HeldOut("media with a highlight or a reflection", _shiny)
    yield "bent", HeldOut("bent or folded prints", _bent)
    yield "hidden_edge", HeldOut("attacks whose medium fills the picture", _edgeless)
    yield "contour", HeldOut("prints cut out along the head", _on("contour"))
    yield "eye_holes", HeldOut("prints with holes through which somebody looks", _on("holes"))
    yield "capture_h264", HeldOut("attacks whose first capture is a frame of a video", _on("capture_h264"))
    yield "h264", HeldOut("pictures that the camera stored as H.264", _on("h264"), both_classes=True)
    for species, kinds in SPECIES.items():
        yield species, HeldOut(f"all attacks of the species {species}", _is("species", species))
        for subtype in kinds.subtypes:
            yield subtype, HeldOut(f"{species}: {subtype}", _is("subtype", subtype))
    for profile in PROFILES:
        yield f"camera:{profile}", HeldOut(f"the camera {profile}", _is("camera", profile), both_classes=True)


#: Every part that can be held out, by name: properties, species, their sub-types, cameras.
HELD_OUT: dict[str, HeldOut] = dict(_parts())


def held_out(name: str) -> HeldOut:
    """Look a part up.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in HELD_OUT:
        raise ConfigError(f"nothing to hold out is called {name!r}; expected one of {', '.join(HELD_OUT)}")
    return HELD_OUT[name]
