"""``python -m quantize average``: one student with the mean of several students' weights.

Students that went on from the same weights lie so near to each other that their mean is a network too, and often one
that holds up better elsewhere than each of them. Sources: Wortsman et al., Model soups, ICML 2022; the same, Robust
fine-tuning of zero-shot models (WiSE-FT), CVPR 2022, for the mean of a network and of what it learnt further.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from torch import Tensor

from fasedge.cards import sha256_of
from quantize.errors import CheckpointMismatchError
from quantize.provenance import learnt_from, note_of, unmeasured
from training.checkpoint import Checkpoint, JsonValue, load_checkpoint, save_checkpoint
from training.trained import config_of

#: What a network is: parts of the configuration that must be alike.
_ALIKE = ("method", "input")


def average(
    students: Annotated[list[Path], typer.Argument(help="Checkpoints that `distil` left, at least two.")],
    *,
    out: Annotated[Path, typer.Option(help="Checkpoint to write.")],
    weight: Annotated[
        list[float] | None, typer.Option(help="Of each student, in their order; default: all alike.")
    ] = None,
) -> None:
    """Average students that went on from the same weights: one network, as fast as each."""
    tensors, metadata = mean_of([load_checkpoint(path) for path in students], weight)
    save_checkpoint(out, tensors, metadata)
    Console().print(str(out), markup=False, soft_wrap=True)


def mean_of(
    checkpoints: Sequence[Checkpoint], weights: Sequence[float] | None = None
) -> tuple[dict[str, Tensor], dict[str, JsonValue]]:
    """The mean of checkpoints, running statistics of normalisations included.

    Args:
        checkpoints: At least two, from files, of one network and one input.
        weights: Of each, positive; they need not sum to one. All alike by default.

    Returns:
        Tensors, and the metadata of the first with what all notes have in common; ``averaged_sha256`` and
        ``averaged_weights`` among them say what of, ``teacher_sha256`` names the teachers of all.

    Raises:
        CheckpointMismatchError: Fewer than two, another network or input, weights that are none, or already rounded
            students.
    """
    if len(checkpoints) < 2:
        raise CheckpointMismatchError(f"an average needs at least two students, got {len(checkpoints)}")
    shares = [1.0] * len(checkpoints) if weights is None else list(weights)
    if len(shares) != len(checkpoints) or not all(0 < share < math.inf for share in shares):
        raise CheckpointMismatchError(
            f"an average needs a positive --weight for each of {len(checkpoints)} students, got {shares}"
        )
    first = checkpoints[0]
    for other in checkpoints[1:]:
        _check_alike(first, other)
    shares = [share / sum(shares) for share in shares]
    tensors = {name: _mean([checkpoint.tensors[name] for checkpoint in checkpoints], shares) for name in first.tensors}
    notes = [note_of(checkpoint) for checkpoint in checkpoints]
    note = {key: value for key, value in notes[0].items() if all(other.get(key) == value for other in notes[1:])}
    teachers = [name for each in notes for name in str(each.get("teacher_sha256", "")).split(", ") if name]
    if teachers:
        note["teacher_sha256"] = ", ".join(dict.fromkeys(teachers))
    note["averaged_sha256"] = ", ".join("?" if c.path is None else sha256_of(c.path) for c in checkpoints)
    note["averaged_weights"] = ", ".join(f"{share:.4g}" for share in shares)
    learnt = [learnt_from(c.path) if c.path is not None else {} for c in checkpoints]
    for name in sorted({name for each in learnt for name in each}):
        note[f"averaged_{name}"] = " | ".join(each.get(name, "unknown") for each in learnt)
    note["averaged_seeds"] = ", ".join(str(config_of(c).seed) for c in checkpoints)
    note["averaged_epochs"] = ", ".join(str(c.metadata.get("epoch", "?")) for c in checkpoints)
    return tensors, unmeasured(first.metadata) | {"note": note}


def _mean(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Weighted mean in double precision; counters are those of the first."""
    if not tensors[0].is_floating_point():
        return tensors[0]
    total = torch.zeros_like(tensors[0], dtype=torch.float64)
    for tensor, share in zip(tensors, shares, strict=True):
        total += share * tensor.double()
    return total.to(tensors[0].dtype)


def _check_alike(first: Checkpoint, other: Checkpoint) -> None:
    for key in _ALIKE:
        ours, theirs = getattr(config_of(first), key), getattr(config_of(other), key)
        if ours != theirs:
            raise CheckpointMismatchError(
                f"{other.name} is another network than {first.name} or sees other pictures ({key}: {theirs} instead of "
                f"{ours}); only students that went on from the same weights can be averaged"
            )
    shapes, others = ({name: tuple(t.shape) for name, t in c.tensors.items()} for c in (first, other))
    if shapes != others:
        differing = sorted(name for name in shapes.keys() | others.keys() if shapes.get(name) != others.get(name))
        raise CheckpointMismatchError(f"{other.name} and {first.name} have other tensors: {', '.join(differing[:5])}")
