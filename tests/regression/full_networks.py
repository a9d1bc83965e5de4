"""Trained networks of full size: what they say of the evaluation pack in torch, and how far their files are from it.

``python -m tests.regression.full_networks`` writes the scores of the torch networks, ``full_NAME.npz``, and prints the
figures of every file, as docs/edge.md has them; of some networks alone where names follow.
"""

from __future__ import annotations

import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from fasedge import metrics
from fasedge.cards import sha256_of
from fasedge.types import FloatArray, UInt8Array
from quantize.export import Artefact
from quantize.files import complete_file
from quantize.full import FullNetwork, export_full, load_full
from quantize.pack import EvaluationPack
from quantize.parity import Presentations, excesses, measure, reference_scores
from tests.regression.packs import HERE, calibration_pack, evaluation_pack
from training.config import InputConfig

NETWORKS = ("a-deeppixbis", "cmfl", "rfmeta")
#: Networks whose channels are equalised before they are quantised, see docs/edge.md.
EQUALISED = frozenset({"rfmeta"})


def checkpoint_of(name: str) -> Path:
    """A trained network, a quarter of the published one's width."""
    return HERE / f"full_{name}.safetensors"


@cache
def network_of(name: str) -> tuple[FullNetwork, InputConfig]:
    """The torch network and what it sees."""
    model, config = load_full(checkpoint_of(name))
    return model, config.input


def shown(name: str, pack: EvaluationPack) -> UInt8Array:
    """A pack as a network sees it, uint8 (n, S, S, C)."""
    model, seen = network_of(name)
    return pack.pictures(seen.spec(), depth=model.sees_depth)


@cache
def crops_of(name: str) -> UInt8Array:
    """The evaluation pack as a network sees it."""
    return shown(name, evaluation_pack())


@cache
def reference_of(name: str) -> FloatArray:
    """Scores of the torch network on the evaluation pack, float32 (n,), as they were written."""
    with np.load(_reference(name), allow_pickle=False) as file:
        assert str(file["sha256"]) == sha256_of(checkpoint_of(name)), "write the reference of this checkpoint"
        return np.asarray(file["score"], np.float32)


def presentations(name: str) -> Presentations:
    """The evaluation pack; the threshold is that of the equal error of the torch network on the pack itself.

    It tells files from each other and no attack from a person, so it need not be of other presentations. It lies where
    the two classes overlap: nowhere are more decisions close.
    """
    data = evaluation_pack()
    threshold = float(metrics.eer(reference_of(name), data.labels).threshold)
    return Presentations(crops_of(name), data.labels, data.species, threshold)


def export(name: str, folder: Path) -> list[Artefact]:
    """Files for all engines, FP32 and INT8, quantised on the calibration pack."""
    model, seen = network_of(name)
    return export_full(model, folder, seen.size_px, shown(name, calibration_pack()), equalised=name in EQUALISED)


def _reference(name: str) -> Path:
    return HERE / f"full_{name}.npz"


def main() -> None:
    """Write the references and print the figures."""
    for name in sys.argv[1:] or NETWORKS:
        scores = reference_scores(network_of(name)[0], crops_of(name))
        with complete_file(_reference(name)) as temporary:
            np.savez(temporary, allow_pickle=False, sha256=np.array(sha256_of(checkpoint_of(name))), score=scores)
        data = presentations(name)
        with tempfile.TemporaryDirectory() as folder:
            report = measure(export(name, Path(folder)), reference_of(name), data, threads=1)
            table = report.markdown()
        beyond = [line for result in report.results for line in excesses(result)]
        sys.stdout.write("\n".join([f"{name}, threshold {data.threshold:.4f}", "", table, *beyond, ""]))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
