"""Quantisation at the seam to the engines, against values worked by hand."""

import numpy as np
import pytest

from fasedge.backends._session import TensorSpec, decode, encode
from fasedge.errors import EngineError


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point", "values", "quantised"),
    [
        (np.int8, 1.0, -128, [0, 1, 127, 128, 255], [-128, -127, -1, 0, 127]),
        (np.int8, 2.0, -10, [0, 7, 100, 255], [-10, -6, 40, 118]),  # 7 / 2 = 3.5 -> 4
        (np.uint8, 0.5, 0, [0, 100, 127, 128, 255], [0, 200, 254, 255, 255]),  # clipped
        (np.int16, 0.25, 5, [0, 255], [5, 1025]),
    ],
)
def test_quantisation_of_inputs_agrees_with_values_worked_by_hand(dtype, scale, zero_point, values, quantised):
    spec = TensorSpec("x", np.dtype(dtype), (None, len(values)), (), scale, zero_point)
    for kind in (np.uint8, np.float32):
        got = encode(np.array([values], kind), spec, "x")
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, [quantised])


def test_dequantisation_of_outputs_agrees_with_values_worked_by_hand():
    spec = TensorSpec("y", np.dtype(np.int8), (None, 3), (), 0.5, -128)
    np.testing.assert_array_equal(decode(np.array([[-128, 0, 127]], np.int8), spec, 1, "y"), [[0, 64, 127.5]])


def test_an_output_without_the_batch_first_is_an_error():
    spec = TensorSpec("y", np.dtype(np.float32), (None, 3))
    with pytest.raises(EngineError, match="batch of 2 first"):
        decode(np.zeros((1, 3), np.float32), spec, 2, "y")
