"""Every error that ``quantize`` raises on purpose.

The tree::

    FasEdgeError
    └── QuantizeError
        ├── CheckpointMismatchError   a checkpoint of another method or shape than the student
        ├── CalibrationDataError      calibration crops are missing, of the wrong split or of the wrong kind
        ├── ConversionError           a converter refused the network, or wrote half a file
        ├── ParityError               an artefact is farther from the FP32 network than allowed
        └── PublishError              a model folder cannot be published; the old one stays

A message names what was expected, what came and what to do. Errors of converters are turned into these where the
converter is called and keep the original as ``__cause__``.
"""

from __future__ import annotations

from fasedge.errors import FasEdgeError


class QuantizeError(FasEdgeError):
    """Base class of every error that ``quantize`` raises on purpose."""


class CheckpointMismatchError(QuantizeError, ValueError):
    """A checkpoint belongs to another method, or its tensors do not fit the student."""


class CalibrationDataError(QuantizeError, ValueError):
    """Calibration crops are missing, of a split that must not be looked at, or of the wrong shape."""


class ConversionError(QuantizeError):
    """A converter refused the network, or left an incomplete file."""


class ParityError(QuantizeError):
    """An artefact is farther from the FP32 network than the limits allow."""


class PublishError(QuantizeError):
    """A model folder cannot be published. Nothing was changed."""
