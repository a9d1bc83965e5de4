"""What has been done in a folder of several steps, so that a step whose inputs are the same is not done again.

``steps.json`` names for each step what it read and what it wrote, with SHA-256. A step is skipped while it would read
the same again and what it wrote is whole; what a step before it writes anew is another input, so that a change reaches
all the steps that it concerns, and no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from fasedge.cards import sha256_of
from quantize.files import complete_file
from training.data.table import DEPTH, INFO, PICTURES, TABLE

STEPS_NAME = "steps.json"


class StepRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A step.

    Attributes:
        inputs: What it reads, by name: SHA-256 of files and sample sets, settings in words.
        outputs: SHA-256 of what it wrote, by name; empty until it has finished.
    """

    inputs: dict[str, str]
    outputs: dict[str, str] = {}


class Steps:
    """The steps in a folder, done one after the other.

    Args:
        path: ``steps.json``; one that is malformed counts as none.
        say: Takes one line about each step.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self._path, self._say = path, say
        self._known: dict[str, StepRecord] = {}
        if path.is_file():
            try:
                self._known = msgspec.json.decode(path.read_bytes(), type=dict[str, StepRecord])
            except (OSError, ValueError) as error:
                say(f"{path} cannot be used ({error}); every step is done again")

    def take(
        self,
        name: str,
        inputs: Mapping[str, str],
        outputs: Sequence[Path],
        work: Callable[[], object],
        *,
        give_way: Callable[[], None] | None = None,
    ) -> None:
        """Do a step, or skip it.

        Args:
            name: Of the step.
            inputs: See :class:`StepRecord`.
            outputs: Files and folders that it writes.
            work: Does it.
            give_way: Called before a step is done anew of which there may be something already, finished or not, that
                was made from other inputs, is damaged, or that there is no record of.
        """
        before, now = self._known.get(name), dict(inputs)
        if before is None:
            unknown = give_way is not None and any(path.exists() for path in outputs)
            self._say(f"{name}: done again, there is no record of it" if unknown else name)
            if give_way is not None:
                give_way()
        elif why := _why_anew(before, now, outputs):
            self._say(f"{name}: done again, {why}")
            if give_way is not None:
                give_way()
        elif before.outputs:
            self._say(f"{name}: skipped, it has read the same and what it wrote is whole")
            return
        else:
            self._say(f"{name}: goes on, it had not finished")
        self._write(name, StepRecord(inputs=now))
        work()
        self._write(name, StepRecord(inputs=now, outputs=_hashes(outputs)))

    def _write(self, name: str, record: StepRecord) -> None:
        self._known[name] = record
        with complete_file(self._path) as temporary:
            temporary.write_bytes(msgspec.json.format(msgspec.json.encode(self._known), indent=2) + b"\n")


def _why_anew(before: StepRecord, inputs: Mapping[str, str], outputs: Sequence[Path]) -> str:
    """Why what a step has left cannot be used; empty where it can, or where the step had not finished."""
    names = [*inputs, *(name for name in before.inputs if name not in inputs)]
    changed = [name for name in names if inputs.get(name) != before.inputs.get(name)]
    if changed:
        return f"changed: {', '.join(changed)}"
    if not before.outputs:
        return ""
    now = _hashes(outputs)
    missing = [name for name, sha256 in now.items() if not sha256]
    if missing:
        return f"{', '.join(missing)} is missing"
    damaged = [name for name in now if now[name] != before.outputs.get(name)]
    return f"{', '.join(damaged)} is not what it wrote" if damaged else ""


def _hashes(outputs: Sequence[Path]) -> dict[str, str]:
    return {path.name: files_sha256(sorted(path.iterdir())) if path.is_dir() else _sha256(path) for path in outputs}


def _sha256(path: Path) -> str:
    return sha256_of(path) if path.is_file() else ""


def files_sha256(paths: Sequence[Path]) -> str:
    """One SHA-256, in hexadecimal, of the names and contents of files; those that are not there are left out.

    Raises:
        ModelNotFoundError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():
            digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()


def set_sha256(folder: Path) -> str:
    """SHA-256, in hexadecimal, of everything that students are shown of a sample set.

    Raises:
        ModelNotFoundError: A file cannot be read.
    """
    return files_sha256([folder / name for name in (INFO, TABLE, PICTURES, DEPTH)])
