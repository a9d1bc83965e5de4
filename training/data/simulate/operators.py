"""What the simulator does to a picture, by name, each to be switched off alone.

An operator owns parameters: those whose neutral values take its effect away, and those that only shape it. Switching
one off alters parameters that were drawn, nothing else is drawn anew: two samples differ by the operator alone. With
this a benchmark asks which artefact a network leans on, and a test finds parameters that nobody thought of.

    plain = [switch_off(d, "moire") for d in map(simulator.draw, range(32))]
    samples = simulator.render(plain)  # their ``params`` say ``off:moire``
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from training.data.simulate import camera, compose, light
from training.data.simulate.draws import Draws, Value
from training.data.simulate.species import BONA_FIDE, SPECIES
from training.errors import ConfigError

#: Before an operator's name in the parameters of a sample that was rendered without it.
OFF = "off:"

Values = Mapping[str, Value]
ALL = frozenset({BONA_FIDE, *SPECIES})
FLAT = frozenset({"replay", "print"})
WORN = frozenset({"mask", "partial"})
LIVE = frozenset({BONA_FIDE}) | WORN
REPLAY = frozenset({"replay"})
PRINT = frozenset({"print"})
INKED = PRINT | WORN
MASK = frozenset({"mask"})
PARTIAL = frozenset({"partial"})


@dataclass(frozen=True, slots=True)
class Operator:
    """One thing that the simulator does.

    Attributes:
        summary: What it does, one line.
        species: Presentations that it concerns.
        neutral: Parameters and the values with which its effect is gone.
        shape: Parameters that matter only while it is on; ``*`` at the end stands for anything.
        follows: Further parameters that follow from a sample's own: called with its values, returns what to set.
        residue: Why a trace remains although it is off; empty where none does.
    """

    summary: str
    species: frozenset[str]
    neutral: Values
    shape: tuple[str, ...] = ()
    follows: Callable[[Values], Values] | None = field(default=None, repr=False)
    residue: str = ""

    def owns(self, parameter: str) -> bool:
        """Whether a parameter is the operator's."""
        return parameter in self.neutral or any(_fits(parameter, pattern) for pattern in self.shape)

    def off(self, values: Values) -> dict[str, Value]:
        """What switching it off changes in a sample's parameters; empty where it is not at work."""
        wanted = dict(self.neutral) | dict(self.follows(values) if self.follows else {})
        return {name: value for name, value in wanted.items() if name in values and values[name] != value}


def _fits(parameter: str, pattern: str) -> bool:
    return parameter.startswith(pattern[:-1]) if pattern.endswith("*") else parameter == pattern


def _without_edges(values: Values) -> dict[str, Value]:
    """The medium held so close that it fills the picture, as ``edge_hidden`` would have had it."""
    if "edge_close" not in values:
        return {}
    seen = float(values.get("canvas_scale", compose.CANVAS_SCALE)) / compose.CANVAS_SCALE
    close = float(values["edge_close"]) * seen
    place = {f"edge_{axis}": 0.35 * float(values[f"edge_place_{axis}"]) for axis in "xy"}
    # A hand holds an edge; there is none to see.
    return {"edge_width": close, "edge_height": close, "finger": 0.0, "contour": 0.0, **place}


def _not_cut_out(values: Values) -> dict[str, Value]:
    """The edges of the sheet that was cut out may be out of view."""
    return {"edge_visible": int(compose.near_edge(values))} if values.get("contour") else {}


_ATTACKER = {
    "capture_blur": Operator("soft focus of the attacker's camera", FLAT | WORN, {"capture_blur": 0.0}),
    "capture_small": Operator("the picture was shrunk when it was passed on", FLAT | WORN, {"capture_small": 0.0}),
    "capture_tone": Operator(
        "gamma and S-curve of the attacker's camera", FLAT | WORN, {"capture_gamma": 1.0, "capture_contrast": 0.0}
    ),
    "capture_sharpen": Operator("sharpening by the attacker's camera", FLAT | WORN, {"capture_sharpen": 0.0}),
    "capture_saturation": Operator("colourfulness of the first capture", FLAT | WORN, {"capture_saturation": 1.0}),
    "capture_codec": Operator("compression of the first capture", FLAT | WORN, {"capture_quality": 0}),
    "capture_h264": Operator(
        "the first capture is a frame of a video", FLAT | WORN, {"capture_h264": 0}, ("capture_qp",)
    ),
}
_MEDIUM = {
    "visible_edge": Operator(
        "the medium's edge, and what is seen beyond it",
        FLAT,
        {"edge_hidden": 1, "edge_visible": 0},
        ("edge_*",),
        follows=_without_edges,
    ),
    "contour": Operator(
        "a print cut out along the head", PRINT, {"contour": 0.0}, ("contour_*",), follows=_not_cut_out
    ),
    "eye_holes": Operator(
        "holes in a print, and who looks through them", PRINT, {"holes": 0.0}, ("holes_*", "holder_*", "holder")
    ),
    "rim": Operator("bezel of a screen, margin of a print", FLAT, {"rim": 0.0}, ("bezel",)),
    "finger": Operator("a finger over the medium's edge", FLAT, {"finger": 0.0}, ("finger_*",)),
    "controls": Operator("a player's controls below the picture", FLAT, {"controls": 0.0}, ("controls_*",)),
    "tilt": Operator("perspective: faces and media held askew", ALL, {"view_tilt_x": 0.0, "view_tilt_y": 0.0}),
    "glare": Operator("a soft highlight on glass or gloss", FLAT, {"glare": 0.0}, ("glare_*",)),
    "lamp": Operator("a small lamp mirrored in glass or gloss", FLAT, {"lamp": 0.0}, ("lamp_*",)),
    "room_reflection": Operator("the room mirrored in glass or gloss", FLAT, {"room_reflection": 0.0}),
}
_SCREEN = {
    # A fill of 3 makes each stripe, a third of the period wide, as wide as the period: no component is left.
    "moire": Operator(
        "sub-pixels of the screen, aliased on the camera's sensor",
        REPLAY,
        {"display_fill": 3.0},
        ("display_face_px", "display_layout", "display_phase"),
    ),
    "banding": Operator(
        "rolling bands: refresh against shutter", REPLAY, {"display_banding": 0.0}, ("display_band_*",)
    ),
    "screen_gradient": Operator("a screen darkens when seen at an angle", REPLAY, {"screen_gradient": 0.0}),
    "play_button": Operator(
        "the button of a paused video", REPLAY, {"play_button": 0.0}, ("play_radius", "play_tone", "play_x", "play_y")
    ),
    "status_bar": Operator("the bar along a screen's upper edge", REPLAY, {"status_bar": 0.0}, ("status_bar_*",)),
    "notch": Operator("what the front camera takes of a phone's screen", REPLAY, {"notch": 0.0}, ("notch_*",)),
    "pointer": Operator("a computer's pointer", REPLAY, {"pointer": 0.0}, ("pointer_*",)),
    "call": Operator("buttons of a video call", REPLAY, {"call": 0.0}, ("call_*",)),
    "inset": Operator("the small second picture of a video call", REPLAY, {"inset": 0.0}, ("inset_*",)),
    "display_tone": Operator("the tone curve that a screen adds", REPLAY, {"display_gamma": 1.0}),
    "display_gamut": Operator("colourfulness of a screen", REPLAY, {"display_saturation": 1.0}),
    "display_white": Operator(
        "white of the screen against the room's light", REPLAY, {"display_adaptation": 1.0}, ("display_kelvin",)
    ),
    "display_black": Operator("light that leaks through black", REPLAY, {"display_black": 0.0}),
    "display_over": Operator("over-driven brightness, clipped whites", REPLAY, {"display_over": 0.0}),
    "display_metering": Operator(
        "a screen brighter or darker than a face in the room", REPLAY, {"display_metering": 1.0}
    ),
}
_PAPER = {
    "halftone": Operator(
        "dots of the print in lines, aliased on the camera's sensor",
        INKED,
        {"print_screen": 0.0},
        ("print_lines", "print_phase"),
    ),
    "error_diffusion": Operator("scattered dots of the print, as noise", INKED, {"print_grain": 0.0}, ("print_dots",)),
    "print_tone": Operator("the tone curve that a print adds", INKED, {"print_gamma": 1.0}),
    "print_gamut": Operator("colourfulness of inks, grey prints", INKED, {"print_saturation": 1.0, "print_grey": 0}),
    "print_black": Operator("ink that is not black", INKED, {"print_floor": 0.0}),
    "print_white": Operator("paper that is not white", INKED, {"print_white": 1.0}),
    "print_tint": Operator("colour cast of paper and ink", INKED, {"print_red": 1.0, "print_blue": 1.0}),
    "paper_noise": Operator("fibres and cloudiness of paper", INKED, {"paper_noise": 0.0}),
    "print_banding": Operator("bands of a worn printer", INKED, {"print_banding": 0.0}, ("print_band_period",)),
    "bend": Operator("a sheet bent round a cylinder", PRINT, {"bend": 0.0}, ("bend_angle",)),
    "crease": Operator("a fold", PRINT, {"crease": 0.0}, ("crease_place",)),
}
_LIVING = {
    "clutter": Operator("straight edges behind a living person", LIVE, {"clutter": 0.0}, ("clutter_*",)),
    "frame": Operator("a picture or monitor beside a living person", LIVE, {"frame": 0}, ("frame_*",)),
    "lens_softness": Operator("softness of a living person's picture", LIVE, {"lens_softness": 0.0}),
}
_WORN = {
    "worn_shadow": Operator("the shadow that a worn thing casts on the face", WORN, {"mask_shadow": 0.0}),
    "paper_edge": Operator("the white edge of cut paper", WORN, {"mask_edge": 0.0}, ("mask_edge_width",)),
    "mask_holes": Operator(
        "holes for eyes, mouth and nose",
        MASK,
        {"mask_eye_width": 0.0, "mask_mouth_hole": 0.0, "mask_nose_hole": 0.0},
        ("mask_eye_height",),
    ),
    "mask_gloss": Operator("highlights of plastic and silicone", MASK, {"mask_gloss": 0.0}, ("mask_polish",)),
    "mask_smooth": Operator("skin without texture", MASK, {"mask_smooth": 0.0}),
    "mask_paint": Operator(
        "one colour of paint instead of skin", MASK, {"mask_paint": 0.0}, ("mask_colour", "mask_albedo")
    ),
    "mask_folds": Operator(
        "folds and crumples of a paper mask",
        MASK,
        {"mask_crease": 0.0, "mask_crumple": 0.0, **{f"mask_fold_{i}": 0.0 for i in range(3)}},
        ("mask_fold_angle_*", "mask_fold_place_*"),
    ),
    "mask_wrinkles": Operator("wrinkles of silicone", MASK, {"mask_wrinkles": 0.0}),
    "mask_translucency": Operator("light under the surface of silicone", MASK, {"mask_translucency": 0.0}),
    "glasses_gloss": Operator("reflections on printed glasses", PARTIAL, {"glasses_gloss": 0.0}),
}
_CAMERA = {
    "light_gradient": Operator("light from one side", ALL, {"light_gradient": 0.0}, ("light_offset",)),
    "light_mix": Operator("light of two colours", ALL, {"light_mix": 0.0}, ("light_mix_kelvin",)),
    "white_balance": Operator(
        "errors of the white balance",
        ALL,
        {"awb_strength": 0.0, "awb_red": 1.0, "awb_blue": 1.0, "awb_residue": 0.0},
    ),
    "flare": Operator("stray light in the lens", ALL, {"flare": 0.0}, ("flare_*", "surrounding_light")),
    "vignette": Operator("darker corners", ALL, {"vignette": 0.0}),
    "aberration": Operator("red and blue of different size", ALL, {"aberration": 0.0}),
    "lens_blur": Operator("softness and defocus of the lens", ALL, {"lens_blur": 0.0, "defocus": 0.0}),
    "motion": Operator("motion blur", ALL, {"motion": 0.0}, ("motion_angle",)),
    "noise": Operator("shot and read noise", ALL, {"shot_noise": 0.0, "read_noise": 0.0}),
    "denoise": Operator("smoothing against noise", ALL, {"denoise": 0.0, "chroma_denoise": 0.0}),
    "camera_gamut": Operator("colourfulness of the camera", ALL, {"camera_saturation": 1.0}),
    "camera_tone": Operator("gamma and S-curve of the camera", ALL, {"tone_gamma": 1.0, "tone_contrast": 0.0}),
    "auto_levels": Operator("darkest to black, lightest to white", ALL, {"auto_black": 0.0, "auto_white": 0.0}),
    "sharpen": Operator("unsharp mask", ALL, {"sharpen": 0.0}),
    "small": Operator("compressed while it was smaller", ALL, {"small": 0.0}),
    "jpeg": Operator(
        "compression of the stored picture",
        ALL,
        {"jpeg_quality": 100},
        residue="a JPEG of quality 100 still rounds coefficients and halves the colour's resolution",
    ),
    "h264": Operator("a frame of a video: H.264 instead of JPEG", ALL, {"h264": 0}, ("h264_qp",)),
    "jpeg_twice": Operator("a second compression", ALL, {"jpeg_twice": 0}, ("jpeg_second_quality",)),
    "truncation": Operator(
        "the picture ends close to the face",
        ALL,
        {f"cut_{side}": 0.0 for side in ("left", "top", "right", "bottom")},
        ("cut", "cut_tight"),
    ),
}

#: Every operator by name, in the order in which light meets them.
OPERATORS: dict[str, Operator] = {**_ATTACKER, **_SCREEN, **_PAPER, **_MEDIUM, **_WORN, **_LIVING, **_CAMERA}

#: What is shown and where, and what no picture can be without: nothing to switch off.
DECLARED: Mapping[str, str] = {
    "bona_fide": "the class",
    "species": "the PAI species",
    "subtype": "kind of medium",
    "source": "collection of the face picture",
    "picture": "number of the face picture",
    "background": "number of the room",
    "sensor_px": "resolution of the canvas",
    "canvas_scale": "how much is seen round the face",
    "victim*": "whom a mask or patch is worn by",
    "mask_*": "place, size, shape and light of a worn mask",
    "patch_*": "place and shape of a worn patch",
    "glasses_*": "shape and colour of worn glasses",
    "print_halftone": "dots of a print in lines or scattered",
    "room_*": "the room behind a medium or in a frame",
}


def operator(name: str) -> Operator:
    """Look an operator up.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in OPERATORS:
        raise ConfigError(f"no operator {name!r}; expected one of {', '.join(OPERATORS)}")
    return OPERATORS[name]


def switch_off(draws: Draws, *names: str) -> Draws:
    """Take the effect of operators away.

    Args:
        draws: Parameters of one sample, as :meth:`Simulator.draw` returns them; they stay as they are, and so does
            their noise generator, so they can be rendered too.
        names: Operators, switched off one after the other.

    Returns:
        Altered parameters with the same noise, for :meth:`Simulator.render`. For each operator that was at work
        ``off:<name>`` is 1 among them; where none was, they are a plain copy.

    Raises:
        ConfigError: There is no operator of that name.
    """
    chosen = {name: operator(name) for name in names}
    altered = copy.deepcopy(draws)
    for name, candidate in chosen.items():
        if changes := candidate.off(altered.values):
            altered.values |= changes
            altered.values[OFF + name] = 1
    return altered


def switched_off(values: Values) -> tuple[str, ...]:
    """Names of the operators that a sample was rendered without."""
    return tuple(name.removeprefix(OFF) for name in values if name.startswith(OFF))


def place_of(parameter: str) -> str | None:
    """To what a parameter belongs: ``operator:<name>``, ``camera``, ``view``, ``light``, ``declared``, or nothing.

    A parameter that belongs to nothing was added without a thought for whether it can be switched off.
    """
    for name, candidate in OPERATORS.items():
        if candidate.owns(parameter):
            return f"operator:{name}"
    for place, names in _drawn_by_all().items():
        if parameter in names:
            return place
    if parameter.startswith(OFF) or any(_fits(parameter, pattern) for pattern in DECLARED):
        return "declared"
    return None


@cache
def _drawn_by_all() -> dict[str, frozenset[str]]:
    def names(draw: Callable[[Draws], None]) -> frozenset[str]:
        d = Draws(0, 0)
        draw(d)
        return frozenset(d.values)

    return {
        "camera": names(camera.draw_camera),
        "view": names(lambda d: compose.draw_view(d, 0.0)),
        "light": names(light.draw_room_light),
    }


def names_for(species: Sequence[str]) -> list[str]:
    """Operators that concern any of the species, in their order."""
    return [name for name, candidate in OPERATORS.items() if candidate.species & set(species)]
