"""What the record of a training run says about where a student comes from, for its card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from quantize.rounded import train_set
from training.checkpoint import Checkpoint, JsonValue
from training.data.table import SetInfo
from training.runlog import HISTORY, RECORD, EpochRecord


class _Run(msgspec.Struct, frozen=True):
    """The part of ``run.json`` that is quoted."""

    train: SetInfo
    machine: str
    device: str
    torch: str
    processes: int
    commit: str | None = None


def learnt_from(student: Path) -> dict[str, str]:
    """What a student learnt from, with what and for how long.

    Args:
        student: Its checkpoint, in the folder of its run.

    Returns:
        ``learnt_from`` (the sets), ``machine``, ``commit`` and ``training_seconds``; nothing where the record of the
        run is missing or of another kind.
    """
    folder = student.parent
    try:
        run = msgspec.json.decode((folder / RECORD).read_bytes(), type=_Run)
        epochs = [msgspec.json.decode(line, type=EpochRecord) for line in (folder / HISTORY).read_bytes().splitlines()]
    except (OSError, msgspec.MsgspecError):
        return {}
    return {
        "learnt_from": train_set(run.train),
        "machine": f"{run.machine}, {run.device}, {run.processes} process(es), PyTorch {run.torch}",
        "commit": run.commit or "unknown",
        "training_seconds": f"{sum(epoch.seconds for epoch in epochs):.0f}",
    }


def note_of(checkpoint: Checkpoint) -> dict[str, JsonValue]:
    """What a checkpoint says about how its network came about; nothing where it says nothing."""
    note = checkpoint.metadata.get("note", {})
    return dict(note) if isinstance(note, Mapping) else {}


def unmeasured(metadata: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Metadata of a network that was made from another one: what was measured on that one says nothing of it."""
    return {key: value for key, value in metadata.items() if key not in {"dev_auc", "dev_eer", "keep_value"}}
