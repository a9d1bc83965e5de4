"""What a run leaves behind beside its checkpoints: its record, its history, a log of its steps, and a bad batch."""

from __future__ import annotations

import csv
import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch
from torch import nn

from training.backbones.densenet import TORCHVISION_URL
from training.build import has_trunk
from training.checkpoint import JsonValue, save_checkpoint
from training.config import MethodConfig, TrainConfig
from training.errors import CheckpointError, ConfigError
from training.tasks import TOTAL, Batch

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

BEST, HISTORY, RECORD, LOG = "best.safetensors", "history.jsonl", "run.json", "log.csv"
_PACKAGES = ("torch", "numpy", "opencv-contrib-python", "safetensors", "msgspec")


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """One line of ``history.jsonl``.

    Attributes:
        epoch: From 1.
        loss: Mean over the steps.
        dev_auc: AUC on the dev set.
        dev_eer: Equal error rate on the dev set.
        seconds: That it took, without what is measured on dev.
        learning_rate: At its end.
        keep: Rule that chooses the epoch (``optimiser.keep``); empty where there is nothing to choose from.
        value: What the rule compares, lower is better; ``None`` where it compares nothing.
        kept: Whether this epoch has become the one that is kept.
    """

    epoch: int
    loss: float
    dev_auc: float
    dev_eer: float
    seconds: float
    learning_rate: float
    keep: str = ""
    value: float | None = None
    kept: bool = False

    def line(self) -> str:
        """For the terminal."""
        chosen_by = {"acer": "ACER", "loss": "loss"}.get(self.keep)
        more = "" if chosen_by is None or self.value is None else f", dev {chosen_by} {self.value:.4f}"
        return (
            f"epoch {self.epoch}: loss {self.loss:.4f}, dev AUC {self.dev_auc:.4f}, "
            f"dev EER {self.dev_eer:.4f}{more}, {self.seconds:.0f} s"
        )


@dataclass(frozen=True, slots=True)
class StepRecord:
    """How far a run is, for a progress bar.

    Attributes:
        epoch: From 1.
        step: Steps of this epoch that are done.
        steps: Steps of an epoch.
        loss: Of the last step.
    """

    epoch: int
    step: int
    steps: int
    loss: float


def add_to_history(out: Path, record: EpochRecord) -> None:
    """Append a line to ``history.jsonl``."""
    with (out / HISTORY).open("a", encoding="utf-8") as stream:
        stream.write(msgspec.json.encode(record).decode() + "\n")


def trim_history(out: Path, epochs: int) -> None:
    """Drop the lines of epochs that were not saved any more when a run was interrupted."""
    path = out / HISTORY
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    if len(lines) > epochs:
        path.write_text("".join(lines[:epochs]), encoding="utf-8")


class StepLog:
    """``log.csv``: epoch, step, learning rate, samples per second and every loss, averaged over some steps.

    Args:
        out: Folder of the run.
        config: How often a line is written, and whether TensorBoard gets the same figures.
        steps: Steps that are saved; lines of later ones are dropped.

    Raises:
        ConfigError: TensorBoard is asked for, but its package is not installed.
    """

    def __init__(self, out: Path, config: TrainConfig, steps: int) -> None:
        self._path, self._every = out / LOG, config.machine.log_every
        self._samples = config.optimiser.batch * config.optimiser.accumulate
        self._waiting: list[Mapping[str, float]] = []
        self._since = time.perf_counter()
        self._writer = _tensorboard(out) if config.machine.tensorboard else None
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True) if self._path.is_file() else []
        if lines:
            kept = [line for line in lines[1:] if line.endswith("\n") and int(line.split(",", 2)[1]) <= steps]
            if len(kept) < len(lines) - 1:
                self._path.write_text("".join([lines[0], *kept]), encoding="utf-8")

    def start_epoch(self) -> None:
        """Steps are timed from here: what lies between epochs does not count."""
        self._since = time.perf_counter()

    def add(self, epoch: int, step: int, rate: float, losses: Mapping[str, float], *, last: bool = False) -> None:
        """Take note of a step.

        Args:
            epoch: From 1.
            step: Steps since the start of the run, this one included.
            rate: Learning rate.
            losses: By name; the same names in every step.
            last: The last step of an epoch, or before the run is saved, which always ends a line.
        """
        self._waiting.append(losses)
        if not last and len(self._waiting) < self._every:
            return
        now = time.perf_counter()
        speed = self._samples * len(self._waiting) / max(now - self._since, 1e-9)
        # Sorted: columns stay in their places, in whatever order a step names its losses.
        names = sorted(losses, key=lambda name: (name != TOTAL, name))
        means = {name: float(np.mean([row[name] for row in self._waiting])) for name in names}
        self._since, self._waiting = now, []
        row: dict[str, float] = {"epoch": epoch, "step": step, "learning_rate": rate, "samples_per_s": round(speed, 1)}
        row |= {"loss" if name == TOTAL else f"loss_{name}": value for name, value in means.items()}
        new = not self._path.is_file()
        with self._path.open("a", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        self.scalars(step, {name: value for name, value in row.items() if name not in {"epoch", "step"}})

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Give figures to TensorBoard, where it is wanted."""
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """End TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()


def _tensorboard(out: Path) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            "machine.tensorboard is on, but the package is not installed: `pip install tensorboard`, or switch it "
            f"off; {LOG} holds the same figures"
        ) from error
    return SummaryWriter(str(out / "tensorboard"))


def keep_batch(out: Path, passes: Sequence[Mapping[str, Batch]], step: int, rank: int) -> Path:
    """Write the batches of a step that went wrong.

    ``rgb``, ``labels``, ``indices``, ``domains`` and ``step``; ``depth`` and ``depth_targets`` where there are any.

    Returns:
        The file, ``diverged.npz``; of other processes than the first, with their number.
    """
    path = out / ("diverged.npz" if rank == 0 else f"diverged_{rank}.npz")
    batches = [batch for named in passes for batch in named.values()]
    arrays = {
        "rgb": torch.cat([batch.rgb for batch in batches]).cpu().numpy(),
        "labels": torch.cat([batch.labels for batch in batches]).cpu().numpy(),
        "indices": np.array([i for batch in batches for i in batch.indices], np.int64),
        "domains": np.array([name for batch in batches for name in batch.domains], np.str_),
    }
    depth = [batch.depth for batch in batches if batch.depth is not None]
    targets = [batch.depth_targets for batch in batches if batch.depth_targets is not None]
    for name, found in (("depth", depth), ("depth_targets", targets)):
        if found:
            arrays[name] = torch.cat(found).cpu().numpy()
    np.savez_compressed(path, allow_pickle=False, step=np.int64(step), **arrays)
    return path


def keep_weights(
    out: Path,
    config: TrainConfig,
    module: nn.Module,
    result: tuple[int, float, float],
    note: Mapping[str, str | float | bool],
    *,
    keep: tuple[str, float | None] | None = None,
) -> None:
    """Write ``best.safetensors``: the weights that are kept, with how they were made.

    Args:
        out: Folder of the run.
        config: The run.
        module: The network.
        result: Epoch, and AUC and EER on the dev set.
        note: What else is to be said.
        keep: Rule that has chosen the epoch, and what it measured, where there was something to choose from.
    """
    epoch, auc, eer = result
    meta: dict[str, JsonValue] = {
        "config": msgspec.to_builtins(config), "epoch": epoch, "dev_auc": auc, "dev_eer": eer, "note": dict(note),
    }  # fmt: skip
    if keep is not None:
        meta["keep"], meta["keep_value"] = keep
    save_checkpoint(out / BEST, module.state_dict(), meta)


def write_record(out: Path, record: Mapping[str, JsonValue]) -> None:
    """Write ``run.json``."""
    (out / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def read_sets(out: Path) -> tuple[JsonValue, JsonValue] | None:
    """What the run in a folder was trained on and chosen by; ``None`` where there is no record.

    Raises:
        CheckpointError: The record cannot be read.
    """
    path = out / RECORD
    try:
        record = json.loads(path.read_bytes())
        return record["train"], record["dev"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error!r}); choose another folder") from error


def fingerprint(identity: str) -> str:
    """Name somebody without a name: the first 12 hexadecimal digits of SHA-256 of the identity, as UTF-8.

    Collisions are no concern: among 100,000 people, two share a fingerprint in one case of 50,000.

    Args:
        identity: As in the table of a set.
    """
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


def hashed_people(identities: Iterable[str]) -> list[str]:
    """Sorted fingerprints: they let `evaluate` refuse a test set with people of the training without having its set."""
    return sorted({fingerprint(name) for name in identities})


def surroundings(config: TrainConfig, device: torch.device, world: int) -> dict[str, JsonValue]:
    """Versions, commit, machine and start of a run, for its record."""
    return {
        **{name.split("-", maxsplit=1)[0]: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": world,
        "commit": _commit(),
        **_trunk_weights(config.method),
    }


def _trunk_weights(method: MethodConfig) -> dict[str, JsonValue]:
    """What the trunk started from; of a file, its SHA-256 too: the same path may hold another file next year."""
    if not has_trunk(method):
        return {"trunk_weights": "not applicable"}
    if method.pretrained:
        return {"trunk_weights": "ImageNet" + (f", {TORCHVISION_URL}" if method.trunk == "densenet161" else "")}
    if not method.weights:
        return {"trunk_weights": "none: trained from scratch, not as the paper does"}
    try:
        with Path(method.weights).open("rb") as stream:
            digest: str | None = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        digest = None
    return {"trunk_weights": method.weights, "trunk_weights_sha256": digest}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the source, with a mark where files differ from it; ``None`` outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        head = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + (" (changed)" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()
