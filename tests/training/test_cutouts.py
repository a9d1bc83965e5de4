"""Prints that are cut: the face stays, what is cut away is gone in colour and depth, who looks through is there."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.test_masks import landmarks, meshes, simulator, without
from training.data.simulate import Simulator, compose, cutout, depth, paper
from training.data.simulate.cutout import Cut
from training.data.simulate.draws import Draws, Value
from training.data.simulate.facefit import EYES, MOUTH, OVAL
from training.data.simulate.mesh import FaceMeshes
from training.data.simulate.operators import OPERATORS, switch_off
from training.data.simulate.optics import apply
from training.data.simulate.scene import FACE_HALF

SIZE = 160
PX = torch.full((1, 1, 1, 1), SIZE / 2 / compose.BASE_ZOOM)
WHOLE = {"contour": 0.0, "holes": 0.0, "contour_paper": 0.0, "contour_neck": 0.0, "contour_waves": 0.004,
         "contour_hair": 0.3, "holes_mouth": 0.0, "holes_rim": 0.0, "holder_x": 0.0, "holder_y": 0.0,
         "holder_roll": 0.0, "holder_zoom": 1.0, "finger": 0.0, "bend": 0.0, "crease": 0.0, "edge_width": 3.0,
         "edge_height": 3.0, "edge_x": 0.0, "edge_y": 0.0, "rim": 0.0, "view_zoom": 1.0, "view_roll": 0.0,
         "view_x": 0.0, "view_y": 0.0, "view_tilt_x": 0.0, "view_tilt_y": 0.0, "view_mirror": 0}  # fmt: skip
CUT_ALONG, PIERCED = {"contour": 0.1}, {"holes": 1.3, "holder": 0, "holder_source": "studio"}


@pytest.fixture(scope="module")
def sim() -> Simulator:
    return simulator(mesh=meshes(8), bona_fide_share=0.0, depth=True)


@pytest.fixture(scope="module")
def prints(sim: Simulator) -> list[int]:
    """Numbers of prints."""
    return [i for i in range(4000) if sim.draw(i).values["species"] == "print"]


@pytest.fixture(scope="module")
def numbers(sim: Simulator, prints: list[int]) -> dict[tuple[bool, bool], list[int]]:
    """Numbers of prints by whether they are cut along the head and whether they have holes."""
    found: dict[tuple[bool, bool], list[int]] = {key: [] for key in itertools.product((False, True), repeat=2)}
    for i in prints:
        values = sim.draw(i).values
        found[bool(values["contour"]), bool(values["holes"])].append(i)
    return found


def sheet(seed: int = 0, **changes: Value) -> Draws:
    """Parameters of one print of picture 1, held straight, uncut but for the changes."""
    d = Draws(7, seed)
    picture = {"bona_fide": 0, "species": "print", "subtype": "laser", "picture": 1}
    d.values |= picture
    cutout.draw_cutout(d, "laser", held=True)
    compose.draw_surroundings(d, "laser", (0.0, 0.35))
    d.values |= WHOLE | changes
    depth.draw_depth(d, dict(d.values))
    return d


def planned(d: Draws, mesh: FaceMeshes | None = None) -> Cut:
    found = cutout.plan([d], meshes(2) if mesh is None else mesh)
    assert found is not None
    return found


def shares(d: Draws) -> tuple[Tensor, Tensor, Tensor]:
    """Places (H, W, 2), and the shares of print and paper there, (H, W)."""
    plane = apply(compose.view_matrices([d]), compose.canvas(SIZE, [d]))
    inside, body, _ = compose.outline(paper.bend(plane, [d])[0], [d], PX, cutout.plan([d], meshes(2)))
    return plane[0], inside[0, 0], body[0, 0]


def at(values: Tensor, x: float, y: float) -> float:
    column, row = (round((v / compose.BASE_ZOOM + 1) / 2 * SIZE - 0.5) for v in (x, y))
    return float(values[row, column])


@pytest.mark.parametrize("margin", [0.04, 0.25])
@pytest.mark.parametrize("with_mesh", [True, False])
def test_the_face_stays_whatever_the_scissors_do(margin: float, with_mesh: bool) -> None:
    marks = torch.from_numpy(landmarks())[list(OVAL), :2][None, None]
    for seed in range(20):
        d = sheet(seed, contour=margin, contour_waves=0.025)
        by = cutout.plan([d], meshes(2) if with_mesh else None)
        assert by is not None
        for points in (marks, 0.5 * marks):
            plane = points.expand(1, 1, -1, -1).contiguous()
            body, inside = torch.ones(1, 1, 1, 36), torch.ones(1, 1, 1, 36)
            cutout.cut(inside, body, plane, [d], px=PX * 100, by=by)
            assert (body == 1).all()


def test_outside_the_contour_is_the_room_and_nothing_of_the_sheet() -> None:
    d = sheet(**CUT_ALONG, contour_paper=0.05)
    plane, inside, body = shares(d)
    content, behind = torch.full((1, 3, SIZE, SIZE), 0.7), torch.rand(1, 3, SIZE, SIZE)
    lit, shows = compose.surround(content, plane[None], behind=behind, rim_colour=torch.ones(1, 3, 1, 1), draws=[d],
                                  px=PX, cut=planned(d))  # fmt: skip
    gone, kept = body == 0, inside == 1
    assert 0.2 < gone.float().mean() < 0.8
    assert torch.equal(lit[0][:, gone], behind[0][:, gone])
    torch.testing.assert_close(lit[0][:, kept], content[0][:, kept])
    assert torch.equal(shows[0, 0], inside)
    # A white edge between them, and an edge of one pixel that is neither in nor out.
    assert ((body == 1) & (inside == 0)).sum() > 100
    assert 0 < ((body > 0) & (body < 1)).float().sum() < 3 * 2 * np.pi * SIZE / 2
    # Hair above, room beside and below.
    assert at(body, 0.0, -0.5) == 1
    assert at(body, 0.0, 0.6) == at(body, -0.5, 0.0) == at(body, 0.5, 0.0) == 0


def test_a_neck_goes_on_below_the_chin_and_a_finger_reaches_the_cut() -> None:
    _, _, body = shares(sheet(**CUT_ALONG, contour_neck=0.5))
    assert at(body, 0.0, 0.55) == 1
    assert at(body, 0.25, 0.55) == 0
    d = sheet(**CUT_ALONG, finger=0.2, finger_place=0.0, finger_reach=0.1, finger_side="bottom",
              finger_count=1, finger_fan=0.0)  # fmt: skip
    plane = apply(compose.view_matrices([d]), compose.canvas(SIZE, [d]))
    _, _, finger = compose.outline(plane, [d], PX, planned(d))
    end = float(plane[0, :, SIZE // 2, 1][finger[0, 0, :, SIZE // 2] > 0.5].min())
    # The chin is at 0.38, the cut a tenth of 0.4 below; from there the finger reaches up, a quarter thinner at its end.
    edge = 0.38 + 0.1 * 0.4
    assert end == pytest.approx(edge - (0.1 + 0.75 * 0.2) * FACE_HALF, abs=0.015)


def test_holes_lie_over_the_eyes_and_nowhere_else() -> None:
    marks = landmarks()
    for mouth in (0.0, 1.0):
        _, inside, body = shares(sheet(**PIERCED, holes_mouth=mouth, holes_rim=0.01))
        for eye in EYES:
            x, y = marks[list(eye), :2].mean(0)
            assert at(body, x, y) == at(inside, x, y) == 0
        x, y = marks[list(MOUTH), :2].mean(0)
        assert (at(body, x, y) == 0) == (mouth > 0)
        # Forehead, nose, chin; and a white rim round the holes.
        assert at(inside, 0.0, -0.25) == at(inside, 0.0, 0.0) == at(inside, 0.0, 0.33) == 1
        assert ((body > 0.9) & (inside < 0.1)).sum() > 10


def test_holes_have_edges_of_a_pixel_and_rims_of_one_width() -> None:
    rim = 0.02
    for changes in ({"holes_rim": 0.0}, {"holes_rim": rim}):
        _, inside, body = shares(sheet(**PIERCED, holes_height=0.6, **changes))
        marks = landmarks()[list(EYES[0]), :2].mean(0)
        column, row = (round((float(v) / compose.BASE_ZOOM + 1) / 2 * SIZE - 0.5) for v in marks)
        reach = 14  # not as far as the other eye
        for line in (slice(row - reach, row + reach), column), (row, slice(column - reach, column + reach)):
            for share in (inside[line], body[line]):
                assert 0 < ((share > 0) & (share < 1)).sum() <= 4  # two edges
            white = float((body[line] - inside[line]).sum()) / float(PX) / 2
            assert white == pytest.approx(changes["holes_rim"], abs=0.15 * rim)


def test_through_the_holes_the_holders_eyes_are_seen_and_darker(sim: Simulator, numbers: dict[object, list[int]]):
    """Tiles of even numbers have violet eyes, of odd ones green: as stored, so the camera may do what it likes."""
    index = next(i for i in numbers[False, True]
                 if int(sim.draw(i).values["picture"]) % 2 != int(sim.draw(i).values["holder"]) % 2)  # fmt: skip
    levels = []
    for shadow in (0.2, 0.6):
        d = switch_off(sim.draw(index), *(set(OPERATORS) - {"eye_holes"}))
        straight = {k: v for k, v in WHOLE.items() if k.startswith(("view", "holder"))}
        d.values |= straight | {"holes_shadow": shadow, "holes": 1.0, "holes_height": 0.5, "exposure_target": 0.1}
        green = int(d.values["holder"]) % 2 == 1
        picture = sim.render([d])[0].picture.astype(int)
        x, y = ((v / compose.BASE_ZOOM + 1) / 2 * 64 - 0.5 for v in (-0.13, -0.1))
        red, middle, blue = picture[round(y), round(x)]
        assert (middle > max(red, blue)) if green else (middle < min(red, blue))
        levels.append(red + middle + blue)
    # In the middle of a hole half of the shadow is left: 0.9 and 0.7 of the light, a tenth in sRGB.
    assert levels[0] > 1.07 * levels[1]


@pytest.mark.parametrize("tilt", [0.0, 0.15])
def test_depth_has_the_outline_and_the_holes_of_the_picture(tilt: float) -> None:
    """Before the holder and the wall a plane; millimetres."""
    d = sheet(**CUT_ALONG, **PIERCED, view_tilt_x=tilt)
    d.values |= {"depth_holder": 1, "depth_holder_gap": 0.02, "depth_behind": 2.0}
    canvas = compose.canvas(SIZE, [d])
    plane = apply(compose.view_matrices([d]), canvas)
    found = depth.medium(canvas, plane, meshes(2)[[0]], [d], planned(d)).depth_m[0, 0]
    alone = depth.medium(canvas, plane, None, [switch_off(d, "contour", "eye_holes")]).depth_m[0, 0]
    paper_there = shares(d)[2] > 0.5
    assert torch.equal(found[paper_there], alone[paper_there])
    behind = 1000 * (found - alone)[~paper_there]
    assert (behind > 3.5).all()
    y, x = np.nonzero(paper_there.numpy())
    terms = np.stack([x, y, np.ones_like(x)], 1).astype(float)
    sheet_m = found[paper_there].numpy().astype(float)
    # Inverse depth of a plane is linear over the picture.
    rest = 1 / sheet_m - terms @ np.linalg.lstsq(terms, 1 / sheet_m, rcond=None)[0]
    assert np.abs(rest).max() * sheet_m.mean() ** 2 < 1e-4
    for eye in EYES:
        px, py = landmarks()[list(eye), :2].mean(0)
        m = apply(torch.linalg.inv(compose.view_matrices([d])), torch.tensor([[[float(px), float(py)]]]))[0, 0, 0]
        column, row = (round((float(v) + 1) / 2 * SIZE - 0.5) for v in m)
        assert 5 <= 1000 * float((found - alone)[row, column]) <= 40


def test_switched_off_it_is_the_sheet_without(
    sim: Simulator, numbers: dict[object, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [found[0] for found in (numbers[True, False], numbers[False, True], numbers[True, True])]
    whole = sim.render([switch_off(sim.draw(i), "contour", "eye_holes") for i in some])
    cut = sim.samples(some)
    with monkeypatch.context() as patch:
        patch.setattr(cutout, "plan", lambda *_: None)
        never = sim.samples(some)
    for a, b, c in zip(whole, never, cut, strict=True):
        assert np.array_equal(a.picture, b.picture)
        assert not np.array_equal(a.picture, c.picture)
    assert whole[0].depth_mm is not None
    assert never[0].depth_mm is not None
    assert np.array_equal(whole[0].depth_mm, never[0].depth_mm)


def test_cut_sheets_are_the_same_alone_and_in_any_batch(sim: Simulator, numbers: dict[object, list[int]]) -> None:
    some = [i for found in numbers.values() for i in found[:3]]
    for order in (some, some[::-1], some[::3] + some[1::3] + some[2::3]):
        for i, together in zip(order, sim.samples(order), strict=True):
            alone = sim.samples([i])[0]
            assert np.array_equal(together.picture, alone.picture)
            assert together.depth_mm is not None
            assert alone.depth_mm is not None
            assert np.array_equal(together.depth_mm, alone.depth_mm)


def test_clips_of_cut_sheets_move_as_one(sim: Simulator, numbers: dict[object, list[int]]) -> None:
    index = numbers[True, True][0]
    clip, again = (sim.clip(index, seconds=0.3, fps=10) for _ in range(2))
    assert clip.frames.shape[0] == 3
    assert np.array_equal(clip.frames, again.frames)
    # The scissors cut once: only the view differs.
    draws = [sim.draw(index), sim.draw(index)]
    draws[1].values["view_x"] = 0.3
    lines = [planned(d, meshes(8)).reach for d in draws]
    assert torch.equal(*lines)


def test_shares_and_who_is_seen(sim: Simulator, prints: list[int], numbers: dict[tuple[bool, bool], list[int]]) -> None:
    values = [sim.draw(i).values for i in prints]
    sheets = [v for v in values if v["subtype"] != "newsprint"]
    assert all(not v["contour"] and not v["holes"] for v in values if v["subtype"] == "newsprint")
    n = len(sheets)
    both, along, pierced = (len(numbers[key]) for key in ((True, True), (True, False), (False, True)))
    for count, share, of in ((both + along, 1 / 6, n), (both + pierced, 1 / 8, n), (both, 1 / 2, both + pierced)):
        assert abs(count - share * of) < 4 * (of * share * (1 - share)) ** 0.5
    for v in values:
        assert ("holder" in v) == bool(v["holes"])
        assert v["edge_visible"] or not v["contour"]
        if v["holes"]:
            shown, holder = (sim.pictures[int(v[name])] for name in ("picture", "holder"))
            assert (shown.identity != holder.identity, holder.split) == (True, shown.split)
            assert holder.source == v["holder_source"]


def test_without_meshes_there_are_no_holes_but_contours() -> None:
    bare = simulator(mesh=without(meshes(8), range(8)), bona_fide_share=0.0)
    values = [bare.draw(i).values for i in range(300)]
    assert not any(v.get("holes") for v in values)
    index = next(i for i, v in enumerate(values) if v.get("contour"))
    whole = bare.render([switch_off(bare.draw(index), "contour")])[0]
    assert not np.array_equal(bare.samples([index])[0].picture, whole.picture)
