"""Where frames come from: pictures, folders, videos, cameras."""

from fasedge.sources._base import BadItem, FrameSource
from fasedge.sources._open import open_source

__all__ = ["BadItem", "FrameSource", "open_source"]
