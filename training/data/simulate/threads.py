"""One thread for the simulator's arithmetic: sums must not depend on how many cores there are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work on one thread inside the block.

    With several threads torch adds up the halves of a lone picture apart, and with one thread, or where there is a
    second picture in the batch, in one go: the last bit of a mean would then depend on the machine and the batch.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
