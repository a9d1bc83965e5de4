"""Importing fasedge is cheap and shows its public names."""

from __future__ import annotations

import subprocess
import sys

import pytest

import fasedge

_HEAVY = (
    "torch",
    "openvino",
    "onnxruntime",
    "ai_edge_litert",
    "tflite_runtime",
    "mediapipe",
    "matplotlib",
    "pyrealsense2",
    "sklearn",
    "training",
    "quantize",
    "demo",
)


def _loaded_after(code):
    script = f"import sys\n{code}\nprint(' '.join(m for m in {_HEAVY!r} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_check_itself_notices_a_heavy_module():
    assert _loaded_after("sys.modules['torch'] = sys") == ["torch"]


@pytest.mark.parametrize(
    "code",
    [
        "import fasedge",
        "import fasedge; fasedge.Detector; fasedge.open_source",
        "import fasedge.selftest, fasedge.testing",
    ],
)
def test_no_engine_and_no_training_library_is_loaded_by(code):
    assert _loaded_after(code) == []


def test_the_public_names_are_all_there_once():
    assert len(fasedge.__all__) == len(set(fasedge.__all__))
    for name in fasedge.__all__:
        assert getattr(fasedge, name) is not None
    assert set(fasedge.__all__) <= set(dir(fasedge))


def test_the_public_names_are_the_promised_ones():
    promised = (
        "Box DEFAULT_MODEL Decision Detector Face Frame Intrinsics Label Observation PadResult QualityLimits Reason "
        "Timings "
        "__version__ errors list_models open_source"
    )
    assert set(promised.split()) <= set(fasedge.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = fasedge.no_such_name


def test_the_version_is_a_string_with_digits():
    assert any(c.isdigit() for c in fasedge.__version__)
