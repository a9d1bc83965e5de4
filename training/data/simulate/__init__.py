"""Simulation of presentation attacks from licensed bona fide pictures: physics in order, in linear light.

::

    bona fide:  scene ───────────────────────────────────────────► victim camera ► picture
    attack:     scene ► attacker's capture ► medium (screen | print) ► place ► victim camera ► picture
                scene ► mask or a part of one on a living face ► place ► victim camera ► picture

One victim camera serves both classes. Every parameter is drawn from a documented range, one seed gives one sample bit
for bit, and the drawn parameters are kept beside it.

Modules: ``draws`` (recorded random numbers), ``scene`` (tiles round a face), ``optics`` (blur, warps), ``colour``
(linear light, white balance, tone), ``light`` (illumination, glare), ``capture`` (the attacker's first capture),
``display`` and ``paper`` (media), ``compose`` (what is seen round a medium), ``hand``, ``overlay`` (what a screen shows
over the picture), ``cutout`` (sheets that are cut), ``camera`` (the victim camera), ``codec`` (JPEG, H.264),
``casting`` (who is seen), ``mesh`` (faces' geometry), ``facefit`` (one face on another), ``wearing``, ``mask`` and
``partial`` (what is worn on a face), ``species`` (names), ``threads`` (sums that no machine changes), ``cache`` (tiles
and meshes on disk), ``simulator`` (puts them in order), ``sequence``, ``motion`` and ``moment`` (clips of a sample:
hands, heads, what a frame has of its own).
"""

from training.data.simulate.simulator import Sample, Simulator
from training.data.simulate.species import BONA_FIDE, SPECIES, Species

__all__ = ["BONA_FIDE", "SPECIES", "Sample", "Simulator", "Species"]
