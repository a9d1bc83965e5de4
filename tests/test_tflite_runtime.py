"""Files that are scored by ``ai_edge_litert`` here and by ``tflite_runtime`` in an environment with NumPy 1.

``FASEDGE_TFLITE_RUNTIME_PYTHON`` names the interpreter of that environment (Python 3.11, tflite-runtime 2.14.0,
numpy<2 and what fasedge depends on; fasedge itself is not installed there). Without it the comparisons are skipped.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fasedge.backends import _litert, _open, available_engines, missing_engines, open_backend
from fasedge.cards import FileCard, ModelCard, load_card
from fasedge.errors import EngineUnavailableError
from fasedge.types import TensorNames
from quantize.export import Artefact
from quantize.pack import EvaluationPack
from quantize.parity import Limits, Presentations, compare, excesses
from tests.backends.score_tflite import feed

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = Path(__file__).parent / "backends"
SHIPPED = sorted((ROOT / "fasedge" / "models").glob("*/*.tflite"))
PACK = Path(__file__).parent / "regression"
#: The pictures of the evaluation pack that the old interpreter scores as well: every sixteenth.
EVERY = 16
LIMITS = Limits()
NAMES = TensorNames({"rgb": "args_0"}, {"score": "output_0", "map": "output_1"})
#: Floats are summed in another order; quantised kernels of the two generations round differently.
TOLERANCE = {"fp32": 1e-4, "int8": 0.02}


@pytest.fixture(scope="session")
def old_python() -> str:
    value = os.environ.get("FASEDGE_TFLITE_RUNTIME_PYTHON")
    if not value:
        pytest.skip("FASEDGE_TFLITE_RUNTIME_PYTHON is not set: it names a Python with tflite-runtime and numpy<2")
    if importlib.util.find_spec("ai_edge_litert") is None:
        pytest.skip("the comparison needs ai_edge_litert")
    return value


@pytest.fixture(scope="session")
def tflites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("litert_torch", "ai_edge_quantizer"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"making .tflite files needs {module}")
    folder = tmp_path_factory.getbasetemp() / "tflites"
    if not folder.exists():
        folder.mkdir()
        subprocess.run([sys.executable, str(SCRIPTS / "make_tflite.py"), str(folder)], capture_output=True, check=True)
    return folder


def pictures(count: int, side: int, channels: int = 3) -> np.ndarray:
    """Smooth colour ramps with some noise: nearer to faces than noise alone, which saturates a network.

    A fourth channel is depth.
    """
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, side)
    corners = rng.uniform(30, 220, (4, count, 1, 1, channels))
    x, y = ramp[None, None, :, None], ramp[None, :, None, None]
    smooth = (corners[0] * (1 - x) + corners[1] * x) * (1 - y) + (corners[2] * (1 - x) + corners[3] * x) * y
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)


def score_in_both(python: str, model: Path, rgb: np.ndarray, names: TensorNames, folder: Path) -> tuple[dict, dict]:
    np.save(folder / "pictures.npy", rgb)
    mapping = json.dumps({"inputs": dict(names.inputs), "outputs": dict(names.outputs)})
    command = [python, str(SCRIPTS / "score_tflite.py"), str(model), "pictures.npy", "out.npz", mapping]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    said = json.loads(done.stdout)
    assert said["version"].startswith("tflite-runtime ")
    assert said["numpy"].startswith("1.")
    with open_backend("litert", model, names=names) as backend:
        here = dict(backend.infer(feed(rgb)))
        assert backend.info.version.startswith("ai-edge-litert ")
    return here, dict(np.load(folder / "out.npz"))


@pytest.mark.parametrize("file", ["float.tflite", "free.tflite", "lying.tflite", "int8.tflite", "free_int8.tflite"])
def test_tiny_models_score_alike_in_both_runtimes(old_python, tflites, tmp_path, file):
    here, there = score_in_both(old_python, tflites / file, pictures(4, 8), NAMES, tmp_path)
    assert set(here) == set(there) == {"score", "map"}
    for name, array in here.items():
        assert there[name].dtype == np.float32
        assert array.std() > 0.01  # the pictures differ, so equal outputs mean something
        np.testing.assert_allclose(there[name], array, atol=TOLERANCE["int8" if "int8" in file else "fp32"])


def described(model: Path) -> tuple[ModelCard, FileCard]:
    card = load_card(model.parent)
    return card, next(item for item in card.files if item.path == model.name)


@pytest.mark.skipif(not SHIPPED, reason="no model comes with this checkout")
@pytest.mark.parametrize("model", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_shipped_models_score_alike_in_both_runtimes(old_python, tmp_path, model):
    card, item = described(model)
    shown = pictures(8, card.input_spec().size_px, 3 + (len(card.inputs) > 1))
    here, there = score_in_both(old_python, model, shown, item.tensor_names(), tmp_path)
    scores = [output.name for output in card.outputs if output.name.startswith("score")]
    for name in scores:
        np.testing.assert_allclose(there[name], here[name], atol=TOLERANCE[item.precision])


@pytest.mark.skipif(not SHIPPED, reason="no model comes with this checkout")
@pytest.mark.parametrize("model", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_shipped_models_score_faces_in_the_old_runtime_as_full_precision_does(old_python, tmp_path, model):
    card, item = described(model)
    seen = tuple(i.modality for i in card.inputs)
    pack = EvaluationPack.load(PACK / "evaluation_pack.npz", PACK / "evaluation_depth.npz")
    crops = pack.pictures(card.input_spec(), depth="depth" in seen)[::EVERY]
    labels, species = pack.labels[::EVERY], pack.species[::EVERY]
    assert set(species) == set(pack.species)
    here, there = score_in_both(old_python, model, crops, item.tensor_names(), tmp_path)
    for output, modalities in {"score": seen, "score_rgb": ("rgb",)}.items():
        if output not in there:
            continue
        threshold = card.operating_point(precision="fp32", modalities=modalities).threshold
        shown = Presentations(crops, labels, species, threshold, output)
        with np.load(PACK / f"{card.id}.npz", allow_pickle=False) as reference:
            expected = reference[output][::EVERY]
        artefact = Artefact("litert", item.precision, model)
        old, new = (np.float32(scores[output]).reshape(-1) for scores in (there, here))
        assert excesses(compare(artefact, old, expected, shown), LIMITS) == []
        between = np.abs(old - new)
        limit = LIMITS.fp32_score if item.precision == "fp32" else LIMITS.cross_engine
        assert float(np.quantile(between, 0.99)) <= limit


def test_tflite_runtime_beside_numpy_2_is_unavailable_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(_litert.np, "__version__", "2.1.0")
    monkeypatch.setattr(_open, "_installed", lambda engine: [(_open._TFLITE_RUNTIME, "2.14.0")])
    model = tmp_path / "any.tflite"
    model.write_bytes(b"any")
    assert "litert" not in available_engines()
    assert "needs numpy<2, this is numpy 2.1.0" in missing_engines()["litert"]
    with pytest.raises(EngineUnavailableError, match="needs numpy<2"):
        open_backend("litert", model)
    with pytest.raises(EngineUnavailableError, match="needs numpy<2"):
        _litert.LiteRTModel(model, "tflite_runtime.interpreter", None, "CPU")


def test_tflite_runtime_beside_numpy_1_counts_as_litert(monkeypatch):
    monkeypatch.setattr(_litert.np, "__version__", "1.26.4")
    monkeypatch.setattr(_open, "_installed", lambda engine: [(_open._TFLITE_RUNTIME, "2.14.0")])
    assert available_engines()["litert"] == "tflite-runtime 2.14.0"


def test_the_newer_runtime_is_preferred_where_both_are_installed(monkeypatch):
    monkeypatch.setattr(_open.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(_open.importlib.metadata, "version", lambda name: "9.9")
    assert available_engines()["litert"] == "ai-edge-litert 9.9"
