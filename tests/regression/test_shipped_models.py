"""Every published file, on the evaluation pack: INT8 answers as full precision does, and all engines alike.

A model's reference, ``NAME.npz``, are the scores of the torch network that the files were made from, written by
``python -m quantize reference``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import fasedge
from fasedge.cards import FileCard, ModelCard, load_card, models_folder, verified_model_path
from fasedge.preprocess import InputSpec
from fasedge.types import FloatArray, UInt8Array
from quantize.export import Artefact
from quantize.parity import ArtefactParity, Limits, Presentations, artefact_scores, compare, excesses
from tests.regression.packs import HERE, evaluation_pack, with_coarser_weights

MODELS = fasedge.list_models()


@cache
def card_of(model: str) -> ModelCard:
    return load_card(models_folder() / model)


@cache
def decisions_of(model: str) -> dict[str, tuple[str, ...]]:
    """Scores that a threshold is applied to, and what each is made from."""
    card = card_of(model)
    seen = tuple(i.modality for i in card.inputs)
    return {"score": seen} if seen == ("rgb",) else {"score": seen, "score_rgb": ("rgb",)}


DECISIONS = [(model, output) for model in MODELS for output in decisions_of(model)]
FILES = [
    pytest.param(model, file, output, id=f"{model}-{file.engine}-{file.precision}-{output}")
    for model, output in DECISIONS
    for file in card_of(model).files
]
#: Every score at every operating point.
POINTS = [
    (model, output, point.name)
    for model, output in DECISIONS
    for point in card_of(model).operating_points
    if (point.precision, point.modalities) == ("fp32", decisions_of(model)[output])
]
#: Points at which INT8 is not as near as at the others, see docs/edge.md.
_BEYOND = {
    ("edge-rgb", "bpcer1"): "3 more prints of 200 pass: 1.5 points for 1",
    ("edge-rgb", "bpcer5"): "one attack of 200 more passes, one person of 800 fewer: 0.31 points of ACER for 0.3",
    ("edge-rgb", "bpcer10"): "two fewer attacks of 200 pass: 0.50 points of ACER for 0.3",
}
LIMITS = Limits()
#: Largest difference of a single INT8 score between two engines, as `quantize parity` allows on its test set.
_FARTHEST = 0.02


@cache
def crops_of(model: str) -> UInt8Array:
    seen = card_of(model).inputs[0]
    spec = InputSpec(size_px=seen.size_px, crop_scale=seen.crop_scale)
    return evaluation_pack().pictures(spec, depth=len(card_of(model).inputs) > 1)


def file_of(model: str, engine: str, precision: str) -> FileCard:
    return next(f for f in card_of(model).files if (f.engine, f.precision) == (engine, precision))


def artefact_of(model: str, file: FileCard) -> Artefact:
    return Artefact(file.engine, file.precision, verified_model_path(models_folder() / model, file))


@cache
def scores_of(model: str, engine: str, precision: str, output: str = "score") -> FloatArray:
    return artefact_scores(artefact_of(model, file_of(model, engine, precision)), crops_of(model), output, threads=1)


@cache
def reference_of(model: str, output: str = "score") -> FloatArray:
    """Scores of the torch network on the pack, float32 (n,)."""
    with np.load(HERE / f"{model}.npz", allow_pickle=False) as file:
        assert str(file["version"]) == card_of(model).version, "write the reference of this version"
        return np.asarray(file[output], np.float32)


def presentations(model: str, output: str = "score", point_name: str | None = None) -> Presentations:
    card, data = card_of(model), evaluation_pack()
    point = card.operating_point(point_name, precision="fp32", modalities=decisions_of(model)[output])
    return Presentations(crops_of(model), data.labels, data.species, point.threshold, output)


def judged(model: str, artefact: Artefact, scores: FloatArray, output: str = "score") -> ArtefactParity:
    return compare(artefact, scores, reference_of(model, output), presentations(model, output))


def judged_at(model: str, output: str, name: str, engine: str) -> ArtefactParity:
    """An INT8 file at an operating point: its scores at its own threshold, full precision at that one's."""
    own = card_of(model).operating_point(name, precision="int8", modalities=decisions_of(model)[output]).threshold
    data, scores = presentations(model, output, name), scores_of(model, engine, "int8", output)
    artefact = artefact_of(model, file_of(model, engine, "int8"))
    return compare(artefact, scores, reference_of(model, output), data, own_threshold=own)


def test_the_pack_holds_what_it_says() -> None:
    counts = {name: evaluation_pack().species.count(name) for name in set(evaluation_pack().species)}
    assert counts == {"bona_fide": 800, "print": 200, "replay": 200, "mask": 200, "partial": 200}
    assert evaluation_pack().labels.sum() == 800
    assert all(
        (label == 1) == (name == "bona_fide")
        for label, name in zip(evaluation_pack().labels, evaluation_pack().species, strict=True)
    )
    assert len(evaluation_pack().depths) == len(evaluation_pack())


@pytest.mark.slow
@pytest.mark.parametrize(("model", "file", "output"), FILES)
def test_a_published_file_answers_as_full_precision_does(model: str, file: FileCard, output: str) -> None:
    result = judged(model, artefact_of(model, file), scores_of(model, file.engine, file.precision, output), output)
    assert excesses(result, LIMITS) == []


@pytest.mark.slow
@pytest.mark.parametrize(("model", "output", "name"), POINTS)
@pytest.mark.parametrize("engine", ["openvino", "litert", "onnxruntime"])
def test_int8_at_its_own_threshold_answers_as_full_precision_at_its_own(
    model: str, output: str, name: str, engine: str, request: pytest.FixtureRequest
) -> None:
    """By the thresholds that users get, at every operating point of the card."""
    if known := _BEYOND.get((model, name)):
        # On which side of a limit a file falls that is this near depends on the processor.
        request.applymarker(pytest.mark.xfail(reason=known, strict=False, raises=AssertionError))
    assert excesses(judged_at(model, output, name, engine), LIMITS) == []


@pytest.mark.parametrize(("model", "output"), DECISIONS)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_engines_answer_alike(model: str, output: str, precision: str) -> None:
    first, *others = [scores_of(model, engine, precision, output) for engine in ("openvino", "litert", "onnxruntime")]
    for other in others:
        if precision == "fp32":
            assert float(np.abs(other - first).max()) <= LIMITS.fp32_score
        else:  # ties are rounded in other ways; the largest difference grows with the number of pictures
            assert float(np.quantile(np.abs(other - first), 0.99)) <= LIMITS.cross_engine
            assert float(np.abs(other - first).max()) <= _FARTHEST


@pytest.mark.parametrize(("model", "output"), DECISIONS)
def test_the_pack_is_not_so_easy_that_nothing_could_change(model: str, output: str) -> None:
    """Scores lie on both sides of the threshold in each class: a broken file has something to break.

    How many do says nothing of a model: the pack's faces, of some 80 px, are softer than a detector would accept.
    """
    scores, data = reference_of(model, output), presentations(model, output)
    accepted = scores >= data.threshold
    assert 0.1 < accepted[data.labels == 1].mean() < 1
    assert 0 < accepted[data.labels == 0].mean() < 0.9


def decider(model: str) -> str:
    """The score that shows best what was done to a file: that of colour, which depth does not outvote."""
    return list(decisions_of(model))[-1]


# What the suite must not let pass. Each of these files loads, runs and gives scores in [0, 1].


def swapped(model: str, _: Path) -> tuple[Artefact, FloatArray]:
    """Blue first."""
    item = artefact_of(model, file_of(model, "openvino", "int8"))
    crops = crops_of(model)
    spoilt = np.concatenate([crops[..., 2::-1], crops[..., 3:]], axis=3)
    return item, artefact_scores(item, spoilt, decider(model), threads=1)


def rescaled(model: str, folder: Path) -> tuple[Artefact, FloatArray]:
    """The values behind one activation grid, in the middle of the network, are 1.5 times what they were."""
    network, quantisers = _int8(model)
    _scale(network, quantisers[len(quantisers) // 2], 1.5, with_grid=False)
    return _saved(model, network, folder)


def miscalibrated(model: str, folder: Path) -> tuple[Artefact, FloatArray]:
    """Activation grids that end at a quarter of the values that occur, as if fitted on pale pictures."""
    network, quantisers = _int8(model)
    for grid in quantisers:
        _scale(network, grid, 1 / 4, with_grid=True)
    return _saved(model, network, folder)


def misweighted(model: str, folder: Path) -> tuple[Artefact, FloatArray]:
    """A LiteRT file whose middle convolution has weights with steps of 1.5 times their size."""
    source = verified_model_path(models_folder() / model, file_of(model, "litert", "int8"))
    path = with_coarser_weights(source, folder / "int8.tflite", 1.5)
    return _scored(model, Artefact("litert", "int8", path))


def diverted(model: str, folder: Path) -> tuple[Artefact, FloatArray]:
    """An FP32 file in which a convolution, early in its branch, has weights of 1.5 times their size."""
    network = onnx.load(verified_model_path(models_folder() / model, file_of(model, "onnxruntime", "fp32")))
    constants = {item.name: item for item in network.graph.initializer}
    convs = [n for n in network.graph.node if n.op_type == "Conv" and n.input[1] in constants]
    weight = constants[convs[len(convs) // 4].input[1]]
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.5), weight.name))
    path = folder / "fp32.onnx"
    onnx.save(network, path)
    return _scored(model, Artefact("onnxruntime", "fp32", path))


def lenient(model: str, _: Path) -> tuple[Artefact, FloatArray]:
    """Scores whose calibration has another bias: the order is right, and attacks pass."""
    item = artefact_of(model, file_of(model, "openvino", "int8"))
    scores = scores_of(model, "openvino", "int8", decider(model)).astype(np.float64)
    return item, (scores / (scores + np.exp(-1) * (1 - scores))).astype(np.float32)


def _int8(model: str) -> tuple[onnx.ModelProto, list[onnx.NodeProto]]:
    """The INT8 network for ONNX Runtime, and the nodes that put activations on their grids."""
    network = onnx.load(verified_model_path(models_folder() / model, file_of(model, "onnxruntime", "int8")))
    return network, [node for node in network.graph.node if node.op_type == "QuantizeLinear"]


def _scale(network: onnx.ModelProto, grid: onnx.NodeProto, factor: float, *, with_grid: bool) -> None:
    """Multiply the step of what reads a grid, and that of the grid itself if it is to go along."""
    constants = {item.name: item for item in network.graph.initializer}
    readers = [n for n in network.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in grid.output]
    assert readers
    changed = numpy_helper.to_array(constants[grid.input[1]]) * np.float32(factor)
    name = f"altered_{grid.output[0]}"
    network.graph.initializer.append(numpy_helper.from_array(changed.astype(np.float32), name))
    for node in [*readers, *([grid] if with_grid else [])]:
        node.input[1] = name


def _saved(model: str, network: onnx.ModelProto, folder: Path) -> tuple[Artefact, FloatArray]:
    path = folder / "int8.onnx"
    onnx.save(network, path)
    return _scored(model, Artefact("onnxruntime", "int8", path))


def _scored(model: str, item: Artefact) -> tuple[Artefact, FloatArray]:
    return item, artefact_scores(item, crops_of(model), decider(model), threads=1)


BROKEN = (swapped, rescaled, miscalibrated, misweighted, diverted, lenient)


@cache
def found_in(model: str, broken: Callable[[str, Path], tuple[Artefact, FloatArray]]) -> tuple[str, ...]:
    """What the limits find in a broken file that gives scores as a sound one does."""
    with tempfile.TemporaryDirectory() as folder:
        item, scores = broken(model, Path(folder))
        assert float(scores.min()) >= 0
        assert float(scores.max()) <= 1
        return tuple(excesses(judged(model, item, scores, decider(model)), LIMITS))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_file_is_found(model: str, broken: Callable[[str, Path], tuple[Artefact, FloatArray]]) -> None:
    """Where two branches decide, a mistake in one of them moves every score and need not move a decision."""
    assert any("99th percentile" in line for line in found_in(model, broken))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "limit",
    ["decision flips", "change of ACER", "99th percentile", "change of AUC", "rise of the APCER of", ": difference of"],
)
def test_every_limit_is_exceeded_by_a_broken_file(model: str, limit: str) -> None:
    assert any(limit in line for broken in BROKEN for line in found_in(model, broken))


def _without(depth: UInt8Array) -> UInt8Array:
    return np.zeros_like(depth)


def _inverted(depth: UInt8Array) -> UInt8Array:
    return (255 - depth).astype(np.uint8)


def _halved(depth: UInt8Array) -> UInt8Array:
    return depth // 2


@pytest.mark.parametrize("model", [model for model in MODELS if len(decisions_of(model)) > 1])
@pytest.mark.parametrize("spoil", [_without, _inverted, _halved])
def test_a_file_that_reads_depth_wrongly_is_found_by_the_joint_score_and_only_by_it(
    model: str, spoil: Callable[[UInt8Array], UInt8Array]
) -> None:
    item, crops = artefact_of(model, file_of(model, "openvino", "int8")), crops_of(model)
    spoilt = np.concatenate([crops[..., :3], spoil(crops[..., 3:])], axis=3)
    joint = excesses(judged(model, item, artefact_scores(item, spoilt, threads=1)), LIMITS)
    assert any("flips" in line for line in joint)
    assert any("99th percentile" in line for line in joint)
    alone = artefact_scores(item, spoilt, "score_rgb", threads=1)
    np.testing.assert_allclose(alone, scores_of(model, "openvino", "int8", "score_rgb"), atol=1e-5)
