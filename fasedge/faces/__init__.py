"""Face finders: where the faces are, before anything is said about them."""

from fasedge.faces._base import FINDERS, FaceFinder
from fasedge.faces._blazeface import BlazeFaceFinder
from fasedge.faces._mediapipe import MediaPipeFinder
from fasedge.faces._open import open_finder

__all__ = ["FINDERS", "BlazeFaceFinder", "FaceFinder", "MediaPipeFinder", "open_finder"]
