"""Style, types and layers of the whole repository, each with the tool that defines it."""

import subprocess
import sys
from pathlib import Path

import pytest


def _run(arguments: list[str], cwd: Path) -> None:
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(arguments)} ends with {done.returncode}:\n{done.stdout}{done.stderr}", pytrace=False)


def test_ruff_finds_nothing(repository: Path) -> None:
    _run(["ruff", "check", "--quiet", "."], repository)


def test_every_file_is_formatted(repository: Path) -> None:
    _run(["ruff", "format", "--check", "--quiet", "."], repository)


@pytest.mark.slow
@pytest.mark.parametrize("package", ["fasedge", "training", "quantize", "demo", "benchmarks"])
def test_package_passes_the_strict_type_check(package: str, repository: Path) -> None:
    _run(["mypy", "-p", package], repository)


def test_imports_keep_to_the_layers(repository: Path) -> None:
    # import-linter has no `-m`; its console script calls this function. It looks for the packages beside itself.
    script = "from importlinter.cli import lint_imports_command as main; main(['--no-cache'])"
    done = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout
