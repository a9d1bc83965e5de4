"""Inference engines behind one verb.

``open_backend`` returns an object with ``infer(Mapping[str, Array]) -> Mapping[str, Array]`` and ``close()``;
no engine is imported before it is opened.
"""

from fasedge.backends._base import ENGINES, Array, Backend, BackendInfo
from fasedge.backends._open import available_engines, missing_engines, open_backend

__all__ = ["ENGINES", "Array", "Backend", "BackendInfo", "available_engines", "missing_engines", "open_backend"]
