"""DET, ROC and expected performance curves and histograms of scores as PNG files, from the metrics' own curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fasedge import metrics
from fasedge.types import Label
from training.errors import DataError
from training.evaluation.measure import expected_curve
from training.evaluation.tables import Level, Presentations, ScoreTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

#: Size of every picture, pixels.
SIZE_PX = (960, 800)
_DPI = 160
#: Rates that the axes of a DET curve are marked with.
_MARKS = (0.001, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
_FAR_MARKS, _FAR = (0.99, 0.999), 0.97
#: Blue, vermilion, green, orange, purple, sky: can be told apart with any colour vision (Okabe and Ito 2008).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#e69f00", "#cc79a7", "#56b4e9", "#000000")
_DASHES = ("-", "--", "-.", ":")
_BINS = 40


def draw_all(  # noqa: PLR0917 - what is drawn, and where
    out: Path,
    dev: ScoreTable,
    test: ScoreTable,
    levels: Sequence[Level],
    primary: str,
    thresholds: Mapping[str, Mapping[str, float]],
) -> list[Path]:
    """Draw ``det_<level>.png``, ``roc_<level>.png``, ``epc_<level>.png`` and ``scores_<level>.png``.

    Args:
        out: Folder, there already.
        dev: Scores of the dev set, where the thresholds of the expected performance curve come from.
        test: Scores of the test set.
        levels: Which levels.
        primary: Score of the histogram; the curves show all.
        thresholds: Thresholds of the primary score, by level and criterion.

    Returns:
        The files.

    Raises:
        DataError: The package matplotlib is not installed.
        OSError: A file cannot be written.
    """
    files: list[Path] = []
    for level in levels:
        named = {name: test.at(level, name).answered() for name in test.scores}
        files += [out / f"{kind}_{level}.png" for kind in ("det", "roc", "epc", "scores")]
        draw_det(files[-4], named, level)
        draw_roc(files[-3], named, level)
        draw_epc(files[-2], {name: dev.at(level, name).answered() for name in test.scores}, named, level, primary)
        draw_histogram(files[-1], named[primary], f"{primary}, {level}s", thresholds[level])
    return files


def draw_det(path: Path, named: Mapping[str, Presentations], level: str) -> None:
    """Draw BPCER against the largest APCER over the species, on probit axes.

    Raises:
        DataError: The package matplotlib is not installed.
        OSError: The file cannot be written.
    """
    far, inside = float(metrics.probit(_FAR)), True
    with _figure(path) as axes:
        for (colour, dash), (name, found) in zip(_cycle(len(named)), named.items(), strict=True):
            curve = metrics.det_curve(found.scores, found.labels, found.species)
            # Steps: between two decisions there is nothing, and a slope would promise it.
            axes.step(
                curve.apcer_probit, curve.bpcer_probit, where="pre", label=name, color=colour, linestyle=dash,
                linewidth=1.6,
            )  # fmt: skip
            inside &= bool(((curve.apcer_probit < far) & (curve.bpcer_probit < far)).any())
        marks = _MARKS if inside else (*_MARKS, *_FAR_MARKS)
        places = metrics.probit(marks).tolist()
        texts = [f"{100 * mark:g}" for mark in marks]
        axes.set_xticks(places, texts)
        axes.set_yticks(places, texts)
        # A little beyond the smallest rate that the metrics draw, so that lines on it are seen whole; up to where
        # detectors lie that do something, or to the end where one would not be seen.
        nearest = float(metrics.probit(metrics.PROBIT_CLIP)) - 0.08
        limits = [nearest, far if inside else -nearest]
        axes.set_xlim(limits[0], limits[1])
        axes.set_ylim(limits[0], limits[1])
        axes.plot(limits, limits, color="0.7", linewidth=0.8, linestyle=":")
        axes.set_xlabel("APCER of the worst species, %")
        axes.set_ylabel("BPCER, %")
        axes.set_title(f"Detection error trade-off, {level}s")
        axes.legend(title="score", loc="upper right")


def draw_roc(path: Path, named: Mapping[str, Presentations], level: str) -> None:
    """Draw the receiver operating characteristic, attacks pooled.

    Raises:
        DataError: The package matplotlib is not installed.
        OSError: The file cannot be written.
    """
    with _figure(path) as axes:
        for (colour, dash), (name, found) in zip(_cycle(len(named)), named.items(), strict=True):
            curve = metrics.roc_curve(found.scores, found.labels)
            area = metrics.auc(found.scores, found.labels)
            label = f"{name}, AUC {area:.4f}"
            axes.plot(
                100 * curve.far, 100 * curve.tar, label=label, color=colour, linestyle=dash, linewidth=1.6,
                clip_on=False,
            )  # fmt: skip
        axes.plot([0, 100], [0, 100], color="0.7", linewidth=0.8, linestyle=":")
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        axes.set_xlabel("attacks accepted (APCER, all species pooled), %")
        axes.set_ylabel("bona fide accepted (1 - BPCER), %")
        axes.set_title(f"Receiver operating characteristic, {level}s")
        axes.legend(loc="lower right")


def draw_epc(
    path: Path,
    dev: Mapping[str, Presentations],
    test: Mapping[str, Presentations],
    level: str,
    primary: str,
) -> None:
    """Draw the expected performance curve: ACER of test against the weight of the APCER where dev chose the threshold.

    Args:
        path: The file.
        dev: Presentations of the dev set by score.
        test: Presentations of the test set by score.
        level: For the title.
        primary: Score whose HTER is drawn too.

    Raises:
        MetricError: A class is missing, or dev and test are the same.
        DataError: The package matplotlib is not installed.
        OSError: The file cannot be written.
    """
    with _figure(path) as axes:
        for (colour, dash), (name, found) in zip(_cycle(len(test)), test.items(), strict=True):
            curve = expected_curve(dev[name], found, by_species=True)
            # Steps: one decision serves a range of prices, and then another does.
            axes.step(
                curve.alphas, 100 * curve.half_total, where="mid", label=f"{name}, ACER", color=colour,
                linestyle=dash, linewidth=1.6, clip_on=False,
            )  # fmt: skip
        pooled = expected_curve(dev[primary], test[primary], by_species=False)
        axes.step(
            pooled.alphas, 100 * pooled.half_total, where="mid", label=f"{primary}, HTER", color="0.45", linewidth=1.0,
            clip_on=False,
        )  # fmt: skip
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        axes.set_xlabel(r"$\alpha$: dev minimises $\alpha$ APCER + (1 - $\alpha$) BPCER")
        axes.set_ylabel("ACER (worst species) and HTER (pooled) of test, %")
        axes.set_title(f"Expected performance, {level}s")
        axes.legend(loc="best")


def draw_histogram(path: Path, found: Presentations, title: str, thresholds: Mapping[str, float]) -> None:
    """Draw the distribution of a score, bona fide and each species apart, with thresholds.

    Raises:
        DataError: The package matplotlib is not installed.
        OSError: The file cannot be written.
    """
    kinds = np.array(["bona fide" if label == Label.BONA_FIDE else name for label, name in _kinds(found)], object)
    names = ["bona fide", *sorted(set(kinds.tolist()) - {"bona fide"})]
    low, high = float(found.scores.min()), float(found.scores.max())
    edges = np.linspace(low, high if high > low else low + 1e-6, _BINS + 1)
    with _figure(path) as axes:
        for (colour, _), name in zip(_cycle(len(names)), names, strict=True):
            chosen = found.scores[kinds == name]
            shares = 100 * np.histogram(chosen, edges)[0] / len(chosen)
            axes.stairs(shares, edges, label=f"{name} (n = {len(chosen)})", color=colour, linewidth=1.6)
            axes.stairs(shares, edges, fill=True, color=colour, alpha=0.15)
        for dash, (name, value) in zip(("--", ":", "-."), thresholds.items(), strict=False):
            axes.axvline(value, color="0.3", linewidth=1.0, linestyle=dash, label=f"{name}: {value:.4f}")
        axes.set_xlabel("score (higher: more surely bona fide)")
        axes.set_ylabel("share of the presentations of a kind, %")
        axes.set_ylim(bottom=0)
        axes.set_title(f"Scores: {title}")
        axes.legend(loc="best", fontsize="small")


def _kinds(found: Presentations) -> Iterator[tuple[int, str]]:
    return zip(found.labels.tolist(), found.species, strict=True)


def _cycle(n: int) -> list[tuple[str, str]]:
    """Colours and dashes: curves that lie on each other are seen through the gaps of the upper one."""
    return [(_COLOURS[i % len(_COLOURS)], _DASHES[i % len(_DASHES)]) for i in range(n)]


@contextmanager
def _figure(path: Path) -> Iterator[Axes]:
    """One set of axes that becomes a PNG; no window system and no state of the process is touched."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError(
            "plots need the package matplotlib; install the group `train`, or go on with --no-plots"
        ) from error
    figure = Figure(figsize=(SIZE_PX[0] / _DPI, SIZE_PX[1] / _DPI), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(visible=True, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    yield axes
    figure.savefig(path, format="png")
