"""Where a network looks: maps over the cells of its feature map.

All functions are pure: features in, maps out. ``to_picture`` brings a map to the size of the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from training.errors import BatchError
from training.methods.a_deeppixbis import ADeepPixBiS
from training.methods.base import at_least_float32
from training.methods.cmfl import CMFL, ScoreHead, split_rgbd


def class_activation_map(features: Tensor, weight: Tensor) -> Tensor:
    """Class activation map: M(x, y) = Σ_k w_k · A_k(x, y).

    Exact where a global mean and one linear layer follow the features, as in the meta learner of RFMeta: the mean of
    the map plus the layer's bias is then the logit. Negative values speak against the class; they are kept.

    Args:
        features: (N, C, h, w), before the mean.
        weight: (C,) or (1, C), the linear layer's weight.

    Returns:
        (N, h, w), float32 or better.

    Raises:
        BatchError: The shapes do not fit together.

    Source: Zhou et al., "Learning Deep Features for Discriminative Localization", CVPR 2016, eq. 2.
    """
    return torch.einsum("nchw,c->nhw", at_least_float32(features), _fitting(features, weight))


def cosine_map(features: Tensor, weight: Tensor) -> Tensor:
    """Cosine between the feature vector of each cell and a filter; 0 where either has no length.

    Args:
        features: (N, C, h, w).
        weight: (C,), (1, C) or (1, C, 1, 1).

    Returns:
        (N, h, w) in [−1, 1], float32 or better.

    Raises:
        BatchError: The shapes do not fit together.

    Source: Hossain et al., "A-DeepPixBis", DICTA 2020, the pixel-wise head.
    """
    filter_ = _fitting(features, weight)
    x = at_least_float32(features)
    length = torch.linalg.vector_norm(x, dim=1) * torch.linalg.vector_norm(filter_)
    cosines: Tensor = torch.einsum("nchw,c->nhw", x, filter_) / length.clamp_min(1e-12)
    return cosines


def grad_cam(head: Callable[[Sequence[Tensor]], Tensor], features: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Grad-CAM of one or several feature maps with respect to one output per sample.

    M = ReLU(Σ_k a_k · A_k) with a_k the mean of ∂y/∂A_k over the cells. Samples must not influence each other between
    the features and the output: no batch statistics in ``head``.

    Args:
        head: Maps the features to (N,) outputs, by differentiable operations; usually logits.
        features: One (N, C, h, w) tensor per trunk. They are not changed and receive no gradient.

    Returns:
        One (N, h, w) map ≥ 0 per tensor, float32 or better, detached. A tensor that the output does not depend on
        gets zeros.

    Raises:
        BatchError: The output is not one value per sample.

    Source: Selvaraju et al., "Grad-CAM", ICCV 2017, eq. 1 and 2.
    """
    with torch.enable_grad():
        leaves = [at_least_float32(part).detach().requires_grad_() for part in features]
        output = head(leaves)
        if output.shape != leaves[0].shape[:1]:
            raise BatchError(
                f"expected a head with one output per sample, ({leaves[0].shape[0]},), got {tuple(output.shape)}"
            )
        slopes = torch.autograd.grad(output.sum(), leaves, allow_unused=True, materialize_grads=True)
    return tuple(
        torch.relu(torch.einsum("nchw,nc->nhw", leaf.detach(), slope.mean(dim=(2, 3))))
        for leaf, slope in zip(leaves, slopes, strict=True)
    )


def cmfl_grad_cam(
    model: CMFL, x: Tensor, head: ScoreHead = "joint", *, for_attack: bool = False
) -> tuple[Tensor, Tensor]:
    """Grad-CAM of CMFL's two trunks; its sigmoid behind the mean rules out an exact class activation map.

    Args:
        model: The network, in evaluation mode.
        x: (N, 4, H, W) float images, normalised as the network expects.
        head: Whose logit: ``joint``, ``rgb`` or ``depth``; ``both`` and ``mean3`` take the sum of their heads' logits.
        for_attack: Show what speaks for an attack instead of for a bona fide presentation.

    Returns:
        Maps (N, h, w) ≥ 0 of the colour trunk and of the depth trunk.

    Raises:
        BatchError: The images have another shape, or the model is in training mode, where batches influence samples.
    """
    if model.training:
        raise BatchError("expected a model in evaluation mode, got one in training mode; call model.eval() first")
    parts = {"both": ("rgb", "depth"), "mean3": ("rgb", "depth", "joint")}.get(head, (head,))
    sign = -1.0 if for_attack else 1.0

    def logit(features: Sequence[Tensor]) -> Tensor:
        outputs = model.heads(features[0], features[1])
        return sign * torch.stack([getattr(outputs, part) for part in parts]).sum(dim=0)

    rgb, depth = split_rgbd(x)
    with torch.no_grad():
        features = (model.rgb_trunk(rgb), model.depth_trunk(depth))
    of_rgb, of_depth = grad_cam(logit, features)
    return of_rgb, of_depth


def a_deeppixbis_map(model: ADeepPixBiS, x: Tensor) -> Tensor:
    """Cosine map (N, m, m) of A-DeepPixBiS in [−1, 1], whether or not its outputs are normalised."""
    with torch.no_grad():
        return cosine_map(model.trunk(x), model.pixel_filter.weight)


def to_picture(maps: Tensor, side_px: int) -> Tensor:
    """Bring maps to [0, 1] and to the size of the picture.

    Negative values become 0; each map is divided by its own largest value, so that maps can be compared in shape, not
    in strength. A map without positive values is black.

    Args:
        maps: (N, h, w).
        side_px: Side of the square picture.

    Returns:
        float32 (N, side_px, side_px) in [0, 1].

    Raises:
        BatchError: The maps are not (N, h, w), or the side is below 1.
    """
    if maps.ndim != 3 or side_px < 1:
        raise BatchError(f"expected maps of shape (N, h, w) and a side >= 1, got {tuple(maps.shape)} and {side_px}")
    positive = maps.detach().float().clamp_min(0.0)
    scaled = positive / positive.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    larger = interpolate(scaled.unsqueeze(1), size=(side_px, side_px), mode="bilinear", align_corners=False)
    return larger.squeeze(1)


def _fitting(features: Tensor, weight: Tensor) -> Tensor:
    """The weight as (C,), raised like the features."""
    if features.ndim != 4 or weight.numel() != features.shape[1]:
        raise BatchError(
            f"expected features (N, C, h, w) and a weight of C values, got {tuple(features.shape)} and "
            f"{tuple(weight.shape)}"
        )
    return at_least_float32(weight).reshape(-1)
