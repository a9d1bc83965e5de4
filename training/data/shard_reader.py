"""Reading WebDataset shards back: checked member by member, and what is wrong is named."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import msgspec
import numpy as np

from fasedge.types import UInt8Array, UInt16Array
from training.data.table import SampleRow, SetInfo
from training.errors import DataError

Encoding = Literal["png", "jpg"]
MANIFEST = "manifest.jsonl"
_JSON, _DEPTH = "json", "depth.png"
#: No member is larger; what claims to be is damaged, and reading it could fill the memory.
_MAX_MEMBER_BYTES = 64 << 20


class ShardInfo(SetInfo, frozen=True, kw_only=True):
    """``set.json`` of a set of shards.

    Attributes:
        encoding: ``png`` or ``jpg``.
        shard_size: Samples per shard; the last may have fewer.
    """

    format: str = "webdataset"
    encoding: Encoding = "png"
    shard_size: int = 1000

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.n // self.shard_size)

    def shard_name(self, number: int) -> str:
        """File name of a shard."""
        return f"{self.split}-{number:06d}.tar"

    def indices(self, number: int) -> range:
        """Numbers of the samples in a shard."""
        return range(number * self.shard_size, min((number + 1) * self.shard_size, self.n))

    @property
    def extensions(self) -> tuple[str, ...]:
        """What a sample's members are called after its key and a dot, in their order."""
        return (self.encoding, _DEPTH, _JSON) if self.depth else (self.encoding, _JSON)


class ShardEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``manifest.jsonl``: a sample without its drawn parameters, and where it lies."""

    key: str
    shard: str
    index: int
    box_xyxy: tuple[float, float, float, float]
    label: int
    species: str
    subtype: str
    source: str
    identity: str
    picture: str
    split: str

    @classmethod
    def of(cls, row: SampleRow, info: ShardInfo, number: int) -> ShardEntry:
        """The line of a row in a shard."""
        values = {name: getattr(row, name) for name in row.__struct_fields__ if name != "params"}
        return cls(key=sample_key(info.split, info.seed, row.index), shard=info.shard_name(number), **values)


@dataclass(frozen=True, slots=True, eq=False)
class ShardSample:
    """A sample as a shard holds it.

    Attributes:
        key: Its name in the shard, unique over splits and seeds.
        row: Box, label, species, identity and every drawn parameter.
        picture: uint8 (P, P, 3), red first.
        depth_mm: uint16 (P, P), millimetres, 0 where nothing returns, or ``None``.
    """

    key: str
    row: SampleRow
    picture: UInt8Array
    depth_mm: UInt16Array | None


def sample_key(split: str, seed: int, index: int) -> str:
    """Name of a sample in its shard: without a dot, since readers cut names at the first."""
    return f"{split}-{seed}-{index:08d}"


def read_info(folder: Path) -> ShardInfo:
    """Read and check ``set.json``.

    Raises:
        DataError: There is none, it is damaged, or it describes something else than shards of a known version.
    """
    path = folder / "set.json"
    try:
        info = msgspec.json.decode(path.read_bytes(), type=ShardInfo)
    except OSError as error:
        raise DataError(f"{folder} is not a set of shards: {path.name}: {error.strerror or error}") from error
    except msgspec.MsgspecError as error:
        raise DataError(f"{path} is damaged ({error}); make the set anew") from error
    wanted = ShardInfo(split="", seed=0, n=0)
    if (info.format, info.version) != (wanted.format, wanted.version) or info.shard_size < 1:
        raise DataError(
            f"{folder} holds a set of format {info.format!r}, version {info.version}; expected {wanted.format!r}, "
            f"version {wanted.version}"
        )
    return info


def read_manifest_lines(folder: Path) -> list[ShardEntry]:
    """Read ``manifest.jsonl``.

    Raises:
        DataError: The set is not finished, or a line is damaged (named by number).
    """
    path = folder / MANIFEST
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{folder} is not finished: no {MANIFEST}; run `simulate` again, it goes on") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    out = []
    for number, line in enumerate(lines, 1):
        try:
            out.append(msgspec.json.decode(line, type=ShardEntry))
        except msgspec.MsgspecError as error:
            raise DataError(f"{path}:{number}: damaged line ({error})") from error
    return out


def read_shards(folder: Path) -> Iterator[ShardSample]:
    """Read a finished set of shards, sample by sample, in the order of their numbers.

    Args:
        folder: Folder of the set.

    Yields:
        The samples, decoded.

    Raises:
        DataError: The set is not finished; a shard is missing, cut off or damaged; a sample lacks a member, has one
            too many or one that cannot be decoded; the set differs from its manifest. The message names shard, sample
            and member.
    """
    info, entries = read_info(folder), read_manifest_lines(folder)
    if len(entries) != info.n:
        raise DataError(f"{folder / MANIFEST} has {len(entries)} lines, set.json says {info.n} samples")
    for number in range(info.shards):
        path = folder / info.shard_name(number)
        expected = [entries[i] for i in info.indices(number)]
        for entry, (key, members) in zip(expected, _samples(path, info, info.indices(number)), strict=True):
            row = _row(path, key, members)
            if ShardEntry.of(row, info, number) != entry:
                raise DataError(f"{path}: sample {key} differs from its line in {MANIFEST}")
            yield _decode(path, key, members, row, info)


def scan_shard(path: Path, info: ShardInfo, number: int) -> list[ShardEntry]:
    """Check a finished shard's members without decoding pictures; return its lines of the manifest.

    Raises:
        DataError: As :func:`read_shards`; delete the shard to have it made again.
    """
    return [
        ShardEntry.of(_row(path, key, members), info, number)
        for key, members in _samples(path, info, info.indices(number), only=_JSON)
    ]


def _samples(
    path: Path, info: ShardInfo, indices: Sequence[int], *, only: str | None = None
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Members of each sample by extension, in the expected order; with ``only``, no other member's content is read."""
    wanted = [(sample_key(info.split, info.seed, i), extension) for i in indices for extension in info.extensions]
    members: dict[str, bytes] = {}
    found = _members(path, only)
    for key, extension in wanted:
        name = f"{key}.{extension}"
        got = next(found, None)
        if got is None:
            raise DataError(f"{path}: ends before member {name}; the shard was cut off: delete it and make it again")
        if got[0] != name:
            raise DataError(f"{path}: sample {key} lacks member {name} (found {got[0]} in its place)")
        members[extension] = got[1]
        if extension == info.extensions[-1]:
            yield key, members
            members = {}
    if (extra := next(found, None)) is not None:
        raise DataError(f"{path}: unexpected member {extra[0]} after the last sample")


def _members(path: Path, only: str | None) -> Iterator[tuple[str, bytes]]:
    last = "the beginning"
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isreg() or member.size > _MAX_MEMBER_BYTES:
                    raise DataError(f"{path}: member {member.name} is no file of a sample ({member.size} bytes)")
                skip = only is not None and not member.name.endswith(f".{only}")
                stream = None if skip else tar.extractfile(member)
                yield member.name, stream.read() if stream is not None else b""
                last = member.name
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: shard is missing; run `simulate` again without {MANIFEST}, it is made anew"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (tarfile.TarError, EOFError) as error:
        raise DataError(
            f"{path}: cut off or damaged after {last} ({error}); delete the shard and {MANIFEST}, and run `simulate` "
            "again"
        ) from error


def _row(path: Path, key: str, members: dict[str, bytes]) -> SampleRow:
    try:
        row = msgspec.json.decode(members[_JSON], type=SampleRow)
    except msgspec.MsgspecError as error:
        raise DataError(f"{path}: member {key}.{_JSON} is damaged ({error})") from error
    return row


def _decode(path: Path, key: str, members: dict[str, bytes], row: SampleRow, info: ShardInfo) -> ShardSample:
    bgr = _pixels(members[info.encoding], cv2.IMREAD_COLOR)
    if bgr is None:
        raise DataError(f"{path}: member {key}.{info.encoding} is not a picture that OpenCV can decode")
    depth = None
    if info.depth:
        decoded = _pixels(members[_DEPTH], cv2.IMREAD_UNCHANGED)
        if decoded is None or decoded.dtype != np.uint16 or decoded.shape != bgr.shape[:2]:
            came = "nothing" if decoded is None else f"{decoded.dtype} {decoded.shape}"
            raise DataError(f"{path}: member {key}.{_DEPTH} must be uint16 {bgr.shape[:2]}, got {came}")
        depth = decoded.astype(np.uint16, copy=False)
    picture = np.ascontiguousarray(bgr[..., ::-1]).astype(np.uint8, copy=False)
    return ShardSample(key, row, picture, depth)


def _pixels(data: bytes, flags: int) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None:
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
