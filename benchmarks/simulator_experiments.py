"""Experiments on the simulator: one operator off at a time, one part of it held out, sheets to look at."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
import torch

from benchmarks.simulator_measures import Figure, Floats, auc_difference
from benchmarks.students import StudentOptions, load_student, score_crops, train_student
from fasedge import metrics
from fasedge.preprocess import InputSpec, crop_face
from fasedge.types import Box, UInt8Array
from training.data.samples import SampleSet
from training.data.simulate import BONA_FIDE, SPECIES, Sample, Simulator
from training.data.simulate.draws import Draws
from training.data.simulate.held_out import held_out
from training.data.simulate.operators import OPERATORS, switch_off
from training.errors import DataError

_CHUNK = 32
_COLUMNS = 10
#: Name of the student that has seen everything.
EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class Scorer:
    """A trained network.

    Attributes:
        spec: The crop that it needs.
        score: uint8 (n, S, S, 3) to float64 (n,), higher = bona fide.
        digest: SHA-256 of its file.
    """

    spec: InputSpec
    score: Callable[[UInt8Array], Floats]
    digest: str


def load_scorer(path: Path) -> Scorer:
    """Load a checkpoint of any kind: method, student, rounded student, student of an experiment.

    Raises:
        CheckpointError: The file is missing, damaged, or of no kind that is known.
    """
    if found := load_student(path) if path.is_file() else None:
        student, options = found
        return Scorer(options.scoring_spec(), lambda crops: score_crops(student, crops), _digest(path))
    from quantize.distill import load_task

    task, config = load_task(path)
    task.module.eval()

    def score(crops: UInt8Array) -> Floats:
        with torch.inference_mode():
            parts = [
                task.score(torch.from_numpy(np.ascontiguousarray(crops[i : i + _CHUNK]))).double().cpu().numpy()
                for i in range(0, len(crops), _CHUNK)
            ]
        return np.asarray(np.concatenate(parts), np.float64)

    return Scorer(config.input.spec(), score, _digest(path))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class OperatorResult(msgspec.Struct, frozen=True, kw_only=True):
    """What switching one operator off did to a network's AUC.

    Attributes:
        changed: Samples in which it was at work.
        changed_attacks: Attacks among them.
        auc: AUC with it.
        auc_off: AUC without it.
        drop: AUC with it minus AUC without it: what the network owes to it.
        drop_there: The same with the attacks in which it was at work alone, against all living people; none where it
            is at work in too few.
    """

    changed: int
    changed_attacks: int
    auc: float
    auc_off: float
    drop: Figure
    drop_there: Figure | None


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """Samples with everything on, and their scores."""

    draws: list[Draws]
    scores: Floats
    labels: np.ndarray[tuple[int], np.dtype[np.int64]]
    identities: list[str]


def score_draws(simulator: Simulator, draws: Sequence[Draws], scorer: Scorer) -> Floats:
    """Render and score; the draws are copied, so that they can be rendered again."""
    scores = [np.empty(0)]
    for start in range(0, len(draws), _CHUNK):
        samples = simulator.render([switch_off(d) for d in draws[start : start + _CHUNK]])
        scores.append(scorer.score(_crops(samples, scorer.spec)))
    return np.concatenate(scores)


def _crops(samples: Sequence[Sample], spec: InputSpec) -> UInt8Array:
    return np.stack([crop_face(s.picture, Box(*s.box_xyxy), spec) for s in samples])


def baseline(simulator: Simulator, n: int, scorer: Scorer) -> Baseline:
    """Score the first ``n`` samples of a simulator with everything on."""
    draws = [simulator.draw(i) for i in range(n)]
    return Baseline(
        draws,
        score_draws(simulator, draws, scorer),
        np.array([int(d.values["bona_fide"]) for d in draws], np.int64),
        [simulator.pictures[int(d.values["picture"])].identity for d in draws],
    )


def without_operator(simulator: Simulator, base: Baseline, scorer: Scorer, name: str, seed: int) -> OperatorResult:
    """Render again, without an operator, what it was at work in; all else keeps its score.

    Raises:
        ConfigError: There is no operator of that name.
    """
    altered = [switch_off(d, name) for d in base.draws]
    changed = np.array([f"off:{name}" in d.values for d in altered])
    scores = base.scores.copy()
    if changed.any():
        scores[changed] = score_draws(simulator, [altered[i] for i in np.flatnonzero(changed)], scorer)
    attacks = changed & (base.labels == 0)
    there = attacks | (base.labels == 1)
    people = np.array(base.identities)
    enough = attacks.sum() >= 2 and OPERATORS[name].species != frozenset({BONA_FIDE})
    drop_there = (
        auc_difference([(base.scores[there], scores[there])], base.labels[there], list(people[there]), seed=seed)
        if enough
        else None
    )
    return OperatorResult(
        changed=int(changed.sum()),
        changed_attacks=int(attacks.sum()),
        auc=float(metrics.auc(base.scores, base.labels)),
        auc_off=float(metrics.auc(scores, base.labels)),
        drop=auc_difference([(base.scores, scores)], base.labels, base.identities, seed=seed),
        drop_there=drop_there,
    )


class HeldOutResult(msgspec.Struct, frozen=True, kw_only=True):
    """What it costs not to have seen a part of the simulation.

    Attributes:
        attacks: Attacks of the part in the test set.
        bona_fide: Living people that they are compared with.
        seeds: Seeds of the students.
        trained_on: Samples of a student without the part (the smallest).
        auc_with: Mean AUC of the students that saw the part.
        auc_without: Mean AUC of those that did not.
        drop: The difference.
    """

    attacks: int
    bona_fide: int
    seeds: list[int]
    trained_on: int
    auc_with: float
    auc_without: float
    drop: Figure


def allowed_indices(train: SampleSet, name: str) -> list[int]:
    """Samples that a student may see which is to know nothing of a part (or everything)."""
    if name == EVERYTHING:
        return list(range(len(train)))
    part = held_out(name)
    return [i for i, row in enumerate(train.table) if not part.matches(row.params)]


def heldout_scores(train: SampleSet, test: SampleSet, name: str, options: StudentOptions) -> list[float]:
    """Train a student without a part and score the whole test set, rounded to what JSON needs.

    Raises:
        DataError: Too few samples are left, or one class alone.
        ConfigError: There is no such part, or an option that cannot work.
    """
    student = train_student(train, indices=allowed_indices(train, name), options=options)
    spec = options.scoring_spec()
    scores = [
        score_crops(student, test.crops(range(start, min(start + 256, len(test))), spec))
        for start in range(0, len(test), 256)
    ]
    return [round(float(score), 6) for score in np.concatenate(scores)]


def compare_heldout(
    test: SampleSet, name: str, pairs: dict[int, tuple[Floats, Floats]], trained_on: int, *, seed: int
) -> HeldOutResult:
    """Compare students with and without a part on that part.

    Args:
        test: Samples that no student saw.
        name: The part.
        pairs: By the students' seed: scores of the one that saw everything and of the one without.
        trained_on: Samples of the students without the part.
        seed: Of the resamples.

    Raises:
        DataError: The part does not occur in the test set with both classes.
    """
    part, labels = held_out(name), test.labels
    inside = np.array([part.matches(row.params) for row in test.table])
    chosen = inside if part.both_classes else inside | (labels == 1)
    if len(set(labels[chosen].tolist())) != 2:
        raise DataError(f"the test set has too little of {name!r} to say anything ({int(inside.sum())} samples)")
    identities = [row.identity for row, keep in zip(test.table, chosen, strict=True) if keep]
    cut = [(a[chosen], b[chosen]) for a, b in pairs.values()]
    aucs = np.array([[metrics.auc(s, labels[chosen]) for s in pair] for pair in cut]).mean(0)
    return HeldOutResult(
        attacks=int((labels[chosen] == 0).sum()),
        bona_fide=int((labels[chosen] == 1).sum()),
        seeds=sorted(pairs),
        trained_on=trained_on,
        auc_with=float(aucs[0]),
        auc_without=float(aucs[1]),
        drop=auc_difference(cut, labels[chosen], identities, seed=seed),
    )


def sample_numbers(simulator: Simulator, species: str, n: int) -> list[int]:
    """Numbers of the first ``n`` samples of a species.

    Raises:
        DataError: The species is not drawn often enough to be found.
    """
    found = []
    for index in range(200 * n):
        values = simulator.draw(index).values
        if (BONA_FIDE if values["bona_fide"] else values["species"]) == species:
            found.append(index)
            if len(found) == n:
                return found
    raise DataError(f"only {len(found)} of {n} samples of {species!r} among {200 * n}; is it drawn at all?")


def write_sheet(simulator: Simulator, numbers: Sequence[int], path: Path) -> None:
    """Write pictures to look at, ten in a row, each with its number and sub-type.

    Raises:
        DataError: The file cannot be written.
    """
    cells = []
    for start in range(0, len(numbers), _CHUNK):
        part = numbers[start : start + _CHUNK]
        for number, sample in zip(part, simulator.samples(part), strict=True):
            cell = np.ascontiguousarray(sample.picture[..., ::-1])
            for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
                cv2.putText(cell, f"{number} {sample.subtype}", (3, 11), cv2.FONT_HERSHEY_PLAIN, 0.8, colour, width)
            cells.append(cell)
    cells += [np.zeros_like(cells[0])] * (-len(cells) % _COLUMNS)
    rows = [np.concatenate(cells[i : i + _COLUMNS], 1) for i in range(0, len(cells), _COLUMNS)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), np.concatenate(rows, 0)):
        raise DataError(f"{path} cannot be written")


def drawn_species(simulator: Simulator, n: int = 500) -> list[str]:
    """Species among the first samples, living people first: what needs meshes is not drawn without them."""
    draws = [simulator.draw(i).values for i in range(n)]
    found = {BONA_FIDE if values["bona_fide"] else str(values["species"]) for values in draws}
    return [species for species in (BONA_FIDE, *SPECIES) if species in found]


def options_text(options: StudentOptions) -> str:
    """Options on one line, in an order that does not change."""
    return json.dumps(msgspec.to_builtins(options), sort_keys=True)
