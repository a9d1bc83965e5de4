"""Times published ``.tflite`` files in the older ``tflite_runtime`` package, which lives in an environment of its own.

    .venv-tflite-runtime/bin/python benchmarks/tflite_runtime_speed.py fasedge/models/edge-rgb fasedge/models/rfmeta

``make test`` builds that environment (Python 3.11, NumPy 1; this file needs no more than the two). One picture at a
time on one thread, the files in turn; medians of one run.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

_ROUNDS, _WARMING = 300, 20


def main(folders: list[str]) -> None:
    """Print a line per file."""
    from tflite_runtime.interpreter import Interpreter

    rng = np.random.default_rng(0)
    timed: dict[str, tuple[Any, list[float]]] = {}
    for path in sorted(file for folder in folders for file in Path(folder).glob("*.tflite")):
        interpreter = Interpreter(str(path), num_threads=1)
        interpreter.allocate_tensors()
        for item in interpreter.get_input_details():
            interpreter.set_tensor(item["index"], rng.integers(0, 256, item["shape"], np.uint8))
        timed[path.name] = (interpreter, [])
    for _ in range(_ROUNDS):
        for interpreter, seconds in timed.values():
            start = time.perf_counter()
            interpreter.invoke()
            seconds.append(time.perf_counter() - start)
    for name, (_, seconds) in timed.items():
        sys.stdout.write(f"{name:30s} median {1e3 * statistics.median(seconds[_WARMING:]):.3f} ms\n")


if __name__ == "__main__":
    main(sys.argv[1:])
