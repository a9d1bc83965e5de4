"""What all tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Wall-clock limits say more about the machine than about the code. On CI a failure must be the same on the next run.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of licensed face pictures, named by the environment variable FASEDGE_DATA."""
    value = os.environ.get("FASEDGE_DATA")
    if not value:
        pytest.skip("FASEDGE_DATA is not set: it names the folder of licensed face pictures, with a manifest.csv")
    folder = Path(value)
    if not (folder / "manifest.csv").is_file():
        pytest.fail(f"FASEDGE_DATA is {value}, but there is no manifest.csv in it")
    return folder
