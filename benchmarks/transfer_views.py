"""Students that look at a face in several crops: the mean of their logits, scored on real captures.

    python -m benchmarks.transfer_views score --captures DIR --out views.jsonl --name "tight and wide" --seeds 1,2,3 \
        students/tight_{seed}.safetensors@1.0,1.4 students/wide_{seed}.safetensors@2.4
    python -m benchmarks.transfer_views table views.jsonl

A member is a student's file and the crop scales at which it looks; ``{seed}`` stands for each seed in turn. A member's
logit is the mean over its scales, the score is the mean over the members. As in ``benchmarks.transfer``, only
aggregates leave, and what is done already is not done again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.records import add_record, read_records
from benchmarks.students import crop_logits, load_student
from benchmarks.transfer import Cutter, RealResult, read_captures, show, spread, summarise
from fasedge.preprocess import InputSpec
from training.errors import CheckpointError, ConfigError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


class Member(msgspec.Struct, frozen=True):
    """A student and the crops at which it looks.

    Attributes:
        file: Its file; ``{seed}`` stands for the seed.
        crop_scales: Sides of the crops over the side of the face box.
    """

    file: str
    crop_scales: tuple[float, ...]


class Joint(msgspec.Struct, frozen=True, kw_only=True):
    """What the members of one seed reach together; ``crop_scale`` of the results is 0, since there are several."""

    name: str
    seed: int
    members: tuple[Member, ...]
    real: tuple[RealResult, ...]


def parse_member(text: str) -> Member:
    """Read ``FILE@SCALE,SCALE``.

    Raises:
        ConfigError: It is not of that form, or a scale is not a positive number.
    """
    file, _, scales = text.rpartition("@")
    try:
        values = tuple(float(v) for v in scales.split(","))
    except ValueError as error:
        raise ConfigError(f"expected FILE@SCALE,SCALE, got {text!r}") from error
    if not file or not all(0 < v < 100 for v in values):
        raise ConfigError(f"expected FILE@SCALE,SCALE with scales in (0, 100), got {text!r}")
    return Member(file, values)


def member_logits(member: Member, seed: int, crops: Cutter) -> NDArray[np.float64]:
    """Mean logit of a member over its scales, float64 (n,).

    Raises:
        CheckpointError: The file is not a student of an experiment.
    """
    path = Path(member.file.replace("{seed}", str(seed)))
    found = load_student(path)
    if found is None:
        raise CheckpointError(f"{path} is not a student that `benchmarks.transfer run --keep` wrote")
    module, options = found
    specs = [InputSpec(size_px=options.size_px, crop_scale=scale) for scale in member.crop_scales]
    return np.asarray(np.mean([crop_logits(module, crops(spec)) for spec in specs], axis=0), np.float64)


def read_joints(path: Path) -> list[Joint]:
    """Records that are on file."""
    return read_records(path, Joint)


@app.command()
def score(
    members: Annotated[list[str], typer.Argument(help="FILE@SCALE,SCALE of each student; {seed} in FILE.")],
    *,
    name: Annotated[str, typer.Option(help="What is tried, for the table.")],
    captures: Annotated[Path, typer.Option(help="Folder of real captures.")],
    out: Annotated[Path, typer.Option(help="JSON lines to add to.")],
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "1,2,3",
    sizes: Annotated[str, typer.Option(help="Sizes of captures.")] = "112,112b",
) -> None:
    """Score the members of each seed together."""
    parsed = tuple(parse_member(text) for text in members)
    real = read_captures(captures, sizes.split(","))
    crops = Cutter(captures, real)
    done = {(j.name, j.seed) for j in read_joints(out)}
    for seed in (int(s) for s in seeds.split(",")):
        if (name, seed) in done:
            continue
        logits = np.mean([member_logits(member, seed, crops) for member in parsed], axis=0)
        record = Joint(name=name, seed=seed, members=parsed, real=tuple(summarise(real, logits, 0.0)))
        add_record(out, record)


def rows(joints: Sequence[Joint], sizes: Sequence[str]) -> list[list[str]]:
    """Cells of the table: a row per name, the mean over seeds (lowest to highest)."""
    groups: dict[str, list[Joint]] = defaultdict(list)
    for joint in joints:
        groups[joint.name].append(joint)
    out = []
    for name, group in groups.items():
        cells = [name, str(len(group))]
        for size in sizes:
            found = [r for joint in group for r in joint.real if r.size == size]
            cells.append(spread([float(np.mean(r.per_source)) for r in found if r.per_source]))
        last = [r for joint in group for r in joint.real if r.size == sizes[-1]]
        cells.append(spread([r.clip_frames for r in last if r.clip_frames is not None]))
        cells.append(spread([r.clips for r in last if r.clips is not None]))
        out.append(cells)
    return out


@app.command()
def table(
    results: Annotated[Path, typer.Argument(help="JSON lines of `score`.")],
    sizes: Annotated[str, typer.Option(help="Sizes of captures.")] = "112,112b",
    *,
    markdown: Annotated[bool, typer.Option(help="Print Markdown.")] = False,
) -> None:
    """Show the mean over seeds (lowest to highest): real = mean over sources of the AUC within a source."""
    names = sizes.split(",")
    top = ["what", "seeds", *(f"real, {size}" for size in names), "frames", "clips"]
    show(top, rows(read_joints(results), names), markdown=markdown)


if __name__ == "__main__":
    app()
