"""What distillation is worth: the same student with and without teachers, several seeds, a short schedule.

    python -m benchmarks.distillation run quantize/edge.toml --train sets/tight --train sets/wide --dev sets/tight_dev \
        --captures DIR --teacher teacher.safetensors --diverse-train sets/spsc --diverse-train sets/fas_aug \
        --diverse quantize/edge_diverse.toml --out distillation.jsonl --runs runs/distillation --epochs 2
    python -m benchmarks.distillation table distillation.jsonl

Rows: no teacher; its logits; its logits and features; both, on crops that are changed as ``--diverse`` says; the same
with pictures of other kinds in addition; and with steady answers too. All have the same number of steps. Runs are those
of ``python -m quantize distil``; what is on record is not trained again, and an interrupted run goes on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import typer

from benchmarks.candidates import Candidate, judge, read_candidates
from benchmarks.records import add_record
from benchmarks.transfer import Cutter, read_captures, show, spread
from quantize.distil_command import new_task
from quantize.imitation import Imitation
from training.config import TrainConfig, load_config
from training.data.joined import joined
from training.data.samples import SampleSet
from training.errors import ConfigError
from training.loop import Trainer

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a student is taught; batches are blended in all of them.

    Attributes:
        imitation: What is imitated, and how crops are treated.
        taught: Whether there is a teacher.
        changed: Whether crops are changed as the second configuration says.
        others: Whether pictures of other kinds are added.
    """

    imitation: Imitation
    taught: bool = True
    changed: bool = False
    others: bool = False


_BLENDED = 0.3
_BOTH = Imitation(alpha=1.0, features=1.0, mixup=_BLENDED)
WAYS: Mapping[str, Way] = {
    "no teacher": Way(imitation=Imitation(mixup=_BLENDED), taught=False),
    "logits": Way(imitation=Imitation(alpha=1.0, mixup=_BLENDED)),
    "logits and features": Way(imitation=_BOTH),
    "the same, crops changed more": Way(imitation=_BOTH, changed=True),
    "the same, and other pictures": Way(imitation=_BOTH, changed=True, others=True),
    "the same, and steady answers": Way(imitation=replace(_BOTH, steady=0.4), changed=True, others=True),
}


def samples_of(way: Way, train: SampleSet, everything: SampleSet, seed: int) -> SampleSet:
    """What a way is taught on: as many samples for each, with other pictures drawn from both."""
    if not way.others:
        return train
    chosen = np.sort(np.random.default_rng(seed).choice(len(everything), len(train), replace=False))
    return everything.subset(chosen.tolist(), f"{len(train)} drawn with seed {seed}")


def train_one(way: Way, config: TrainConfig, teacher: Path, sets: tuple[SampleSet, SampleSet], out: Path) -> Path:
    """Train a student.

    Args:
        way: How.
        config: Its configuration.
        teacher: Checkpoint of the teacher.
        sets: What it is taught on, and the dev set.
        out: Folder of the run; one that stopped goes on.

    Returns:
        The checkpoint.
    """
    task, note = new_task(config, [teacher] if way.taught else [], way.imitation)
    for _ in Trainer(task, config, sets[0], sets[1], out, note).run():
        pass
    return out / "best.safetensors"


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="TOML file of the student.")],
    *,
    train: Annotated[list[Path], typer.Option(help="Sample set of the train split; repeat to join several.")],
    dev: Annotated[Path, typer.Option(help="Simulated sample set to score.")],
    captures: Annotated[Path, typer.Option(help="Folder of real captures.")],
    teacher: Annotated[Path, typer.Option(help="Checkpoint of the teacher.")],
    out: Annotated[Path, typer.Option(help="JSON lines to add to.")],
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")],
    diverse: Annotated[Path | None, typer.Option(help="TOML file whose [augment] changes crops more.")] = None,
    diverse_train: Annotated[list[Path] | None, typer.Option(help="Sets with pictures of other kinds.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes.")] = 2,
    warmup_steps: Annotated[int, typer.Option(min=0, help="Steps until the full learning rate.")] = 50,
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "1,2,3",
    only: Annotated[list[str] | None, typer.Option(help="Only these ways; default: all.")] = None,
) -> None:
    """Train a student per way and seed, and score it."""
    if unknown := set(only or ()) - WAYS.keys():
        raise ConfigError(f"no such way: {', '.join(sorted(unknown))}; one of {', '.join(WAYS)}")
    ways = {name: WAYS[name] for name in only or WAYS}
    if any(way.changed for way in ways.values()) and diverse is None:
        raise ConfigError("a way that changes crops more needs --diverse; name others with --only")
    if any(way.others for way in ways.values()) and not diverse_train:
        raise ConfigError("a way with pictures of other kinds needs --diverse-train; name others with --only")
    base = load_config(config)
    changed = load_config(diverse) if diverse is not None else base
    parts = [SampleSet.load(folder) for folder in train]
    plain, simulated = joined(parts), SampleSet.load(dev)
    everything = joined([*parts, *map(SampleSet.load, diverse_train)]) if diverse_train else plain
    crops = Cutter(captures, read_captures(captures, ("112", "112b")))
    for seed in (int(v) for v in seeds.split(",")):
        for name, way in ways.items():
            label = f"{name}, seed {seed}"
            if any(c.name == label for c in read_candidates(out)):
                continue
            settings = msgspec.structs.replace(
                base,
                seed=seed,
                optimiser=msgspec.structs.replace(base.optimiser, epochs=epochs, warmup_steps=warmup_steps),
                augment=changed.augment if way.changed else base.augment,
            )
            taught_on = samples_of(way, plain, everything, seed)
            folder = runs / label.replace(" ", "_").replace(",", "")
            checkpoint = train_one(way, settings, teacher, (taught_on, simulated), folder)
            record = judge(checkpoint, label, simulated, crops)
            add_record(out, record)
            print(f"{label}: dev {record.dev_auc:.3f}, real {record.crops('112b'):.3f}")


def rows(found: list[Candidate]) -> list[list[str]]:
    """Cells of the table: a row per way, the mean over seeds (lowest to highest)."""
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for one in found:
        groups[one.name.rpartition(", seed ")[0]].append(one)
    return [
        [
            name,
            str(len(group)),
            spread([c.dev_auc for c in group]),
            spread([c.flips for c in group]),
            spread([c.crops("112b") for c in group]),
            spread([value for c in group if (value := c.of("112b").clip_frames) is not None]),
        ]
        for name, group in groups.items()
    ]


@app.command()
def table(
    results: Annotated[Path, typer.Argument(help="JSON lines of `run`.")],
    *,
    markdown: Annotated[bool, typer.Option(help="Print Markdown.")] = False,
) -> None:
    """Show the mean over seeds (lowest to highest)."""
    head = ["taught by", "seeds", "simulated dev AUC", "flips by crop", "real, 112b", "clip frames"]
    show(head, rows(read_candidates(results)), markdown=markdown)


if __name__ == "__main__":
    app()
