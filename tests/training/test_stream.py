"""Streams of simulated batches: the same samples for any number of workers, resumed at a number, ended cleanly."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from fasedge.preprocess import InputSpec
from tests.training.fixtures.killed_worker import dies_while_writing
from training.data.making import make_set
from training.data.samples import SampleSet
from training.data.stream import SimulatedStream, default_workers
from training.data.work import Recipe, in_order
from training.errors import DataError

SEED = 9


@pytest.fixture
def recipe(face_pack: Path, tmp_path: Path) -> Recipe:
    return Recipe(face_pack, tmp_path, "dev", SEED)


def same(a: SampleSet, b: SampleSet) -> bool:
    return a.table == b.table and all(np.array_equal(a.picture(i), b.picture(i)) for i in range(len(a)))


def test_batches_hold_the_samples_of_a_set_with_the_same_seed(recipe: Recipe, face_pack: Path, tmp_path: Path) -> None:
    list(make_set(face_pack, tmp_path / "set", "dev", 6, seed=SEED, workers=1))
    stored = SampleSet.load(tmp_path / "set")
    with SimulatedStream(recipe, 3, workers=0) as stream:
        batches = list(islice(stream, 2))
    assert [row for batch in batches for row in batch.table] == list(stored.table)
    assert [int(v) for batch in batches for v in batch.labels] == stored.labels.tolist()
    spec = InputSpec(size_px=32)
    np.testing.assert_array_equal(batches[1].crops(range(3), spec), stored.crops([3, 4, 5], spec))


def test_a_stream_goes_on_exactly_where_another_stopped_whoever_made_it(recipe: Recipe) -> None:
    with SimulatedStream(recipe, 4, workers=0) as first:
        next(first)
        position = first.position
        expected = list(islice(first, 2))
    assert position == 4
    with SimulatedStream(recipe, 4, position, workers=2) as second:
        got = list(islice(second, 2))
        assert second.position == 12
    assert all(same(a, b) for a, b in zip(expected, got, strict=True))


def test_no_more_batches_are_made_ahead_than_allowed(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.data import work

    submitted = []

    class Pool:
        def submit(self, _job: object, _inner: object, indices: range) -> Future[range]:
            submitted.append(indices)
            made: Future[range] = Future()
            made.set_result(indices)
            return made

    chunks = iter([range(i, i + 1) for i in range(100)])
    results = work._bounded(Pool(), lambda *_: None, chunks, 3)  # type: ignore[arg-type]
    assert [next(results) for _ in range(5)] == [range(i, i + 1) for i in range(5)]
    assert len(submitted) <= 5 + 3


def test_a_closed_stream_ends_and_leaves_no_process(recipe: Recipe) -> None:
    stream = SimulatedStream(recipe, 2, workers=1)
    next(stream)
    assert multiprocessing.active_children()
    stream.close()
    stream.close()
    assert list(stream) == []
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_an_error_that_says_where_to_go_on(recipe: Recipe) -> None:
    with SimulatedStream(recipe, 2, workers=1, ahead=2) as stream:
        next(stream)
        for worker in multiprocessing.active_children():
            worker.kill()
        with pytest.raises(DataError, match=r"died at sample \d+"):
            list(islice(stream, 50))


_PARENT = """
import sys, time
from pathlib import Path
from training.data.stream import SimulatedStream, default_workers
from training.data.work import Recipe, in_order
import multiprocessing
if __name__ == "__main__":
    stream = SimulatedStream(Recipe(Path(sys.argv[1]), Path(sys.argv[2]), "dev", 1), 2, workers=1)
    next(stream)
    print(*[p.pid for p in multiprocessing.active_children()], flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks processes up in /proc")
def test_workers_end_when_their_parent_is_killed(face_pack: Path, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(
        [sys.executable, str(script), str(face_pack), str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        parent.send_signal(signal.SIGKILL)
    assert workers
    for _ in range(300):
        if not any(_alive(pid) for pid in workers):
            break
        time.sleep(0.1)
    assert not any(_alive(pid) for pid in workers)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("batch", "start", "workers", "ahead"), [(0, 0, 0, None), (1, -1, 0, None), (1, 0, -1, None), (1, 0, 1, 0)]
)
def test_impossible_numbers_are_refused(
    recipe: Recipe, batch: int, start: int, workers: int, ahead: int | None
) -> None:
    with pytest.raises(DataError, match="a stream needs"):
        SimulatedStream(recipe, batch, start, workers=workers, ahead=ahead)


@pytest.mark.parametrize(
    ("cores", "beside", "workers"), [(8, None, 7), (8, "1", 7), (8, "2", 3), (8, "8", 1), (1, None, 1), (8, "many", 7)]
)
def test_processes_of_one_machine_share_its_cores(
    cores: int, beside: str | None, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if beside is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", beside)
    assert default_workers() == workers


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_is_killed_while_it_hands_a_result_over_is_an_error_not_a_wait(
    face_pack: Path, tmp_path: Path, workers: int
) -> None:
    recipe = Recipe(face_pack, tmp_path, "dev", SEED)
    chunks = ([i] for i in range(100))
    made: list[int] = []
    with in_order(dies_while_writing, chunks, recipe, workers, ahead=2) as results, pytest.raises(BrokenProcessPool):
        made.extend(results)
    # One worker makes the first chunk before it dies at the next; a second one may die while the first is made.
    assert made == [1] or (workers > 1 and made == [])
