"""The face detector's network files, checked before they are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from fasedge.cards import sha256_of
from fasedge.errors import IntegrityError


@dataclass(frozen=True, slots=True)
class Asset:
    """A file that comes with the package.

    Attributes:
        name: File name inside ``fasedge/assets``.
        sha256: SHA-256 of its content, in hexadecimal.
    """

    name: str
    sha256: str


#: BlazeFace short range as MediaPipe ships it.
#: Source: mediapipe 0.10.21, mediapipe/modules/face_detection/face_detection_short_range.tflite.
BLAZEFACE_TFLITE = Asset(
    "face_detection_short_range.tflite", "bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8"
)
#: The same network with a free batch axis, made by ``python -m quantize.blazeface_onnx``.
BLAZEFACE_ONNX = Asset(
    "face_detection_short_range.onnx", "6a32508e1cf4197ad8766827dc360f7dc1b0266032a09b1f65cf3ea929e16538"
)


def assets_folder() -> Path:
    """Folder of the files that come with the package."""
    return Path(str(resources.files("fasedge") / "assets"))


def verified_asset(asset: Asset, folder: Path | None = None) -> Path:
    """Check a file against its hash.

    Args:
        asset: Which file.
        folder: Where it lies; the package's own folder by default.

    Returns:
        Path of the file.

    Raises:
        ModelNotFoundError: The file is missing.
        IntegrityError: Its content is not what came with the package.
    """
    path = (folder or assets_folder()) / asset.name
    found = sha256_of(path)
    if found != asset.sha256:
        raise IntegrityError(
            f"{path} was altered: expected SHA-256 {asset.sha256[:16]}…, got {found[:16]}…; install fasedge again"
        )
    return path
