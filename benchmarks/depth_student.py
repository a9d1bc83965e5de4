"""A small network on simulated depth alone: how well it tells each species, and what it says of real portraits.

python -m benchmarks.depth_student --data PACK --cache FOLDER --out student.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the community's name for it)
import typer
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor, nn

from benchmarks.depth_sets import DepthItem, crop_mm, real_portraits, simulated
from training.data.manifest import Split
from training.data.simulate.depth import FLAT
from training.data.simulate.species import BONA_FIDE
from training.data.work import make_simulator

#: Crop over the face box, its side in pixels, and the depth in millimetres that makes a value of 1.
_SCALE, _SIZE, _UNIT_MM = 1.4, 64, 60.0
_MAPS_PX = 96


def to_input(items: Sequence[DepthItem]) -> Tensor:
    """Depth relative to the face's median and where there is none, float32 (n, 2, 64, 64)."""
    crops = np.stack([crop_mm(item, _SCALE, _SIZE) for item in items])
    out = np.zeros((len(crops), 2, _SIZE, _SIZE), np.float32)
    quarter = _SIZE // 4
    for crop, made in zip(crops, out, strict=True):
        middle = crop[quarter:-quarter, quarter:-quarter]
        seen = middle[middle > 0] if (middle > 0).any() else crop[crop > 0]
        median = float(np.median(seen)) if len(seen) else 0.0
        made[0] = np.where(crop > 0, (crop - median) / _UNIT_MM, 0).clip(-3, 3)
        made[1] = crop == 0
    return torch.from_numpy(out)


def network() -> nn.Sequential:
    """Four convolutions, mean, one logit; about 60,000 weights."""
    layers: list[nn.Module] = []
    before = 2
    for channels in (16, 32, 48, 64):
        layers += [nn.Conv2d(before, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        before = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(before, 1))


def train(inputs: Tensor, living: Tensor, epochs: int, seed: int) -> nn.Sequential:
    """Fit the network; crops are mirrored and moved by up to four pixels, signs and scales of depth are kept."""
    torch.manual_seed(seed)
    model = network()
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05)
    steps = epochs * (len(inputs) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    # Both classes count the same.
    weight = torch.where(living > 0, 0.5 / living.mean(), 0.5 / (1 - living.mean()))
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(inputs))
        for start in range(0, len(order) - 63, 64):
            chosen = order[start : start + 64]
            batch = inputs[chosen]
            if torch.rand(()) < 0.5:
                batch = batch.flip(3)
            batch = torch.roll(batch, (int(torch.randint(-4, 5, ())), int(torch.randint(-4, 5, ()))), (2, 3))
            loss = F.binary_cross_entropy_with_logits(model(batch)[:, 0], living[chosen], weight[chosen])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
    return model.eval()


@torch.inference_mode()
def score(model: nn.Module, items: Sequence[DepthItem]) -> NDArray[np.float64]:
    """Probability of bona fide, (n,)."""
    return np.asarray(torch.sigmoid(model(to_input(items))[:, 0]).numpy(), np.float64)


def report(model: nn.Module, dev: Sequence[DepthItem], real: Sequence[DepthItem]) -> dict[str, object]:
    """AUC per species and sub-type, the threshold of equal errors, scores of the real portraits and their ranks.

    The rank is the share of simulated living people with a lower score: near 0, a portrait is unlike all of them.
    Equal errors reject that share of living people too, so one of three portraits below the threshold is no surprise.
    """
    names = np.array([item.name for item in dev])
    kinds = np.array([f"{item.name}/{item.subtype}" for item in dev])
    scores, living = score(model, dev), names == BONA_FIDE
    wrong, right, thresholds = roc_curve(living, scores)
    at = int(np.argmin(np.abs(wrong - (1 - right))))
    auc = {"all": round(float(roc_auc_score(living, scores)), 3)}
    for groups in (names, kinds):
        for group in sorted(set(groups[~living].tolist())):
            chosen = living | (groups == group)
            auc[group] = round(float(roc_auc_score(living[chosen], scores[chosen])), 3)
    real_scores = dict(zip([item.name for item in real], np.round(score(model, real), 4).tolist(), strict=True))
    threshold = float(thresholds[at])
    strict = bpcer_threshold(scores[living], 0.01)
    return {
        "dev": len(dev), "auc": auc, "eer": round(float((wrong[at] + 1 - right[at]) / 2), 4),
        "threshold": round(threshold, 4), "real": real_scores,
        "real_rank": {name: round(float((scores[living] < value).mean()), 3) for name, value in real_scores.items()},
        "highest_flat": round(float(scores[np.isin(names, sorted(FLAT))].max(initial=0.0)), 4),
        "real_accepted": {name: bool(value >= threshold) for name, value in real_scores.items()},
        "at_bpcer1": {
            "threshold": round(strict, 4),
            "apcer": {group: round(float((scores[names == group] >= strict).mean()), 4)
                      for group in sorted(set(names[~living].tolist()))},
            "real_accepted": {name: bool(value >= strict) for name, value in real_scores.items()},
        },
    }  # fmt: skip


def bpcer_threshold(living: NDArray[np.float64], rate: float) -> float:
    """The highest of the scores of living people as a threshold at which at most this share of them is rejected."""
    return float(np.sort(living)[int(rate * len(living))])


def maps_of(data: Path, cache: Path, split: Split, n: int, seed: int) -> list[DepthItem]:
    """Simulated depth maps of one split."""
    return list(simulated(make_simulator(data, cache, split, seed, depth=True), range(n), _MAPS_PX))


def main(
    *,
    data: Annotated[Path, typer.Option(help="Folder of the face pack.", envvar="FASEDGE_DATA")],
    cache: Annotated[Path, typer.Option(help="Folder for tiles and meshes.")],
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    n: Annotated[int, typer.Option(help="Maps to train on.")] = 3000,
    n_dev: Annotated[int, typer.Option(help="Maps of other people to test on.")] = 800,
    epochs: Annotated[int, typer.Option(help="Passes over the maps.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the set; that of the dev set is the next.")] = 17,
) -> None:
    """Train on simulated depth and report what it tells apart."""
    items = maps_of(data, cache, "train", n, seed)
    living = torch.tensor([float(item.name == BONA_FIDE) for item in items])
    model = train(to_input(items), living, epochs, seed)
    found = report(model, maps_of(data, cache, "dev", n_dev, seed + 1), real_portraits(data))
    text = json.dumps({"train": len(items), "epochs": epochs, "seed": seed, **found}, indent=1)
    if out is not None:
        out.write_text(text, encoding="utf-8")
    typer.echo(text)


if __name__ == "__main__":
    typer.run(main)
