"""Model cards: everything that is known about a model, beside its weights, checked before they are loaded.

A model is a folder with ``card.json`` and the files that it names. The card is written by the evaluation, never by
hand; what it says about a file holds only while the file's SHA-256 matches.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec

from fasedge._card_checks import check_card
from fasedge.errors import CardError, IntegrityError, ModelNotFoundError
from fasedge.preprocess import InputSpec
from fasedge.types import TensorNames

Precision = Literal["fp32", "int8"]
EngineName = Literal["openvino", "litert", "onnxruntime"]
#: Outputs of a network: the score that decides where everything that it looks at is there, its map, and the scores of
#: colour and of depth alone.
OutputName = Literal["score", "map", "score_rgb", "score_depth"]
CARD_NAME = "card.json"
#: The model that is used when none is named.
DEFAULT_MODEL = "edge-rgb"


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base: unknown fields in a card are errors."""


class Source(_Strict, frozen=True):
    """Where the method comes from."""

    method: str
    paper: str
    equations: str
    notes: str = ""


class InputCard(_Strict, frozen=True):
    """One network input: uint8, NHWC, red first."""

    name: str
    size_px: int
    crop_scale: float
    modality: Literal["rgb", "depth"] = "rgb"
    dtype: Literal["uint8"] = "uint8"
    layout: Literal["NHWC"] = "NHWC"
    colour_order: Literal["RGB"] = "RGB"

    def spec(self) -> InputSpec:
        """The pre-processing that belongs to this input."""
        return InputSpec(name=self.name, size_px=self.size_px, crop_scale=self.crop_scale)


class OutputCard(_Strict, frozen=True):
    """One network output: float32, batch first."""

    name: OutputName
    shape: tuple[int, ...]
    meaning: str


class FileCard(_Strict, frozen=True):
    """One artefact: the model for one engine at one precision. An OpenVINO model is two files."""

    engine: EngineName
    precision: Precision
    path: str
    sha256: str
    bytes: int  # of path and companions together
    companions: dict[str, str] = {}  # file name -> SHA-256, e.g. OpenVINO's .bin
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}

    def tensor_names(self) -> TensorNames:
        """Logical to engine names."""
        return TensorNames(inputs=self.inputs, outputs=self.outputs)


class Span(_Strict, frozen=True):
    """A 95 % interval over people: of a bootstrap that resamples them, each with all that was shown of them."""

    low: float
    high: float


# What was not measured is left out of the JSON: cards from before it was measured stay as they are when written anew.
class Rate(_Strict, frozen=True, omit_defaults=True):
    """An error rate with its basis. ``low`` and ``high`` are exact if presentations are independent."""

    value: float
    errors: int
    n: int
    low: float
    high: float
    people: Span | None = None  # where it was measured and there are some errors, but not only errors


def worst_rate(rates: Mapping[str, Rate]) -> tuple[str, Rate]:
    """The largest of some rates, of which there is one at least, with its name.

    Among equal rates the one known least well is the worst.
    """
    return max(rates.items(), key=lambda item: (item[1].value, item[1].high, item[0]))


class OperatingPoint(_Strict, frozen=True, omit_defaults=True):
    """A threshold with its rates. Chosen on the development split, measured on the test split.

    A source is the collection that a portrait comes from; of an attack, the portrait that it shows.
    """

    name: str
    threshold: float
    criterion: str
    modalities: tuple[str, ...]
    precision: Precision
    apcer: dict[str, Rate]
    apcer_max: float
    bpcer: Rate
    acer: float
    acer_people: Span | None = None
    apcer_by_source: dict[str, dict[str, Rate]] = {}  # source -> species -> rate
    bpcer_by_source: dict[str, Rate] = {}


class HeadCalibration(_Strict, frozen=True):
    """The same as :class:`Calibration` for the score of a single head."""

    scale: float
    bias: float


class Calibration(_Strict, frozen=True):
    """How the graph's score was made from the mean over its map: ``score = sigmoid(scale * mean + bias)``."""

    kind: Literal["platt"]
    scale: float
    bias: float
    fitted_on: str
    heads: dict[str, HeadCalibration] = {}


class TrainingData(_Strict, frozen=True):
    """What the weights were made from."""

    name: str
    licence: str
    n_images: int
    n_identities: int
    role: str


class ParityRecord(_Strict, frozen=True):
    """How far an output of an artefact is from that of the full-precision network on the same pictures."""

    engine: str
    precision: Precision
    n: int
    score_abs_diff_p99: float
    score_abs_diff_max: float
    auc: float
    auc_reference: float
    acer_points: float
    acer_points_reference: float
    decision_flips_percent: float
    output: str = "score"


class LatencyRecord(_Strict, frozen=True):
    """How long an artefact takes for one crop on the machine that published it, in ``n`` runs; the network alone."""

    engine: str
    precision: Precision
    threads: int
    n: int
    median_ms: float
    p95_ms: float
    cpu: str


class GoldenVectors(_Strict, frozen=True):
    """Inputs and outputs that every device must reproduce (``fasedge selftest``)."""

    path: str
    sha256: str
    n: int
    tolerance: float


class Evaluation(_Strict, frozen=True):
    """Results on one data set."""

    dataset: str
    kind: Literal["simulated", "real"]
    n_bona_fide: int  # with a score, as all figures here
    n_attack: int
    auc: float  # over all presentations of the data set, sources pooled
    auc_low: float
    auc_high: float
    eer: float
    by_source_auc: dict[str, float] = {}
    notes: str = ""
    n_non_response: int = 0  # presentations without a score


class ModelCard(_Strict, frozen=True):
    """Everything that is known about a model. Field by field as in ``card.json``."""

    schema_version: Literal[1]
    id: str
    version: str
    summary: str
    licence: str
    source: Source
    inputs: tuple[InputCard, ...]
    outputs: tuple[OutputCard, ...]
    files: tuple[FileCard, ...]
    calibration: Calibration
    operating_points: tuple[OperatingPoint, ...]
    default_operating_point: str
    training_data: tuple[TrainingData, ...]
    evaluation: tuple[Evaluation, ...]
    parity: tuple[ParityRecord, ...]
    golden: GoldenVectors
    intended_use: str
    limitations: tuple[str, ...]
    provenance: dict[str, str] = {}
    latency: tuple[LatencyRecord, ...] = ()

    def input_spec(self, name: str = "rgb") -> InputSpec:
        """Pre-processing of the named input.

        Raises:
            CardError: The model has no such input.
        """
        for item in self.inputs:
            if item.name == name:
                return item.spec()
        raise CardError(f"model {self.id!r} has no input {name!r}; it has {[i.name for i in self.inputs]}")

    def file(self, engine: str, precision: str = "int8") -> FileCard:
        """The artefact for an engine at a precision.

        Raises:
            ModelNotFoundError: The card lists no such artefact.
        """
        for item in self.files:
            if item.engine == engine and item.precision == precision:
                return item
        have = sorted(f"{f.engine}/{f.precision}" for f in self.files)
        raise ModelNotFoundError(f"model {self.id!r} has no file for {engine}/{precision}; it has {', '.join(have)}")

    def operating_point(
        self, name: str | None = None, *, precision: str = "int8", modalities: tuple[str, ...] = ("rgb",)
    ) -> OperatingPoint:
        """An operating point by name, for one precision and one set of modalities.

        Args:
            name: Name such as ``bpcer5``; ``None`` takes the card's default.
            precision: Precision of the artefact in use.
            modalities: What the score is made from.

        Raises:
            CardError: The card has no such operating point.
        """
        wanted = name or self.default_operating_point
        for point in self.operating_points:
            if (point.name, point.precision, point.modalities) == (wanted, precision, modalities):
                return point
        have = sorted({f"{p.name} ({p.precision}, {'+'.join(p.modalities)})" for p in self.operating_points})
        raise CardError(
            f"model {self.id!r} has no operating point {wanted!r} for {precision} and {'+'.join(modalities)}; "
            f"it has {', '.join(have)}"
        )


def parse_card(text: str | bytes, *, origin: str = "card") -> ModelCard:
    """Read and validate a card.

    Args:
        text: JSON.
        origin: Where it came from, for the message.

    Raises:
        CardError: Not JSON, an unknown or missing field, a wrong type, an impossible value.
    """
    try:
        card = msgspec.json.decode(text, type=ModelCard)
    except msgspec.MsgspecError as error:
        raise CardError(f"{origin} is not a valid model card: {error}") from error
    check_card(card, origin)
    return card


def dump_card(card: ModelCard) -> str:
    """Write a card as indented JSON with a final newline."""
    return msgspec.json.format(msgspec.json.encode(card), indent=2).decode() + "\n"


def load_card(folder: Path) -> ModelCard:
    """Read ``card.json`` in a model folder.

    Raises:
        ModelNotFoundError: There is no card in the folder.
        CardError: The card is malformed.
    """
    path = folder / CARD_NAME
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ModelNotFoundError(
            f"no model card at {path}: expected a folder with {CARD_NAME} beside weights"
        ) from error
    return parse_card(text, origin=str(path))


def models_folder() -> Path:
    """Folder of the models that come with the package."""
    return Path(str(resources.files("fasedge") / "models"))


def list_models() -> tuple[str, ...]:
    """Ids of the models that come with the package, sorted."""
    return tuple(sorted(p.parent.name for p in models_folder().glob(f"*/{CARD_NAME}")))


def find_model(model: str | Path) -> Path:
    """Folder of a model, by id or by path.

    Args:
        model: Id of an embedded model (``a-deeppixbis``) or path of a folder with a card.

    Raises:
        ModelNotFoundError: Neither an embedded id nor a folder with a card.
        CardError: The card in the folder of an embedded model is malformed or another model's.
    """
    folder = models_folder() / str(model)
    if str(model) in list_models():
        found = load_card(folder).id
        if found != folder.name:
            raise CardError(f"{folder} holds the card of {found!r}, not of {folder.name!r}; install fasedge again")
        return folder
    if Path(model).is_dir() and (Path(model) / CARD_NAME).is_file():
        return Path(model)
    raise ModelNotFoundError(
        f"unknown model {str(model)!r}: expected one of {', '.join(list_models()) or '(none embedded)'}, "
        f"or a folder that holds {CARD_NAME}"
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        ModelNotFoundError: The file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise ModelNotFoundError(f"model file {path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest()


def verify_file(folder: Path, name: str, sha256: str) -> Path:
    """Check one file of a model against its hash.

    Returns:
        Path of the file.

    Raises:
        ModelNotFoundError: The file is missing.
        IntegrityError: Its content is not what the card describes.
    """
    path = folder / name
    found = sha256_of(path)
    if found != sha256:
        raise IntegrityError(
            f"{path} was altered: its SHA-256 is {found[:16]}…, the card says {sha256[:16]}…; "
            "install the model again, or write a new card for a file that you changed on purpose"
        )
    return path


def verified_model_path(folder: Path, item: FileCard) -> Path:
    """Check an artefact and its companions; return the path to load.

    Raises:
        ModelNotFoundError: A file is missing.
        IntegrityError: A file was altered.
    """
    companions: Mapping[str, str] = item.companions
    for name, digest in companions.items():
        verify_file(folder, name, digest)
    return verify_file(folder, item.path, item.sha256)
