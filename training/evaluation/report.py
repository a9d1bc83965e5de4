"""``report.md``: the measures of an evaluation as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from training.evaluation.document import AtThreshold, Document, Mean, Measures, RunResult, SetRecord, Share, Span

#: What stands in the table over runs, besides the rates at the thresholds.
_WHOLE = ("auc", "eer", "dev_eer", "bpcer_at_apcer.0.1", "bpcer_at_apcer.0.05", "bpcer_at_apcer.0.01")
_RATES = ("apcer_max", "apcer_pooled", "bpcer", "acer", "acer_pooled")


def render(document: Document, *, plots: bool = False) -> str:
    """The report of one run or several: Markdown.

    Args:
        document: What was found.
        plots: Whether curves and histograms lie beside it.
    """
    parts = ["# Evaluation", _conventions()]
    several = len(document.runs) > 1
    if several:
        parts += [_summary(document)]
    for run in document.runs:
        parts += [_run(run, plots=plots)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [list(header), ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(value: float) -> str:
    """A share in percent with two digits."""
    return f"{100 * value:.2f}"


def _conventions() -> str:
    return (
        "Rates in percent. A presentation is accepted where score >= threshold; thresholds come from the dev set, save "
        "`fixed`. APCER: the largest over the PAI species, and pooled over all attacks; ACER = (largest APCER + BPCER) "
        "/ 2, HTER = (pooled APCER + BPCER) / 2. `bpcer1` holds the BPCER of dev at 1 %, `apcer5` its largest APCER "
        "at 5 %. In brackets: 95 % intervals, after the errors of a rate its exact one, which takes presentations as "
        "independent; after `people`, and of AUC and EER, that of resampled people, which does not."
    )


def _run(run: RunResult, *, plots: bool) -> str:
    parts = [f"## {run.name}"] if run.name else []
    parts.append(_about(run))
    folder = f"{run.name}/" if run.name else ""
    for level, scores in run.levels.items():
        if plots:
            names = {"det": "detection error trade-off", "roc": "ROC", "epc": "expected performance curve"}
            names["scores"] = "scores"
            parts.append(" ".join(f"![{text}, {level}s]({folder}{name}_{level}.png)" for name, text in names.items()))
        for score, measures in scores.items():
            own = ", the method's own score" if score == run.primary else ""
            parts += [f"### {level.capitalize()}s, score `{score}`{own}", _measures(measures)]
    return "\n\n".join(parts)


def _about(run: RunResult) -> str:
    r = run.run
    lines = [
        f"- run: `{r.folder}`, {r.method} (profile {r.profile}, width {r.width:g}, seed {r.seed}, {r.parameters:,} "
        f"parameters), checkpoint `{r.checkpoint}` of epoch {r.epoch}",
        *([f"- trunk started from: {r.trunk_weights}"] if r.trunk_weights else []),
        *([f"- trained on: {r.trained_on}"] if r.trained_on else []),
        f"- dev: {_set(run.dev)}",
        f"- test: {_set(run.test)}",
    ]
    lines += [f"- **check `{name}` was switched off**: {problem}" for name, problem in run.overrides.items()]
    if not r.people:
        lines.append(
            "- the run does not say on whom it was trained (`people` in its `run.json`): that none of them is in dev "
            "or test could not be checked"
        )
    if not (run.dev.origin and run.test.origin):
        lines.append("- simulated samples: these figures say nothing about any published protocol")
    if "video" not in run.levels:
        lines.append("- frames do not say which video they are from: there is no video level")
    return "\n".join(lines)


def _set(record: SetRecord) -> str:
    what = record.origin or f"simulated, seed {record.seed}"
    if record.chosen:
        what += f", **{record.chosen}**"
    videos = f" of {record.n_videos:,} videos" if record.n_videos else ""
    dropped = "; ".join(f"{name} {n:,}" for name, n in record.dropped.items())
    left_out = f"; left out when it was prepared: {dropped}" if dropped else ""
    return f"`{record.folder}`, {what}; {record.n:,} frames{videos}{left_out}"


def _measures(m: Measures) -> str:
    attacks = ", ".join(f"{name} {n:,}" for name, n in m.n_attack.items())
    counts = f"{m.n_bona_fide:,} bona fide; {attacks}; {m.n_subjects:,} people."
    if m.n_non_response:
        counts += f" **{m.n_non_response:,} without a score** (no depth in the face box) enter no rate."
    whole = table(
        ["AUC", "EER (test's own threshold)", "BPCER at APCER 10 / 5 / 1 %", "dev AUC", "dev EER"],
        [
            [
                f"{m.auc:.4f}{_digits(m.auc_span)}",
                f"{percent(m.eer)}{_span(m.eer_span)}",
                " / ".join(percent(m.bpcer_at_apcer[key]) for key in ("0.1", "0.05", "0.01")),
                f"{m.dev_auc:.4f}",
                percent(m.dev_eer),
            ]
        ],
    )
    names = ["threshold", "", "APCER max", "worst species", "APCER pooled", "BPCER", "ACER", "ACER pooled = HTER"]
    rates = table(names, (_rates(name, found) for name, found in m.at.items()))
    species = table(
        ["APCER of", *m.at],
        [[name, *(_share(found.apcer[name]) for found in m.at.values())] for name in m.n_attack],
    )
    finer = next(iter(m.at.values()))
    subtypes = table(
        ["APCER of the kind", *m.at],
        [
            *([name, *(_share(found.apcer_subtype[name]) for found in m.at.values())] for name in finer.apcer_subtype),
            ["ACER with the largest of these", *(percent(found.acer_subtype) for found in m.at.values())],
        ],
    )
    remarks = [f"- {text}" for text in m.remarks] + [f"- no threshold `{k}`: {why}" for k, why in m.missing.items()]
    finest = "" if set(finer.apcer_subtype) == set(finer.apcer) else subtypes
    return "\n\n".join(part for part in (counts, whole, rates, species, finest, "\n".join(remarks)) if part)


def _rates(name: str, found: AtThreshold) -> list[str]:
    return [
        f"`{name}`", f"{found.threshold:.6g}", f"{percent(found.apcer_max)}{_people(found.apcer_max_span)}",
        found.worst_species, f"{_share(found.apcer_pooled)}{_people(found.apcer_pooled_span)}",
        f"{_share(found.bpcer)}{_people(found.bpcer_span)}", f"{percent(found.acer)}{_people(found.acer_span)}",
        f"{percent(found.acer_pooled)}{_people(found.hter_span)}",
    ]  # fmt: skip


def _share(rate: Share) -> str:
    return f"{percent(rate.value)} ({rate.errors}/{rate.n}) [{percent(rate.low)}, {percent(rate.high)}]"


def _span(span: Span | None) -> str:
    return "" if span is None else f" [{percent(span.low)}, {percent(span.high)}]"


def _people(span: Span | None) -> str:
    return "" if span is None else f", people{_span(span)}"


def _digits(span: Span | None) -> str:
    return "" if span is None else f" [{span.low:.4f}, {span.high:.4f}]"


def _summary(document: Document) -> str:
    parts = [
        f"## Mean over {len(document.runs)} runs",
        "Mean ± standard deviation with divisor n; in brackets that with divisor n - 1. Runs: "
        + ", ".join(f"`{run.name}` ({run.test.title}, seed {run.run.seed})" for run in document.runs)
        + ".",
    ]
    for level, scores in document.summary.items():
        for score, found in scores.items():
            parts += [f"### {level.capitalize()}s, score `{score}`: mean", _means(found)]
            parts += _without_threshold(document.runs, level, score)
    return "\n\n".join(parts)


def _without_threshold(runs: Sequence[RunResult], level: str, score: str) -> list[str]:
    """Which means are not there because a run lacks a threshold: of the others alone they would flatter."""
    lacking: dict[str, list[str]] = {}
    for run in runs:
        for criterion in run.levels[level][score].missing:
            lacking.setdefault(criterion, []).append(f"`{run.name}`")
    lines = [f"- no mean at `{name}`: {', '.join(who)} met it with no threshold" for name, who in lacking.items()]
    return ["\n".join(lines)] if lines else []


def _means(found: dict[str, Mean]) -> str:
    names = [name for name in _WHOLE if name in found]
    whole = table(names, [[_mean(found[name]) for name in names]])
    criteria = [name.split(".")[0] for name in found if name.startswith("at_") and name.endswith(".bpcer")]
    rows = [
        [f"`{name.removeprefix('at_')}`", *(_mean(found[f"{name}.{rate}"]) for rate in _RATES)] for name in criteria
    ]
    rates = table(["threshold", "APCER max", "APCER pooled", "BPCER", "ACER", "ACER pooled = HTER"], rows)
    species = [name.split(".", 2)[2] for name in found if name.startswith(f"{criteria[0]}.apcer.")] if criteria else []
    per_species = table(
        ["APCER of", *(name.removeprefix("at_") for name in criteria)],
        [[kind, *(_mean(found[f"{name}.apcer.{kind}"]) for name in criteria)] for kind in species],
    )
    return "\n\n".join([whole, rates, per_species] if species else [whole, rates])


def _mean(m: Mean) -> str:
    sample = "" if m.std_sample is None else f" ({percent(m.std_sample)})"
    return f"{percent(m.mean)} ± {percent(m.std_population)}{sample}"
