"""Face finders: where the faces are, before anything is said about them."""

from fasedge.faces._open import open_finder

from fasedge.faces._base import FINDERS, FaceFinder

__all__ = ["FINDERS", "FaceFinder", "open_finder"]
