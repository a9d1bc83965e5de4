"""Masks on living heads: paper, rigid, flexible; and mannequins; linear light.

Kinds and ranges follow what is written about WMCA and HQ-WMCA (printed paper masks; rigid plastic and resin masks,
custom made or decorative; silicone masks; mannequin heads), HKBU-MARs (rigid masks of other people's faces under
several lights) and CSMAD (silicone masks). None of them publishes optical measurements: numbers without a source are
wide guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (the community's name for it)
from torch import Tensor

from training.data.simulate import colour, facefit, partial
from training.data.simulate.draws import Draws, column
from training.data.simulate.facefit import EYES, MOUTH, NOSE
from training.data.simulate.mesh import MeshBatch
from training.data.simulate.optics import blur, sample, smooth_noise
from training.data.simulate.wearing import (
    Layer,
    Stage,
    Worn,
    draw_edge,
    draw_modelling,
    draw_print,
    draw_wearing,
    highlights,
    lay,
    paper_edge,
    printed,
    stage,
)

#: Outline over the face's own, waves of its cut, by kind, each (low, high).
OUTLINES = {
    "paper_mask": ((0.90, 1.30), (0.006, 0.03)),
    "rigid_mask": ((0.94, 1.12), (0.0, 0.006)),
    "flexible_mask": ((1.02, 1.16), (0.0, 0.01)),
}
#: (how often there are eye holes, their half width and half height over half the eye's width) by kind.
EYE_HOLES = {
    "paper_mask": (0.75, (0.8, 1.4), (0.4, 0.9)),
    "rigid_mask": (0.9, (0.95, 1.25), (0.42, 0.6)),
    "flexible_mask": (1.0, (1.0, 1.25), (0.45, 0.62)),
}
#: How often there is a hole for the mouth.
MOUTH_HOLES = {"paper_mask": 0.25, "rigid_mask": 0.2, "flexible_mask": 0.45}
#: Gloss, polish (exponent), smoothing of the albedo, painted share, by solid kind, each (low, high).
SOLIDS = {
    "rigid_mask": ((0.12, 0.8), (8.0, 90.0), (0.5, 1.0), (0.0, 0.5)),
    "flexible_mask": ((0.02, 0.25), (4.0, 25.0), (0.4, 0.9), (0.0, 0.3)),
    "mannequin": ((0.1, 0.8), (6.0, 70.0), (0.8, 1.0), (0.6, 0.97)),
}
#: Linear colours of paint and plastic, relative to their green.
PAINTS = {"skin": (1.55, 0.68), "pale": (1.25, 0.85), "white": (1.03, 0.97), "tan": (1.75, 0.5), "silver": (1.0, 1.05)}
N_FOLDS = 3
#: Harmonics of a hand-cut outline, from the second on.
_WAVES = 4


def draw_mask(d: Draws, subtype: str) -> None:
    """Parameters of a mask or a mannequin."""
    if subtype == "mannequin":
        draw_modelling(d)
        _draw_solid(d, subtype)
        d.uniform("mask_reach", 1.3, 1.9)
        return
    draw_wearing(d)
    size, waves = OUTLINES[subtype]
    d.uniform("mask_size", *size)
    d.uniform("mask_waves", *waves)
    often, width, height = EYE_HOLES[subtype]
    d.sometimes("mask_eye_width", often, *width)
    d.uniform("mask_eye_height", *height)
    d.sometimes("mask_mouth_hole", MOUTH_HOLES[subtype], 0.8, 1.25)
    if subtype == "paper_mask":
        _draw_folded(d)
    else:
        _draw_solid(d, subtype)
        d.uniform("mask_relief", 0.3, 1.0)
        d.uniform("mask_exaggeration", 1.0, 1.8)
        d.uniform("mask_rim", *((0.01, 0.04) if subtype == "rigid_mask" else (0.003, 0.01)))
        d.uniform("mask_rim_width", 0.008, 0.03)
    if subtype == "flexible_mask":
        d.uniform("mask_translucency", 0.1, 0.7)
        d.uniform("mask_wrinkles", 0.0, 0.003)
        d.loguniform("mask_feather", 0.004, 0.02)


def _draw_folded(d: Draws) -> None:
    draw_print(d)
    draw_edge(d)
    d.sometimes("mask_nose_hole", 0.25, 0.8, 1.3)
    d.uniform("mask_flat", 0.2, 0.9)
    d.uniform("mask_curve", 0.2, 1.0)
    d.uniform("mask_crease", 0.0, 0.3)
    d.uniform("mask_crumple", 0.0, 0.006)
    for i in range(N_FOLDS):
        d.sometimes(f"mask_fold_{i}", 0.6, -0.3, 0.3)
        d.uniform(f"mask_fold_angle_{i}", -1.5708, 1.5708)
        d.uniform(f"mask_fold_place_{i}", -0.28, 0.28)


def _draw_solid(d: Draws, subtype: str) -> None:
    gloss, polish, smooth, paint = SOLIDS[subtype]
    d.loguniform("mask_gloss", *gloss)
    d.loguniform("mask_polish", *polish)
    d.uniform("mask_smooth", *smooth)
    d.uniform("mask_paint", *paint)
    d.choice("mask_colour", list(PAINTS), (0.45, 0.2, 0.12, 0.15, 0.08))
    d.loguniform("mask_albedo", 0.16, 0.6)
    d.uniform("mask_modelling", 0.5, 1.3)


def wear(tiles: Tensor, victims: Tensor, wearer: MeshBatch, victim: MeshBatch, draws: Sequence[Draws]) -> Worn:
    """Put each sample's instrument, a mask or a part of one, on its wearer.

    Args:
        tiles: The wearers' tiles, uint8 sRGB (B, 3, T, T).
        victims: Tiles of those whose faces the instruments show, uint8 sRGB (B, 3, T, T).
        wearer: The wearers' meshes.
        victim: The victims' meshes.
        draws: The samples' parameters; ``subtype`` says which instrument.
    """
    linear = colour.bytes_to_linear(tiles)
    at = stage(linear, victims, wearer, victim, draws)
    light, cover = torch.empty_like(at.wearer), torch.zeros(len(draws), 1, at.size, at.size)
    worn = Worn(
        linear, torch.zeros_like(light), cover, at.fit.warp, at.fit.height.clone(), torch.zeros_like(at.fit.face)
    )
    kinds = [str(d.values["subtype"]) for d in draws]
    for kind in sorted(set(kinds)):
        chosen = [i for i, k in enumerate(kinds) if k == kind]
        some, part = [draws[i] for i in chosen], _part(at, chosen)
        layer = MATERIALS[kind](part, some)
        light[chosen], covered = lay(part, layer, some)
        on_grid = F.interpolate(covered, layer.height.shape[2:], mode="bilinear", align_corners=False)
        worn.height[chosen] = worn.height[chosen] * (1 - on_grid) + layer.height * on_grid
        worn.cover[chosen] = on_grid
        if layer.printed is not None:
            worn.printed[chosen], worn.paper[chosen] = layer.printed, covered
    facefit.crop(worn.light).copy_(light)
    return worn


def _part(at: Stage, chosen: list[int]) -> Stage:
    if len(chosen) == len(at.wearer):
        return at
    fit = facefit.Fit(*(getattr(at.fit, name)[chosen] for name in facefit.Fit.__dataclass_fields__))
    light = facefit.Light(at.light.level[chosen], at.light.slope[chosen], at.light.middle[chosen])
    return Stage(at.wearer[chosen], at.victims[chosen], fit, light, at.towards_light[chosen], at.level[chosen], at.px)


def outline(at: Stage, draws: Sequence[Draws]) -> Tensor:
    """How far inside a mask's contour and outside its holes positions lie, tile units, (B, 1, G, G)."""
    marks, points = at.fit.landmarks, at.fit.points
    waves = torch.stack([d.noise(2 * _WAVES) for d in draws]) * column(draws, "mask_waves").view(-1, 1)
    distance = facefit.face_distance(points, marks, column(draws, "mask_size", 1.0).view(-1, 1, 1), waves)
    wide, high = column(draws, "mask_eye_width").view(-1, 1, 1), column(draws, "mask_eye_height", 0.5).view(-1, 1, 1)
    for eye in EYES:
        place = facefit.opening(marks, eye)
        distance = _cut(distance, points, place, (wide * place.width, high * place.width * (wide > 0)))
    mouth, nose = facefit.opening(marks, MOUTH), facefit.opening(marks, NOSE)
    scale = column(draws, "mask_mouth_hole").view(-1, 1, 1)
    high = scale * torch.maximum(mouth.height, 0.35 * mouth.width)
    distance = _cut(distance, points, mouth, (scale * mouth.width, high))
    scale = column(draws, "mask_nose_hole").view(-1, 1, 1)
    return _cut(distance, points, nose, (scale * nose.width * 1.2, scale * nose.height))


def _cut(distance: Tensor, points: Tensor, place: facefit.Opening, half: tuple[Tensor, Tensor]) -> Tensor:
    """Cut an ellipse out; one without width cuts nothing."""
    there = (half[0] > 0).unsqueeze(1)
    hole = facefit.oval_distance(points, place, (half[0].clamp_min(1e-3), half[1].clamp_min(1e-3)))
    return torch.where(there, torch.minimum(distance, -hole), distance)


def paper_mask(at: Stage, draws: Sequence[Draws]) -> Layer:
    """A print of the victim's face, cut out, folded and bent round the wearer's face."""
    distance = outline(at, draws)
    reflectance = printed(at, draws)
    height, creases = _folded(at, draws)
    surface = facefit.normals(height)
    shading = at.light.shade(surface) * (1 + creases)
    sheen = highlights(at, surface, 0.25 * column(draws, "print_white", 0.8) ** 8, torch.full_like(at.level, 6.0))
    lit = facefit.enlarge(torch.cat([shading, sheen], 1) * at.level, at.size)
    light = reflectance * lit[:, :1] + lit[:, 1:]
    white = column(draws, "print_white", 0.8) * lit[:, :1]
    light = paper_edge(light, distance, white, draws, at.px)
    return Layer(light, distance, height + column(draws, "mask_stand_off"), reflectance)


def _folded(at: Stage, draws: Sequence[Draws]) -> tuple[Tensor, Tensor]:
    """Surface of a folded sheet on a face (B, 1, G, G), and the lines of its folds, relative brightness."""
    points = at.fit.points - at.fit.landmarks[:, facefit.OVAL, :2].mean(1).view(-1, 1, 1, 2)
    x, y = points[..., 0].unsqueeze(1), points[..., 1].unsqueeze(1)
    flat = column(draws, "mask_flat")
    # Paper does not follow nose and eye sockets, it bends round the head.
    loose = blur(F.avg_pool2d(at.fit.height, 4), torch.full_like(flat, 1.8), 9)
    loose = F.interpolate(loose, at.fit.height.shape[2:], mode="bicubic", align_corners=False)
    height = (1 - flat) * loose - flat * column(draws, "mask_curve") * x * x
    patches = smooth_noise(torch.stack([d.noise(1 + N_FOLDS, 9, 9) for d in draws]), facefit.GRID_PX // 2)
    patches = facefit.enlarge(patches, facefit.GRID_PX)
    height = height + column(draws, "mask_crumple") * patches[:, :1]
    lines = torch.zeros_like(height)
    for i in range(N_FOLDS):
        angle, slope = column(draws, f"mask_fold_angle_{i}"), column(draws, f"mask_fold_{i}")
        across = x * torch.cos(angle) + y * torch.sin(angle) - column(draws, f"mask_fold_place_{i}")
        height = height - slope * torch.sqrt(across * across + 2e-5)
        worn = (0.5 + 0.5 * patches[:, i + 1 : i + 2]).clamp(0, 1)
        lines = lines + torch.sign(slope) * torch.exp(-((across / 0.007) ** 2)) * worn
    return height, column(draws, "mask_crease") * lines


def rigid_mask(at: Stage, draws: Sequence[Draws]) -> Layer:
    """A hard shell with the victim's shape and painted albedo."""
    distance = outline(at, draws)
    height = _shell(at, distance, draws)
    return Layer(_solid_light(at, _victims_albedo(at, draws), height, draws), distance, height)


def flexible_mask(at: Stage, draws: Sequence[Draws]) -> Layer:
    """Silicone or latex: it clings, wrinkles, and light spreads within it."""
    distance = outline(at, draws)
    height = _shell(at, distance, draws)
    # Wrinkles run across; they are long and narrow.
    waves = torch.stack([d.noise(1, 40, 9) for d in draws])
    height = height + column(draws, "mask_wrinkles") * smooth_noise(waves, facefit.GRID_PX)
    light = _solid_light(at, _victims_albedo(at, draws), height, draws)
    return Layer(light, distance, height, feather=column(draws, "mask_feather"))


def mannequin(at: Stage, draws: Sequence[Draws]) -> Layer:
    """A painted head: the skin of the whole head has one colour, features are painted on, hair is a wig or plastic."""
    window, reach = at.wearer, column(draws, "mask_reach", 1.5).view(-1, 1, 1)
    surface = facefit.normals(at.fit.height)
    edge = facefit.face_distance(at.fit.points, at.fit.landmarks, reach, torch.zeros(len(draws), 2))
    own = blur(at.fit.face, torch.full_like(at.level, 2.0), 9)
    maps = [edge / 0.15, own, _features(at), at.light.shade(surface), _modelled(at, surface, own, draws)]
    shine = highlights(at, surface, column(draws, "mask_gloss"), column(draws, "mask_polish", 10.0)) * own
    near, own, features, shade, modelled, shine = facefit.enlarge(torch.cat([*maps, shine], 1), at.size).chunk(6, 1)
    skin = torch.maximum(_skin_like(window, own, at.light.level), own) * near.clamp(0, 1)
    # The mesh ends below the hair: what is bright just outside it is forehead and ears, whatever light colours them.
    close = facefit.face_distance(at.fit.points, at.fit.landmarks, 0 * reach + 1.2, torch.zeros(len(draws), 2))
    bright = ((colour.luma(window) / at.light.level - 0.25) / 0.3).clamp(0, 1)
    skin = torch.maximum(skin, bright * facefit.enlarge((close / 0.05).clamp(0, 1), at.size))
    smooth = _edge_preserving(window, 4, 0.03)
    plain = window + column(draws, "mask_smooth") * (1 - 0.6 * features) * (smooth - window)
    # What is painted on keeps its contrast, what the light did to the living face goes.
    tone = (colour.luma(plain) / (at.light.level * shade)).clamp(0.04, 2.0)
    tone = tone ** (0.45 + 0.35 * features)
    painted = _paint(draws) * column(draws, "mask_albedo", 0.3) * tone
    own_colour = plain / (at.light.level * shade) * column(draws, "mask_albedo", 0.3)
    body = own_colour + column(draws, "mask_paint") * (1 - 0.4 * features) * (painted - own_colour)
    light = window + skin * ((body * modelled + shine) * at.level - window)
    # Beyond the reach nothing is touched, so that the layer needs no edge.
    return Layer(light, edge.clamp_min(-0.1), at.fit.height)


def _modelled(at: Stage, surface: Tensor, own: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Shading of a mannequin, its face by its normals, the rest as a mean."""
    lean = (at.towards_light * (surface - at.light.middle)).sum(1, keepdim=True)
    shading = at.light.shade(surface) + column(draws, "mask_modelling", 1.0) * 0.5 * lean
    return 1 + own * (shading.clamp(0.12, 2.2) - 1)


def _features(at: Stage) -> Tensor:
    """Eyes and mouth, (B, 1, G, G) in [0, 1], softly."""
    places = [(facefit.opening(at.fit.landmarks, eye), 0.7) for eye in EYES]
    places.append((facefit.opening(at.fit.landmarks, MOUTH), 0.5))
    inside = [
        facefit.oval_distance(at.fit.points, place, (1.3 * place.width, flat * place.width)) for place, flat in places
    ]
    return (torch.stack(inside).amax(0) / 0.03).clamp(0, 1)


def _skin_like(window: Tensor, face: Tensor, level: Tensor) -> Tensor:
    """How much positions have the colour and brightness of the face: ears and neck, (B, 1, W, W)."""
    area = face.sum((2, 3), keepdim=True).clamp_min(1)
    chroma = window / window.sum(1, keepdim=True).clamp_min(1e-3)
    middle = (chroma * face).sum((2, 3), keepdim=True) / area
    alike = torch.exp(-((chroma - middle) ** 2).sum(1, keepdim=True) / (2 * 0.06**2))
    brightness = (colour.luma(window) / level).clamp_min(0.05).log()
    return alike * torch.exp(-(brightness**2) / (2 * 0.9**2))


def _paint(draws: Sequence[Draws]) -> Tensor:
    """Colour of paint (B, 3, 1, 1) with luma 1."""
    rows = [PAINTS[str(d.values["mask_colour"])] for d in draws]
    paint = torch.tensor([(red, 1.0, blue) for red, blue in rows]).view(-1, 3, 1, 1)
    return paint / colour.luma(paint)


def _edge_preserving(rgb: Tensor, radius: int, tolerance: float) -> Tensor:
    """Smooth within areas, not across edges of the luma, (B, 3, W, W).

    Source: fast guided filter (He and Sun 2015, arXiv:1505.00996); ``radius`` in pixels of half the grid, where
    the coefficients are worked out.
    """
    side = facefit.GRID_PX // 2
    small = F.interpolate(rgb, (side, side), mode="area")
    guide = colour.luma(small)
    means = _box(torch.cat([guide, guide * guide, small, guide * small], 1), radius)
    mean, square, colours, product = means[:, :1], means[:, 1:2], means[:, 2:5], means[:, 5:]
    gain = (product - mean * colours) / (square - mean * mean + tolerance * mean.clamp_min(0.01))
    both = _box(torch.cat([gain, colours - gain * mean], 1), radius)
    both = facefit.enlarge(both, rgb.shape[-1])
    return (both[:, :3] * colour.luma(rgb) + both[:, 3:]).clamp_min(0)


def _box(values: Tensor, radius: int) -> Tensor:
    side = 2 * radius + 1
    values = F.avg_pool2d(values, (side, 1), 1, (radius, 0), count_include_pad=False)
    return F.avg_pool2d(values, (1, side), 1, (0, radius), count_include_pad=False)


def _victims_albedo(at: Stage, draws: Sequence[Draws]) -> Tensor:
    """The victim's face without its light, smoothed, mixed with paint, laid over the wearer's window (B, 3, W, W)."""
    lit = colour.bytes_to_linear(facefit.crop(at.victims))
    fit = at.fit
    luma = F.interpolate(colour.luma(lit), fit.height.shape[2:], mode="area")
    surface = facefit.normals(fit.victim_height)
    found = facefit.light_of(luma, surface, fit.victim_face)
    albedo = lit / facefit.enlarge(found.shade(surface) * found.level, lit.shape[-1])
    albedo = albedo + column(draws, "mask_smooth") * (_edge_preserving(albedo, 2, 0.01) - albedo)
    # A mask goes on where the face ends: with its own colours, not with the hair and the wall behind the victim.
    small = F.interpolate(albedo, fit.height.shape[2:], mode="area")
    core = blur(fit.victim_face, torch.full_like(at.level, 2.5), 9) > 0.8
    beyond = facefit.extend(torch.where(core, small, torch.nan)).clamp(0.1, 2.0)
    inside = facefit.enlarge(blur(core.float(), torch.full_like(at.level, 1.5), 7), lit.shape[-1])
    albedo = facefit.enlarge(beyond, lit.shape[-1]) * (1 - inside) + albedo * inside
    where = facefit.enlarge((fit.warp / facefit.WINDOW).permute(0, 3, 1, 2), at.size).permute(0, 2, 3, 1)
    seen = sample(albedo, where)
    tone = colour.luma(seen).clamp_min(0.02) ** 0.8
    seen = seen + column(draws, "mask_paint") * (_paint(draws) * tone - seen)
    return seen * column(draws, "mask_albedo", 0.3)


def _shell(at: Stage, distance: Tensor, draws: Sequence[Draws]) -> Tensor:
    """Surface of a mask: between the wearer's shape and the victim's, exaggerated, out by its thickness, round rims."""
    own = at.fit.height
    height = own + column(draws, "mask_relief") * (at.fit.from_victim(at.fit.victim_height) - own)
    broad = F.interpolate(F.avg_pool2d(height, 8), own.shape[2:], mode="bicubic", align_corners=False)
    height = broad + column(draws, "mask_exaggeration", 1.0) * (height - broad)
    rounded = 1 - torch.exp(-distance.clamp_min(0) / column(draws, "mask_rim_width", 0.02))
    return height + column(draws, "mask_stand_off") + column(draws, "mask_rim") * rounded


def _solid_light(at: Stage, albedo: Tensor, height: Tensor, draws: Sequence[Draws]) -> Tensor:
    """What a solid sends to the camera: modelled by the wearer's light, highlights on top, (B, 3, W, W)."""
    surface = facefit.normals(height)
    lean = (at.towards_light * (surface - at.light.middle)).sum(1, keepdim=True)
    shading = (at.light.shade(surface) + column(draws, "mask_modelling", 1.0) * 0.5 * lean).clamp(0.12, 2.2)
    # Within silicone and skin red light spreads farthest: it fills the shadows.
    spread = blur(shading, 6 * column(draws, "mask_translucency"), 13)
    reach = column(draws, "mask_translucency") * torch.tensor([1.0, 0.55, 0.4]).view(1, 3, 1, 1)
    shading = shading + reach * (spread - shading)
    shine = highlights(at, surface, column(draws, "mask_gloss"), column(draws, "mask_polish", 10.0))
    lit = facefit.enlarge(torch.cat([shading, shine], 1) * at.level, at.size)
    return albedo * lit[:, :3] + lit[:, 3:]


#: The material of each sub-type of masks and partial attacks.
MATERIALS: dict[str, Callable[[Stage, Sequence[Draws]], Layer]] = {
    "paper_mask": paper_mask,
    "rigid_mask": rigid_mask,
    "flexible_mask": flexible_mask,
    "mannequin": mannequin,
    **partial.MATERIALS,
}
