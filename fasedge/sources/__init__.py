"""Where frames come from: pictures, folders, videos, cameras."""

from fasedge.sources._open import open_source

from fasedge.sources._base import BadItem, FrameSource

__all__ = ["BadItem", "FrameSource", "open_source"]
