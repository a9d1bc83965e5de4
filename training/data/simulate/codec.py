"""JPEG and H.264 as cameras and messengers apply them."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import cv2
import numpy as np
import torch
from torch import Tensor

from training.errors import TrainingError

ByteArray = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

#: Options of the encoder. One thread and no code that depends on the processor: the same bytes everywhere.
_X264 = {"preset": "veryfast", "tune": "zerolatency", "threads": "1", "x264-params": "cpu-independent=1"}


def jpeg(srgb: Tensor, quality: Tensor) -> Tensor:
    """Compress and decompress each picture; a quality of 0 leaves it alone (only rounded to 8 bits).

    Args:
        srgb: float32 (B, 3, H, W) in [0, 1].
        quality: JPEG qualities in any shape of B values, 0 or 1..100.
    """
    pictures = to_uint8(srgb)
    for i, q in enumerate(quality.flatten().round().int().tolist()):
        if q > 0:
            pictures[i] = jpeg_once(pictures[i], q)
    return from_uint8(pictures, srgb.device)


def while_small(picture: ByteArray, factor: float, compress: Callable[[ByteArray], ByteArray]) -> ByteArray:
    """Compress a square picture while it is smaller by a factor, and enlarge it again; as it is for 1 and less.

    Args:
        picture: uint8 (S, S, 3).
        factor: Its side over that at which it is compressed; no side gets shorter than 16 px.
        compress: What makes uint8 of the same shape of uint8 (s, s, 3).
    """
    if factor <= 1:
        return compress(picture)
    size = picture.shape[0]
    side = max(16, round(size / factor))
    small = np.asarray(cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(compress(small), (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


def jpeg_once(rgb: ByteArray, quality: int) -> ByteArray:
    """JPEG round trip of one uint8 (H, W, 3) picture."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    ok, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, int(quality)])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR) if ok else None
    if decoded is None:
        raise TrainingError("OpenCV could not make a JPEG: is its JPEG codec missing?")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def h264_once(rgb: ByteArray, qp: int) -> ByteArray:
    """H.264 round trip of one picture, as a lone intra frame: 4:2:0, deblocked, all macroblocks of one quantiser.

    Values are full-range BT.601, as phones record them. Odd sides are padded by repeating the edge, and cut again.

    Args:
        rgb: uint8 (H, W, 3), red first.
        qp: Quantisation parameter, 0 (finest) to 51; a step of 6 doubles the quantiser's step.

    Returns:
        uint8 (H, W, 3).

    Raises:
        TrainingError: There is no PyAV, or its FFmpeg has no x264.

    Source: ITU-T H.264.
    """
    try:
        import av
    except ImportError as error:
        raise TrainingError(f"pictures stored as H.264 need PyAV (pip install av): {error}") from error
    height, width = rgb.shape[:2]
    yuv = _to_yuv420(rgb)
    try:
        encoder = av.CodecContext.create("libx264", "w")
        decoder = av.CodecContext.create("h264", "r")
    except ValueError as error:
        raise TrainingError(f"this PyAV cannot store H.264: its FFmpeg has no codec {error}") from error
    assert isinstance(encoder, av.VideoCodecContext)
    assert isinstance(decoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = yuv.shape[1], yuv.shape[0] * 2 // 3, "yuv420p"
    encoder.time_base = Fraction(1, 25)
    encoder.options = _X264 | {"qp": str(int(qp))}
    decoder.thread_count = 1
    packets = [*encoder.encode(av.VideoFrame.from_ndarray(yuv, format="yuv420p")), *encoder.encode(None)]
    frames = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    if len(frames) != 1:
        raise TrainingError(f"one picture went into H.264 and {len(frames)} came out")
    return _from_yuv420(np.asarray(frames[0].to_ndarray(), np.uint8))[:height, :width]


def _to_yuv420(rgb: ByteArray) -> ByteArray:
    """uint8 (H, W, 3) to planes of luma and halved blue and red difference, one below the other; sides made even."""
    height, width = rgb.shape[:2]
    even = cv2.copyMakeBorder(rgb, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    luma, red, blue = cv2.split(cv2.cvtColor(even, cv2.COLOR_RGB2YCrCb))
    half = (luma.shape[1] // 2, luma.shape[0] // 2)
    planes = [luma, *(cv2.resize(plane, half, interpolation=cv2.INTER_AREA) for plane in (blue, red))]
    return np.concatenate([np.asarray(p, np.uint8).ravel() for p in planes]).reshape(-1, luma.shape[1])


def _from_yuv420(yuv: ByteArray) -> ByteArray:
    """What :func:`_to_yuv420` made, as uint8 (H, W, 3)."""
    height, width = yuv.shape[0] * 2 // 3, yuv.shape[1]
    luma = yuv[:height]
    halved = yuv[height:].reshape(2, height // 2, width // 2)
    blue, red = (cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR) for plane in halved)
    return np.asarray(cv2.cvtColor(cv2.merge([luma, red, blue]), cv2.COLOR_YCrCb2RGB), np.uint8)


def to_uint8(srgb: Tensor) -> ByteArray:
    """Round float32 (B, 3, H, W) in [0, 1], on any device, to uint8 (B, H, W, 3)."""
    # Adding a half and cutting off rounds as well as rounding does, but for halves, which are as good as never met.
    planes = srgb.clamp(0, 1).mul_(255).add_(0.5).to(torch.uint8).cpu().numpy()
    return np.stack([cv2.merge(list(picture)) for picture in planes])


def from_uint8(pictures: ByteArray, device: torch.device) -> Tensor:
    """uint8 (B, H, W, 3) to float32 (B, 3, H, W) in [0, 1] on a device."""
    planes = np.stack([np.stack(cv2.split(picture)) for picture in pictures])
    return torch.from_numpy(planes).to(device).float().div_(255)
