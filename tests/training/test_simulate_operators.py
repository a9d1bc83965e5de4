"""Operators: each can be switched off alone, its effect is then gone, and no parameter is without a place."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from training.data.simulate import (
    BONA_FIDE,
    Simulator,
    camera,
    capture,
    colour,
    compose,
    cutout,
    display,
    light,
    overlay,
    paper,
)
from training.data.simulate.draws import Draws, Value
from training.data.simulate.held_out import HELD_OUT, held_out
from training.data.simulate.operators import OPERATORS, names_for, operator, place_of, switch_off, switched_off
from training.data.simulate.optics import apply, grid
from training.data.simulate.profiles import PROFILES
from training.data.work import make_simulator
from training.errors import ConfigError

SEED, N_DRAWN = 5, 1600
#: Operators of masks and patches alone, and holes in prints: nothing here has the meshes that those need.
WORN = {name for name, found in OPERATORS.items() if found.species <= {"mask", "partial"}} | {"eye_holes"}
SIZE = 32


@pytest.fixture(scope="module")
def simulator(face_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    return make_simulator(face_pack, tmp_path_factory.mktemp("tiles"), "train", SEED)


@pytest.fixture(scope="module")
def draws(simulator: Simulator) -> list[Draws]:
    """Not to be rendered or altered: copies are (``switch_off`` makes them)."""
    return [simulator.draw(i) for i in range(N_DRAWN)]


@pytest.fixture(scope="module")
def drawn(draws: list[Draws]) -> list[dict[str, Value]]:
    return [d.values for d in draws]


def species_of(values: dict[str, Value]) -> str:
    return BONA_FIDE if values["bona_fide"] else str(values["species"])


def test_every_parameter_that_is_drawn_has_a_place(drawn: list[dict[str, Value]]) -> None:
    """Whoever adds a parameter says what it belongs to: in OPERATORS, or among what cannot be switched off."""
    places = {name: place_of(name) for values in drawn for name in values}
    lost = sorted(name for name, place in places.items() if place is None)
    assert not lost, f"parameters without a place in training/data/simulate/operators.py: {', '.join(lost)}"
    # Looked up by hand.
    wanted = {"display_fill": "operator:moire", "glare_x": "operator:glare", "exposure_target": "camera"}
    wanted |= {"view_zoom": "view", "light_kelvin": "light", "picture": "declared", "room_zoom": "declared"}
    assert {name: places[name] for name in wanted} == wanted
    assert place_of("a_parameter_that_nobody_thought_of") is None


def test_no_parameter_shapes_two_operators(drawn: list[dict[str, Value]]) -> None:
    owners: dict[str, list[str]] = defaultdict(list)
    for name in {name for values in drawn for name in values}:
        owners[name] = [op for op in OPERATORS if OPERATORS[op].owns(name)]
    assert not {name: found for name, found in owners.items() if len(found) > 1}


def test_operators_are_at_work_in_the_species_that_they_name_and_in_no_other(drawn: list[dict[str, Value]]) -> None:
    at_work: dict[str, Counter[str]] = defaultdict(Counter)
    for values in drawn:
        for name, candidate in OPERATORS.items():
            at_work[name][species_of(values)] += bool(candidate.off(values))
    found = {name: frozenset(species for species, n in at_work[name].items() if n) for name in OPERATORS}
    # Masks and patches need meshes of the faces, which a drawn pack has not.
    every = {species_of(values) for values in drawn}
    wanted = {name: candidate.species & every for name, candidate in OPERATORS.items()}
    assert found == wanted | {"eye_holes": frozenset()}
    assert all(candidate.summary and "\n" not in candidate.summary for candidate in OPERATORS.values())


def test_names_for_species_are_the_operators_that_concern_them() -> None:
    assert "moire" in names_for(["replay"])
    assert "moire" not in names_for(["print", BONA_FIDE])
    assert {"moire", "halftone"} <= set(names_for(["print", "replay"]))


def test_an_unknown_operator_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"no operator 'moiré'; expected one of .*moire"):
        operator("moiré")
    with pytest.raises(ConfigError, match="'sparkle'"):
        switch_off(Draws(0, 0), "sparkle")
    with pytest.raises(ConfigError, match=r"nothing to hold out is called 'paper'; expected one of .*pentile"):
        held_out("paper")


def at_work(draws: list[Draws], name: str, count: int = 2) -> list[Draws]:
    """Copies of samples in which an operator is at work."""
    found = [switch_off(d) for d in draws if OPERATORS[name].off(d.values)]
    assert len(found) >= count, name
    return found[:count]


def test_switching_off_changes_the_picture_alters_only_what_it_says_and_keeps_the_noise(
    simulator: Simulator, draws: list[Draws]
) -> None:
    names = [name for name in OPERATORS if name not in WORN]
    # Hands and what a screen shows along its edges may lie out of view.
    along_edges = {"finger", "controls", "status_bar", "notch", "pointer", "call", "inset"}
    wanted = {name: at_work(draws, name, 8 if name in along_edges else 2) for name in names}
    for name, pattern in (("moire", "display_face_px"), ("halftone", "print_lines"), ("error_diffusion", "print_dots")):
        for d in wanted[name]:
            d.values |= {pattern: 60.0, "native_ratio": 1.0, "native_lens": 0.3, "lens_blur": 0.3, "defocus": 0.0}
            d.values |= {"motion": 0.0, "small": 0.0, "jpeg_quality": 95, "exposure_target": 0.3}
            d.values |= {"h264": 0}
    altered = {name: [switch_off(d, name) for d in wanted[name]] for name in names}
    for name in names:
        for before, after in zip(wanted[name], altered[name], strict=True):
            changed = {k for k in after.values if after.values[k] != before.values.get(k)}
            assert changed == {*OPERATORS[name].off(before.values), f"off:{name}"}
            assert switched_off(after.values) == (name,)
            assert not switched_off(before.values)
            # Off is off: there is nothing left to switch.
            assert not OPERATORS[name].off(after.values)
    off = simulator.render([d for name in names for d in altered[name]])
    on = simulator.render([d for name in names for d in wanted[name]])
    rendered = iter(zip(on, off, strict=True))
    for name in names:
        pairs = [next(rendered) for _ in wanted[name]]
        assert any(not np.array_equal(a.picture, b.picture) for a, b in pairs), name
        assert all(b.params[f"off:{name}"] == 1 for _, b in pairs)
        assert all((a.label, a.species, a.source) == (b.label, b.species, b.source) for a, b in pairs)


def test_draws_without_the_operator_at_work_render_the_same_picture(simulator: Simulator) -> None:
    index = next(i for i in range(50) if simulator.draw(i).values["bona_fide"])
    copied = switch_off(simulator.draw(index), "moire")
    assert not switched_off(copied.values)
    assert np.array_equal(simulator.render([copied])[0].picture, simulator.samples([index])[0].picture)


def test_what_only_shapes_an_operator_does_nothing_once_it_is_off(simulator: Simulator, draws: list[Draws]) -> None:
    """Angles, places and periods of another sample are put in: where the effect is gone nothing moves."""
    # Those whose places and angles say where another operator's effect lies.
    shared = ("visible_edge", "light_gradient", "bend")
    names = [name for name in OPERATORS if OPERATORS[name].shape and name not in {*shared, *WORN}]
    first, second, checked = [], [], []
    for name in names:
        one = at_work(draws, name)[0]
        shaping = [k for k in one.values if OPERATORS[name].owns(k) and k not in OPERATORS[name].neutral]
        # Of another kind of medium, dots in lines have nothing that scattered ones have.
        alike = (d for d in draws[400:] if species_of(d.values) == species_of(one.values))
        other = next(d for d in alike if any(d.values.get(k, one.values[k]) != one.values[k] for k in shaping))
        plain, moved = switch_off(one, name), switch_off(one, name)
        moved.values |= {k: other.values[k] for k in shaping if k in other.values}
        if moved.values != plain.values:
            first.append(plain)
            second.append(moved)
            checked.append(name)
    assert checked == names
    for name, a, b in zip(checked, simulator.render(first), simulator.render(second), strict=True):
        assert np.array_equal(a.picture, b.picture), name


# Stages with everything switched off do nothing at all: what they should return then is known without them.

Stage = Callable[[list[Draws]], tuple[Tensor, Tensor]]
COLOURS = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3)) * 0.6 + 0.2
PLANE = grid(SIZE, SIZE)[None] * 0.7
SMOOTH = torch.nn.functional.interpolate(COLOURS[..., :4, :4], (SIZE, SIZE), mode="bilinear")
TEXTURE = (COLOURS * 255).round().to(torch.uint8)


def _first_capture(d: list[Draws]) -> tuple[Tensor, Tensor]:
    return capture.attackers_capture(TEXTURE, d), TEXTURE.float() / 255


def _light_of_a_screen(d: list[Draws]) -> tuple[Tensor, Tensor]:
    out = display.emit(COLOURS, d) * display.banding(d, SIZE) * light.fall_off(d, SIZE)
    out = out * display.pixel_structure(PLANE, d, camera.native_sensor(d))
    return out, colour.to_linear(COLOURS)


def _light_of_a_print(d: list[Draws]) -> tuple[Tensor, Tensor]:
    bent, shading = paper.bend(PLANE, d)
    reflectance = paper.reflect(COLOURS, d)
    out = reflectance * shading * (1 + paper.fibres(d, SIZE))
    out = out * paper.screen(bent, reflectance, d, camera.native_sensor(d))
    moved = (bent - PLANE).abs().sum(-1).unsqueeze(1)
    return out + moved, colour.to_linear(COLOURS)


def _reflections(d: list[Draws]) -> tuple[Tensor, Tensor]:
    out = light.glare(d, SIZE, COLOURS)
    return out, torch.zeros_like(out)


def _medium(d: list[Draws]) -> tuple[Tensor, Tensor]:
    """A medium that fills the view, without rim, hand or controls, shows its content everywhere."""
    plane, px = grid(SIZE, SIZE)[None] * compose.BASE_ZOOM, torch.full((1, 1, 1, 1), SIZE / 2 / compose.BASE_ZOOM)
    black = torch.zeros(1, 3, 1, 1)
    behind, cut = torch.ones_like(COLOURS), cutout.plan(d, None)
    lit, _ = compose.surround(COLOURS, plane, behind=behind, rim_colour=black, draws=d, px=px, cut=cut)
    return lit, COLOURS


def _overlay(d: list[Draws]) -> tuple[Tensor, Tensor]:
    plane, px = grid(SIZE, SIZE)[None] * compose.BASE_ZOOM, torch.full((1, 1, 1, 1), SIZE / 2 / compose.BASE_ZOOM)
    return overlay.play_button(COLOURS, plane, d, px), COLOURS


def _interface(d: list[Draws]) -> tuple[Tensor, Tensor]:
    plane, px = grid(SIZE, SIZE)[None] * 3 * compose.BASE_ZOOM, torch.full((1, 1, 1, 1), SIZE / 6 / compose.BASE_ZOOM)
    return overlay.interface(COLOURS, plane, d, px, torch.full_like(COLOURS, 0.5)), COLOURS


def _perspective(d: list[Draws]) -> tuple[Tensor, Tensor]:
    """Without tilt a view keeps parallels parallel: opposite sides of a square stay equal."""
    square = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])[None, None]
    a, b, c, e = apply(compose.view_matrices(d), square)[0, 0]
    return b - a, c - e


def _behind_the_living(d: list[Draws]) -> tuple[Tensor, Tensor]:
    plane, px = grid(SIZE, SIZE)[None] * 1.2, torch.full((1, 1, 1, 1), SIZE / 2.4)
    out = compose.frame(compose.clutter(COLOURS, plane, d, px), plane, d, px, torch.ones_like(COLOURS))
    return out, COLOURS


def _room_light(d: list[Draws]) -> tuple[Tensor, Tensor]:
    out = light.room_light(d, SIZE)
    return out, torch.ones_like(out)


def _exposure(d: list[Draws]) -> tuple[Tensor, Tensor]:
    out = camera.expose(SMOOTH, d)
    # One factor for all pixels and channels.
    return out / SMOOTH, (out / SMOOTH)[:, 1:2, SIZE // 2, SIZE // 2].view(1, 1, 1, 1).expand_as(out)


def _lens(d: list[Draws]) -> tuple[Tensor, Tensor]:
    return camera.image(COLOURS.clone(), d), COLOURS


def _sensor(d: list[Draws]) -> tuple[Tensor, Tensor]:
    flat = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1).expand(1, 3, SIZE, SIZE)
    return camera.sense(flat, d), flat


def _development(d: list[Draws]) -> tuple[Tensor, Tensor]:
    return camera.develop(COLOURS.clone(), d), colour.to_srgb(COLOURS.clone())


def _storage(d: list[Draws]) -> tuple[Tensor, Tensor]:
    """A JPEG of quality 100 changes a smooth picture by a few steps of 255, in blue most."""
    smooth = torch.nn.functional.interpolate(0.3 + 0.4 * SMOOTH, (192, 192), mode="bicubic")
    stored = torch.from_numpy(camera.encode(smooth, d, 192)).permute(0, 3, 1, 2).float() / 255
    return stored, smooth


def _edge_of_the_picture(d: list[Draws]) -> tuple[Tensor, Tensor]:
    picture = TEXTURE.permute(0, 2, 3, 1).contiguous()
    return compose.truncate(picture, d).float(), picture.float()


CAPTURE = (
    "capture_blur",
    "capture_small",
    "capture_tone",
    "capture_sharpen",
    "capture_saturation",
    "capture_codec",
    "capture_h264",
)
SCREEN = ("display_tone", "display_gamut", "display_white", "display_black", "display_over")
INK = ("print_tone", "print_gamut", "print_black", "print_white", "print_tint")
STAGES: dict[str, tuple[Stage, tuple[str, ...], float]] = {
    "capture": (_first_capture, CAPTURE, 1e-6),
    "screen": (_light_of_a_screen, (*SCREEN, "moire", "banding", "screen_gradient"), 1e-5),
    "print": (
        _light_of_a_print,
        (*INK, "halftone", "error_diffusion", "paper_noise", "print_banding", "bend", "crease"),
        1e-5,
    ),
    "reflections": (_reflections, ("glare", "lamp", "room_reflection"), 0.0),
    "medium": (_medium, ("visible_edge", "contour", "rim", "finger", "controls"), 0.0),
    "overlay": (_overlay, ("play_button",), 0.0),
    "interface": (_interface, ("status_bar", "notch", "pointer", "call", "inset"), 0.0),
    "perspective": (_perspective, ("tilt",), 1e-6),
    "behind": (_behind_the_living, ("clutter", "frame"), 0.0),
    "room light": (_room_light, ("light_gradient", "light_mix"), 1e-6),
    "exposure": (_exposure, ("white_balance", "flare", "vignette"), 1e-5),
    "lens": (_lens, ("lens_blur", "motion", "aberration"), 1e-5),
    "sensor": (_sensor, ("noise",), 1e-6),
    "development": (_development, ("denoise", "camera_gamut", "camera_tone", "auto_levels", "sharpen"), 1e-6),
    "storage": (_storage, ("small", "jpeg", "jpeg_twice", "h264"), 4.1 / 255),
    "edge of the picture": (_edge_of_the_picture, ("truncation",), 0.0),
}
#: Patterns coarse enough for the small pictures of these tests, and what is drawn too seldom at a strength that shows.
STRONG: dict[str, dict[str, Value]] = {
    "moire": {"display_face_px": 8.0, "native_ratio": 1.0, "native_lens": 0.3},
    "halftone": {"print_lines": 8.0, "native_ratio": 1.0, "native_lens": 0.3},
    "error_diffusion": {"print_dots": 30.0, "native_ratio": 1.0, "native_lens": 0.3},
    "jpeg_twice": {"jpeg_second_quality": 40},
    "h264": {"h264_qp": 40},
}
#: Tested elsewhere: on whole pictures.
ON_PICTURES = {"lens_softness", "display_metering"}


def test_every_operator_has_its_stage() -> None:
    assert {name for _, names, _ in STAGES.values() for name in names} | ON_PICTURES == set(OPERATORS) - WORN


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_does_nothing_with_its_operators_off_and_something_with_any_one_on(
    draws: list[Draws], stage: str
) -> None:
    run, names, tolerance = STAGES[stage]
    for name in names:
        # The edge decides whether a rim is in view, and hands and controls sit on it.
        partners = {"visible_edge"} if name in ("contour", "rim", "finger", "controls") else set()
        largest = 0.0
        for d in (d for d in draws if OPERATORS[name].off(d.values)):
            nothing = switch_off(d, *OPERATORS)
            found, wanted = run([nothing])
            torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)
            alone = switch_off(d, *(set(OPERATORS) - {name} - partners))
            alone.values |= STRONG.get(name, {})
            without = switch_off(alone, name)
            largest = float((run([alone])[0] - run([without])[0]).abs().max())
            if largest > max(tolerance, 1e-4):
                break
        assert largest > max(tolerance, 1e-4), name


def test_softness_that_is_off_is_like_softness_that_was_never_drawn(simulator: Simulator, draws: list[Draws]) -> None:
    soft = at_work(draws, "lens_softness", 1)[0]
    sharp = switch_off(soft, "lens_softness")
    del sharp.values["lens_softness"]  # the default of what was never drawn
    off = switch_off(soft, "lens_softness")
    assert np.array_equal(simulator.render([sharp])[0].picture, simulator.render([off])[0].picture)


def test_parts_to_hold_out_are_found_by_their_parameters(drawn: list[dict[str, Value]]) -> None:
    for values in drawn:
        inside = {name for name, part in HELD_OUT.items() if part.matches(values)}
        assert f"camera:{values['camera']}" in inside
        assert len([name for name in inside if name.startswith("camera:")]) == 1
        assert ("h264" in inside) == (values["h264"] == 1)
        if values["bona_fide"]:
            assert all(HELD_OUT[name].both_classes for name in inside)
            continue
        assert {values["species"], values["subtype"]} <= inside
        assert ("pentile" in inside) == (values.get("display_layout") == "pentile")
        assert ("error_diffusion" in inside) == ("print_dots" in values)
        assert ("capture_h264" in inside) == (values["capture_h264"] == 1)
        assert ("bent" in inside) == bool(values.get("bend", 0) or values.get("crease", 0))
        shiny = float(values["glare"]) + float(values["lamp"]) + float(values["room_reflection"]) > 0
        assert ("glare" in inside) == shiny
        assert ("hidden_edge" in inside) == (values["edge_visible"] == 0)
        assert ("contour" in inside) == (float(values.get("contour", 0)) > 0)
        assert ("eye_holes" in inside) == (float(values.get("holes", 0)) > 0)
    count = Counter(name for values in drawn for name, part in HELD_OUT.items() if part.matches(values))
    kinds = {str(values.get(column)) for values in drawn for column in ("species", "subtype")}
    found = {"pentile", "glare", "bent", "hidden_edge", "contour", "error_diffusion", "capture_h264"}
    assert found | {f"camera:{name}" for name in PROFILES} <= set(count)
    assert kinds - {"None"} <= set(count)
    both = {"h264", *(f"camera:{name}" for name in PROFILES)}
    assert {name for name in HELD_OUT if HELD_OUT[name].both_classes} == both <= set(count)
