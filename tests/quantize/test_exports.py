import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fasedge.backends import open_backend
from quantize.bake import grid_points, weight_codes
from quantize.equalise import equalise
from quantize.errors import CalibrationDataError, ConversionError
from quantize.export import artefact, artefacts, export_fp32, export_int8
from quantize.files import complete_file
from quantize.fitting import fit_grid
from quantize.grid import GridConfig, conv_names, grid_convs, grids, in_float
from quantize.onnx_export import export_onnx_fp32, export_onnx_int8
from quantize.openvino_export import save_ir
from quantize.openvino_int8 import export_openvino_int8, quantize_with_nncf
from quantize.students import ExportModel, PixelCosineStudent, PixelLogitStudent, Platt
from quantize.tflite_int8 import export_tflite_int8
from training.backbones import TRUNKS, PlainTrunk, Trunk
from training.inputs import BrightnessNorm, GraphInput

pytestmark = pytest.mark.slow  # the conversions, once for all of these tests
SIZE_PX = 32
PLACES = [(e, p) for p in ("fp32", "int8") for e in ("openvino", "onnxruntime", "litert")]


@pytest.mark.parametrize(("engine", "precision"), PLACES)
def test_each_artefact_gives_what_torch_gives(bench, exported, engine, precision):
    source = bench.model if precision == "fp32" else bench.grid
    with torch.no_grad():
        score, score_map = (out.numpy() for out in source(torch.from_numpy(bench.crops[:20])))
    with open_backend(engine, artefact(exported[0], engine, precision).path) as backend:
        got = backend.infer({"rgb": bench.crops[:20]})
    # On the same grid only ties are rounded differently; that shows in single cells of the map, not in their mean.
    score_tolerance, map_tolerance = (1e-5, 1e-5) if precision == "fp32" else (0.01, 0.01)
    np.testing.assert_allclose(got["score"], score, atol=score_tolerance)
    assert np.abs(got["map"] - score_map).mean(axis=(1, 2)).max() < map_tolerance


@pytest.mark.parametrize(("engine", "precision"), PLACES)
def test_a_batch_gives_the_same_as_its_pictures_one_by_one(bench, exported, engine, precision):
    with open_backend(engine, artefact(exported[0], engine, precision).path) as backend:
        together = backend.infer({"rgb": bench.crops[:3]})["score"]
        alone = [backend.infer({"rgb": bench.crops[i : i + 1]})["score"][0] for i in range(3)]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_no_artefact_names_paths_of_the_machine_that_made_it(exported):
    here = str(Path(__file__).resolve().parents[2]).encode()
    for path in exported[0].iterdir():
        assert here not in path.read_bytes(), path.name
        assert b"site-packages" not in path.read_bytes(), path.name


def test_the_onnx_file_holds_exactly_the_weight_codes_of_the_grid(bench, exported):
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(artefact(exported[0], "onnxruntime", "int8").path).graph
    stored = [numpy_helper.to_array(i) for i in graph.initializer if i.data_type == onnx.TensorProto.INT8]
    for conv in grid_convs(bench.grid).values():
        codes = weight_codes(conv)
        assert any(s.shape == codes.shape and np.array_equal(s, codes) for s in stored)


def test_onnx_and_tflite_files_hold_exactly_the_bias_codes_of_the_grid(bench, exported):
    import onnx
    from ai_edge_litert.interpreter import Interpreter
    from onnx import numpy_helper

    graph = onnx.load(artefact(exported[0], "onnxruntime", "int8").path).graph
    onnx_codes = [numpy_helper.to_array(i) for i in graph.initializer if i.data_type == onnx.TensorProto.INT32]
    interpreter = Interpreter(str(artefact(exported[0], "litert", "int8").path))
    int32 = [item["index"] for item in interpreter.get_tensor_details() if item["dtype"] == np.int32]
    convs = [op for op in interpreter._get_ops_details() if "CONV_2D" in op["op_name"]]
    tflite_codes = [interpreter.get_tensor(op["inputs"][2]) for op in convs if op["inputs"][2] in int32]
    for conv in grid_convs(bench.grid).values():
        wanted = conv.bias_codes().numpy()
        assert any(s.shape == wanted.shape and np.array_equal(s, wanted) for s in onnx_codes)
        # The converter's own product of scales may fall on the other side of a tie.
        assert any(s.shape == wanted.shape and np.abs(s - wanted).max() <= 1 for s in tflite_codes)


def test_the_tflite_file_holds_exactly_the_weight_codes_of_the_grid_and_no_transpose(bench, exported):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(artefact(exported[0], "litert", "int8").path))
    details = interpreter.get_tensor_details()
    stored = [
        interpreter.get_tensor(item["index"])
        for item in details
        if item["dtype"] == np.int8 and len(item["quantization_parameters"]["scales"]) > 1
    ]
    for conv in grid_convs(bench.grid).values():
        codes = weight_codes(conv)  # (out, in, h, w); in TFLite (out, h, w, in), depthwise (1, h, w, out)
        wanted = codes.transpose(0, 2, 3, 1) if conv.conv.groups == 1 else codes.transpose(1, 2, 3, 0)
        assert any(np.array_equal(s, wanted) for s in stored)
    names = {op["op_name"] for op in interpreter._get_ops_details()}
    assert "TRANSPOSE" not in names
    assert {"CAST", "CONV_2D", "DEPTHWISE_CONV_2D", "ADD", "QUANTIZE", "DEQUANTIZE"} <= names


def test_a_scale_that_the_converter_moves_into_the_first_weights_does_not_disturb_the_grid(bench, tmp_path):
    # With one standard deviation for all colours the converter drops the division and scales the weights instead.
    model = ExportModel(bench.student, bench.platt, BrightnessNorm())
    model.input = GraphInput(BrightnessNorm(), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    grid = fit_grid(model, bench.calibration, GridConfig())
    path = export_tflite_int8(grid, tmp_path / "a.tflite", SIZE_PX, bench.crops[:1])
    with open_backend("litert", path) as backend, torch.no_grad():
        expected = grid(torch.from_numpy(bench.crops[:20]))[0].numpy()
        np.testing.assert_allclose(backend.infer({"rgb": bench.crops[:20]})["score"], expected, atol=0.01)


def test_a_convolution_that_stays_in_float_does_so_in_every_engine(bench, tmp_path):
    grid = fit_grid(bench.model, bench.calibration, GridConfig(float_convs=("block.3",)))
    paths = {
        "openvino": export_openvino_int8(grid, tmp_path / "a.xml", SIZE_PX),
        "onnxruntime": export_onnx_int8(grid, tmp_path / "a.onnx", SIZE_PX),
        "litert": export_tflite_int8(grid, tmp_path / "a.tflite", SIZE_PX, bench.crops[:1]),
    }
    with torch.no_grad():
        expected = grid(torch.from_numpy(bench.crops[:20]))[0].numpy()
    for engine, path in paths.items():
        with open_backend(engine, path) as backend:
            np.testing.assert_allclose(backend.infer({"rgb": bench.crops[:20]})["score"], expected, atol=0.01)


class LinearBottleneck(nn.Module):
    """A residual block between linear tensors, as in MobileNetV2: both terms of the addition are signed."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.ReLU6(), nn.Conv2d(width, width, 1))
        self.block = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.ReLU6(), nn.Conv2d(2 * width, width, 1))
        self.project = nn.Conv2d(width, 2 * width, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.project(x + self.block(x))


def test_every_engine_rounds_before_a_residual_addition(bench, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        student = PixelCosineStudent(LinearBottleneck(), 32)
    model = fit_grid(ExportModel(student, bench.platt, BrightnessNorm()), bench.calibration, GridConfig())
    name = next(point.name for point in grid_points(model, bench.crops[:1]) if point.conv == "block.2")
    place = grids(model)[name]
    low, high = place.limits
    place.set_range(32 * low, 32 * high)  # so coarse that leaving it out shows
    rgb = torch.from_numpy(bench.crops[:20])
    with torch.no_grad():
        rounded = model(rgb)[1].numpy()
        place.enabled = False
        left_out = model(rgb)[1].numpy()
        place.enabled = True
    paths = {
        "openvino": export_openvino_int8(model, tmp_path / "a.xml", SIZE_PX),
        "onnxruntime": export_onnx_int8(model, tmp_path / "a.onnx", SIZE_PX),
        "litert": export_tflite_int8(model, tmp_path / "a.tflite", SIZE_PX, bench.crops[:1]),
    }
    for engine, path in paths.items():
        with open_backend(engine, path) as backend:
            found = backend.infer({"rgb": bench.crops[:20]})["map"]
        assert np.abs(found - rounded).mean() < 0.2 * np.abs(left_out - rounded).mean(), engine


def test_channels_without_weights_give_their_bias_in_every_engine(bench, tmp_path):
    model = copy.deepcopy(bench.model)
    for name in ("stem.1", "block.0"):
        conv = model.trunk.get_submodule(name)
        conv.weight.data[:2], conv.bias.data[:2] = 1e-9, torch.tensor([2.5, -2.5])
    grid = fit_grid(model, bench.calibration, GridConfig())
    paths = {
        "openvino": export_openvino_int8(grid, tmp_path / "a.xml", SIZE_PX),
        "onnxruntime": export_onnx_int8(grid, tmp_path / "a.onnx", SIZE_PX),
        "litert": export_tflite_int8(grid, tmp_path / "a.tflite", SIZE_PX, bench.crops[:1]),
    }
    with torch.no_grad():
        expected = model(torch.from_numpy(bench.crops[:20]))[0].numpy()
    for engine, path in paths.items():
        with open_backend(engine, path) as backend:
            np.testing.assert_allclose(backend.infer({"rgb": bench.crops[:20]})["score"], expected, atol=0.03)


def test_the_openvino_file_stores_weights_as_int8(exported):
    import openvino

    network = openvino.Core().read_model(str(artefact(exported[0], "openvino", "int8").path))
    weights = [
        op
        for op in network.get_ops()
        if op.get_type_name() == "Constant" and op.get_output_element_type(0) == openvino.Type.i8
    ]
    assert len(weights) == 4


def test_openvino_rounds_before_it_adds_as_the_grid_does(bench, exported):
    """Merged into the convolution before it, an addition would lose the rounding of its operands."""
    path = artefact(exported[0], "openvino", "int8").path
    with torch.no_grad():
        expected = bench.grid(torch.from_numpy(bench.crops))[0].numpy()
    with open_backend("openvino", path) as backend:
        found = np.concatenate([backend.infer({"rgb": bench.crops[i : i + 8]})["score"] for i in range(0, 80, 8)])
    # All but a few pictures, in which a value lies on a tie, agree to the last digits.
    assert np.median(np.abs(found - expected)) < 1e-5


def test_nncf_chooses_its_own_ranges_and_its_file_runs(bench, tmp_path):
    path = quantize_with_nncf(bench.model, bench.calibration[:16], tmp_path / "nncf.xml", SIZE_PX)
    with open_backend("openvino", path) as backend:
        assert backend.infer({"rgb": bench.crops[:2]})["map"].shape == (2, 8, 8)
    with pytest.raises(CalibrationDataError, match="got none"):
        quantize_with_nncf(bench.model, bench.calibration[:0], tmp_path / "x.xml", SIZE_PX)


def test_int8_exporters_refuse_a_network_that_is_on_no_grid(bench, tmp_path):
    for write in (
        lambda p: export_onnx_int8(bench.model, p / "a.onnx", SIZE_PX),
        lambda p: export_openvino_int8(bench.model, p / "a.xml", SIZE_PX),
        lambda p: export_tflite_int8(bench.model, p / "a.tflite", SIZE_PX, bench.crops[:1]),
    ):
        with pytest.raises(ConversionError, match="fit_grid first"):
            write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unsupported_operation_is_a_typed_error_and_leaves_no_file(tmp_path):
    class Unsupported(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvals(x @ x.transpose(2, 3)).real[:, :, None].repeat(1, 1, 4, 1)

    with torch.no_grad():
        model = ExportModel(PixelCosineStudent(Unsupported(), 3), Platt(1.0, 0.0))
    with pytest.raises(ConversionError, match="torch cannot write"):
        export_onnx_fp32(model, tmp_path / "a.onnx", SIZE_PX)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_a_typed_error_and_leaves_the_earlier_file(tmp_path, monkeypatch):
    import openvino

    def full(*_, **__):
        raise RuntimeError("basic_ios::clear: iostream error")

    path = tmp_path / "model.xml"
    path.write_text("earlier")
    monkeypatch.setattr(openvino, "save_model", full)
    value = openvino.opset13.parameter([1])
    model = openvino.Model([value], [value], "same")
    with pytest.raises(ConversionError, match="is the disk full"):
        save_ir(model, path)
    assert path.read_text() == "earlier"


def test_an_interrupted_export_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "model.xml"
    path.write_text("earlier")

    def interrupted():
        with complete_file(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "earlier"
    assert [p.name for p in tmp_path.iterdir()] == ["model.xml"]


def test_a_converter_that_writes_nothing_is_noticed(tmp_path):
    def nothing():
        with complete_file(tmp_path / "model.xml"):
            pass

    with pytest.raises(ConversionError, match="no complete file"):
        nothing()


def test_companions_move_with_their_file(tmp_path):
    with complete_file(tmp_path / "model.xml") as temporary:
        temporary.write_text("x")
        temporary.with_suffix(".bin").write_text("b")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.bin", "model.xml"]


def test_a_half_written_artefact_folder_is_refused(exported, tmp_path):
    for path in exported[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "int8.bin").write_bytes(b"")
    with pytest.raises(ConversionError, match=r"int8\.bin is missing or empty.*openvino/int8"):
        artefacts(tmp_path)


def test_an_int8_artefact_that_is_too_large_is_refused(bench, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "quantize.tflite_int8.export_tflite_int8", lambda *_: (tmp_path / "int8.tflite").write_bytes(b"x")
    )
    with pytest.raises(ConversionError, match=r"openvino/int8 has .* more than the 10 allowed"):
        export_int8(bench.grid, tmp_path, SIZE_PX, bench.calibration[:1], largest=10)


def with_blocks(name: str, *places: int) -> Trunk:
    """A trunk with one block of each kind, so that the conversion is short."""
    trunk = TRUNKS[name]()
    trunk.blocks = nn.Sequential(*[trunk.blocks[place] for place in places])
    return trunk


#: Trunks that go the whole way, with how many convolutions each has once it is exported.
WHOLE = {
    "plain": (lambda: PlainTrunk((8, 8, 16, 16), (1, 1, 2, 1), projected=12), 6),
    "mobilenetv4_conv_s": (lambda: with_blocks("mobilenetv4_conv_s", 0, 1, 5), 15),
    "feathernet_b": (lambda: with_blocks("feathernet_b", 0, 1, 2, 3), 15),
}


@pytest.fixture(scope="module", params=sorted(WHOLE))
def whole(request, tmp_path_factory, bench) -> tuple[str, ExportModel, ExportModel, Path]:
    """A trunk with a head of logits, in a grey world: its name, model, grid, folder of artefacts."""
    pytest.importorskip("litert_torch")
    norm = BrightnessNorm(grey_world=True)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        trunk = WHOLE[request.param][0]()
        student = PixelLogitStudent(trunk, trunk.out_channels)
    # Each trunk says values of another size: they are centred and scaled so that no score is near 0 or 1.
    with torch.no_grad():
        x = GraphInput(norm, trunk.input_mean, trunk.input_std)(torch.from_numpy(bench.crops))
        for _ in range(20):
            trunk(x)
        pooled = student.eval().pooled(x)
    model = ExportModel(student, Platt(float(1 / pooled.std()), float(-pooled.mean() / pooled.std())), norm)
    grid = fit_grid(equalise(model, bench.calibration), bench.calibration, GridConfig())
    folder = tmp_path_factory.mktemp(request.param)
    export_fp32(model, folder, SIZE_PX)
    export_int8(grid, folder, SIZE_PX, bench.calibration[:1])
    return request.param, model, grid, folder


@pytest.mark.parametrize(("engine", "precision"), PLACES)
def test_a_network_on_each_trunk_gives_in_each_engine_what_torch_gives(bench, whole, engine, precision):
    _, model, grid, folder = whole
    with torch.no_grad():
        score = (model if precision == "fp32" else grid)(torch.from_numpy(bench.crops[:20]))[0].numpy()
    with open_backend(engine, artefact(folder, engine, precision).path) as backend:
        got = backend.infer({"rgb": bench.crops[:20]})["score"]
    difference = np.abs(got - score)
    # On the same grid only pictures in which a value lies on a tie differ.
    assert np.median(difference) < 1e-5
    assert difference.max() < (1e-5 if precision == "fp32" else 0.05)
    assert score.std() > 0.1


def test_every_convolution_of_a_network_is_on_the_grid(whole):
    name, model, grid, _ = whole
    assert len(grid_convs(grid)) == WHOLE[name][1] == sum(isinstance(m, nn.Conv2d) for m in model.trunk.modules())


@pytest.mark.parametrize("trunk", ["efficientnet_lite0", "plain_s", "mobilenetv4_conv_s", "feathernet_b"])
def test_what_stays_in_float_is_at_the_start_and_a_part_of_the_network(trunk):
    network = TRUNKS[trunk]().eval()
    names = conv_names(ExportModel(PixelCosineStudent(network, network.out_channels), Platt(1.0, 0.0)))
    start = in_float(trunk)
    assert 0 < start.weights <= start.convs < len(names) / 2
