"""Victim cameras by name: the ranges that differ between a webcam, a phone and a door station.

A profile serves both classes and is a *domain*: methods that learn across domains (RFMeta) take its name from the
sample's ``camera`` parameter. What a profile does not name is drawn alike for all (see ``camera``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of victim camera. Ranges are (low, high).

    Attributes:
        share: How often it is drawn.
        native_ratio: Sensor pixels per canvas pixel, log-uniform: how much finer the sensor is than what is kept.
        lens_blur: Gaussian sigma in canvas pixels.
        defocus: Probability and largest extra sigma: fixed-focus lenses are soft near by.
        motion: Probability and longest path of motion blur in canvas pixels.
        shot_noise: Variance per unit of signal (log-uniform): the inverse of the full-well count per pixel, after what
            averaging has removed.
        read_noise: Standard deviation (log-uniform), full scale 1.
        flare: Probability and largest share of the surroundings' light that veils the picture.
        auto_black: Probability of automatic levels, and how far they pull the darkest parts down to black at most.
        contrast: Strength of the tone curve's S shape.
        gamma: Exponent on the developed sRGB value.
        saturation: Factor on chroma.
        sharpen: Probability and strongest unsharp mask.
        denoise: Probability and largest sigma of luma smoothing.
        small: Probability and largest factor by which the picture was smaller when it was compressed.
        quality: JPEG quality of the stored picture.
        recoded: Probability of a second compression.
        video: Probability that the picture is a frame of a video, stored as H.264: streams of webcams and door stations
            more often than pictures of phones.
    """

    share: float
    native_ratio: Range
    lens_blur: Range
    defocus: Range
    motion: Range
    shot_noise: Range
    read_noise: Range
    flare: Range
    auto_black: Range
    contrast: Range
    gamma: Range
    saturation: Range
    sharpen: Range
    denoise: Range
    small: Range
    quality: Range
    recoded: float
    video: float


#: Profiles by name. Magnitudes: read noise and full well of small sensors after EMVA 1288 data sheets (2,000 to 20,000
#: electrons), JPEG and H.264 qualities of the drivers' defaults; the rest is set wide on purpose.
PROFILES: Mapping[str, Profile] = {
    "webcam_480p": Profile(
        share=0.24,
        native_ratio=(1.0, 2.0),
        lens_blur=(0.35, 1.5),
        defocus=(0.25, 1.2),
        motion=(0.2, 7.0),
        shot_noise=(1e-4, 3e-3),
        read_noise=(5e-4, 8e-3),
        flare=(0.6, 0.55),
        auto_black=(0.6, 1.0),
        contrast=(-0.2, 0.5),
        gamma=(0.75, 1.3),
        saturation=(0.6, 1.35),
        sharpen=(0.6, 1.1),
        denoise=(0.7, 1.0),
        small=(0.6, 3.6),
        quality=(25, 92),
        recoded=0.4,
        video=0.3,
    ),
    "webcam_1080p": Profile(
        share=0.20,
        native_ratio=(1.2, 4.0),
        lens_blur=(0.3, 1.2),
        defocus=(0.25, 1.2),
        motion=(0.2, 8.0),
        shot_noise=(3e-5, 2e-3),
        read_noise=(2e-4, 5e-3),
        flare=(0.5, 0.4),
        auto_black=(0.6, 1.0),
        contrast=(-0.15, 0.5),
        gamma=(0.78, 1.3),
        saturation=(0.7, 1.35),
        sharpen=(0.7, 1.2),
        denoise=(0.7, 0.9),
        small=(0.45, 2.8),
        quality=(40, 96),
        recoded=0.35,
        video=0.3,
    ),
    "phone_front": Profile(
        share=0.20,
        native_ratio=(2.0, 8.0),
        lens_blur=(0.25, 0.9),
        defocus=(0.15, 1.0),
        motion=(0.2, 7.0),
        shot_noise=(1e-5, 8e-4),
        read_noise=(1e-4, 3e-3),
        flare=(0.4, 0.3),
        auto_black=(0.8, 1.0),
        contrast=(0.0, 0.6),
        gamma=(0.78, 1.2),
        saturation=(0.8, 1.4),
        sharpen=(0.7, 1.3),
        denoise=(0.6, 0.9),
        small=(0.35, 3.0),
        quality=(50, 98),
        recoded=0.4,
        video=0.15,
    ),
    "phone_back": Profile(
        share=0.12,
        native_ratio=(3.0, 12.0),
        lens_blur=(0.2, 0.7),
        defocus=(0.12, 1.2),
        motion=(0.2, 6.0),
        shot_noise=(1e-5, 4e-4),
        read_noise=(1e-4, 2e-3),
        flare=(0.3, 0.2),
        auto_black=(0.85, 1.0),
        contrast=(0.0, 0.6),
        gamma=(0.8, 1.2),
        saturation=(0.85, 1.4),
        sharpen=(0.7, 1.2),
        denoise=(0.5, 0.7),
        small=(0.35, 3.0),
        quality=(60, 98),
        recoded=0.3,
        video=0.1,
    ),
    "kiosk": Profile(
        share=0.12,
        native_ratio=(1.2, 5.0),
        lens_blur=(0.3, 1.1),
        defocus=(0.1, 0.8),
        motion=(0.2, 6.0),
        shot_noise=(3e-5, 1.5e-3),
        read_noise=(2e-4, 5e-3),
        flare=(0.65, 0.55),
        auto_black=(0.6, 0.8),
        contrast=(-0.2, 0.4),
        gamma=(0.75, 1.3),
        saturation=(0.7, 1.25),
        sharpen=(0.5, 0.9),
        denoise=(0.6, 0.8),
        small=(0.4, 2.5),
        quality=(40, 95),
        recoded=0.3,
        video=0.4,
    ),
    "low_light": Profile(
        share=0.12,
        native_ratio=(1.0, 4.0),
        lens_blur=(0.4, 1.6),
        defocus=(0.2, 1.2),
        motion=(0.4, 11.0),
        shot_noise=(5e-4, 1e-2),
        read_noise=(2e-3, 2e-2),
        flare=(0.5, 0.45),
        auto_black=(0.6, 1.0),
        contrast=(-0.15, 0.5),
        gamma=(0.7, 1.3),
        saturation=(0.4, 1.2),
        sharpen=(0.5, 1.0),
        denoise=(0.85, 1.5),
        small=(0.5, 3.0),
        quality=(30, 92),
        recoded=0.35,
        video=0.2,
    ),
}
