"""Metrics of presentation attack detection after ISO/IEC 30107-3. Pure NumPy.

One convention everywhere: a higher score is more surely bona fide, a presentation is accepted iff
``score >= threshold``, label 1 is bona fide and 0 an attack. A threshold is chosen on one split and measured on
another; :func:`report` and :func:`evaluate` refuse to do both on the same data. A presentation without a score (NaN)
is a non-response: it enters no error rate and is counted on its own.

    chosen = choose_threshold(dev_scores, dev_labels, dev_species, "bpcer5")
    result = evaluate(test_scores, test_labels, species=test_species, subjects=test_subjects, threshold=chosen)
    result.at_threshold.apcer.max, result.at_threshold.bpcer, result.auc, result.intervals.auc

Functions on single measures (:func:`apcer`, :func:`auc`, :func:`eer`, …) need a score for each presentation.
"""

from fasedge.metrics._aggregate import VideoScores, aggregate_videos, summarise_folds
from fasedge.metrics._bootstrap import MIN_RESAMPLES, bootstrap_intervals, bootstrap_rates
from fasedge.metrics._curves import (
    PROBIT_CLIP,
    apcer_at_bpcer,
    auc,
    bpcer_at_apcer,
    det_curve,
    eer,
    probit,
    roc_curve,
)
from fasedge.metrics._expected import ALPHAS, expected_performance
from fasedge.metrics._intervals import (
    DEFAULT_CONFIDENCE,
    Interval,
    beta_quantile,
    clopper_pearson,
    regularised_incomplete_beta,
    rule_of_three,
)
from fasedge.metrics._rates import acer, apcer, bpcer, far, frr, hter, non_response_rates
from fasedge.metrics._report import HELD_RATES, evaluate, report
from fasedge.metrics._results import (
    Apcer,
    BootstrapIntervals,
    ChosenThreshold,
    DetCurve,
    EqualError,
    ExpectedPerformance,
    FoldSummary,
    NonResponseRates,
    PadReport,
    Rate,
    RocCurve,
    ThresholdReport,
    TradeOff,
)
from fasedge.metrics._thresholds import Criterion, choose_threshold

__all__ = [
    "ALPHAS",
    "DEFAULT_CONFIDENCE",
    "HELD_RATES",
    "MIN_RESAMPLES",
    "PROBIT_CLIP",
    "Apcer",
    "BootstrapIntervals",
    "ChosenThreshold",
    "Criterion",
    "DetCurve",
    "EqualError",
    "ExpectedPerformance",
    "FoldSummary",
    "Interval",
    "NonResponseRates",
    "PadReport",
    "Rate",
    "RocCurve",
    "ThresholdReport",
    "TradeOff",
    "VideoScores",
    "acer",
    "aggregate_videos",
    "apcer",
    "apcer_at_bpcer",
    "auc",
    "beta_quantile",
    "bootstrap_intervals",
    "bootstrap_rates",
    "bpcer",
    "bpcer_at_apcer",
    "choose_threshold",
    "clopper_pearson",
    "det_curve",
    "eer",
    "evaluate",
    "expected_performance",
    "far",
    "frr",
    "hter",
    "non_response_rates",
    "probit",
    "regularised_incomplete_beta",
    "report",
    "roc_curve",
    "rule_of_three",
    "summarise_folds",
]
