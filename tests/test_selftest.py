"""The self-test passes on the right model, and notices each way in which it can be wrong."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import pytest

from fasedge.cards import CARD_NAME, GoldenVectors, dump_card, load_card
from fasedge.errors import CardError, EngineError, InputError, IntegrityError, ModelNotFoundError
from fasedge.selftest import Golden, compare_golden, load_golden, run_selftest
from fasedge.testing import FakeBackend, fake_card

_N, _SIDE, _TOLERANCE = 11, 32, 0.05  # more than one batch, the last one not full
_RNG = np.random.default_rng(3)
# Red pictures: swapping colours and scaling both change them a lot.
_RGB = np.stack(
    [np.stack([np.full((_SIDE, _SIDE), v, np.uint8) for v in (100 + 14 * i, 20, 5 * i)], axis=-1) for i in range(_N)]
)


class _RedBackend(FakeBackend):
    """A model whose score is the mean red over 255, and whose map is red cell by cell; with ways to go wrong."""

    def __init__(self, *, bias=0.0, map_bias=0.0, grey=False, with_map=True, nan=False):
        super().__init__()
        self._bias, self._map_bias, self._grey, self._with_map, self._nan = bias, map_bias, grey, with_map, nan

    def infer(self, inputs):
        self.calls.append(inputs)
        rgb = inputs["rgb"].astype(np.float32) / 255
        red = rgb.mean(axis=-1) if self._grey else rgb[..., 0]
        score = np.clip(red.mean(axis=(1, 2)) + self._bias, 0, 1).astype(np.float32)
        if self._nan:
            score[-1] = np.nan
        if not self._with_map:
            return {"score": score}
        return {"score": score, "map": (red[:, ::16, ::16] + self._map_bias).astype(np.float32)}


def _card():
    return fake_card(
        size_px=_SIDE, golden=GoldenVectors(path="golden.npz", sha256="0" * 64, n=_N, tolerance=_TOLERANCE)
    )


def _golden(backend=None):
    outputs = (backend or _RedBackend()).infer({"rgb": _RGB})
    return Golden(rgb=_RGB, score=outputs["score"], score_map=outputs.get("map"))


def test_the_right_model_passes_and_the_probes_are_noticed():
    backend = _RedBackend()
    report = compare_golden(backend, _card(), _golden())
    assert report.passed
    report.raise_for_failure()
    assert report.score_difference == pytest.approx(0, abs=1e-6)
    assert report.map_difference == pytest.approx(0, abs=1e-6)
    # By hand: the last picture is (240, 20, 50), swapped (50, 20, 240): 190 / 255; in 0..1 it is black: 240 / 255.
    assert report.swapped_difference == pytest.approx(190 / 255, abs=1e-4)
    assert report.scaled_difference == pytest.approx(240 / 255, abs=1e-4)
    assert report.n == _N


def test_every_golden_vector_is_replayed_in_full_batches():
    backend = _RedBackend()
    compare_golden(backend, _card(), _golden())
    assert [len(call["rgb"]) for call in backend.calls] == [8, 3] * 3


@pytest.mark.parametrize(("bias", "passes"), [(0.04, True), (-0.04, True), (0.06, False), (-0.06, False)])
def test_scores_may_be_off_by_the_tolerance_and_no_more(bias, passes):
    golden = Golden(rgb=_RGB[:4], score=_golden().score[:4], score_map=None)
    report = compare_golden(_RedBackend(bias=bias), _card(), golden)
    assert report.passed is passes
    assert report.score_difference == pytest.approx(abs(bias), abs=1e-5)


def test_one_wrong_score_among_many_is_found():
    score = _golden().score.copy()
    score[7] -= 0.2
    report = compare_golden(_RedBackend(), _card(), Golden(_RGB, score, None))
    assert any("scores differ by up to 0.2" in f for f in report.failures)


def test_a_score_that_is_not_a_number_fails():
    report = compare_golden(_RedBackend(nan=True), _card(), _golden())
    assert any(failure.startswith("scores differ") for failure in report.failures)


def test_a_wrong_map_fails_even_if_the_score_is_right():
    report = compare_golden(_RedBackend(map_bias=0.1), _card(), _golden())
    assert len(report.failures) == 1
    assert "maps differ by 0.1" in report.failures[0]


def test_a_missing_map_fails():
    report = compare_golden(_RedBackend(with_map=False), _card(), _golden())
    assert any("no map" in f for f in report.failures)


def test_a_map_of_another_size_fails():
    golden = Golden(_RGB, _golden().score, np.zeros((_N, 14, 14), np.float32))
    assert any("shape" in f for f in compare_golden(_RedBackend(), _card(), golden).failures)


def test_a_test_that_would_not_notice_swapped_colours_fails():
    backend = _RedBackend(grey=True)
    report = compare_golden(backend, _card(), _golden(_RedBackend(grey=True)))
    assert len(report.failures) == 1
    assert "would not notice swapped colours" in report.failures[0]


def test_a_test_that_would_not_notice_scaling_fails():
    constant = FakeBackend([0.5])
    golden = Golden(_RGB, np.full(_N, 0.5, np.float32), None)
    report = compare_golden(constant, _card(), golden)
    assert any("would not notice pixels in 0..1" in f for f in report.failures)


def test_a_failed_report_is_an_engine_error_that_says_how():
    report = compare_golden(_RedBackend(bias=0.2), _card(), _golden())
    with pytest.raises(EngineError, match=r"fake-model.*scores differ"):
        report.raise_for_failure()


def test_an_engine_that_fails_is_an_engine_error():
    with pytest.raises(EngineError, match="driver"):
        compare_golden(FakeBackend(error=EngineError("driver")), _card(), _golden())


# --- depth --------------------------------------------------------------------------------------------------------


class _DepthBackend(FakeBackend):
    """Mean of red, of depth, and of both; or deaf to depth, or off in the score of depth alone."""

    def __init__(self, *, deaf=False, bias=0.0):
        super().__init__()
        self._deaf, self._bias = deaf, bias

    def infer(self, inputs):
        red = inputs["rgb"][..., 0].mean(axis=(1, 2)) / 255
        depth = inputs["depth"].mean(axis=(1, 2, 3)) / 255
        both = red if self._deaf else (red + depth) / 2
        found = {"score": both, "score_rgb": red, "score_depth": depth + self._bias}
        return {name: value.astype(np.float32) for name, value in found.items()}


def _depth_golden(backend):
    depth = np.random.default_rng(2).integers(100, 256, (_N, _SIDE, _SIDE, 1), np.uint8)
    found = backend.infer({"rgb": _RGB, "depth": depth})
    return Golden(_RGB, found.pop("score"), None, depth, found)


def test_scores_of_single_heads_are_compared_and_missing_depth_is_noticed():
    report = compare_golden(_DepthBackend(), _card(), _depth_golden(_DepthBackend()))
    assert report.passed
    assert report.blind_difference > 0.1
    off = compare_golden(_DepthBackend(bias=0.2), _card(), _depth_golden(_DepthBackend()))
    assert off.score_difference == pytest.approx(0.2, abs=1e-6)
    assert [f for f in off.failures if f.startswith("score_depth differ by up to 0.2000")]


def test_colour_alone_must_not_depend_on_depth():
    class Leaky(_DepthBackend):
        def infer(self, inputs):
            found = super().infer(inputs)
            return found | {"score_rgb": (found["score_rgb"] + 0.01 * found["score_depth"]).astype(np.float32)}

    report = compare_golden(Leaky(), _card(), _depth_golden(Leaky()))
    assert any("colour alone changes by 0.0" in f for f in report.failures)


def test_a_test_that_would_not_notice_missing_depth_fails():
    deaf = _DepthBackend(deaf=True)
    report = compare_golden(deaf, _card(), _depth_golden(deaf))
    assert any("would not notice missing depth" in f for f in report.failures)


def test_a_model_of_colour_alone_has_no_such_probe():
    assert compare_golden(_RedBackend(), _card(), _golden()).blind_difference is None


# --- reading golden vectors ---------------------------------------------------------------------------------------


def _write(folder, arrays=None, *, content=None):
    path = folder / "golden.npz"
    if content is None:
        np.savez(path, **(arrays if arrays is not None else {"rgb": _RGB, "score": _golden().score}))
    else:
        path.write_bytes(content)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    golden = GoldenVectors(path="golden.npz", sha256=digest, n=_N, tolerance=_TOLERANCE)
    return msgspec.structs.replace(_card(), golden=golden)


def test_golden_vectors_are_read_as_they_were_written(tmp_path):
    written = _golden()
    card = _write(tmp_path, {"rgb": _RGB, "score": written.score, "map": written.score_map})
    golden = load_golden(tmp_path, card)
    assert np.array_equal(golden.rgb, _RGB)
    assert np.array_equal(golden.score, written.score)
    assert np.array_equal(golden.score_map, written.score_map)


def test_altered_golden_vectors_are_an_integrity_error(tmp_path):
    card = _write(tmp_path)
    with (tmp_path / "golden.npz").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(IntegrityError):
        load_golden(tmp_path, card)


def test_missing_golden_vectors_are_a_model_not_found_error(tmp_path):
    with pytest.raises(ModelNotFoundError):
        load_golden(tmp_path, _card())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"not an archive", b"\x80\x04K\x01."])
def test_a_golden_file_that_is_no_npz_is_a_card_error(tmp_path, content):
    card = _write(tmp_path, content=content)
    with pytest.raises(CardError, match="npz"):
        load_golden(tmp_path, card)


def test_a_lone_array_in_place_of_an_archive_is_a_card_error(tmp_path):
    np.save(tmp_path / "lone.npy", _RGB)
    card = _write(tmp_path, content=(tmp_path / "lone.npy").read_bytes())
    with pytest.raises(CardError, match="npz"):
        load_golden(tmp_path, card)


def test_pickled_objects_are_never_loaded(tmp_path):
    card = _write(tmp_path, {"rgb": _RGB, "score": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(CardError, match="npz"):
        load_golden(tmp_path, card)


_SCORE = np.full(_N, 0.5, np.float32)


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({"rgb": _RGB}, "lacks score"),
        ({"score": _SCORE}, "lacks rgb"),
        ({"rgb": _RGB[:3], "score": _SCORE}, "expected rgb"),
        ({"rgb": _RGB[:, :16], "score": _SCORE}, "expected rgb"),
        ({"rgb": _RGB.astype(np.float32), "score": _SCORE}, "expected rgb"),
        ({"rgb": _RGB, "score": _SCORE[:3]}, "expected score"),
        ({"rgb": _RGB, "score": _SCORE.astype(np.float64)}, "expected score"),
        ({"rgb": _RGB, "score": _SCORE * 3}, "expected score"),
        ({"rgb": _RGB, "score": np.full(_N, np.nan, np.float32)}, "expected score"),
        ({"rgb": _RGB, "score": _SCORE, "map": np.zeros((3, 2, 2), np.float32)}, "expected map"),
        ({"rgb": _RGB, "score": _SCORE, "map": np.full((_N, 2, 2), np.nan, np.float32)}, "expected map"),
    ],
)
def test_golden_vectors_that_do_not_fit_the_card_are_a_card_error(tmp_path, arrays, word):
    card = _write(tmp_path, arrays)
    with pytest.raises(CardError, match=word):
        load_golden(tmp_path, card)


# --- the whole way ------------------------------------------------------------------------------------------------


def _write_red_model(folder):
    """Write the model of ``_RedBackend`` as ONNX beside its card and golden vectors."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    make = onnx.helper
    proto = onnx.TensorProto
    constants = [
        make.make_tensor("k", proto.FLOAT, [], [255.0]),
        make.make_tensor("red", proto.INT64, [], [0]),
        make.make_tensor("axes", proto.INT64, [2], [1, 2]),
    ]
    nodes = [
        make.make_node("Cast", ["rgb"], ["f"], to=proto.FLOAT),
        make.make_node("Div", ["f", "k"], ["unit"]),
        make.make_node("Gather", ["unit", "red"], ["r"], axis=3),
        make.make_node("ReduceMean", ["r", "axes"], ["score"], keepdims=0),
    ]
    graph = make.make_graph(
        nodes,
        "red",
        [make.make_tensor_value_info("rgb", proto.UINT8, ["n", _SIDE, _SIDE, 3])],
        [make.make_tensor_value_info("score", proto.FLOAT, ["n"])],
        constants,
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 18)], ir_version=10)
    content = model.SerializeToString()
    (folder / "fake-int8.onnx").write_bytes(content)
    card = _write(folder)
    files = tuple(
        msgspec.structs.replace(f, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        for f in fake_card(engines=("onnxruntime",)).files
    )
    (folder / CARD_NAME).write_text(dump_card(msgspec.structs.replace(card, files=files)))


def test_a_model_in_a_folder_passes_through_a_real_engine(tmp_path):
    _write_red_model(tmp_path)
    report = run_selftest(tmp_path)
    assert report.passed, report.failures
    assert report.backend.engine == "onnxruntime"
    assert (report.model, report.precision, report.n) == ("fake-model", "int8", _N)


def test_an_altered_model_is_refused_by_the_self_test(tmp_path):
    _write_red_model(tmp_path)
    with (tmp_path / "fake-int8.onnx").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(IntegrityError):
        run_selftest(tmp_path, "onnxruntime")


def test_arguments_that_do_not_fit_are_refused_by_the_self_test(tmp_path):
    (tmp_path / CARD_NAME).write_text(dump_card(_card()))
    assert load_card(tmp_path).id == "fake-model"
    with pytest.raises(InputError):
        run_selftest(tmp_path, "abacus")
    with pytest.raises(ModelNotFoundError):
        run_selftest(tmp_path, "openvino", "fp32")
    with pytest.raises(ModelNotFoundError):
        run_selftest("no-such-model")


def test_golden_vectors_with_depth_are_read_and_must_fit_the_model(tmp_path):
    golden = _depth_golden(_DepthBackend())
    arrays = {"rgb": golden.rgb, "score": golden.score, "depth": golden.depth, **golden.heads}
    both = fake_card(size_px=_SIDE, depth=True)
    card = msgspec.structs.replace(both, golden=_write(tmp_path, arrays).golden)
    found = load_golden(tmp_path, card)
    assert np.array_equal(found.depth, golden.depth)
    assert set(found.heads) == {"score_rgb", "score_depth"}
    with pytest.raises(CardError, match="has depth, unlike the model"):
        load_golden(tmp_path, _write(tmp_path, arrays))
    for name, wrong, message in (
        ("depth", golden.depth[..., 0], "expected depth as uint8"),
        ("score_rgb", golden.score + 2, "expected score_rgb as float32"),
    ):
        card = msgspec.structs.replace(both, golden=_write(tmp_path, {**arrays, name: wrong}).golden)
        with pytest.raises(CardError, match=message):
            load_golden(tmp_path, card)
    for left in ("score_rgb", "score_depth"):
        fewer = {name: value for name, value in arrays.items() if name != left}
        with pytest.raises(CardError, match="has scores of the heads"):
            load_golden(tmp_path, msgspec.structs.replace(both, golden=_write(tmp_path, fewer).golden))
    without = {name: value for name, value in arrays.items() if name != "depth"}
    with pytest.raises(CardError, match="lacks depth, unlike the model"):
        load_golden(tmp_path, msgspec.structs.replace(both, golden=_write(tmp_path, without).golden))
