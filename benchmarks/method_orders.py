"""Do the papers' orderings hold here? Methods, their baselines and ablations on the simulated protocols, small.

Three studies, each a register of rows; every row is trained with several seeds on every task of its protocol:

* ``cmfl``: the exponent gamma of the cross-modal focal loss against fusion baselines, leave-one-attack-out (colour
  and depth).
* ``a-deeppixbis``: margin, attention and lambda switched off one at a time, and DeepPixBiS (colour).
* ``rfmeta``: second order, first order, aggregation, all domains pooled, leave-one-camera-out (colour; depth for
  the regulariser).

    python -m training simulate sets/train --split train -n 6000 --seed 911 --depth      (and dev, test)
    python -m benchmarks.method_orders run cmfl sets --out orders.jsonl --runs runs
    python -m benchmarks.method_orders table cmfl orders.jsonl

Widths, input sizes and lengths are those of a few minutes on one processor core; the published sizes are in
``training/configs``. Runs are those of ``python -m training fit`` and end on record one by one: what is there already
is not trained again, and an interrupted run goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
import typer
from rich.console import Console

from benchmarks.records import add_record, read_records
from benchmarks.transfer import show
from training.config import AugmentConfig, InputConfig, MethodConfig, OptimiserConfig, TrainConfig, check_config
from training.errors import ConfigError
from training.evaluation.evaluating import Options, Pair, evaluate_runs
from training.evaluation.measure import FIXED
from training.fit import Places, fit_config, overridden
from training.runlog import RECORD

#: Name of the task that leaves nothing out.
WHOLE = "all"

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


@dataclass(frozen=True, slots=True)
class Study:
    """Rows that are compared on the same tasks.

    Attributes:
        base: What they share.
        rows: Method of each, by the row's name.
        tasks: What is left out of training, and measured; an empty name leaves nothing out.
        order: Pairs (better, worse) that the source claims.
    """

    base: TrainConfig
    rows: Mapping[str, MethodConfig]
    tasks: Sequence[str]
    order: Sequence[tuple[str, str]] = field(default=())

    def config(self, row: str, task: str, seed: int) -> TrainConfig:
        """Configuration of a run."""
        config = msgspec.structs.replace(self.base, method=self.rows[row])
        changed = overridden(config, seed=seed, leave_out=[task] if task else None)
        check_config(changed)
        return changed


_PLAIN = AugmentConfig(brightness=0.0, contrast=0.0, saturation=0.0)


def _cmfl(name: str, **options: float) -> MethodConfig:
    return MethodConfig(name=name, width=0.125, options=dict(options))


#: Source of the order: George and Marcel, Cross Modal Focal Loss, CVPR 2021, tables 1 to 3.
CMFL = Study(
    TrainConfig(
        input=InputConfig(size_px=96),
        optimiser=OptimiserConfig(learning_rate=1e-3, weight_decay=1e-6, batch=32, epochs=1, schedule="cosine"),
        augment=_PLAIN,
    ),
    {
        "MC-PixBiS (early fusion)": _cmfl("mc-pixbis"),
        "late fusion": _cmfl("late-fusion"),
        "score fusion": _cmfl("score-fusion"),
        "multi-level fusion": _cmfl("multi-level-fusion"),
        "RGBD-MH-BCE (gamma = 0)": _cmfl("rgbd-mh-bce"),
        "CMFL, gamma = 1": _cmfl("cmfl", gamma=1.0),
        "CMFL, gamma = 3": _cmfl("cmfl", gamma=3.0),
        "CMFL, gamma = 5": _cmfl("cmfl", gamma=5.0),
    },
    ("species=mask", "species=partial", "species=print", "species=replay"),
    (
        ("CMFL, gamma = 3", "RGBD-MH-BCE (gamma = 0)"),
        ("CMFL, gamma = 3", "MC-PixBiS (early fusion)"),
        ("RGBD-MH-BCE (gamma = 0)", "MC-PixBiS (early fusion)"),
        ("CMFL, gamma = 3", "CMFL, gamma = 1"),
        ("CMFL, gamma = 3", "CMFL, gamma = 5"),
    ),
)


def _attentive(**options: float | bool | str) -> MethodConfig:
    return MethodConfig(
        name="a-deeppixbis", trunk="efficientnet_lite0", pretrained=True, scale=4.0, options=dict(options)
    )


#: Source of the order: Hossain et al., A-DeepPixBiS, DICTA 2020, ablation of the margin and of the attention.
A_DEEPPIXBIS = Study(
    TrainConfig(
        input=InputConfig(size_px=112, crop_scale=1.4, brightness=True),
        optimiser=OptimiserConfig(
            learning_rate=1e-3, weight_decay=1e-2, decoupled=True, batch=64, epochs=1, warmup_steps=30,
            schedule="cosine", label_smoothing=0.04, clip_norm=5.0, precision="bfloat16",
        ),
    ),
    {
        "A-DeepPixBiS": _attentive(),
        "without margin": _attentive(margin=0.0, margin_mode="none"),
        "without attention": _attentive(attention=False),
        "without both": _attentive(margin=0.0, margin_mode="none", attention=False),
        # Nobody teaches the map then: the image head decides.
        "lambda = 0 (image loss alone)": _attentive(lambda_pixel=0.0, score_head="binary"),
        "lambda = 1 (pixel loss alone)": _attentive(lambda_pixel=1.0),
        "DeepPixBiS": MethodConfig(name="deeppixbis", trunk="efficientnet_lite0", pretrained=True),
    },
    ("",),
    (
        ("A-DeepPixBiS", "without margin"),
        ("A-DeepPixBiS", "without attention"),
        ("A-DeepPixBiS", "without both"),
        ("A-DeepPixBiS", "DeepPixBiS"),
    ),
)  # fmt: skip


def _meta(name: str) -> MethodConfig:
    return MethodConfig(name=name, width=0.125)


#: Source of the order: Shao, Lan and Yuen, Regularized Fine-grained Meta Face Anti-spoofing, AAAI 2020, tables 2 to 4.
RFMETA = Study(
    TrainConfig(
        input=InputConfig(size_px=64, crop_scale=1.2),
        optimiser=OptimiserConfig(learning_rate=1e-3, weight_decay=0.0, batch=50, epochs=2),
        augment=msgspec.structs.replace(_PLAIN, flip=0.0),
    ),
    {
        "RFMeta": _meta("rfmeta"),
        "first order": _meta("rfmeta-first-order"),
        "aggregation": _meta("rfmeta-aggregation"),
        "without depth": _meta("rfmeta-without-depth"),
        "auxiliary depth, pooled": _meta("auxiliary-depth"),
        "binary CNN, pooled": _meta("binary-cnn"),
    },
    ("camera=kiosk", "camera=low_light", "camera=phone_back"),
    (
        ("RFMeta", "first order"),
        ("RFMeta", "aggregation"),
        ("RFMeta", "without depth"),
        ("RFMeta", "auxiliary depth, pooled"),
        ("auxiliary depth, pooled", "binary CNN, pooled"),
    ),
)

STUDIES: Mapping[str, Study] = {"cmfl": CMFL, "a-deeppixbis": A_DEEPPIXBIS, "rfmeta": RFMETA}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One run on record.

    Attributes:
        study: Key of :data:`STUDIES`.
        row: Which row.
        task: What was left out; empty for nothing.
        seed: Of the run.
        seconds: Of the training, 0 where it was interrupted.
        parameters: Of the network.
        auc: On what was left out, or on the whole test set.
        eer: There, at its own threshold.
        hter: There, at the threshold of dev's equal error rate; the mean of APCER (all attacks) and BPCER.
        bpcer: There, at the same threshold.
        dev_auc: On the dev set, without what was left out.
        n_test: Presentations that were measured.
        config: Digest of the configuration: figures of another length of training are not mixed in.
        simulator: Version of the simulator that made the training set; 0 where it was not recorded.
        commit: Of the source that trained.
        torch: Its version.
    """

    study: str
    row: str
    task: str
    seed: int
    seconds: float
    parameters: int
    auc: float
    eer: float
    hter: float
    bpcer: float
    dev_auc: float
    n_test: int
    config: str
    simulator: int = 0
    commit: str = ""
    torch: str = ""


def read_outcomes(path: Path) -> list[Outcome]:
    """Runs that are on record."""
    return read_records(path, Outcome)


@app.command()
def run(
    study: Annotated[str, typer.Argument(help="cmfl, a-deeppixbis or rfmeta.")],
    sets: Annotated[Path, typer.Argument(help="Folder with the sets train, dev and test.")],
    *,
    out: Annotated[Path, typer.Option(help="JSON lines to add to.")],
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")],
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "1,2,3",
    tasks: Annotated[str, typer.Option(help="Some of the tasks, with commas; all: nothing left out.")] = "",
    share: Annotated[str, typer.Option(help="K/N: the K-th of N processes that divide the work.")] = "1/1",
    threads: Annotated[int, typer.Option(min=1, help="Threads of this process.")] = 1,
) -> None:
    """Train and measure every row on every task, seed by seed."""
    chosen = _study(study)
    torch.set_num_threads(threads)
    wanted = ["" if task == WHOLE else task for task in tasks.split(",")] if tasks else list(chosen.tasks)
    if unknown := set(wanted) - set(chosen.tasks):
        raise ConfigError(f"{study} has the tasks {', '.join(t or WHOLE for t in chosen.tasks)}, got {unknown}")
    k, n = (int(part) for part in share.split("/"))
    plan = list(product((int(s) for s in seeds.split(",")), wanted, chosen.rows))
    for number, (seed, task, row) in enumerate(plan):
        if number % n != k - 1:
            continue
        config = _on(chosen.config(row, task, seed), sets)
        if any(_is(found, study, row, task, config) for found in read_outcomes(out)):
            continue
        outcome = _train((study, row, task), config, sets, runs)
        add_record(out, outcome)
        print(f"{outcome.row}, {task or WHOLE}, seed {seed}: AUC {outcome.auc:.4f}, HTER {100 * outcome.hter:.1f} %, "
              f"{outcome.seconds:.0f} s", flush=True)  # fmt: skip


def _study(name: str) -> Study:
    if name not in STUDIES:
        raise ConfigError(f"expected one of {', '.join(STUDIES)}, got {name!r}")
    return STUDIES[name]


def _on(config: TrainConfig, sets: Path) -> TrainConfig:
    return overridden(config, train=str(sets / "train"), dev=str(sets / "dev"))


def _is(found: Outcome, study: str, row: str, task: str, config: TrainConfig) -> bool:
    key = (found.study, found.row, found.task, found.seed, found.config)
    return key == (study, row, task, config.seed, digest(config))


def digest(config: TrainConfig) -> str:
    """What tells runs of different settings apart; where the sets lie and where it is run do not count.

    Settings that have their default values are left out: one that is new does not make old runs different ones.
    """
    told = _told(msgspec.to_builtins(config.learnt()), msgspec.to_builtins(TrainConfig()))
    return hashlib.sha256(msgspec.json.encode(told, order="deterministic")).hexdigest()[:12]


def _told(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Values that differ from their defaults, section by section."""
    out = {}
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            out[name] = _told(value, default)
        elif value != default:
            out[name] = value
    return out


def _train(name: tuple[str, str, str], config: TrainConfig, sets: Path, runs: Path) -> Outcome:
    study, row, task = name
    folder = runs / f"{study}-{config.seed}-{digest(config)}"
    start, interrupted = time.perf_counter(), folder.exists()
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        fit_config(config, Places(folder, None, runs / "cache"), Console(file=nowhere))
    seconds = 0.0 if interrupted else round(time.perf_counter() - start, 1)
    # Dev without what was left out, test with nothing else: `evaluate` knows from the run.
    pair = Pair(folder, sets / "dev", sets / "test")
    found = evaluate_runs([pair], folder / "test", Options(resamples=0, plots=False)).runs[0]
    measured = found.levels["frame"][found.primary]
    at = measured.at.get("eer", measured.at[FIXED])
    return Outcome(
        study=study, row=row, task=task, seed=config.seed, seconds=seconds, parameters=found.run.parameters,
        auc=measured.auc, eer=measured.eer, hter=at.hter, bpcer=at.bpcer.value, dev_auc=measured.dev_auc,
        n_test=measured.n_bona_fide + sum(measured.n_attack.values()), config=digest(config), **_made_with(folder),
    )  # fmt: skip


def _made_with(folder: Path) -> dict[str, Any]:
    """What the record of a run says about how it was made."""
    record = json.loads((folder / RECORD).read_bytes())
    return {
        "simulator": int(record["train"].get("version") or 0),
        "commit": record["commit"] or "",
        "torch": record["torch"] or "",
    }


@app.command()
def table(
    study: Annotated[str, typer.Argument(help="cmfl, a-deeppixbis or rfmeta.")],
    results: Annotated[Path, typer.Argument(help="JSON lines of `run`.")],
    *,
    markdown: Annotated[bool, typer.Option(help="Print Markdown.")] = False,
) -> None:
    """Show the AUC on what was left out, mean over seeds and its deviation, and which of the claimed orders hold."""
    chosen, found = _study(study), _current(study, read_outcomes(results))
    tasks = [task for task in chosen.tasks if any(key[1] == task for key in found)]
    head = ["row", "parameters", *(task.partition("=")[2] or WHOLE for task in tasks), "mean AUC", "mean HTER"]
    cells = []
    for row in chosen.rows:
        of_row = {key: outcome for key, outcome in found.items() if key[0] == row}
        if not of_row:
            continue
        line = [row, f"{next(iter(of_row.values())).parameters:,}"]
        line += [_mean([o.auc for (_, t, _), o in of_row.items() if t == task]) for task in tasks]
        cells.append([*line, *(_mean(_over_tasks(of_row, tasks, name)) for name in ("auc", "hter"))])
    show(head, cells, markdown=markdown)
    print()
    show(["claimed", "pairs of equal task and seed", "better", "mean difference of AUC", "two-sided sign test"],
         orders(chosen, found), markdown=markdown)  # fmt: skip


_Found = Mapping[tuple[str, str, int], Outcome]


def _current(study: str, outcomes: Sequence[Outcome]) -> dict[tuple[str, str, int], Outcome]:
    """Outcomes of the study as it is configured now."""
    chosen, found = STUDIES[study], {}
    for o in outcomes:
        known = o.study == study and o.row in chosen.rows and o.task in chosen.tasks
        if known and o.config == digest(chosen.config(o.row, o.task, o.seed)):
            found[o.row, o.task, o.seed] = o
    return found


def _over_tasks(of_row: _Found, tasks: Sequence[str], name: str) -> list[float]:
    """Means over the tasks, one for each seed that has all of them."""
    by_seed: dict[int, list[float]] = defaultdict(list)
    for (_, _, seed), outcome in of_row.items():
        by_seed[seed].append(float(getattr(outcome, name)))
    return [float(np.mean(values)) for values in by_seed.values() if len(values) == len(tasks)]


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


def orders(study: Study, found: _Found) -> list[list[str]]:
    """For each claimed pair: how often the better row is better, over equal tasks and seeds."""
    out = []
    for better, worse in study.order:
        pairs = [
            (o.auc, found[worse, task, seed].auc)
            for (row, task, seed), o in found.items()
            if row == better and (worse, task, seed) in found
        ]
        if not pairs:
            continue
        differences = np.array([a - b for a, b in pairs])
        wins = int((differences > 0).sum()) + 0.5 * int((differences == 0).sum())
        out.append([f"{better} > {worse}", str(len(pairs)), f"{wins:g}", f"{differences.mean():+.3f}",
                    f"p = {sign_test(int(wins), len(pairs)):.2f}"])  # fmt: skip
    return out


def sign_test(wins: int, n: int) -> float:
    """Two-sided p of so many wins among n fair coins, exact."""
    tail = sum(math.comb(n, k) for k in range(min(wins, n - wins) + 1))
    return min(1.0, float(2 * tail) / float(2**n))


if __name__ == "__main__":
    app()
