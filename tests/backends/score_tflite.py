"""Scores pictures with the LiteRT that this interpreter has: ``score_tflite.py MODEL PICTURES.npy OUT.npz NAMES``.

NAMES is JSON: ``{"inputs": {...}, "outputs": {...}}``. Runs in environments that hold only what fasedge itself needs.
"""

import json
import sys
from pathlib import Path

import numpy as np

from fasedge.backends import open_backend
from fasedge.types import TensorNames


def feed(pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Colour, and depth where there is a fourth channel."""
    named = {"rgb": pictures[..., :3], "depth": pictures[..., 3:]}
    return {name: np.ascontiguousarray(value) for name, value in named.items() if value.shape[3]}


def main(model: str, pictures: str, target: str, names: str) -> None:
    mapping = json.loads(names)
    with open_backend("litert", Path(model), names=TensorNames(mapping["inputs"], mapping["outputs"])) as backend:
        outputs = backend.infer(feed(np.load(pictures)))
        np.savez(target, **outputs)
        print(json.dumps({"version": backend.info.version, "numpy": np.__version__}))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:5])
