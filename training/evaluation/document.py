"""``metrics.json``: what an evaluation found, typed, so that tables can be made of it later.

Rates are shares in [0, 1]; thresholds accept where ``score >= threshold``.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from training.data.titles import title_of
from training.errors import DataError

FORMAT = "fasedge-evaluation-1"


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base: unknown keys are errors."""


class Share(_Part, frozen=True):
    """An error rate with its basis and its exact interval.

    Attributes:
        value: ``errors / n``.
        errors: Number of errors.
        n: Number of presentations.
        low: Lower limit of the 95 % interval.
        high: Upper limit.
    """

    value: float
    errors: int
    n: int
    low: float
    high: float


class Span(_Part, frozen=True):
    """A 95 % bootstrap interval over subjects."""

    low: float
    high: float


class AtThreshold(_Part, frozen=True):
    """Error rates of the test set at one threshold.

    Attributes:
        threshold: Accept iff ``score >= threshold``.
        chosen_on: ``dev``, or empty for a fixed one.
        apcer: APCER of each PAI species.
        apcer_max: The largest of them.
        worst_species: Where it is.
        apcer_pooled: All attacks as one species (FAR).
        bpcer: BPCER (FRR).
        acer: ``(apcer_max + bpcer) / 2``.
        acer_pooled: ``(apcer_pooled + bpcer) / 2``.
        hter: The same number as ``acer_pooled``, under the name that the literature uses between data sets.
        acer_span: Interval of ``acer``; ``None`` where there are too few subjects.
        apcer_subtype: APCER of each kind of instrument.
        acer_subtype: ACER with the largest of these.
        apcer_max_span: Interval of ``apcer_max``; like the following ``None`` too in files from before there was one.
        apcer_pooled_span: Interval of ``apcer_pooled`` that, unlike its exact one, does not take presentations of one
            person as independent.
        bpcer_span: Interval of ``bpcer``, likewise.
        hter_span: Interval of ``hter``.
    """

    threshold: float
    chosen_on: str
    apcer: dict[str, Share]
    apcer_max: float
    worst_species: str
    apcer_pooled: Share
    bpcer: Share
    acer: float
    acer_pooled: float
    hter: float
    acer_span: Span | None
    apcer_subtype: dict[str, Share]
    acer_subtype: float
    apcer_max_span: Span | None = None
    apcer_pooled_span: Span | None = None
    bpcer_span: Span | None = None
    hter_span: Span | None = None


class Measures(_Part, frozen=True):
    """Everything about one score at one level.

    Attributes:
        n_bona_fide: Bona fide presentations of the test set.
        n_attack: Its attacks by species.
        n_subjects: People in it.
        n_non_response: Presentations without a score, which enter no rate.
        auc: AUC of the test set.
        auc_span: Its interval.
        auc_by_species: AUC of each species against all bona fide presentations.
        eer: EER of the test set. As its threshold is the test set's own, this is also the "HTER" of papers that take
            the threshold from the target (``HTER@target-EER``).
        eer_span: Its interval.
        dev_auc: AUC of the dev set.
        dev_eer: EER of the dev set.
        bpcer_at_apcer: BPCER of the test set where no species has an APCER above the key.
        apcer_at_bpcer: Largest APCER of the test set where the BPCER is at most the key.
        at: Rates at thresholds by criterion; those of dev, and ``fixed``.
        missing: Criteria that the dev set cannot meet, and why.
        remarks: What a reader has to know.
        acer_at_alpha: Points of the expected performance curve: ACER of the test set where the threshold minimises
            ``alpha * APCER + (1 - alpha) * BPCER`` of dev, largest APCER over the species, by alpha from 0 to 1.
        hter_at_alpha: The same with attacks pooled in both sets.
    """

    n_bona_fide: int
    n_attack: dict[str, int]
    n_subjects: int
    n_non_response: int
    auc: float
    auc_span: Span | None
    auc_by_species: dict[str, float]
    eer: float
    eer_span: Span | None
    dev_auc: float
    dev_eer: float
    bpcer_at_apcer: dict[str, float]
    apcer_at_bpcer: dict[str, float]
    at: dict[str, AtThreshold]
    missing: dict[str, str]
    remarks: list[str]
    acer_at_alpha: dict[str, float] = {}
    hter_at_alpha: dict[str, float] = {}


class SetRecord(_Part, frozen=True):
    """Which samples were scored.

    Attributes:
        folder: Where they lie.
        split: ``dev`` or ``test``.
        n: Frames.
        n_videos: Recordings of which a frame is there; 0 where frames belong to none.
        origin: Data set and protocol, rule of the crops and a digest; empty for simulated samples.
        seed: Seed of simulated samples.
        depth: Whether they have depth.
        dropped: Frames and recordings that were left out when the set was prepared, by class and reason.
        chosen: Which of the samples in the folder were scored, e.g. ``only species=mask``; empty for all.
    """

    folder: str
    split: str
    n: int
    n_videos: int
    origin: str
    seed: int
    depth: bool
    dropped: dict[str, int]
    chosen: str = ""

    @property
    def title(self) -> str:
        """Data set and protocol: ``oulu_npu 3, fold 2``; ``simulated`` where nothing was recorded."""
        return title_of(self.origin)

    @property
    def rule(self) -> str:
        """Whose crops these are; empty where the set does not say."""
        parts = self.origin.split("; ")
        return parts[1] if len(parts) == 3 else ""


class RunRecord(_Part, frozen=True):
    """Which network was scored.

    Attributes:
        folder: Of the run.
        checkpoint: ``best`` (of the dev set of the training) or ``last``.
        epoch: Epochs that it has learnt.
        method: Name of the method.
        profile: Profile of its settings.
        width: Width of the trunk; 1 is the published network.
        seed: Seed of the run.
        parameters: Numbers in the network.
        commit: Of the code that trained it; empty if unknown.
        trunk_weights: What its trunk started from; empty if unknown.
        people: How many people it was trained on; 0 if unknown, and nobody could look for them in dev and test.
        trained_on: Data set and protocol that it was trained on, ``simulated``, or empty if unknown.
    """

    folder: str
    checkpoint: str
    epoch: int
    method: str
    profile: str
    width: float
    seed: int
    parameters: int
    commit: str = ""
    trunk_weights: str = ""
    people: int = 0
    trained_on: str = ""

    @property
    def network(self) -> str:
        """What runs must share to be averaged: everything but folder, epoch, seed and where weights came from."""
        return (
            f"{self.method} (profile {self.profile}, width {self.width:g}, {self.parameters:,} parameters, "
            f"checkpoint {self.checkpoint})"
        )


class RunResult(_Part, frozen=True):
    """One run on one pair of sets.

    Attributes:
        name: Folder of its files inside the evaluation's; empty where they lie in the evaluation's itself.
        run: The network.
        dev: Where thresholds come from.
        test: What was measured.
        primary: The method's own score.
        overrides: Checks that were switched off, and what they had found.
        levels: Measures by level (``frame``, ``video``) and score.
    """

    name: str
    run: RunRecord
    dev: SetRecord
    test: SetRecord
    primary: str
    overrides: dict[str, str]
    levels: dict[str, dict[str, Measures]]


class Mean(_Part, frozen=True):
    """Mean over runs, with both standard deviations (papers do not say which theirs is).

    Attributes:
        mean: Arithmetic mean.
        std_population: Divisor n.
        std_sample: Divisor n - 1; ``None`` for a single run.
        n: Runs.
    """

    mean: float
    std_population: float
    std_sample: float | None
    n: int


class Document(_Part, frozen=True):
    """``metrics.json``.

    Attributes:
        runs: One entry per run.
        summary: Means over the runs by level, score and measure (``auc``, ``at_eer.acer`` …).
        format: Version of this layout.
    """

    runs: list[RunResult]
    summary: dict[str, dict[str, dict[str, Mean]]]
    format: str = FORMAT


def read_document(path: Path) -> Document:
    """Read ``metrics.json``, or the one in a folder.

    Raises:
        DataError: It is not there, or not one of an evaluation.
    """
    file = path / "metrics.json" if path.is_dir() else path
    try:
        document = msgspec.json.decode(file.read_bytes(), type=Document)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error}); name what `evaluate` wrote") from error
    except msgspec.MsgspecError as error:
        raise DataError(f"{file} is not a metrics.json of `python -m training evaluate` ({error})") from error
    if document.format != FORMAT:
        raise DataError(f"{file} has the format {document.format!r}, expected {FORMAT!r}; evaluate the run again")
    return document
