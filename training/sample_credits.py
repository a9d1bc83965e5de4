"""Who made the pictures of the sample pack, under which licences, and on which conditions they may be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from training.errors import DataError

#: Credit by source, up to the note on changes.
CREDITS = {
    "london": (
        "DeBruine, L., & Jones, B. (2017). Face Research Lab London Set (Version 5). figshare. "
        "https://doi.org/10.6084/m9.figshare.5047666.v5. CC BY 4.0"
    ),
    "congress": (
        "Official portrait of a member of the United States Congress, Government Printing Office, by way of "
        "https://github.com/unitedstates/images. Public domain"
    ),
}

_HEAD = """\
# Sample pictures: sources, licences, changes

These pictures come with fasedge so that `fasedge demo` has something to judge. They are **not** under the licence of
the code: each keeps the licence of its source, named below. Keep this page with them, and repeat a picture's credit
wherever you show the picture, or a picture made from it.

* CC BY 4.0: https://creativecommons.org/licenses/by/4.0/ - the authors did not endorse fasedge or these changes.
* Public domain: works of the United States Government.

## Conditions beyond the licences

* **London.** Every person signed consent for the images to be "used in lab-based and web-based studies in their
  original or altered forms and to illustrate research (e.g., in scientific journals, news media or presentations)". Use
  them for research and to illustrate research; not in advertising. Do not identify the people.
* **Congress.** Named public officials. Their portraits suggest no endorsement by them or by the United States; do not
  use them as if they did, and build no face-recognition gallery from them.

## What is genuine and what is simulated

* *bona fide*: photographs of people before a camera, made smaller and compressed again (JPEG); metadata removed.
* *attack*: nobody printed or replayed these. A simulator turned a photograph into what a camera would see of a print or
  a screen. The rooms behind are CC0 textures of scikit-image (brick, coffee, grass, gravel). `index.json` holds the
  parameters that were drawn.
* *depth map*: **rendered, not measured.** No depth camera saw this person. The face is the mesh that a landmark network
  guesses from the photograph, set to millimetres by an assumed pupillary distance of 63 mm at 0.6 m; head, shoulders
  and wall are simple bodies; holes and noise are made up in the manner of a depth camera.

So few samples show how fasedge works, not how well: error rates stand in the models' cards.
The pack is built by `python -m training sample-pack`; the people were chosen by a rule stated there, not by any score.

## The files
"""


def credit(source: str, change: str) -> str:
    """Credit of one picture with the note on its changes.

    Raises:
        DataError: The source's pictures may not be passed on, or nobody has looked whether they may.
    """
    if source not in CREDITS:
        raise DataError(f"pictures of {source!r} may not go into the sample pack; only {', '.join(sorted(CREDITS))}")
    return f"{CREDITS[source]}; {change}."


def attribution_page(entries: Sequence[Mapping[str, object]]) -> str:
    """``ATTRIBUTION.md``: conditions, and a credit for every file."""
    lines = []
    for entry in entries:
        names = f"`{entry['file']}`"
        if "depth_file" in entry:
            names += f", `{entry['depth_file']}`"
        lines.append(f"* {names}: {entry['attribution']}")
    return f"{_HEAD}\n" + "\n".join(lines) + "\n"
