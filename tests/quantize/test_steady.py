"""Students whose answers are to change less with the crop: the loss, what is wanted, runs that are taken up again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from fasedge.cards import find_model, load_card
from quantize.__main__ import app
from quantize.distill import DistilTask, load_task
from quantize.errors import CalibrationDataError
from quantize.export import empty_student
from quantize.facts import network_notes
from quantize.published import weights_of
from quantize.steady import MOVES, SteadyConfig, Steadying, augmented, measured, steady_loss
from tests.training.fixtures.toy_sets import toy_set
from training.checkpoint import load_checkpoint, save_checkpoint
from training.config import AugmentConfig, InputConfig, MethodConfig, TrainConfig
from training.data.samples import SampleSet
from training.errors import ConfigError, DivergedError, StateMismatchError

CONFIG = TrainConfig(
    method=MethodConfig(name="binary-trunk", trunk="plain_xs"), input=InputConfig(size_px=32, crop_scale=1.2)
)
BRIEF = SteadyConfig(steps=30, pictures=8, learning_rate=1e-3, weight=5.0, wanted_views=4, average=0.5)


def striped_set(n: int = 40, *, split: str = "train", px: int = 48) -> SampleSet:
    """Stripes of several widths: what a network says of them depends on where they are cut."""
    plain = toy_set(n, split=split)
    rows = np.arange(px)[None, :, None, None]
    widths = np.linspace(3, 9, n)[:, None, None, None]
    stripes = 128 + 90 * np.sign(np.sin(2 * np.pi * rows / widths)) * np.linspace(0.2, 1, n)[:, None, None, None]
    pictures = np.broadcast_to(np.clip(stripes, 0, 255), (n, px, px, 3)).astype(np.uint8)
    return SampleSet(pictures, list(plain.table), plain.info)


def new_task(seed: int = 1) -> DistilTask:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        task = DistilTask(CONFIG)
    task.module.eval()
    return task


class Corner:
    """Says how bright the upper left pixel is, and with depth how far the second head finds it."""

    sees_depth = False

    def __init__(self) -> None:
        self.module = nn.Linear(1, 1)

    def score(self, pictures: Tensor) -> Tensor:
        return self.pooled_heads(pictures)["score"]

    def pooled_heads(self, pictures: Tensor) -> dict[str, Tensor]:
        corner = pictures[:, 0, 0, 0].float()
        return {"score": corner, "other": 2 * corner + 1}


def test_the_loss_is_the_error_of_the_mean_and_the_variance_over_crops() -> None:
    found = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    loss, noise = steady_loss(found, torch.tensor([1.0, 1.0]), spread=4.0, weight=3.0)
    assert float(noise) == pytest.approx((2.0 + 0.0) / 2 / 4)
    assert float(loss) == pytest.approx((1.0 + 1.0) / 2 / 4 + 3 * 0.25)


def test_spreads_are_those_of_mean_answers_and_the_noise_is_that_of_the_worst_head() -> None:
    samples = striped_set()
    how = SteadyConfig(wanted_views=200, pictures=8)
    found = measured(Corner(), samples, CONFIG, how)
    assert found.spreads["other"] == pytest.approx(4 * found.spreads["score"], rel=1e-4)
    assert measured(Corner(), samples, CONFIG, how) == found
    other = measured(Corner(), samples, CONFIG, SteadyConfig(wanted_views=200, pictures=8, seed=1))
    assert other != found
    assert other.noise == pytest.approx(found.noise, rel=0.5)
    assert found.noise > 1  # stripes pass below a corner that moves


def mean_answers(task: DistilTask, samples: SampleSet) -> np.ndarray:
    """To 50 moved crops of each picture, (n,)."""
    rng, indices, found = np.random.default_rng(5), list(range(len(samples))), []
    for _ in range(50):
        boxes = samples.boxes(indices, jitter=MOVES, rng=rng)
        crops = torch.from_numpy(samples.crops(indices, CONFIG.input.spec(), boxes=boxes))
        with torch.no_grad():
            found.append(task.score(crops).float().numpy())
    return np.mean(found, axis=0)


def test_a_student_becomes_steadier_and_goes_on_saying_much_the_same(tmp_path: Path) -> None:
    task, samples = new_task(), striped_set()
    asked = SteadyConfig(pictures=8, seed=9)
    how = SteadyConfig(steps=150, pictures=16, learning_rate=1e-3, weight=3.0, average=0.9, augmented=0.0)
    before, said = measured(task, samples, CONFIG, asked), mean_answers(task, samples)
    by_its_own_seed = measured(task, samples, CONFIG, how).noise
    record = Steadying(task, samples, CONFIG, how, tmp_path / "state").run()
    after = measured(task, samples, CONFIG, asked)
    assert record.noise_before == by_its_own_seed
    assert after.noise < 0.5 * before.noise
    assert record.noise_after < 0.5 * before.noise
    assert np.corrcoef(said, mean_answers(task, samples))[0, 1] > 0.7
    assert not task.module.training
    assert not (tmp_path / "state").exists()


def coloured_views(n: int = 60) -> list[Tensor]:
    """Two alike, with depth as a fourth channel; bright on the left."""
    rng = np.random.default_rng(0)
    view = torch.from_numpy(rng.integers(0, 256, (n, 8, 8, 4)).astype(np.uint8))
    view[:, :, :4] //= 4
    return [view, view.clone()]


STRONG = AugmentConfig(brightness=0.9, noise=20.0, flip=0.5)


def test_all_views_of_a_picture_are_augmented_alike_and_a_share_of_the_pictures() -> None:
    views = coloured_views()
    first, second = augmented(views, STRONG, 0.5, np.random.default_rng(3))
    assert torch.equal(first, second)
    untouched = [bool((a == v).all() or (a.flip(1) == v).all()) for a, v in zip(first, views[0], strict=True)]
    assert 15 <= sum(untouched) <= 45


def test_depth_is_mirrored_with_its_picture_and_otherwise_left_alone() -> None:
    views = coloured_views()
    first, _ = augmented(views, STRONG, 1.0, np.random.default_rng(3))
    depth, was = first[..., 3], views[0][..., 3]
    kept = (depth == was).flatten(1).all(1)
    turned = (depth == was.flip(2)).flatten(1).all(1)
    assert bool((kept ^ turned).all())
    assert 15 <= int(turned.sum()) <= 45
    # The bright half of the colours is where that of the depth is.
    brighter = first[..., :3].float()[:, :, :4].mean((1, 2, 3)) > first[..., :3].float()[:, :, 4:].mean((1, 2, 3))
    assert float((brighter == turned).float().mean()) > 0.9


def test_where_nothing_is_augmented_pictures_are_at_most_mirrored() -> None:
    views = coloured_views()
    first, _ = augmented(views, STRONG, 0.0, np.random.default_rng(3))
    assert all(bool((a == v).all() or (a.flip(1) == v).all()) for a, v in zip(first, views[0], strict=True))


def test_normalisations_stay_as_they_are(tmp_path: Path) -> None:
    task = new_task()
    before = {name: value.clone() for name, value in task.module.named_buffers()}
    Steadying(task, striped_set(), CONFIG, BRIEF, tmp_path / "state").run()
    assert before
    for name, value in task.module.named_buffers():
        assert torch.equal(value, before[name]), name


def test_what_is_kept_can_lie_beyond_the_mean_of_the_weights(tmp_path: Path) -> None:
    before, mean, beyond = (new_task() for _ in range(3))
    record = Steadying(mean, striped_set(), CONFIG, BRIEF, tmp_path / "mean").run()
    how = replace(BRIEF, reach=1.25)
    assert Steadying(beyond, striped_set(), CONFIG, how, tmp_path / "beyond").run() == record
    moved = 0.0
    for name, was in before.module.state_dict().items():
        found = mean.module.state_dict()[name]
        kept = beyond.module.state_dict()[name]
        if not was.is_floating_point():
            assert torch.equal(kept, found)
            continue
        torch.testing.assert_close(kept, was + 1.25 * (found - was))
        moved = max(moved, float((found - was).abs().max()))
    assert moved > 1e-3


class _StopError(Exception):
    """The machine goes down."""


def _stop_after(step: int) -> object:
    def told(done: int) -> None:
        if done == step:
            raise _StopError

    return told


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path) -> None:
    samples = striped_set()
    whole, parts = new_task(), new_task()
    record = Steadying(whole, samples, CONFIG, BRIEF, tmp_path / "whole", save_minutes=0).run()
    state = tmp_path / "state"
    with pytest.raises(_StopError):
        Steadying(parts, samples, CONFIG, BRIEF, state, save_minutes=0).run(_stop_after(17))  # type: ignore[arg-type]
    assert state.is_file()
    resumed = new_task(seed=2)  # what is in the file counts, not what the network was
    steps: list[int] = []
    assert Steadying(resumed, samples, CONFIG, BRIEF, state, save_minutes=0).run(steps.append) == record
    assert steps == list(range(17, 31))
    for name, value in resumed.module.state_dict().items():
        torch.testing.assert_close(value, whole.module.state_dict()[name], rtol=0, atol=0)


def test_the_state_of_another_run_is_refused(tmp_path: Path) -> None:
    samples, state = striped_set(), tmp_path / "state"
    with pytest.raises(_StopError):
        Steadying(new_task(), samples, CONFIG, BRIEF, state, save_minutes=0).run(_stop_after(3))  # type: ignore[arg-type]
    other = SteadyConfig(steps=31, pictures=8)
    with pytest.raises(StateMismatchError, match="another run"):
        Steadying(new_task(), samples, CONFIG, other, state)


def test_bad_settings_and_sets_are_refused(tmp_path: Path) -> None:
    for wrong in (
        {"steps": 0},
        {"weight": -1.0},
        {"views": 1},
        {"average": 1.0},
        {"learning_rate": 0.0},
        {"augmented": 1.1},
        {"reach": 0.0},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            SteadyConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(CalibrationDataError, match="40 pictures per step, the set holds 8"):
        Steadying(new_task(), striped_set(8), CONFIG, SteadyConfig(), tmp_path / "state")
    flat = SampleSet(np.full((40, 48, 48, 3), 7, np.uint8), list(toy_set(40).table), toy_set(40).info)
    with pytest.raises(CalibrationDataError, match="does not tell the pictures of the set apart"):
        measured(Corner(), flat, CONFIG, BRIEF)


def test_a_run_that_diverges_is_stopped(tmp_path: Path) -> None:
    task = new_task()
    run = Steadying(task, striped_set(), CONFIG, BRIEF, tmp_path / "state")
    with torch.no_grad():
        task.module.filter.weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match="step 0 is not finite"):
        run.run()


def test_the_command_writes_a_student_that_says_how_it_came_about(tmp_path: Path) -> None:
    folder, student, out = tmp_path / "set", tmp_path / "student.safetensors", tmp_path / "steady.safetensors"
    write_set(folder, striped_set(48))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = empty_student(CONFIG)
    metadata = {"config": msgspec.to_builtins(CONFIG), "epoch": 2, "dev_auc": 0.7, "note": {"teacher_sha256": "a"}}
    save_checkpoint(student, network.state_dict(), metadata)
    command = ["steady", str(student), "--train", str(folder), "--out", str(out), "--steps", "3", "--crop-scale", "1.5"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "before" in result.output
    assert not (tmp_path / "steady.safetensors.part").exists()
    _, config = load_task(out)
    assert config.input.crop_scale == 1.5
    written = load_checkpoint(out).metadata
    assert "dev_auc" not in written
    note = written["note"]
    assert isinstance(note, dict)
    assert note["teacher_sha256"] == "a"
    assert "n=48" in str(note["steady_on"])
    assert "steps=3" in str(note["steady_how"])
    assert "moved crops" in network_notes(config.method, note)


def write_set(folder: Path, samples: SampleSet) -> None:
    """As the simulator leaves a set."""
    folder.mkdir()
    np.save(folder / "pictures.npy", samples.arrays().pictures)
    (folder / "set.json").write_bytes(msgspec.json.encode(samples.info))
    (folder / "table.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in samples.table))


def test_what_is_no_student_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_checkpoint(path, {"a": torch.zeros(1)}, {})
    result = CliRunner().invoke(app, ["steady", str(path), "--train", "x", "--out", str(tmp_path / "out")])
    assert result.exit_code != 0
    assert "no student" in str(result.exception)


def test_a_published_model_is_taken_further_with_the_file_of_its_student(tmp_path: Path) -> None:
    folder, out = tmp_path / "set", tmp_path / "steady.safetensors"
    write_set(folder, striped_set(48))
    command = [
        "steady",
        "edge-rgb",
        "--train",
        str(folder),
        "--out",
        str(out),
        "--steps",
        "1",
        "--learning-rate",
        "1e-9",
    ]
    student = Path(__file__).parents[2] / "quantize" / "edge_screens.toml"
    result = CliRunner().invoke(app, [*command, "--config", str(student)])
    assert result.exit_code == 0, result.output
    task, config = load_task(out)
    torch.manual_seed(3)
    again = tmp_path / "again.safetensors"
    result = CliRunner().invoke(app, [*command[:5], str(again), *command[6:], "--config", str(student)])
    assert result.exit_code == 0, result.output
    for name, value in load_checkpoint(again).tensors.items():
        torch.testing.assert_close(value, task.module.state_dict()[name], rtol=0, atol=0)
    card = load_card(find_model("edge-rgb"))
    assert config.input.spec().crop_scale == card.input_spec().crop_scale
    torch.testing.assert_close(task.module.state_dict()["filter.weight"], weights_of("edge-rgb")["head.weight"])
    note = load_checkpoint(out).metadata["note"]
    assert isinstance(note, dict)
    assert note["teacher_sha256"] == card.provenance["student_teacher_sha256"]
    assert note["steady_from_sha256"] == card.file("onnxruntime", "fp32").sha256
    assert "moved crops" in network_notes(config.method, note)


def test_a_model_needs_a_configuration_and_a_checkpoint_has_its_own(tmp_path: Path) -> None:
    more = ["--train", "x", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, ["steady", "edge-rgb", *more])
    assert result.exit_code == 2
    path = tmp_path / "student.safetensors"
    save_checkpoint(path, {"a": torch.zeros(1)}, {})
    result = CliRunner().invoke(app, ["steady", str(path), "--config", "quantize/student.toml", *more])
    assert result.exit_code == 2
