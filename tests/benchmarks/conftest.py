"""What the tests of the benchmarks share: a drawn face pack."""

from pathlib import Path

import pytest

from tests.training.fixtures.face_pack import write_face_pack


@pytest.fixture(scope="session")
def face_pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a drawn face pack; not to be changed."""
    return write_face_pack(tmp_path_factory.mktemp("face_pack"))
