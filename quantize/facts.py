"""Facts about a model for its card, from measurements alone: evaluation, training data, words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from fasedge import metrics
from fasedge.cards import Evaluation, OperatingPoint, Precision, Source, TrainingData
from fasedge.metrics import bootstrap_intervals
from quantize.errors import CalibrationDataError
from quantize.points import DEFAULT_POINT
from quantize.publish import Facts
from quantize.rgbd import METHOD, depth_trunk
from training.backbones import PLAIN_SIZES
from training.config import MethodConfig
from training.data.manifest import FacePicture, read_manifest
from training.data.samples import SampleSet
from training.evaluate import ScoredSet, auc_by

_ROLES = {
    "london": "bona fide scenes",
    "canada": "bona fide scenes",
    "lisa_zoom": "bona fide scenes",
    "congress": "bona fide scenes",
    "caltech": "bona fide scenes; face-free strips as rooms behind attacks",
    "sfhq": "synthetic faces as scenes",
    "sfhq_t2i": "synthetic faces as scenes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelText:
    """What a card says of the students of a method.

    Attributes:
        summary: One sentence.
        method: The method's name.
        paper: Its source.
        equations: Where in it.
    """

    summary: str
    method: str
    paper: str
    equations: str


#: By the name of the method that a model is a student of.
TEXTS: Mapping[str, ModelText] = {
    "a-deeppixbis": ModelText(
        summary="Small student of A-DeepPixBiS: judges a face in one colour picture, as a living person or an attack.",
        method="A-DeepPixBiS (pixel-wise head)",
        paper="Hossain et al., A-DeepPixBis: Attentional Angular Margin for Face Anti-Spoofing, 2020",
        equations="eq. 13 (angular margin), eq. 17 (pixel-wise loss)",
    ),
    "binary-trunk": ModelText(
        summary="Small network of binary supervision: judges a face in one colour picture, as a living person or an "
        "attack.",
        method="binary supervision of the mean feature",
        paper="George and Marcel, Deep Pixel-wise Binary Supervision for Face Presentation Attack Detection, ICB 2019 "
        "(the binary baseline)",
        equations="binary cross-entropy of one logit",
    ),
    "rfmeta": ModelText(
        summary="Small student of RFMeta: judges a face in one colour picture, as a living person or an attack.",
        method="RFMeta (logit of the meta learner)",
        paper="Shao, Lan and Yuen, Regularized Fine-grained Meta Face Anti-spoofing, AAAI 2020",
        equations="eq. 1 to 4 (what the teacher is trained with)",
    ),
    "cmfl": ModelText(
        summary="Small student of CMFL: judges a face in a picture with depth, as a living person or an attack; "
        "without depth by colour alone, with a threshold of its own.",
        method="CMFL (RGBD-MH with linear heads)",
        paper="George and Marcel, Cross Modal Focal Loss for RGBD Face Anti-Spoofing, CVPR 2021",
        equations="cross-modal focal loss of the branches, cross-entropy of the joint head",
    ),
}
_LICENCES = {"efficientnet_lite0": " (Apache-2.0)"}
LIMITATIONS = (
    "Trained on simulated attacks over licensed faces: no real print, screen or mask was in the training data.",
    "Not tested on the standard face anti-spoofing data sets (OULU-NPU, Replay-Mobile, WMCA and others), nor on masks, "
    "partial attacks, make-up, injection of video into the camera path, or infrared cameras.",
    "Faces in training skew towards studio portraits and male, white and older people; error rates by skin tone, sex "
    "and age on real attacks are not known.",
    "Thresholds come from simulated data. Choose the threshold on captures of your own camera before relying on it.",
)
#: What else there is to say, by what a model looks at.
_OF_INPUTS: Mapping[bool, tuple[str, ...]] = {
    False: ("RGB only: depth, where a camera has it, is not used.",),
    True: (
        "Depth in training comes from simulated depth cameras; no attack was ever recorded with a real one.",
        "Depth must be aligned to colour, in millimetres, and cover the face: holes are seen as something very near.",
    ),
}


def held_out(dev: Path, test: Path) -> dict[str, SampleSet]:
    """The sets that thresholds and rates come from, by their split: people unseen in training.

    Raises:
        CalibrationDataError: One is of another split.
        DataError: One is missing or malformed.
    """
    sets = {"dev": SampleSet.load(dev), "test": SampleSet.load(test)}
    for (name, samples), path in zip(sets.items(), (dev, test), strict=True):
        if samples.info.split != name:
            raise CalibrationDataError(
                f"--{name} needs a set of the {name} split, got {samples.info.split!r} in {path}; what the card says "
                "of people unseen in training would not be true"
            )
    return sets


def rounding_cost(
    before: NDArray[np.floating], after: NDArray[np.floating], samples: SampleSet, bpcer_threshold: float
) -> dict[str, str]:
    """What rounding the weights did to the FP32 network, on held-out samples.

    The two networks have a calibration each, so their decisions are compared at the same share of rejected bona fide
    samples, not at the same number.

    Args:
        before: Scores of the student, (n,).
        after: Scores of the rounded student with float activations, (n,).
        samples: The samples.
        bpcer_threshold: Threshold of the default operating point, for ``after``.

    Returns:
        For the card's provenance: AUC of both, and decisions that changed.
    """
    labels = samples.labels
    share = float((after[labels == 1] < bpcer_threshold).mean())
    threshold = float(np.quantile(before[labels == 1], share))
    changed = 100 * float(((before >= threshold) != (after >= bpcer_threshold)).mean())
    return {
        "auc_before_rounding": f"{metrics.auc(np.asarray(before, np.float64), labels):.4f}",
        "auc_after_rounding": f"{metrics.auc(np.asarray(after, np.float64), labels):.4f}",
        "decisions_changed_by_rounding_percent": f"{changed:.2f}",
    }


def simulated_evaluation(test: ScoredSet, precision: Precision, modalities: tuple[str, ...] = ("rgb",)) -> Evaluation:
    """AUC and EER on the simulated test set, with an interval over people."""
    intervals = bootstrap_intervals(test.scores, test.labels, test.column("identity"))
    labels, info = test.labels, test.samples.info
    species = ", ".join(f"{name} {auc:.4f}" for name, auc in auc_by(test, "species").items())
    seen = "" if modalities == ("rgb",) and not test.samples.has_depth else f", {'+'.join(modalities)}"
    return Evaluation(
        dataset=f"simulated test set, {precision}{seen} (people unseen in training; version {info.version}, "
        f"seed {info.seed})",
        kind="simulated",
        n_bona_fide=int((labels == 1).sum()),
        n_attack=int((labels == 0).sum()),
        auc=float(metrics.auc(test.scores, labels)),
        auc_low=float(intervals.auc.low),
        auc_high=float(intervals.auc.high),
        eer=float(metrics.eer(test.scores, labels).value),
        by_source_auc={name: round(auc, 4) for name, auc in auc_by(test, "source").items()},
        notes=f"AUC by species: {species}",
    )


def training_data(pictures: Sequence[FacePicture]) -> tuple[TrainingData, ...]:
    """What the train split of the face pack holds, per collection."""
    rows = []
    for source in sorted({p.source for p in pictures}):
        part = [p for p in pictures if p.source == source]
        licences = sorted({p.licence for p in part})
        rows.append(
            TrainingData(
                name=source,
                licence=", ".join(licences),
                n_images=len(part),
                n_identities=len({p.identity for p in part}),
                role=_ROLES.get(source, "bona fide scenes"),
            )
        )
    return tuple(rows)


def network_notes(config: MethodConfig, taught: Mapping[str, str | float | bool], origin: str = "") -> str:
    """What a card says about a network and where its weights come from.

    Args:
        config: Which network.
        taught: What its training recorded about teachers.
        origin: What else there is to say, such as what the teachers started from.
    """
    parts = [f"{config.trunk} up to stride 16"]
    if config.name == METHOD:
        parts[0] = f"{config.trunk} on colour and {depth_trunk(config)} on depth, both up to stride 16"
    if config.trunk in PLAIN_SIZES:
        parts[0] += ": plain 3x3 convolutions (as RepVGG, CVPR 2021), merged"
    steady = "steady_from_sha256" in taught
    if colour := taught.get("colour_of"):
        more = (
            "was held to one answer with the rest" if steady else "learnt nothing more, only its rounding was adjusted"
        )
        parts.append(f"the branch of colour is that of {colour}: it {more}")
    if config.pretrained:
        parts.append("from ImageNet weights" + _LICENCES.get(config.trunk, ""))
    if teachers := str(taught.get("teacher_sha256", "")):
        n = len(teachers.split(", "))
        parts.append(f"taught by {n} full-precision network{'s' * (n > 1)}, see provenance")
    if averaged := str(taught.get("averaged_sha256", "")):
        parts.append(f"the mean of the weights of {len(averaged.split(', '))} students")
    if steady:
        parts.append("then held to one answer for moved crops of a face")
    return "; ".join([*parts, *([origin] if origin else [])])


def make_facts(
    *,
    data: Path,
    points: Sequence[OperatingPoint],
    evaluation: Sequence[Evaluation],
    version: str,
    model: str,
    config: MethodConfig,
    notes: str,
    default_point: str = DEFAULT_POINT,
    provenance: dict[str, str],
    measured_with: dict[str, str],
) -> Facts:
    """Put the facts together.

    Args:
        data: Folder of the face pack, for the list of what was trained on.
        points: Operating points of every precision.
        evaluation: Results.
        version: Version of the model.
        model: Name of the model.
        config: Which method it is a student of.
        notes: As :func:`network_notes`.
        default_point: Operating point that users get by default.
        provenance: Seeds, software, what the student was distilled from.
        measured_with: See :func:`quantize.publish.hashes_of`.
    """
    text = TEXTS[config.name]
    return Facts(
        id=model,
        version=version,
        summary=text.summary,
        licence="Apache-2.0",
        source=Source(
            method=text.method,
            paper=text.paper,
            equations=text.equations,
            notes=notes,
        ),
        operating_points=tuple(points),
        default_operating_point=default_point,
        training_data=training_data(read_manifest(data, ["train"])),
        evaluation=tuple(evaluation),
        intended_use=(
            "Research, prototypes and as a first layer of defence, with a threshold chosen on captures of one's own "
            "camera. Not on its own for payment, border or other high-risk decisions."
        ),
        limitations=LIMITATIONS + _OF_INPUTS[config.name == METHOD],
        provenance=provenance,
        measured_with=measured_with,
    )


def read_evaluations(paths: Sequence[Path]) -> list[Evaluation]:
    """Read evaluations that another program measured, e.g. on real captures.

    Raises:
        CalibrationDataError: A file is missing or malformed.
    """
    found: list[Evaluation] = []
    for path in paths:
        try:
            found += msgspec.json.decode(path.read_bytes(), type=list[Evaluation])
        except (OSError, msgspec.MsgspecError) as error:
            raise CalibrationDataError(f"{path} is no list of evaluations: {error}") from error
    return found


def picture_licences(data: Path) -> dict[str, str]:
    """Licences of the pictures of the face pack, by their names; see :func:`training.data.manifest.read_manifest`."""
    return {picture.key: picture.licence for picture in read_manifest(data)}


def golden_indices(samples: SampleSet, licences: dict[str, str], n: int = 12) -> list[int]:
    """Samples whose pictures may be published as golden vectors: both classes, only free licences.

    Args:
        samples: The simulated test set.
        licences: Licence by picture key, see :func:`picture_licences`.
        n: How many.

    Returns:
        Positions in the set, bona fide and attacks alternating, in the set's order.

    Raises:
        CalibrationDataError: Too few samples have such a licence.
    """
    free = {"public-domain"}
    pools: list[list[int]] = [[], []]
    for i, row in enumerate(samples.table):
        if licences.get(row.picture) in free:
            pools[row.label].append(i)
    chosen = [i for pair in zip(*pools, strict=False) for i in pair][:n]
    if len(chosen) < n:
        raise CalibrationDataError(f"golden vectors need {n} samples under {sorted(free)}, found {len(chosen)}")
    return chosen


def as_scored(samples: SampleSet, scores: NDArray[np.floating]) -> ScoredSet:
    """A set with scores of any float type."""
    return ScoredSet(samples, np.asarray(scores, np.float64))
