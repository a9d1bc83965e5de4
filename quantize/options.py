"""Options that several commands of ``python -m quantize`` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CheckpointOption = Annotated[Path, typer.Option("--checkpoint", help="Rounded student, see `round`.")]
CalibrationOption = Annotated[
    Path, typer.Option("--calibration", help="calibration.json with scale, bias and fitted_on.")
]
FolderOption = Annotated[Path, typer.Option("--out", help="Folder of the artefacts.")]
TrainOption = Annotated[Path, typer.Option("--train", help="Sample set of the train split.")]
TrainsOption = Annotated[
    list[Path], typer.Option("--train", help="Sample set of the train split; several are put together.")
]
TestOption = Annotated[Path, typer.Option("--test", help="Sample set that is held out.")]
CropsOption = Annotated[int, typer.Option("--crops", help="Calibration crops.")]
FactsOption = Annotated[Path, typer.Option("--facts", help="facts.json, written by the evaluation.")]
GoldenOption = Annotated[Path, typer.Option("--golden", help=".npy, uint8 (n, S, S, C): crops that may be published.")]
ModelsOption = Annotated[Path | None, typer.Option("--models", help="Default: inside the package.")]
ToleranceOption = Annotated[float, typer.Option(help="Largest difference of a score in the self-test.")]
StepsOption = Annotated[int, typer.Option("--steps", min=0, help="Steps of fine-tuning on the INT8 grid; 0 for none.")]
LeadingOption = Annotated[
    int | None,
    typer.Option(
        "--leading-float",
        min=0,
        help="Convolutions at the start of the network that stay in float; default: by the network.",
    ),
]
EvaluationOption = Annotated[
    list[Path] | None, typer.Option(help="Further evaluations to take into the card, e.g. on real captures.")
]
VersionOption = Annotated[str, typer.Option(help="Version of the model.")]
IdOption = Annotated[str, typer.Option("--id", help="Name of the model; a published one of that name is replaced.")]
OriginOption = Annotated[str, typer.Option(help="What the card adds about where the weights come from.")]
DevOption = Annotated[Path, typer.Option("--dev", help="Sample set of the dev split.")]
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of the face pack; default: $FASEDGE_DATA.")]
PointOption = Annotated[str, typer.Option("--default-point", help="Operating point that users get by default.")]
CropScaleOption = Annotated[
    float | None,
    typer.Option("--crop-scale", help="Side of the crop over that of the face box; default: as in the training."),
]
# How a student is taught.
TeachersOption = Annotated[
    list[Path] | None,
    typer.Option("--teacher", help="Checkpoint of a full-precision method; several answer together. None: no teacher."),
]
AlphaOption = Annotated[float, typer.Option(help="Weight of the imitation of the answer, 0 to 1.")]
FeaturesOption = Annotated[
    float, typer.Option(help="Weight of the imitation of the first teacher's features; needs as many channels.")
]
MixupOption = Annotated[float, typer.Option(help="Share of the batches whose pictures are blended, 0 to 1.")]
SteadyOption = Annotated[
    float, typer.Option(help="Share of the batches whose crops are moved, for student and teachers apart, 0 to 1.")
]
StartOption = Annotated[
    bool, typer.Option("--start", help="Start from the first teacher's weights; needs the same trunk.")
]
BeginOption = Annotated[
    str | None,
    typer.Option(
        "--from", help="Start from a student of the same trunk: a checkpoint that `distil` left, or a model's id."
    ),
]
ColourOption = Annotated[
    str | None, typer.Option(help="Of a student of cmfl: model whose branch of colour it takes and leaves as it is.")
]
