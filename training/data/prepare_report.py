"""What became of every recording: kept, dropped, and why; as JSON for programs and Markdown for people."""

from __future__ import annotations

import json
import platform
from collections import Counter

import cv2
import msgspec

from training.data.parts import Dropped
from training.data.preparing import DROPPED, Request
from training.data.protocols.record import SPLITS
from training.data.table import SampleRow
from training.errors import DataError

_LISTED = 50


def make_report(request: Request) -> dict[str, object]:
    """Gather the report from finished sets.

    Returns:
        Plain JSON values: the request, and per split presentations, frames by species, drops by reason and species,
        and recordings of which nothing is left.

    Raises:
        DataError: A set cannot be read.
    """
    splits = {split: _of_split(request, split) for split in SPLITS if request.protocol.records.get(split)}
    return {
        **request.claim(),
        "notes": list(request.protocol.notes),
        "opencv": cv2.__version__,
        "python": platform.python_version(),
        "splits": splits,
    }


def _of_split(request: Request, split: str) -> dict[str, object]:
    folder = request.out / split
    try:
        rows = [
            msgspec.json.decode(line, type=SampleRow) for line in (folder / "table.jsonl").read_bytes().splitlines()
        ]
        drops = [msgspec.json.decode(line, type=Dropped) for line in (folder / DROPPED).read_bytes().splitlines()]
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(f"{folder}: cannot be read back ({error}); delete it and run `prepare` again") from error
    records = [record for record in request.records if record.split == split]
    kept = {str(row.params["video"]) for row in rows}
    lost = [r for r in records if f"{r.dataset}/{r.video_id}" not in kept]
    reasons = {record.video_id: Counter(d.reason for d in drops if d.video == record.video_id) for record in lost}
    return {
        "presentations": dict(Counter(record.pai_species for record in records)),
        "frames": dict(Counter(row.species for row in rows)),
        "dropped": dict(Counter(drop.reason for drop in drops)),
        "dropped_by_species": {
            species: dict(Counter(drop.reason for drop in drops if drop.species == species))
            for species in sorted({drop.species for drop in drops})
        },
        "turned": dict(Counter(str(row.params["turn"]) for row in rows)),
        "lost": [
            {
                "video": record.video_id,
                "species": record.pai_species,
                "reason": reasons[record.video_id].most_common(1)[0][0] if reasons[record.video_id] else "unknown",
            }
            for record in lost
        ],
    }


def write_report(request: Request) -> dict[str, object]:
    """Write ``report.json`` and ``report.md`` beside the sets; return what they say.

    Raises:
        DataError: A set cannot be read, or the report cannot be written.
    """
    report = make_report(request)
    try:
        text = json.dumps(report, indent=2, ensure_ascii=False)
        (request.out / "report.json").write_text(text + "\n", encoding="utf-8")
        (request.out / "report.md").write_text(to_markdown(request, report), encoding="utf-8")
    except OSError as error:
        raise DataError(f"{request.out}: the report cannot be written ({error.strerror or error})") from error
    return report


def to_markdown(request: Request, report: dict[str, object]) -> str:
    """The report as a page."""
    rule = request.rule
    shown = "" if rule.shown is None else f", in pictures of {rule.picture_px} px that show {rule.shown:g} face boxes"
    lines = [
        f"# {request.protocol.title}, prepared for {rule.method}",
        "",
        f"Crop `{rule.kind}`, {rule.size_px} px, scale {rule.scale}{shown}, up to {rule.frames} frames of each "
        f"recording, faces of at least {rule.min_face_px:.0f} px, found by {request.finder_name}.",
        "",
    ]
    lines += [f"- {note}" for note in request.protocol.notes]
    lines += ["", "| split | species | presentations | frames | dropped frames and why |", "|---|---|---|---|---|"]
    splits = report["splits"]
    assert isinstance(splits, dict)
    for split, found in splits.items():
        for species, count in found["presentations"].items():
            why = found["dropped_by_species"].get(species, {})
            reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(why.items())) or "none"
            lines.append(f"| {split} | {species} | {count} | {found['frames'].get(species, 0)} | {reasons} |")
    for split, found in splits.items():
        if found["lost"]:
            lines += ["", f"## {split}: recordings of which nothing is left ({len(found['lost'])})", ""]
            lines += [f"- {item['video']} ({item['species']}): {item['reason']}" for item in found["lost"][:_LISTED]]
            if len(found["lost"]) > _LISTED:
                lines.append(f"- … and {len(found['lost']) - _LISTED} more; all are in `report.json`")
    return "\n".join(lines) + "\n"
