"""The seam to the engines. Expected values are worked out with NumPy from the formulas in ``backends/make_*.py``."""

import importlib.metadata
import importlib.util
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from fasedge.backends import ENGINES, Backend, _open, available_engines, missing_engines, open_backend
from fasedge.errors import EngineError, EngineUnavailableError, InputError, ModelNotFoundError
from fasedge.types import TensorNames

GENERATORS = Path(__file__).parent / "backends"
LITERT_NAMES = TensorNames({"rgb": "args_0"}, {"score": "output_0", "map": "output_1"})
#: What the tests run: engine, file, names, side of the picture.
CASES = {
    "openvino": ("tiny.xml", TensorNames(), 4),
    "onnxruntime": ("tiny.onnx", TensorNames(), 4),
    "litert": ("free.tflite", LITERT_NAMES, 8),
}


def _generate(script: str, folder: Path) -> Path:
    if not folder.exists():  # another test file may have been first
        folder.mkdir()
        command = [sys.executable, str(GENERATORS / script), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("openvino", "onnx", "onnxruntime"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"making OpenVINO and ONNX files and running them needs {module}")
    return _generate("make_graphs.py", tmp_path_factory.getbasetemp() / "graphs")


@pytest.fixture(scope="session")
def tflites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("litert_torch", "ai_edge_quantizer", "ai_edge_litert"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"making .tflite files and running them needs {module}")
    return _generate("make_tflite.py", tmp_path_factory.getbasetemp() / "tflites")


@pytest.fixture(params=ENGINES)
def case(request: pytest.FixtureRequest) -> tuple[str, Path, TensorNames, int]:
    file, names, side = CASES[request.param]
    folder: Path = request.getfixturevalue("tflites" if request.param == "litert" else "graphs")
    return request.param, folder / file, names, side


def pictures(count: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def expected_map(rgb: np.ndarray) -> np.ndarray:
    """(N, side, side): the mean colour (4 x 4 models) or the weighted and rectified one (8 x 8 models)."""
    weights = {4: (1 / 3, 1 / 3, 1 / 3), 8: (0.5, 0.25, -0.125)}[rgb.shape[1]]
    return np.maximum(rgb.astype(np.float64) / 255 @ np.array(weights), 0)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_engine_computes_what_the_graph_says_for_any_batch(case, count):
    engine, path, names, side = case
    rgb = pictures(count, side)
    with open_backend(engine, path, names=names, threads=1) as backend:
        assert isinstance(backend, Backend)
        assert backend.info.batched
        outputs = backend.infer({"rgb": rgb})
    want = expected_map(rgb)
    assert outputs["score"].shape == (count, 1)
    np.testing.assert_allclose(outputs["score"][:, 0], want.mean((1, 2)), atol=1e-6)
    np.testing.assert_allclose(outputs["map"].reshape(count, side, side), want, atol=1e-6)
    for array in outputs.values():
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        assert array.flags.writeable


def test_batch_sizes_may_change_from_call_to_call(case):
    engine, path, names, side = case
    rgb = pictures(6, side)
    want = expected_map(rgb).mean((1, 2))
    with open_backend(engine, path, names=names) as backend:
        for count in (1, 4, 2, 1, 6):
            score = backend.infer({"rgb": rgb[:count]})["score"]
            np.testing.assert_allclose(score[:, 0], want[:count], atol=1e-6)


def test_results_of_one_call_survive_the_next(case):
    engine, path, names, side = case
    with open_backend(engine, path, names=names) as backend:
        for count in (1, 3):
            first = backend.infer({"rgb": np.full((count, side, side, 3), 255, np.uint8)})
            kept = {name: array.copy() for name, array in first.items()}
            second = backend.infer({"rgb": np.zeros((count, side, side, 3), np.uint8)})
            for name, array in first.items():
                np.testing.assert_array_equal(array, kept[name])
                assert array.max() > 0.5
                assert second[name].max() == 0
                assert not np.shares_memory(array, second[name])


def test_inputs_may_be_read_only_or_strided_and_are_left_alone(case):
    engine, path, names, side = case
    whole = pictures(2, 2 * side)
    part = whole[:, ::2, ::2]
    part.flags.writeable = False
    before = part.copy()
    with open_backend(engine, path, names=names) as backend:
        score = backend.infer({"rgb": part})["score"]
    np.testing.assert_array_equal(part, before)
    np.testing.assert_allclose(score[:, 0], expected_map(before).mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rgb: {}, r"expected the inputs .*rgb.*got \[\]"),
        (lambda rgb: {"rgb": rgb, "depth": rgb}, "expected the inputs"),
        (lambda rgb: {"picture": rgb}, r"got \['picture'\]"),
        (lambda rgb: {"rgb": rgb.astype(np.float64)}, "uint8 or float32 array"),
        (lambda rgb: {"rgb": rgb.tolist()}, "got list"),
        (lambda rgb: {"rgb": rgb[0]}, "must have shape"),
        (lambda rgb: {"rgb": rgb[:, 1:]}, "must have shape"),
        (lambda rgb: {"rgb": rgb[..., :1]}, "must have shape"),
        (lambda rgb: {"rgb": rgb[:0]}, "N >= 1"),
    ],
)
def test_unusable_inputs_are_refused_and_the_backend_lives_on(case, change, words):
    engine, path, names, side = case
    rgb = pictures(2, side)
    with open_backend(engine, path, names=names) as backend:
        with pytest.raises(EngineError, match=words):
            backend.infer(change(rgb))
        assert backend.infer({"rgb": rgb})["score"].shape == (2, 1)


def test_a_closed_backend_refuses_to_infer_and_closes_again_without_complaint(case):
    engine, path, names, side = case
    backend = open_backend(engine, path, names=names)
    backend.close()
    backend.close()
    with pytest.raises(EngineError, match="closed"):
        backend.infer({"rgb": pictures(1, side)})


def test_threads_may_share_a_backend(case):
    engine, path, names, side = case
    wrong: list[object] = []

    def work(seed: int) -> None:
        rgb = pictures(1 + seed % 3, side, seed)
        want = expected_map(rgb).mean((1, 2))
        for _ in range(20):
            score = backend.infer({"rgb": rgb})["score"][:, 0]
            if score.shape != want.shape or np.abs(score - want).max() > 1e-5:
                wrong.append((seed, score, want))

    with open_backend(engine, path, names=names, threads=1) as backend:
        workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not wrong


def test_info_says_what_runs(case):
    engine, path, names, _ = case
    with open_backend(engine, str(path), names=names, threads=2) as backend:
        info = backend.info
    distribution = "ai-edge-litert" if engine == "litert" else engine
    assert (info.engine, info.device, info.threads) == (engine, "CPU", 2)
    assert info.version.endswith(importlib.metadata.version(distribution))
    assert available_engines()[engine] == info.version


@pytest.mark.parametrize("kind", ["garbage", "half", "empty"])
def test_a_damaged_file_is_a_typed_error(case, kind, tmp_path, capfd):
    engine, path, names, _ = case
    whole = path.read_bytes()
    damaged = tmp_path / path.name
    damaged.write_bytes({"garbage": b"no model " * 99, "half": whole[: len(whole) // 2], "empty": b""}[kind])
    damaged.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(EngineError, match=path.name):
        open_backend(engine, damaged, names=names)
    capfd.readouterr()  # one engine also writes to standard error


def test_names_that_the_file_does_not_have_are_listed(case):
    engine, path, _, _ = case
    with pytest.raises(EngineError, match=r"has no input called 'nothing'; it has \["):
        open_backend(engine, path, names=TensorNames(inputs={"rgb": "nothing"}))
    with pytest.raises(EngineError, match=r"has no output called 'nothing'; it has \["):
        open_backend(engine, path, names=TensorNames(outputs={"score": "nothing"}))


def test_a_mapping_of_outputs_returns_only_those(graphs):
    with open_backend("openvino", graphs / "tiny.xml", names=TensorNames(outputs={"liveness": "score"})) as backend:
        assert set(backend.infer({"rgb": pictures(1, 4)})) == {"liveness"}


def test_a_tensor_with_several_names_answers_to_each(graphs):
    rgb = pictures(2, 4)
    with open_backend("openvino", graphs / "tiny.xml") as backend:
        by_one, by_other = backend.infer({"rgb": rgb}), backend.infer({"pixels": rgb})
        with pytest.raises(EngineError, match="expected the inputs"):
            backend.infer({"rgb": rgb, "pixels": rgb})
    np.testing.assert_array_equal(by_one["score"], by_other["score"])


def test_an_unmapped_foreign_name_is_explained(tflites):
    with (
        open_backend("litert", tflites / "float.tflite") as backend,
        pytest.raises(EngineError, match=r"calls its inputs \['args_0'\].*TensorNames\(inputs="),
    ):
        backend.infer({"rgb": pictures(1, 8)})


@pytest.mark.parametrize(
    ("engine", "file", "names"),
    [
        ("openvino", "stuck.xml", TensorNames()),
        ("onnxruntime", "fixed1.onnx", TensorNames()),
        ("litert", "float.tflite", LITERT_NAMES),
        ("litert", "lying.tflite", LITERT_NAMES),
        (
            "openvino",
            "float.tflite",
            TensorNames({"rgb": "serving_default_args_0"}, {"score": "serving_default_output_0_output"}),
        ),
    ],
)
def test_a_file_of_fixed_batch_size_runs_face_by_face_with_the_same_results(engine, file, names, request):
    folder = request.getfixturevalue("tflites" if file.endswith(".tflite") else "graphs")
    rgb = pictures(3, 8 if file.endswith(".tflite") else 4)
    with open_backend(engine, folder / file, names=names) as backend:
        assert not backend.info.batched
        score = backend.infer({"rgb": rgb})["score"]
    assert score.shape == (3, 1)
    np.testing.assert_allclose(score[:, 0], expected_map(rgb).mean((1, 2)), atol=1e-6)


@pytest.mark.parametrize(
    ("engine", "file", "words"),
    [
        ("onnxruntime", "fixed4.onnx", "fixed batch size"),
        ("onnxruntime", "int8.onnx", "no quantisation scale"),
        ("openvino", "int8.onnx", "no quantisation scale"),
        ("openvino", "scalar.xml", "is a scalar"),
    ],
)
def test_a_file_that_cannot_be_fed_or_read_is_refused_when_opened(graphs, engine, file, words):
    with pytest.raises(EngineError, match=words):
        open_backend(engine, graphs / file)


def test_openvino_points_to_litert_for_a_quantised_tflite(tflites):
    with pytest.raises(EngineError, match="engine 'litert'"):
        open_backend("openvino", tflites / "int8.tflite")


def test_openvino_takes_a_free_batch_from_a_fixed_onnx_file(graphs):
    rgb = pictures(3, 4)
    with open_backend("openvino", graphs / "fixed4.onnx") as backend:
        assert backend.info.batched
        score = backend.infer({"rgb": rgb})["score"]
    np.testing.assert_allclose(score[:, 0], expected_map(rgb).mean((1, 2)), atol=1e-6)


def test_several_inputs_must_agree_in_batch_size(graphs):
    rgb = np.full((2, 2, 2, 3), 10, np.uint8)
    depth = np.array([[1, 3], [5, 7]], np.float32)
    with open_backend("openvino", graphs / "two.xml") as backend:
        np.testing.assert_allclose(backend.infer({"rgb": rgb, "depth": depth})["score"], [12, 16])
        with pytest.raises(EngineError, match="same batch size"):
            backend.infer({"rgb": rgb, "depth": depth[:1]})
        with pytest.raises(EngineError, match="not finite"):
            backend.infer({"rgb": rgb, "depth": np.full((2, 2), np.nan, np.float32)})
        with pytest.raises(EngineError, match="takes uint8 pixels"):
            backend.infer({"rgb": rgb.astype(np.float32), "depth": depth})


def test_a_mapping_must_feed_every_input_once(graphs):
    with pytest.raises(EngineError, match=r"leaves out \['depth'\]"):
        open_backend("openvino", graphs / "two.xml", names=TensorNames(inputs={"rgb": "rgb"}))
    with pytest.raises(EngineError, match="two names"):
        open_backend("openvino", graphs / "two.xml", names=TensorNames(inputs={"rgb": "rgb", "depth": "rgb"}))


@pytest.mark.parametrize("file", ["int8.tflite", "free_int8.tflite"])
def test_int8_tflite_stays_within_its_quantisation_steps_of_the_formula(tflites, file):
    rgb = pictures(4, 8)
    rgb[0], rgb[1] = 0, (255, 255, 0)
    with open_backend("litert", tflites / file, names=LITERT_NAMES) as backend:
        outputs = backend.infer({"rgb": rgb})
        as_floats = backend.infer({"rgb": rgb.astype(np.float32)})
    want = expected_map(rgb)
    # The map spans 0..0.75 in 255 steps of 0.003; weights, input and output each add about half a step.
    np.testing.assert_allclose(outputs["map"][..., 0], want, atol=0.009)
    np.testing.assert_allclose(outputs["score"][:, 0], want.mean((1, 2)), atol=0.009)
    np.testing.assert_array_equal(outputs["map"], as_floats["map"])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_missing_file_and_a_folder_are_model_not_found(engine, tmp_path):
    suffix = {"openvino": ".xml", "litert": ".tflite", "onnxruntime": ".onnx"}[engine]
    with pytest.raises(ModelNotFoundError, match="no model file"):
        open_backend(engine, tmp_path / f"none{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(ModelNotFoundError):
        open_backend(engine, tmp_path / f"folder{suffix}")
    with pytest.raises(EngineError, match=rf"reads .*{suffix}"):
        open_backend(engine, tmp_path / "model.pt")


def test_openvino_weights_that_are_missing_are_named(graphs, tmp_path):
    lonely = tmp_path / "tiny.xml"
    lonely.write_bytes((graphs / "tiny.xml").read_bytes())
    with pytest.raises(ModelNotFoundError, match=r"tiny\.bin"):
        open_backend("openvino", lonely)


def test_unknown_engines_and_thread_counts_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="openvino, litert, onnxruntime"):
        open_backend("tensorrt", tmp_path / "x.xml")
    for threads in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="threads"):
            open_backend("openvino", tmp_path / "x.xml", threads=threads)


def test_a_device_that_is_not_there_is_an_error(case):
    engine, path, names, _ = case
    with pytest.raises(EngineError, match="TPU"):
        open_backend(engine, path, names=names, device="TPU")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_is_not_installed_names_the_command(engine, tmp_path, monkeypatch):
    monkeypatch.setattr(_open.importlib.util, "find_spec", lambda name: None)
    path = tmp_path / {"openvino": "x.onnx", "litert": "x.tflite", "onnxruntime": "x.onnx"}[engine]
    path.write_bytes(b"x")
    assert available_engines() == {}
    assert set(missing_engines()) == set(ENGINES)
    with pytest.raises(EngineUnavailableError, match=rf"pip install 'fasedge\[{engine}\]'"):
        open_backend(engine, path)


def test_an_engine_whose_import_fails_names_the_command(graphs, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(_open, "_find", lambda engine: (_open._PROVIDERS[engine][0], "1"))
    with pytest.raises(EngineUnavailableError, match=r"pip install 'fasedge\[onnxruntime\]'") as caught:
        open_backend("onnxruntime", graphs / "tiny.onnx")
    assert isinstance(caught.value.__cause__, ImportError)


def test_an_engine_without_metadata_is_still_found(monkeypatch):
    def no_metadata(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    pytest.importorskip("openvino")
    monkeypatch.setattr(_open.importlib.metadata, "version", no_metadata)
    assert "unknown version" in available_engines()["openvino"]


def test_looking_for_engines_imports_none():
    code = (
        "import sys, fasedge.backends as b; b.available_engines(); b.missing_engines();"
        "print([m for m in ('openvino','ai_edge_litert','tflite_runtime','onnxruntime','torch') if m in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


def test_litert_loads_without_a_word_on_standard_error(tflites):
    code = (
        "import sys; from fasedge.backends import open_backend;"
        "open_backend('litert', sys.argv[1]).close(); print('kept', file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, str(tflites / "float.tflite")]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert done.stderr.strip() == "kept"


def test_what_others_write_to_standard_error_meanwhile_is_not_lost(capfd):
    import os

    from fasedge.backends._litert import quiet_native_log

    with quiet_native_log():
        os.write(2, b"INFO: Created something\nERROR: something else\n")
    assert capfd.readouterr().err == "ERROR: something else\n"
