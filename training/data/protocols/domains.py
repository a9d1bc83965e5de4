"""Protocols over several data sets: leave-one-domain-out, and from one data set to another.

A task is written ``O&C&I->M``: the data sets to train on, an arrow, the one to test on. Letters stand for OULU-NPU
(O), CASIA-FASD (C), Idiap Replay-Attack (I) and MSU-MFSD (M); names are taken as well. Without a protocol, a data set
gives all its videos, save the development part of O and I: sources their train and test parts for training, the
target both for the test, as later work on domain generalisation does it. Thresholds come from the sources: the
development parts of O and I, and every fifth training person of C and M. With a protocol,
``oulu_npu:1->replay_mobile:grandtest``, its own splits are taken: train and dev of the source, test of the target.

Source: tasks as in RFMeta; the use of development parts as in SSDG's released lists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from training.data.manifest import Split
from training.data.protocols import casia_fasd, hq_wmca, msu_mfsd, oulu_npu, replay_attack, replay_mobile, wmca
from training.data.protocols.record import (
    SPLITS,
    Problems,
    Protocol,
    Record,
    finish,
    suggest,
)
from training.errors import ProtocolError

NAME = "domains"
TASKS = ("O&C&I->M", "O&M&I->C", "O&C&M->I", "I&C&M->O")
LETTERS = {"O": "oulu_npu", "C": "casia_fasd", "I": "replay_attack", "M": "msu_mfsd"}
#: What a data set gives when no protocol is named.
_WHOLE = {"oulu_npu": "all", "casia_fasd": "holdout", "replay_attack": "grandtest", "msu_mfsd": "holdout"}
#: Those whose development part is theirs; that of the others is cut out of train and goes back to the target's test.
_OWN_DEV = frozenset({"oulu_npu", "replay_attack"})
_LOADERS: dict[str, Callable[..., Protocol]] = {
    module.NAME: module.load for module in (oulu_npu, replay_mobile, msu_mfsd, casia_fasd, replay_attack, wmca, hq_wmca)
}
_PART = re.compile(r"([A-Za-z_]+)(?::([\w-]+))?(?::(\d+))?")


@dataclass(frozen=True, slots=True)
class Part:
    """One data set of a task; without a protocol it gives all its videos."""

    dataset: str
    protocol: str | None
    fold: int | None


def parse_task(task: str) -> tuple[tuple[Part, ...], Part]:
    """Sources and target of a task.

    Raises:
        ProtocolError: It is not written as a task, or names what is not there.
    """
    problems = Problems(f"task {task!r}")
    left, arrow, right = task.replace(" to ", "->").replace("→", "->").partition("->")
    if not arrow or not left.strip() or not right.strip():
        problems.add(
            f"expected SOURCE&SOURCE->TARGET, such as {', '.join(TASKS)} or oulu_npu:1->replay_mobile:grandtest"
        )
        problems.stop()
    parts = [_parse_part(problems, text.strip()) for text in (*left.split("&"), right)]
    problems.stop()
    sources, target = tuple(parts[:-1]), parts[-1]
    names = [part.dataset for part in parts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        problems.add(f"{', '.join(twice)} is named twice; within one data set use its own protocols")
    problems.stop()
    return sources, target


def _parse_part(problems: Problems, text: str) -> Part:
    match = _PART.fullmatch(text)
    name = LETTERS.get(match[1], match[1]) if match else text
    if match is None or name not in _LOADERS:
        known = (*LETTERS, *_LOADERS)
        problems.add(f"{text!r}{suggest(name, known)}: expected NAME[:PROTOCOL[:FOLD]], NAME one of {', '.join(known)}")
        return Part(name, None, None)
    if match[2] is None and name not in _WHOLE:
        problems.add(f"{name} needs a protocol here, such as {name}:grandtest")
    return Part(name, match[2], int(match[3]) if match[3] else None)


def load(roots: Mapping[str, Path], protocol: str, fold: int | None = None, *, partial: bool = False) -> Protocol:
    """Read a task.

    Args:
        roots: Folder of each data set by name; letters are taken too.
        protocol: The task.
        fold: There are none; folds of a part are written into the task.
        partial: Let missing videos and wrong counts pass, as notes.

    Raises:
        ProtocolError: Says everything that is wrong, of all data sets.
    """
    sources, target = parse_task(protocol)
    problems = Problems(protocol, partial)
    if fold is not None:
        problems.add(f"a task has no folds, got {fold}; write oulu_npu:3:{fold} in the task")
    places = {LETTERS.get(name, name): path for name, path in roots.items()}
    wanted = {part.dataset for part in (*sources, target)}
    if missing := sorted(wanted - places.keys()):
        problems.add(f"no folder for {', '.join(missing)}; pass --root NAME=FOLDER for each")
    if unused := sorted(places.keys() - wanted):
        problems.add(f"{', '.join(unused)} is not part of the task; leave its --root out")
    problems.stop()
    records: dict[Split, list[Record]] = {split: [] for split in SPLITS}
    notes: list[str] = []
    incomplete = False
    for part in (*sources, target):
        try:
            found = _load_part(part, places[part.dataset], target=part is target, partial=partial)
        except ProtocolError as error:
            problems.found += [f"{error.where}: {text}" for text in error.problems]
            continue
        for split in SPLITS:
            records[split] += found.records[split]
        notes += [f"{part.dataset}: {note}" for note in found.notes]
        incomplete |= found.incomplete
    # Names of people are unique within a data set, and data sets come once; a whole target crosses its own splits.
    joined = Protocol(NAME, protocol, None, {s: tuple(r) for s, r in records.items()}, tuple(notes), incomplete)
    return finish(problems, joined)


def _load_part(part: Part, root: Path, *, target: bool, partial: bool) -> Protocol:
    whole = part.protocol is None
    name = _WHOLE[part.dataset] if part.protocol is None else part.protocol
    found = _LOADERS[part.dataset](root, name, part.fold, partial=partial)
    train, dev, test = (found.records[split] for split in SPLITS)
    if target:
        used: tuple[Record, ...] = test
        if whole:
            used = (*train, *(() if part.dataset in _OWN_DEV else dev), *test)
        return replace(found, records={"train": (), "dev": (), "test": _moved(used, "test")})
    training = (*train, *test) if whole else train
    return replace(found, records={"train": _moved(training, "train"), "dev": dev, "test": ()})


def _moved(records: tuple[Record, ...], split: Split) -> tuple[Record, ...]:
    return tuple(replace(record, split=split) for record in records)
