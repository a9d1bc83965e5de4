"""What the metrics return. All immutable; ``as_dict`` of the reports is ready for JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from fasedge.errors import MetricError
from fasedge.metrics._inputs import Float64Array
from fasedge.metrics._intervals import DEFAULT_CONFIDENCE, Interval, clopper_pearson, rule_of_three

#: A value of a JSON document.
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


class _WithMappings:
    """Read-only mappings can be neither copied nor pickled as they are; results with some are built anew."""

    __slots__ = ()

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        values = (getattr(self, f.name) for f in dataclasses.fields(self))  # type: ignore[arg-type]
        return type(self), tuple(dict(v) if isinstance(v, MappingProxyType) else v for v in values)


@dataclass(frozen=True, slots=True)
class Rate:
    """An error rate with its basis and its exact (Clopper-Pearson) interval.

    Attributes:
        value: ``errors / n``, in [0, 1].
        errors: Number of errors.
        n: Number of presentations.
        low: Lower limit of the interval.
        high: Upper limit of the interval.
        confidence: Confidence of the interval.
    """

    value: float
    errors: int
    n: int
    low: float
    high: float
    confidence: float = DEFAULT_CONFIDENCE

    @classmethod
    def from_counts(cls, errors: int, n: int, confidence: float = DEFAULT_CONFIDENCE) -> Rate:
        """The rate ``errors / n``.

        Raises:
            MetricError: ``n < 1``, ``errors`` outside 0 … n, or an impossible confidence.
        """
        interval = clopper_pearson(errors, n, confidence)
        return cls(errors / n, errors, n, interval.low, interval.high, confidence)

    @property
    def remark(self) -> str:
        """The rule of three when no error was seen, else empty: 0 errors in n do not mean a rate of 0."""
        if self.errors:
            return ""
        return f"0 errors in {self.n}: the rate is at most {rule_of_three(self.n):.2%} with 95% confidence (3/n)"

    def __str__(self) -> str:
        limits = f"{100 * self.confidence:g}% CI {self.low:.2%}-{self.high:.2%}"
        return f"{self.value:.2%} ({self.errors}/{self.n}, {limits})"


@dataclass(frozen=True, slots=True)
class Apcer(_WithMappings):
    """Attack presentation classification error rates at one threshold.

    Attributes:
        per_species: One rate per PAI species.
        pooled: Rate over all attacks as if they were one species; this is the FAR of the literature.
    """

    per_species: Mapping[str, Rate]
    pooled: Rate

    def __post_init__(self) -> None:
        object.__setattr__(self, "per_species", MappingProxyType(dict(self.per_species)))

    @property
    def worst_species(self) -> str:
        """Species with the largest rate; of equal ones the first by name."""
        return max(sorted(self.per_species), key=lambda name: self.per_species[name].value)

    @property
    def max(self) -> float:
        """Largest rate over the species, the summary that ISO/IEC 30107-3 asks for."""
        return self.per_species[self.worst_species].value


@dataclass(frozen=True, slots=True)
class EqualError:
    """Equal error rate.

    Attributes:
        value: ``(FAR + FRR) / 2`` at ``threshold``.
        threshold: Where FAR and FRR are closest; may be infinite if the scores do not separate anything.
        far: Pooled APCER there.
        frr: BPCER there.
    """

    value: float
    threshold: float
    far: float
    frr: float


@dataclass(frozen=True, slots=True)
class TradeOff:
    """Both error rates at a threshold that fixes one of them.

    Attributes:
        threshold: May be infinite if only rejecting (or accepting) everything meets the demand.
        apcer: Largest APCER over the species.
        bpcer: BPCER.
    """

    threshold: float
    apcer: float
    bpcer: float


@dataclass(frozen=True, slots=True)
class NonResponseRates(_WithMappings):
    """Presentations without a score (no face, unusable picture), apart from the error rates.

    Attributes:
        apnrr: Attack presentation non-response rate per species.
        apnrr_pooled: The same over all attacks; ``None`` without attacks.
        bpnrr: Bona fide presentation non-response rate; ``None`` without bona fide presentations.
    """

    apnrr: Mapping[str, Rate]
    apnrr_pooled: Rate | None
    bpnrr: Rate | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "apnrr", MappingProxyType(dict(self.apnrr)))

    @property
    def total(self) -> int:
        """Number of non-responses of both classes."""
        return sum(rate.errors for rate in (self.apnrr_pooled, self.bpnrr) if rate is not None)


@dataclass(frozen=True, slots=True, eq=False)
class RocCurve:
    """Receiver operating characteristic, from the strictest threshold to the laxest.

    Attributes:
        thresholds: float64 (k,), descending from +inf to -inf.
        far: float64 (k,), pooled APCER, ascending from 0 to 1.
        tar: float64 (k,), share of bona fide presentations accepted (1 - BPCER), ascending from 0 to 1.
    """

    thresholds: Float64Array
    far: Float64Array
    tar: Float64Array


@dataclass(frozen=True, slots=True, eq=False)
class DetCurve:
    """Detection error trade-off, from the laxest threshold to the strictest.

    Attributes:
        thresholds: float64 (k,), ascending from -inf to +inf.
        apcer: float64 (k,), largest APCER over the species, descending from 1 to 0.
        bpcer: float64 (k,), ascending from 0 to 1.
        apcer_probit: float64 (k,), ``apcer`` on the probit axis.
        bpcer_probit: float64 (k,), ``bpcer`` on the probit axis.
    """

    thresholds: Float64Array
    apcer: Float64Array
    bpcer: Float64Array
    apcer_probit: Float64Array
    bpcer_probit: Float64Array


@dataclass(frozen=True, slots=True, eq=False)
class ExpectedPerformance:
    """Expected performance curve: thresholds of one split, rates of another.

    Attributes:
        alphas: float64 (k,), weight of the APCER where the threshold was chosen.
        thresholds: float64 (k,), accept iff ``score >= threshold``; ±inf where accepting or rejecting everything is
            cheapest.
        apcer: float64 (k,), APCER of the split that was measured: the largest over the species, or pooled.
        bpcer: float64 (k,), its BPCER.
        half_total: float64 (k,), half their sum: ACER with species, HTER without.
    """

    alphas: Float64Array
    thresholds: Float64Array
    apcer: Float64Array
    bpcer: Float64Array
    half_total: Float64Array


@dataclass(frozen=True, slots=True)
class FoldSummary:
    """Mean over the folds of a protocol.

    Papers print "mean ± std" without saying which of the two it is.

    Attributes:
        mean: Arithmetic mean.
        std_population: Standard deviation with divisor n.
        std_sample: Standard deviation with divisor n - 1; ``None`` for a single fold.
        n: Number of folds.
    """

    mean: float
    std_population: float
    std_sample: float | None
    n: int


@dataclass(frozen=True, slots=True)
class BootstrapIntervals:
    """Percentile intervals over resampled subjects.

    Attributes:
        auc: Interval of the AUC.
        eer: Interval of the EER.
        apcer_max: Interval of the largest APCER at the given threshold; this and all rates below ``None`` without one.
        apcer_pooled: Interval of the APCER over all attacks.
        bpcer: Interval of the BPCER.
        acer: Interval of the ACER.
        hter: Interval of the HTER, the same number as the ACER with attacks pooled.
        n_subjects: Number of subjects.
        n_resamples: Number of resamples that were drawn.
        n_used: Number of resamples in which both classes occurred; the others are left out.
        seed: Seed of the generator.
    """

    auc: Interval
    eer: Interval
    apcer_max: Interval | None
    apcer_pooled: Interval | None
    bpcer: Interval | None
    acer: Interval | None
    hter: Interval | None
    n_subjects: int
    n_resamples: int
    n_used: int
    seed: int


@dataclass(frozen=True, slots=True)
class ChosenThreshold:
    """A threshold that knows where it comes from.

    Attributes:
        value: Accept iff ``score >= value``; finite.
        criterion: How it was chosen: a :class:`fasedge.metrics.Criterion`, or ``fixed``.
        split: Name of the split it was chosen on, usually ``dev``; empty for a threshold given from outside.
        fingerprint: Hash of the scores and labels it was chosen on, so that the same data under another name is
            recognised; empty if unknown.
        n_non_response: Presentations of that split that had no score and so no say.

    Raises:
        MetricError: ``value`` is not finite.
    """

    value: float
    criterion: str = "fixed"
    split: str = ""
    fingerprint: str = ""
    n_non_response: int = 0

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise MetricError(f"a threshold to work with must be finite, got {self.value} ({self.criterion})")


@dataclass(frozen=True, slots=True)
class ThresholdReport:
    """Error rates of one split at a threshold that was chosen on another.

    Attributes:
        threshold: The threshold and its origin.
        split: Name of the split that was measured.
        apcer: APCER per species and pooled, over the presentations that got a score.
        bpcer: BPCER, over the presentations that got a score.
        non_response: Presentations without a score.
        same_split: The threshold was chosen on the very data that was measured: the rates flatter.
        remarks: What a reader has to know beside the numbers.
    """

    threshold: ChosenThreshold
    split: str
    apcer: Apcer
    bpcer: Rate
    non_response: NonResponseRates
    same_split: bool
    remarks: tuple[str, ...]

    @property
    def acer(self) -> float:
        """``(max APCER + BPCER) / 2``. Dropped from ISO/IEC 30107-3:2023, kept to compare with the literature."""
        return (self.apcer.max + self.bpcer.value) / 2

    @property
    def acer_pooled(self) -> float:
        """``(pooled APCER + BPCER) / 2``, what several published evaluations print as ACER."""
        return (self.apcer.pooled.value + self.bpcer.value) / 2

    @property
    def hter(self) -> float:
        """Half total error rate ``(FAR + FRR) / 2``; the same number as :attr:`acer_pooled`."""
        return self.acer_pooled

    def as_dict(self) -> dict[str, Json]:
        """The report as plain values for JSON."""
        derived: dict[str, Json] = {"apcer_max": self.apcer.max, "worst_species": self.apcer.worst_species}
        derived |= {"acer": self.acer, "acer_pooled": self.acer_pooled, "hter": self.hter}
        return _fields(self) | derived


@dataclass(frozen=True, slots=True)
class PadReport(_WithMappings):
    """Everything about one set of scores.

    Attributes:
        split: Name of the split that was measured.
        n_bona_fide: Bona fide presentations, non-responses included.
        n_attack: Attack presentations per species, non-responses included.
        auc: Area under the ROC curve, attacks pooled.
        eer: Equal error rate of this very split. It describes the scores; it is not the error of a decision whose
            threshold had to be fixed before.
        bpcer_at_apcer: Both rates where the largest APCER is held at 0.1, 0.05, 0.01 (ISO: BPCER10, 20, 100).
        apcer_at_bpcer: Both rates where the BPCER is held at 0.1, 0.05, 0.01.
        non_response: Presentations without a score.
        at_threshold: Error rates at the given threshold; ``None`` without one.
        intervals: Bootstrap intervals over subjects; ``None`` when no subjects were given.
    """

    split: str
    n_bona_fide: int
    n_attack: Mapping[str, int]
    auc: float
    eer: EqualError
    bpcer_at_apcer: Mapping[float, TradeOff]
    apcer_at_bpcer: Mapping[float, TradeOff]
    non_response: NonResponseRates
    at_threshold: ThresholdReport | None
    intervals: BootstrapIntervals | None

    def __post_init__(self) -> None:
        for name in ("n_attack", "bpcer_at_apcer", "apcer_at_bpcer"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def as_dict(self) -> dict[str, Json]:
        """The report as plain values for JSON; an infinite threshold becomes ``None``."""
        nested: dict[str, Json] = {"at_threshold": self.at_threshold.as_dict() if self.at_threshold else None}
        return _fields(self) | nested


def _fields(result: ThresholdReport | PadReport) -> dict[str, Json]:
    return {f.name: _plain(getattr(result, f.name)) for f in dataclasses.fields(result)}


def _plain(value: object) -> Json:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    raise TypeError(f"no plain form for {type(value).__name__}")  # a field of a new kind: extend this function
