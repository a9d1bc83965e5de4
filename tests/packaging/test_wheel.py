"""What users get: the wheel, built and installed as they would."""

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Sequence
from email.parser import HeaderParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from fasedge.cards import list_models, parse_card


def _run(command: Sequence[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    # An empty PYTHONPATH and a folder outside the checkout: only what is installed can be imported.
    environment = {**os.environ, "PYTHONPATH": "", "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def _succeed(command: Sequence[str | Path], cwd: Path) -> str:
    done = _run(command, cwd)
    assert done.returncode == 0, f"{command} ends with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without the network: the build back end is part of the test environment."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, repository]
    _succeed(build, folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def content(wheel: Path) -> set[str]:
    """Names of the files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def _dist_info(content: set[str]) -> str:
    return next(name.split("/")[0] for name in content if name.endswith(".dist-info/METADATA"))


def test_top_level_is_the_package_and_nothing_else(content: set[str]) -> None:
    assert {name.split("/")[0] for name in content} == {"fasedge", _dist_info(content)}


def test_every_tracked_file_of_the_package_is_in_the_wheel(content: set[str], repository: Path) -> None:
    tracked = _succeed(["git", "ls-files", "fasedge"], repository).split()
    assert "fasedge/py.typed" in tracked
    assert {name for name in tracked if (repository / name).exists()} <= content


def test_nothing_but_source_and_declared_assets_is_in_the_wheel(content: set[str]) -> None:
    # What lies about in a checkout (caches, checkpoints, captures) must never be shipped by accident.
    inside = [name for name in content if name.startswith("fasedge/")]
    strangers = [
        name
        for name in inside
        if not name.startswith(("fasedge/assets/", "fasedge/models/")) and not name.endswith(".py")
    ]
    assert strangers == ["fasedge/py.typed"]
    assert not [name for name in inside if re.search(r"__pycache__|\.(pyc|pt|pth|ckpt|pkl|safetensors)$", name)]


def test_what_a_killed_publication_left_is_not_in_the_wheel(repository: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    left = checkout / "fasedge" / "models" / ".staging-a1" / "old-b2" / "card.json"
    left.parent.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "fasedge/__init__.py"):
        shutil.copyfile(repository / name, checkout / name)
    left.write_text("{}")
    _succeed([sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, checkout], tmp_path)
    (made,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(made) as archive:
        inside = archive.namelist()
    assert "fasedge/__init__.py" in inside
    assert not [name for name in inside if ".staging" in name]


def test_networks_of_the_face_finder_are_in_the_wheel(content: set[str]) -> None:
    assets = {Path(name).suffix for name in content if name.startswith("fasedge/assets/")}
    assert {".tflite", ".onnx"} <= assets


def test_each_model_in_the_wheel_has_its_card_and_every_file_that_the_card_names(
    wheel: Path, content: set[str]
) -> None:
    folders = {name.split("/")[2] for name in content if re.match(r"fasedge/models/[^/]+/", name)}
    with zipfile.ZipFile(wheel) as archive:
        for folder in folders:
            base = f"fasedge/models/{folder}/"
            card = parse_card(archive.read(base + "card.json"))
            named = {card.golden.path} | {n for item in card.files for n in (item.path, *item.companions)}
            assert {base + name for name in named} <= content


def test_licence_notice_and_readme_travel_along(wheel: Path, content: set[str], repository: Path) -> None:
    info = _dist_info(content)
    with zipfile.ZipFile(wheel) as archive:
        for name in ("LICENSE", "NOTICE"):
            assert archive.read(f"{info}/licenses/{name}") == (repository / name).read_bytes()
        metadata = HeaderParser().parsestr(archive.read(f"{info}/METADATA").decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert str(metadata.get_payload()).startswith("# fasedge")


def test_runtime_requirements_hold_no_training_library(wheel: Path, content: set[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = HeaderParser().parsestr(archive.read(f"{_dist_info(content)}/METADATA").decode())
    required = {re.split(r"[^A-Za-z0-9-]", line)[0] for line in metadata.get_all("Requires-Dist")}
    assert {"numpy", "opencv-contrib-python"} <= required
    assert not required & {"torch", "torchvision", "nncf", "litert-torch", "ai-edge-quantizer", "safetensors"}


@pytest.fixture(scope="module")
def bare(wheel: Path, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the executables of a fresh environment with the wheel and one engine; needs the package index."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=True)
    scripts = folder / ("Scripts" if sys.platform == "win32" else "bin")
    pip = [scripts / "python", "-m", "pip", "--quiet"]
    _succeed([*pip, "install", "--constraint", repository / "constraints.txt", f"{wheel}[openvino]"], folder)
    _succeed([*pip, "check"], folder)
    return scripts


@pytest.fixture(scope="module")
def needs_model() -> None:
    """Skip until a model is published: a detector cannot even be opened without one."""
    if not list_models():
        pytest.skip("no model is published in fasedge/models yet")


@pytest.mark.slow
def test_bare_environment_has_no_torch_and_imports_the_wheel(bare: Path, tmp_path: Path) -> None:
    script = (
        "import importlib.util, pathlib, fasedge; "
        "print(importlib.util.find_spec('torch'), 'site-packages' in pathlib.Path(fasedge.__file__).parts)"
    )
    assert _succeed([bare / "python", "-c", script], tmp_path).split() == ["None", "True"]


@pytest.mark.slow
def test_help_names_every_verb(bare: Path, tmp_path: Path) -> None:
    page = _succeed([bare / "fasedge", "--help"], tmp_path)
    for verb in ("detect", "models", "doctor", "selftest", "demo"):
        assert re.search(rf"\b{verb}\b", page), page


@pytest.mark.slow
def test_doctor_finds_the_one_engine_that_is_installed(bare: Path, tmp_path: Path) -> None:
    report = _run([bare / "fasedge", "doctor"], tmp_path)
    assert "Traceback" not in report.stderr
    assert "openvino" in report.stdout.lower()


@pytest.mark.slow
@pytest.mark.usefixtures("needs_model")
def test_a_picture_without_a_face_ends_with_exit_code_2(bare: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    assert cv2.imwrite(str(tmp_path / "noise.png"), noise)
    done = _run([bare / "fasedge", "detect", "noise.png"], tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "noise.png" in done.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("needs_model")
def test_selftest_passes_on_this_machine(bare: Path, tmp_path: Path) -> None:
    _succeed([bare / "fasedge", "selftest"], tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("needs_model")
def test_demo_scores_the_shipped_pictures_and_writes_annotated_ones(bare: Path, tmp_path: Path) -> None:
    _succeed([bare / "fasedge", "demo", "--out", "demo-output"], tmp_path)
    pictures = [cv2.imread(str(path)) for path in (tmp_path / "demo-output").rglob("*.jpg")]
    pictures += [cv2.imread(str(path)) for path in (tmp_path / "demo-output").rglob("*.png")]
    assert pictures
    assert all(picture is not None for picture in pictures)


@pytest.mark.slow
def test_an_unreadable_source_ends_with_a_message_and_no_traceback(bare: Path, tmp_path: Path) -> None:
    done = _run([bare / "fasedge", "detect", "no-such-picture.jpg"], tmp_path)
    assert done.returncode >= 3
    assert "no-such-picture.jpg" in done.stdout + done.stderr or "model" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
