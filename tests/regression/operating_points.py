"""INT8 against full precision at every operating point of the published models, on the evaluation pack.

``python -m tests.regression.operating_points`` prints what docs/edge.md has: files of OpenVINO, at the thresholds that
the card has for each precision, as users get them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from quantize.parity import excesses
from tests.regression.test_shipped_models import POINTS, card_of, decisions_of, judged_at

ENGINE = "openvino"


def rows() -> Iterator[list[str]]:
    """A row per model, score and operating point."""
    for model, output, name in POINTS:
        card, seen = card_of(model), decisions_of(model)[output]
        found = judged_at(model, output, name, ENGINE)
        record, worst = found.record, max(found.apcer_change_points.items(), key=lambda item: item[1])
        yield [
            f"`{model}`" + (f", {'+'.join(seen)}" if len(card.inputs) > 1 else ""),
            f"`{name}`" + (" (default)" if name == card.default_operating_point else ""),
            f"{record.decision_flips_percent:.2f} %",
            f"{record.acer_points - record.acer_points_reference:+.2f}",
            f"{worst[0]} {worst[1]:+.1f}",
            "; ".join(text.partition(": ")[2] for text in excesses(found)) or "none",
        ]


def main() -> None:
    """Print the table."""
    head = ["model", "operating point", "decisions changed", "ACER points", "largest rise of APCER", "limits exceeded"]
    for row in (head, ["---"] * len(head), *rows()):
        sys.stdout.write("| " + " | ".join(row) + " |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
