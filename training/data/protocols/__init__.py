"""Data sets and their protocols: from folders on a disk to lists of presentations that are known to be right.

Every data set has a file here that says its layout and its published counts; :data:`DATASETS` names them. Nothing of
any data set is copied into the repository, and none is downloaded: they are had from their owners.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from training.data.protocols import (
    casia_fasd,
    domains,
    generic,
    hq_wmca,
    msu_mfsd,
    oulu_npu,
    replay_attack,
    replay_mobile,
    wmca,
)
from training.data.protocols.record import BONA_FIDE, SPLITS, Problems, Protocol, Record, leave_one_out, suggest

__all__ = [
    "BONA_FIDE",
    "DATASETS",
    "SPLITS",
    "DataSet",
    "Protocol",
    "Record",
    "leave_one_out",
    "load_protocol",
]


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set that can be read.

    Attributes:
        title: As its owners call it.
        load: ``load(root, protocol, fold, partial=…)``.
        protocols: Folds of each protocol; empty where it has none.
        default: The protocol that is taken when none is named.
    """

    title: str
    load: Callable[..., Protocol]
    protocols: Mapping[str, Collection[int]]
    default: str


#: Every data set by the name that the command line takes.
DATASETS: dict[str, DataSet] = {
    "oulu_npu": DataSet("OULU-NPU", oulu_npu.load, oulu_npu.PROTOCOLS, "1"),
    "replay_mobile": DataSet("Replay-Mobile", replay_mobile.load, replay_mobile.PROTOCOLS, "grandtest"),
    "msu_mfsd": DataSet("MSU-MFSD", msu_mfsd.load, msu_mfsd.PROTOCOLS, "holdout"),
    "casia_fasd": DataSet("CASIA-FASD", casia_fasd.load, casia_fasd.PROTOCOLS, "holdout"),
    "replay_attack": DataSet("Idiap Replay-Attack", replay_attack.load, replay_attack.PROTOCOLS, "grandtest"),
    "wmca": DataSet("WMCA", wmca.load, wmca.PROTOCOLS, "grandtest"),
    "hq_wmca": DataSet("HQ-WMCA", hq_wmca.load, hq_wmca.PROTOCOLS, hq_wmca.GRANDTEST),
    "generic": DataSet("your own data", generic.load, generic.PROTOCOLS, "all"),
}


def load_protocol(
    dataset: str,
    roots: Mapping[str, Path],
    protocol: str | None = None,
    fold: int | None = None,
    *,
    partial: bool = False,
) -> Protocol:
    """Read and check a protocol of a data set, or a task over several.

    Args:
        dataset: A name of :data:`DATASETS`, or ``domains``.
        roots: Folder of the data set by name; for ``domains`` of each.
        protocol: Protocol, by default the data set's usual one; for ``domains`` the task, such as ``O&C&I->M``.
        fold: Fold, where the protocol has some.
        partial: Let missing files and wrong counts pass, as notes.

    Raises:
        ProtocolError: Says everything that is wrong.
    """
    problems = Problems(f"data set {dataset!r}")
    if dataset == domains.NAME:
        return domains.load(roots, protocol or "", fold, partial=partial)
    if dataset not in DATASETS:
        known = (*DATASETS, domains.NAME)
        problems.add(f"not known{suggest(dataset, known)}; expected one of {', '.join(known)}")
    elif list(roots) != [dataset]:
        problems.add("expected one --root FOLDER")
    problems.stop()
    found = DATASETS[dataset]
    return found.load(roots[dataset], protocol or found.default, fold, partial=partial)
