"""``fasedge models``: what comes with this installation."""

from __future__ import annotations

import typer

from fasedge.cards import ModelCard, OperatingPoint, Span, worst_rate
from fasedge.cli._detect import JsonOption
from fasedge.cli._output import Column, ExitCode, Rows, Session, session_of
from fasedge.errors import CardError, ModelError


def models(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the models that come with this installation, as their cards describe them.

    An [bold]operating point[/bold] is a named threshold with its measured error rates.
    [bold]Attacks missed[/bold] (APCER) is the share of attacks taken for a living person, for the worst kind of
    attack; [bold]people rejected[/bold] (BPCER) is the share of living people taken for an attack.
    """
    session = session_of(context)
    ids = session.services.model_ids()
    if not ids:
        raise ModelError("this installation holds no models: it is incomplete; install fasedge again")
    cards: list[ModelCard] = []
    for model in ids:
        try:
            cards.append(session.services.load_card(model))
        except CardError as error:
            session.exit_code = ExitCode.BAD_FILES
            session.complain(f"{model}: {error}")
    if as_json:
        session.write_json([_document(card) for card in cards])
        return
    for card in cards:
        _show(session, card)


def _show(session: Session, card: ModelCard) -> None:
    session.say(f"{card.id} {card.version}", style="bold")
    session.say(card.summary)
    session.say(f"Method: {card.source.method} ({card.source.paper}). Licence: {card.licence}.")
    session.say(f"Meant for: {card.intended_use}")
    session.say()
    files = Rows(session, (Column("Engine", 14), Column("Precision", 9), Column("Size", 9, right=True)))
    for item in card.files:
        files.add(item.engine, item.precision, f"{item.bytes / 1e6:.2f} MB")
    session.say()
    columns = (
        Column("Operating point", 17),
        Column("Precision", 9),
        Column("Uses", 9),
        Column("Threshold", 9, right=True),
        Column("Attacks missed", 14, right=True),
        Column("People rejected", 11, right=True),
    )
    points = Rows(session, columns)
    for point in card.operating_points:
        points.add(*_point_cells(card, point))
    session.say()
    for point in card.operating_points:
        by_default = (point.name, point.precision) == (card.default_operating_point, "int8")
        if by_default and (worst := _worst_sources(point)):
            uses = f"{point.precision}, {'+'.join(point.modalities)}"
            session.say(f"Worst collection of portraits at {point.name} ({uses}): {worst}.")
            session.say()
    for limitation in card.limitations:
        session.say(f"Limitation: {limitation}")
    session.say()


def _point_cells(card: ModelCard, point: OperatingPoint) -> tuple[str, ...]:
    default = " (default)" if point.name == card.default_operating_point else ""
    worst = max(point.apcer, key=lambda species: point.apcer[species].value, default="")
    return (
        point.name + default,
        point.precision,
        "+".join(point.modalities),
        f"{point.threshold:.3f}",
        f"{point.apcer_max:.1%}" + (f" ({worst})" if worst else ""),
        f"{point.bpcer.value:.1%} of {point.bpcer.n}",
    )


def _worst_sources(point: OperatingPoint) -> str:
    """The worst source of portraits, with its basis; empty where nothing is known about sources."""
    attacks = {f"{species}, {name}": rate for name, of in point.apcer_by_source.items() for species, rate in of.items()}
    parts = []
    for words, rates in (("attacks missed", attacks), ("people rejected", point.bpcer_by_source)):
        if rates:
            name, worst = worst_rate(rates)
            parts.append(f"{words} {worst.value:.1%} of {worst.n} ({name})")
    return ", ".join(parts)


def _apcer_max_by_source(point: OperatingPoint) -> dict[str, float]:
    """APCER of the worst species by source."""
    return {source: max(r.value for r in rates.values()) for source, rates in point.apcer_by_source.items() if rates}


def _document(card: ModelCard) -> dict[str, object]:
    return {
        "id": card.id,
        "version": card.version,
        "summary": card.summary,
        "method": card.source.method,
        "paper": card.source.paper,
        "licence": card.licence,
        "files": [{"engine": f.engine, "precision": f.precision, "bytes": f.bytes} for f in card.files],
        "default_operating_point": card.default_operating_point,
        "operating_points": [
            {
                "name": point.name,
                "precision": point.precision,
                "modalities": list(point.modalities),
                "threshold": point.threshold,
                "apcer_max": point.apcer_max,
                "bpcer": point.bpcer.value,
                "criterion": point.criterion,
                "bpcer_people": _limits(point.bpcer.people),
                "acer_people": _limits(point.acer_people),
                "apcer_max_by_source": _apcer_max_by_source(point),
                "bpcer_by_source": {source: rate.value for source, rate in point.bpcer_by_source.items()},
            }
            for point in card.operating_points
        ],
        "intended_use": card.intended_use,
        "limitations": list(card.limitations),
    }


def _limits(span: Span | None) -> list[float] | None:
    return None if span is None else [span.low, span.high]
