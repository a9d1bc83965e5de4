"""Versions stand in the constraint files, and only there."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: What differs between the two sets because NumPy 1 asks for it.
_ONLY_FOR_NUMPY_1 = {"numpy", "opencv-contrib-python", "tflite-runtime"}


def _pins(path: Path) -> dict[str, str]:
    lines = [line.strip() for line in path.read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.fixture(scope="module")
def pyproject(repository: Path) -> dict[str, dict[str, object]]:
    return tomllib.loads((repository / "pyproject.toml").read_text())


def _requirements(pyproject: dict[str, dict[str, object]]) -> list[Requirement]:
    project, groups = pyproject["project"], pyproject["dependency-groups"]
    lists = [project["dependencies"], *project["optional-dependencies"].values(), *groups.values()]  # type: ignore[attr-defined,misc]
    texts = [text for items in lists for text in items if isinstance(text, str)]  # type: ignore[attr-defined]
    return [r for r in map(Requirement, texts) if r.name != "fasedge"]


def test_every_line_of_the_constraints_is_an_exact_pin_without_a_build_label(repository: Path) -> None:
    for path in repository.glob("constraints*.txt"):
        for line in path.read_text().splitlines():
            assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), (path.name, line)


def test_both_sets_agree_on_every_package_that_does_not_depend_on_numpy(repository: Path) -> None:
    main, other = _pins(repository / "constraints.txt"), _pins(repository / "constraints-tflite-runtime.txt")
    assert {name for name in other if main.get(name) != other[name]} == _ONLY_FOR_NUMPY_1


def test_each_requirement_is_a_range_that_allows_the_pinned_version(
    repository: Path, pyproject: dict[str, dict[str, object]]
) -> None:
    pins = _pins(repository / "constraints.txt")
    other = _pins(repository / "constraints-tflite-runtime.txt")
    requirements = _requirements(pyproject)
    assert len(requirements) > 20
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        assert "==" not in str(requirement.specifier), f"{requirement}: exact versions belong into constraints.txt"
        allowed = [pins[name] for pins in (pins, other) if name in pins]
        assert allowed, f"{requirement} has no pin"
        assert any(requirement.specifier.contains(version) for version in allowed), requirement


def test_no_file_but_the_constraints_repeats_a_pin(repository: Path) -> None:
    for name in ("README.md", "Makefile", ".ci/run", ".ci/find-python", ".ci/system_libraries.py"):
        assert "==" not in re.sub(r"[\"'`]? *== *[\"'`(]", "", (repository / name).read_text()), name


def test_this_environment_runs_the_pinned_versions(repository: Path) -> None:
    pins = _pins(repository / "constraints.txt")
    wrong = {
        name: (distribution.version, pins[name])
        for distribution in metadata.distributions()
        if (name := canonicalize_name(distribution.name)) in pins and distribution.version.split("+")[0] != pins[name]
    }
    assert not wrong, f"installed and pinned versions differ: {wrong}"


def test_exactly_one_distribution_owns_cv2() -> None:
    assert metadata.packages_distributions()["cv2"] == ["opencv-contrib-python"]
