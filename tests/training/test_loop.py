"""The training loop on a toy: it learns, resumes to the bit, stops when it diverges, keeps the best epoch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from tests.training.fixtures.toy_sets import ToyTask, toy_row, toy_set
from training import loop
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import AugmentConfig, InputConfig, MachineConfig, OptimiserConfig, TrainConfig
from training.data.samples import SampleSet, SetInfo
from training.data.table import SIMULATOR_VERSION
from training.errors import CheckpointError, DataError, DivergedError
from training.loop import BEST, HISTORY, LAST, EpochRecord, Trainer, learning_rate, score_set

TRAIN, DEV = toy_set(32), toy_set(24, split="dev")


@pytest.fixture(autouse=True)
def one_cpu_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Where results are the same to the bit, also on a machine with a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(**optimiser: object) -> TrainConfig:
    defaults: dict[str, object] = {"batch": 8, "epochs": 4, "learning_rate": 1e-2}
    return TrainConfig(
        input=InputConfig(size_px=16, crop_scale=1.5),
        optimiser=OptimiserConfig(**(defaults | optimiser)),
        augment=AugmentConfig(noise=5, erase=0.2, shift=0.05, zoom=0.1),
    )


EVERYTHING = {
    "decoupled": True, "weight_decay": 1e-2, "warmup_steps": 3, "schedule": "cosine", "average": 0.9,
    "label_smoothing": 0.1, "clip_norm": 1.0,
}  # fmt: skip


def trainer(out: Path, config: TrainConfig | None = None, task: ToyTask | None = None, **sets: SampleSet) -> Trainer:
    chosen = {"train": TRAIN, "dev": DEV} | sets
    return Trainer(task or ToyTask(), config or settings(), chosen["train"], chosen["dev"], out)


def history(out: Path) -> list[EpochRecord]:
    lines = (out / HISTORY).read_bytes().splitlines()
    return [msgspec.json.decode(line, type=EpochRecord) for line in lines]


def without_time(records: list[EpochRecord]) -> list[tuple[float, ...]]:
    return [(r.epoch, r.loss, r.dev_auc, r.dev_eer, r.learning_rate) for r in records]


def assert_same_checkpoint(a: Path, b: Path) -> None:
    one, two = load_checkpoint(a), load_checkpoint(b)
    assert one.metadata == two.metadata
    assert one.tensors.keys() == two.tensors.keys()
    for name, value in one.tensors.items():
        assert torch.equal(value, two.tensors[name]), name


# --- learning -------------------------------------------------------------------------------------------------------


def test_a_separable_toy_is_learnt(tmp_path: Path) -> None:
    records = list(trainer(tmp_path, settings(average=0.5)).run())
    assert [r.epoch for r in records] == [1, 2, 3, 4]
    assert records[-1].loss < 0.5 * records[0].loss
    assert (records[-1].dev_auc, records[-1].dev_eer) == (1.0, 0.0)
    assert without_time(history(tmp_path)) == without_time(records)


def test_the_run_is_described_beside_its_checkpoints(tmp_path: Path) -> None:
    list(trainer(tmp_path, settings(epochs=1)).run())
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["config"]["optimiser"]["batch"] == 8
    for name, n in (("train", 32), ("dev", 24)):
        told = {"split": name, "seed": 0, "n": n, "depth": False, "format": "npy", "version": SIMULATOR_VERSION}
        assert record[name].items() >= told.items()
    # 3·6·9 + 6, twice 6, 6·5·9 + 5, 5 + 1
    assert record["parameters"] == 168 + 12 + 275 + 6


def test_an_epoch_shows_each_sample_once_with_smoothed_labels(tmp_path: Path) -> None:
    class Watching(ToyTask):
        labels: list[float] = []  # noqa: RUF012

        def loss(self, rgb: Tensor, labels: Tensor) -> Tensor:
            assert (rgb.dtype, tuple(rgb.shape)) == (torch.uint8, (8, 16, 16, 3))
            self.labels += labels.tolist()
            return super().loss(rgb, labels)

    task = Watching()
    list(trainer(tmp_path, settings(epochs=1, label_smoothing=0.1), task).run())
    assert sorted(task.labels) == pytest.approx([0.05] * 16 + [0.95] * 16)


def test_batches_differ_between_epochs_and_seeds_but_not_between_runs(tmp_path: Path) -> None:
    class Keeping(ToyTask):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[bytes] = []

        def loss(self, rgb: Tensor, labels: Tensor) -> Tensor:
            self.seen.append(rgb.numpy().tobytes())
            return super().loss(rgb, labels)

    tasks = [Keeping() for _ in range(3)]
    for i, (task, seed) in enumerate(zip(tasks, (42, 42, 43), strict=True)):
        list(trainer(tmp_path / str(i), msgspec.structs.replace(settings(epochs=2), seed=seed), task).run())
    assert len(set(tasks[0].seen)) == 8
    assert tasks[1].seen == tasks[0].seen
    assert not set(tasks[2].seen) & set(tasks[0].seen)


@pytest.mark.parametrize(
    ("step", "expected"),
    # Warm-up over 4 steps to 0.1, then half a cosine over the other 8: 0.05·(1 + cos(π·k/8)).
    [(0, 0.025), (1, 0.05), (3, 0.1), (4, 0.1), (6, 0.0853553), (8, 0.05), (10, 0.0146447), (12, 0.0)],
)
def test_the_learning_rate_warms_up_and_follows_half_a_cosine(step: int, expected: float) -> None:
    o = OptimiserConfig(learning_rate=0.1, warmup_steps=4, schedule="cosine")
    assert learning_rate(o, step, 12) == pytest.approx(expected, abs=1e-7)


def test_the_learning_rate_is_constant_by_default_and_recorded(tmp_path: Path) -> None:
    assert {learning_rate(OptimiserConfig(), step, 9) for step in range(9)} == {1e-3}
    records = list(trainer(tmp_path, settings(epochs=2, schedule="cosine")).run())
    # The last of 4 and of 8 steps: 0.005·(1 + cos(π·3/8)), 0.005·(1 + cos(π·7/8)).
    assert [r.learning_rate for r in records] == pytest.approx([0.00691342, 0.00038060], abs=1e-7)


def test_the_learning_rate_steps_down_as_in_torch(tmp_path: Path) -> None:
    o = OptimiserConfig(learning_rate=0.08, schedule="step", step_epochs=2, step_factor=0.25, epochs=5)
    theirs = SGD([torch.zeros(1, requires_grad=True)], lr=0.08)
    scheduler = StepLR(theirs, step_size=2, gamma=0.25)
    for epoch in range(5):
        expected = scheduler.get_last_lr()[0]
        assert [learning_rate(o, 3 * epoch + i, 15) for i in range(3)] == pytest.approx([expected] * 3, rel=1e-12)
        theirs.step()
        scheduler.step()
    warm = msgspec.structs.replace(o, warmup_steps=8)
    assert [learning_rate(warm, step, 15) for step in (0, 7, 8)] == pytest.approx([0.01, 0.08, 0.02])
    records = list(trainer(tmp_path, settings(epochs=3, schedule="step", step_epochs=1)).run())
    assert [r.learning_rate for r in records] == pytest.approx([0.01, 0.005, 0.0025])


# --- resuming -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimiser", [{}, EVERYTHING, {"schedule": "step", "step_epochs": 2}], ids=["plain", "everything", "steps"]
)
@pytest.mark.parametrize("broken_in_step", [None, 9])
def test_a_resumed_run_ends_with_the_same_bits(
    tmp_path: Path, optimiser: dict[str, object], broken_in_step: int | None
) -> None:
    """Stopped after the second epoch, or in the middle of the third; the new process starts from other weights."""

    class Breaking(ToyTask):
        steps = 0

        def loss(self, rgb: Tensor, labels: Tensor) -> Tensor:
            if self.steps == broken_in_step:
                raise KeyboardInterrupt
            self.steps += 1
            return super().loss(rgb, labels)

    config = settings(**optimiser)
    list(trainer(tmp_path / "whole", config).run())
    first = trainer(tmp_path / "parts", config, Breaking()).run()
    next(first)
    next(first)
    if broken_in_step is None:
        first.close()  # type: ignore[attr-defined]
    else:
        with pytest.raises(KeyboardInterrupt):
            next(first)
    assert [r.epoch for r in trainer(tmp_path / "parts", config, ToyTask(seed=99)).run()] == [3, 4]
    for name in (LAST, BEST):
        assert_same_checkpoint(tmp_path / "whole" / name, tmp_path / "parts" / name)
    assert without_time(history(tmp_path / "parts")) == without_time(history(tmp_path / "whole"))


class Dropping(ToyTask):
    """A network that draws random numbers while it is trained, and breaks in a step."""

    def __init__(self, seed: int = 0, breaks_in: int | None = None) -> None:
        super().__init__(seed)
        self._module = nn.Sequential(nn.Dropout(0.3), self._module)
        self._steps, self._breaks_in = 0, breaks_in

    def loss(self, rgb: Tensor, labels: Tensor) -> Tensor:
        if self._steps == self._breaks_in:
            raise KeyboardInterrupt
        self._steps += 1
        return super().loss(rgb, labels)


def test_a_run_goes_on_within_an_epoch_with_the_same_batches_and_random_numbers(tmp_path: Path) -> None:
    """Saved after every step, of two passes each; stopped twice in one epoch."""
    config = settings(**EVERYTHING, batch=4, accumulate=2)
    config = msgspec.structs.replace(config, machine=MachineConfig(save_minutes=0, log_every=3))
    list(trainer(tmp_path / "whole", config, Dropping()).run())
    for seed, breaks_in in ((0, 11), (2, 3)):
        with pytest.raises(KeyboardInterrupt):
            list(trainer(tmp_path / "parts", config, Dropping(seed, breaks_in)).run())
        assert len(load_checkpoint(tmp_path / "parts" / LAST).metadata["losses"]) == {11: 1, 3: 2}[breaks_in]
    list(trainer(tmp_path / "parts", config, Dropping(3)).run())
    for name in (LAST, BEST):
        assert_same_checkpoint(tmp_path / "whole" / name, tmp_path / "parts" / name)
    assert without_time(history(tmp_path / "parts")) == without_time(history(tmp_path / "whole"))


def test_a_run_is_saved_within_an_epoch_only_when_the_time_has_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 10_000, 60))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(now)))
    saved = []
    real = Trainer._save
    monkeypatch.setattr(Trainer, "_save", lambda self, name: (saved.append(len(self._losses)), real(self, name)))
    config = msgspec.structs.replace(settings(epochs=1, batch=4), machine=MachineConfig(save_minutes=3))
    list(trainer(tmp_path, config).run())
    assert saved == [3, 6, 0]


def test_a_resumed_optimiser_lies_in_memory_as_its_weights_do(tmp_path: Path) -> None:
    list(trainer(tmp_path, settings(epochs=1)).run())
    again = trainer(tmp_path, settings(epochs=1))
    assert list(again.run()) == []
    moments = again._optimiser.state
    assert len(moments) == len(list(again._task.module.parameters()))
    strided = {parameter.stride() for parameter in moments if parameter.dim() == 4}
    assert any(stride[1] == 1 for stride in strided)  # channels-last
    for parameter, state in moments.items():
        assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == parameter.stride()


def test_an_epoch_that_was_recorded_but_not_saved_is_recorded_once(tmp_path: Path) -> None:
    """A process that dies between the two leaves a line too many."""
    config = settings(epochs=2)
    run = trainer(tmp_path, config).run()
    first = next(run)
    run.close()  # type: ignore[attr-defined]
    with (tmp_path / HISTORY).open("ab") as file:
        file.write(msgspec.json.encode(first) + b"\n")
    list(trainer(tmp_path, config).run())
    assert [r.epoch for r in history(tmp_path)] == [1, 2]


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    config = settings(epochs=1)
    list(trainer(tmp_path, config).run())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert list(trainer(tmp_path, config).run()) == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": settings(epochs=3)}, "another configuration"),
        ({"train": toy_set(40)}, "other sets"),
        ({"dev": toy_set(24, split="dev", seed=1)}, "other sets"),
    ],
)
def test_another_run_in_the_same_folder_is_refused_and_leaves_it_alone(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    list(trainer(tmp_path, settings(epochs=1)).run())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=message):
        list(trainer(tmp_path, **({"config": settings(epochs=1)} | change)).run())  # type: ignore[arg-type]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_checkpoint_that_is_not_of_a_run_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / LAST, ToyTask().module.state_dict(), {"epoch": 1})
    with pytest.raises(CheckpointError, match="best, config, skeleton missing"):
        list(trainer(tmp_path).run())


def test_a_checkpoint_from_before_a_setting_existed_is_gone_on_with(tmp_path: Path) -> None:
    config = settings(epochs=1)
    list(trainer(tmp_path, config).run())
    checkpoint = load_checkpoint(tmp_path / LAST)
    meta = json.loads(json.dumps(checkpoint.metadata))
    del meta["config"]["data"], meta["config"]["machine"], meta["config"]["optimiser"]["accumulate"], meta["position"]
    save_checkpoint(tmp_path / LAST, checkpoint.tensors, meta)
    assert list(trainer(tmp_path, config).run()) == []


# --- divergence -----------------------------------------------------------------------------------------------------


class Diverging(ToyTask):
    """Healthy for two steps."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.steps, self.last = how, 0, torch.empty(0)

    def loss(self, rgb: Tensor, labels: Tensor) -> Tensor:
        self.steps, self.last = self.steps + 1, rgb.clone()
        loss = super().loss(rgb, labels)
        if self.steps == 3 and self.how == "loss":
            return loss * math.nan
        if self.steps == 3 and self.how == "gradient":
            return loss + (0 * self.module[0].weight.sum()).abs().sqrt()  # the slope of a root at 0
        return loss

    def score(self, rgb: Tensor) -> Tensor:
        return super().score(rgb) * (math.nan if self.how == "scores" else 1)


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run_and_keeps_the_batch(tmp_path: Path, how: str) -> None:
    task = Diverging(how)
    run = trainer(tmp_path, settings(clip_norm=1.0), task)
    with pytest.raises(DivergedError, match=f"the {how} of step 2 is not finite"):
        list(run.run())
    kept = np.load(tmp_path / "diverged.npz")
    np.testing.assert_array_equal(kept["rgb"], task.last.numpy())
    assert (kept["indices"].shape, int(kept["step"])) == ((8,), 2)
    # Rows of the set by their numbers: every odd one is bona fide.
    assert kept["labels"].tolist() == (kept["indices"] % 2).tolist()
    assert set(kept["domains"]) <= {"studio", "office"}
    assert all(bool(torch.isfinite(p).all()) for p in task.module.parameters())
    assert not (tmp_path / BEST).exists()


def test_a_gradient_that_is_not_finite_is_found_without_clipping_too(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="the gradient of step 2 is not finite"):
        list(trainer(tmp_path, settings(), Diverging("gradient")).run())


def test_scores_that_are_not_numbers_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="after epoch 1"):
        list(trainer(tmp_path, task=Diverging("scores")).run())
    assert not (tmp_path / BEST).exists()


# --- what is kept ---------------------------------------------------------------------------------------------------


def test_the_epoch_with_the_lowest_dev_eer_is_kept_and_of_equals_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores by hand: of 12 against 12, so many of each class on the wrong side."""
    wrong = iter([6, 3, 1, 1, 4])

    def scripted(*_: object, **__: object) -> np.ndarray:
        k, labels = next(wrong), DEV.labels
        scores = labels.astype(np.float64)
        scores[np.flatnonzero(labels == 1)[:k]] = 0
        scores[np.flatnonzero(labels == 0)[:k]] = 1
        return scores + np.linspace(0, 0.1, len(scores))

    monkeypatch.setattr(loop, "score_batches", scripted)
    task = ToyTask()
    weights = []
    records = []
    for record in trainer(tmp_path, settings(epochs=5), task).run():
        records.append(record)
        weights.append({name: value.clone() for name, value in task.module.state_dict().items()})
    assert records[2].dev_eer == min(r.dev_eer for r in records)
    best = load_checkpoint(tmp_path / BEST)
    assert (best.metadata["epoch"], best.metadata["dev_eer"]) == (3, records[2].dev_eer)
    for name, value in best.tensors.items():
        assert torch.equal(value, weights[2][name]), name


def test_averaged_weights_are_what_is_scored_and_saved_and_training_goes_on_from_the_live_ones(tmp_path: Path) -> None:
    """The average is followed by hand in double precision, from the weights before each step."""

    class Following(ToyTask):
        def __init__(self) -> None:
            super().__init__()
            self.before: list[Tensor] = []
            self.scored: list[Tensor] = []

        def weight(self) -> Tensor:
            return self.module[0].weight.detach().double().clone()

        def loss(self, rgb: Tensor, labels: Tensor) -> Tensor:
            self.before.append(self.weight())
            return super().loss(rgb, labels)

        def score(self, rgb: Tensor) -> Tensor:
            self.scored.append(self.weight())
            return super().score(rgb)

    task = Following()
    start = task.weight()
    list(trainer(tmp_path, settings(epochs=1, average=0.3), task).run())
    average = start
    for step, after in enumerate([*task.before[1:], task.weight()]):
        decay = min(0.3, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * after
    assert not torch.allclose(average, task.weight(), atol=1e-5)
    np.testing.assert_allclose(task.scored[0], average, atol=1e-6)
    np.testing.assert_allclose(load_checkpoint(tmp_path / BEST).tensors["0.weight"], average, atol=1e-6)
    last = load_checkpoint(tmp_path / LAST).tensors
    np.testing.assert_allclose(last["/module/0.weight"], task.weight(), atol=1e-7)
    np.testing.assert_allclose(last["/average/0.weight"], average, atol=1e-6)


def test_scoring_takes_plain_crops_in_order_and_leaves_the_mode_alone() -> None:
    task, config = ToyTask(), settings()
    task.module.train()
    big = toy_set(70, split="dev")  # more than one batch of the evaluation
    scores = score_set(task.score, task.module, big, config)
    assert task.module.training
    task.module.eval()
    with torch.no_grad():
        expected = [task.score(torch.from_numpy(big.crops([i], config.input.spec()))).item() for i in range(70)]
    np.testing.assert_allclose(scores, expected, atol=1e-6)


# --- sets -----------------------------------------------------------------------------------------------------------


def test_a_person_in_both_sets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="5 people are in both"):
        trainer(tmp_path, dev=TRAIN)


@pytest.mark.parametrize("which", ["train", "dev"])
def test_a_set_of_one_class_is_refused(tmp_path: Path, which: str) -> None:
    rows = [toy_row(i, 1, split=which) for i in range(4)]
    live = SampleSet(np.zeros((4, 48, 48, 3), np.uint8), rows, SetInfo(split=which, seed=0, n=4))
    with pytest.raises(DataError, match=f"the {which} set needs bona fide presentations and attacks"):
        trainer(tmp_path, **{which: live})
