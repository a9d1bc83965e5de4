"""Configurations: what is read, what is refused and how it is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.build import FITTED, METHODS, build_task, build_trunk, method_settings
from training.config import AugmentConfig, MethodConfig, TrainConfig, load_config
from training.data.samples import CropJitter
from training.errors import ConfigError
from training.meta_task import DomainTask
from training.methods.baselines import DeepPixBiS
from training.methods.cmfl import CMFLConfig


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_configurations_load_and_fit_their_method(repository: Path) -> None:
    paths = sorted((repository / "training" / "configs").glob("*.toml"))
    assert len(paths) >= 2
    for path in [*paths, *(repository / "quantize").glob("*.toml")]:
        config = load_config(path)
        assert config.method.name in {**METHODS, **FITTED}
        if config.method.name == "a-deeppixbis":
            # The map has a cell for 16 px.
            assert method_settings(config).map_side * 16 == config.input.size_px == config.input.spec().size_px


def test_the_published_run_has_the_published_settings(repository: Path) -> None:
    config = load_config(repository / "training" / "configs" / "a_deeppixbis.toml")
    o, a = config.optimiser, config.augment
    assert (o.learning_rate, o.weight_decay, o.batch, o.epochs, o.decoupled) == (1e-3, 1e-5, 64, 10, False)
    assert (a.flip, a.brightness, a.contrast, a.saturation) == (0.5, 0.15, 0.15, 0.15)
    assert (config.seed, config.input.size_px, config.method.trunk) == (42, 224, "densenet161")
    assert config.data.balance == "auto"


@pytest.mark.parametrize(
    ("name", "published"),
    # Learning rate, weight decay, batch, epochs, seed, and the epoch that is kept.
    [
        ("a_deeppixbis", (1e-3, 1e-5, 64, 10, 42, "acer")),
        ("a_deeppixbis_official", (1e-3, 1e-5, 64, 5, 42, "loss")),
        ("deeppixbis", (1e-4, 1e-5, 32, 50, 42, "loss")),
        ("cmfl", (1e-4, 1e-6, 64, 25, 3, "loss")),
        ("rfmeta", (1e-3, 0.0, 120, 10, 42, "last")),
        ("rfmeta_official", (1e-3, 0.0, 60, 10, 42, "last")),
    ],
)
def test_published_runs_train_and_choose_as_published(
    repository: Path, name: str, published: tuple[float | str, ...]
) -> None:
    config = load_config(repository / "training" / "configs" / f"{name}.toml")
    o = config.optimiser
    assert (o.learning_rate, o.weight_decay, o.batch, o.epochs, config.seed, o.keep) == published
    assert (o.schedule, o.warmup_steps, o.average, o.clip_norm, o.decoupled) == ("constant", 0, 0.0, 0.0, False)


def test_deeppixbis_learns_maps_of_99_and_1_percent_and_images_of_1_and_0_as_published(repository: Path) -> None:
    config = load_config(repository / "training" / "configs" / "deeppixbis.toml")
    with torch.device("meta"):
        module = build_task(config).module
    assert isinstance(module, DeepPixBiS)
    assert (module.config.pixel_smoothing, config.optimiser.label_smoothing) == (0.01, 0.0)


def test_cdcn_steps_down_and_erases_as_its_authors_do(repository: Path) -> None:
    config = load_config(repository / "training" / "configs" / "cdcn.toml")
    o, a = config.optimiser, config.augment
    assert (o.learning_rate, o.weight_decay, o.schedule, o.step_factor) == (1e-4, 5e-5, "step", 0.5)
    # Theirs: every 500 of 1400 epochs.
    assert o.epochs // o.step_epochs == 1400 // 500
    assert (a.flip, a.erase) == (0.5, 0.5)


def test_the_run_of_the_released_code_thins_out_attacks_once_and_does_not_normalise(repository: Path) -> None:
    config = load_config(repository / "training" / "configs" / "a_deeppixbis_official.toml")
    settings = method_settings(config)
    assert (config.data.balance, settings.lambda_pixel, settings.normalise_weights) == ("once", 0.5, False)
    assert (settings.pixel_reduction, settings.margin_mode) == ("sum", "plain")


def test_the_run_of_rfmetas_released_code_keeps_one_batch_of_statistics(repository: Path) -> None:
    config = load_config(repository / "training" / "configs" / "rfmeta_official.toml")
    with torch.device("meta"):
        task = build_task(config)
    assert isinstance(task, DomainTask)
    settings = task.module.config
    assert (settings.learner_norm_momentum, settings.norm_init, task.needs.settle) == (1.0, "uniform", 0)
    assert task.needs.targets is not None
    assert task.needs.targets.names == ("rendered", "ellipsoid")


def test_the_configuration_of_cmfl_is_the_released_one() -> None:
    assert CMFLConfig() == CMFLConfig.from_profile("official")


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "")) == TrainConfig()


def test_values_come_from_the_file(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "seed = 7\n[input]\nsize_px = 96\nbrightness = true\n[augment]\nzoom = 0.2"))
    assert (config.seed, config.input.size_px) == (7, 96)
    assert config.input.normalisation() is not None
    assert config.augment.jitter() == CropJitter(shift=0.0, scale=0.2)
    assert AugmentConfig().jitter() is None
    assert TrainConfig().input.normalisation() is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sead = 1", "unknown field `sead`"),
        ("[optimiser]\nlr = 1e-3", "unknown field `lr`"),
        ("[optimiser]\nbatch = '64'", "Expected `int`, got `str`"),
        ("[augment]\nflip = true", "Expected `float`, got `bool`"),
        ("[optimiser]\nschedule = 'stairs'", "Invalid enum value 'stairs'"),
        ("[optimiser]\nschedule = 'step'", "step_epochs must be >= 1 with schedule = 'step' and 0 without, got 0"),
        ("[optimiser]\nstep_epochs = 3", "step_epochs must be >= 1 with schedule = 'step' and 0 without, got 3"),
        ("[optimiser]\nstep_factor = 1.0", r"step_factor must lie in \(0, 1\), got 1.0"),
        ("seed = ", "run.toml"),
        ("seed = -1", "seed must be >= 0, got -1"),
        ("[optimiser]\nlearning_rate = 0", "learning_rate must be > 0, got 0"),
        ("[optimiser]\nlearning_rate = nan", "learning_rate must be > 0, got nan"),
        ("[optimiser]\nlearning_rate = inf", "learning_rate must be > 0, got inf"),
        ("[optimiser]\nweight_decay = -1e-4", "weight_decay must be >= 0"),
        ("[optimiser]\nwarmup_steps = -5", "warmup_steps must be >= 0"),
        ("[optimiser]\nclip_norm = -1.0", "clip_norm must be >= 0"),
        ("[optimiser]\nbatch = 1", "batch must be >= 2"),
        ("[optimiser]\naccumulate = 0", "accumulate must be >= 1, got 0"),
        ("[data]\nsamples = 63", r"data.samples must be >= optimiser.batch \* optimiser.accumulate = 64, got 63"),
        ("[data]\ntrain = ''", "must name a folder or say 'simulate'"),
        ("[data]\nseed = -1", "data.seed and data.dev_seed must be >= 0"),
        ("[data]\npicture_px = 8", "picture_px must lie in"),
        ("[data]\ncanvas_scale = 3.0", r"canvas_scale must lie in \[2, 2.6\]"),
        ("[data]\ndomain = 'weather'", "Invalid enum value 'weather'"),
        ("[machine]\ndevice = 'tpu'", "device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        ("[machine]\nworkers = -1", "workers must be >= 0"),
        ("[optimiser]\nepochs = 0", "epochs must be >= 1"),
        ("[optimiser]\naverage = 1.0", "average must lie in"),
        ("[optimiser]\nlabel_smoothing = 1.0", "label_smoothing must lie in"),
        ("[input]\nsize_px = 100", "multiple of 16, got 100"),
        ("[input]\nsize_px = 0", "multiple of 16, got 0"),
        ("[input]\ncrop_scale = 0", "crop_scale must lie in"),
        ("[input]\ncrop_scale = inf", "crop_scale must lie in"),
        ("[method]\nwidth = 0", "width must be > 0"),
        ("[augment]\nerase = 1.5", r"must lie in \[0, 1\]"),
        ("[augment]\ncontrast = -0.1", r"must lie in \[0, 1\]"),
        ("[augment]\ncolour = 1.2", r"must lie in \[0, 1\]"),
        ("[augment]\nnoise = -1", "noise must lie in"),
        ("[augment]\nzoom = -1", "shift and zoom must lie in"),
    ],
)
def test_what_cannot_work_is_refused_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load_config(written(tmp_path, text))
    assert str(tmp_path / "run.toml") in str(error.value)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "run.toml").write_bytes(b"seed = 1 # \xff\xfe")
    with pytest.raises(ConfigError, match="utf-8"):
        load_config(tmp_path / "run.toml")


def test_settings_of_the_method_override_the_profile_and_are_checked() -> None:
    settings = method_settings(TrainConfig(method=MethodConfig(profile="paper", scale=8.0, margin=0.3)))
    assert (settings.margin_mode, settings.scale, settings.margin) == ("plain", 8.0, 0.3)
    with pytest.raises(ConfigError, match="scale > 0"):
        method_settings(TrainConfig(method=MethodConfig(scale=0.0)))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (MethodConfig(trunk="resnet"), "method.trunk must be one of .*densenet161"),
        (MethodConfig(trunk="efficientnet_lite0", width=0.5), "no width"),
        (MethodConfig(trunk="efficientnet_lite0", weights="a.pt"), "its own package"),
        (MethodConfig(pretrained=True, weights="a.pth"), "keep one of the two"),
        (MethodConfig(pretrained=True, width=0.5), "those of method.width = 1, got 0.5"),
    ],
)
def test_options_that_a_trunk_does_not_have_are_refused(method: MethodConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_trunk(method)


def test_a_start_without_imagenet_weights_is_said_aloud(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", logger="training"):
        build_trunk(MethodConfig(trunk="densenet161", width=0.1))
    assert "from scratch" in caplog.text
