"""Checkpoints: tensors and their description in one safetensors file, written all or nothing and read strictly.

A file holds named tensors and, in its header, a JSON object and a SHA-256 over both. Nothing is pickled, so opening a
stranger's checkpoint cannot run code. State that nests (an optimiser's) goes through :func:`flatten` first.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from training.errors import CheckpointFormatError, CheckpointNotFoundError, CheckpointWriteError, StateMismatchError

JsonValue: TypeAlias = bool | int | float | str | Sequence["JsonValue"] | Mapping[str, "JsonValue"] | None
Tree: TypeAlias = JsonValue | Tensor | Sequence["Tree"] | Mapping[str, "Tree"] | Mapping[int, "Tree"]

_FORMAT = "fasedge-checkpoint-1"
_HEADER = "fasedge"


class Checkpoint(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        tensors: Tensors by name, on the CPU.
        metadata: The JSON object that was saved with them.
        path: File that it was read from; ``None`` for one that was made in memory.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, JsonValue]
    path: Path | None = None

    @property
    def name(self) -> str:
        """For messages."""
        return "the checkpoint" if self.path is None else str(self.path)


def save_checkpoint(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, JsonValue]) -> None:
    """Write a checkpoint; afterwards the file is either the whole new one or untouched.

    Args:
        path: Where to write; missing folders are made. An existing file is replaced in one step.
        tensors: Tensors by name, e.g. ``module.state_dict()``; of any device and type, views and shared memory allowed.
        metadata: Anything that JSON can say, without NaN or infinity.

    Raises:
        CheckpointWriteError: The metadata is not JSON, or the file system refuses.
    """
    from safetensors.torch import save

    target = Path(path)
    # A clone per name: safetensors refuses views and tensors that share memory.
    own = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    try:
        text = json.dumps(metadata, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise CheckpointWriteError(
            f"expected metadata of plain JSON values for {target}, got something else ({error}); convert arrays and "
            "paths to lists and strings, and leave out NaN and infinity"
        ) from error
    header = {"format": _FORMAT, "metadata": metadata, "sha256": _digest(own, text)}
    # One entry only: safetensors writes several in random order, and equal states should make equal files.
    content = save(own, metadata={_HEADER: json.dumps(header, sort_keys=True)})
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _write_atomically(target, content)
    except OSError as error:
        raise CheckpointWriteError(
            f"cannot write the checkpoint {target} ({error}); an earlier file of that name is untouched. Check the "
            "free space and the rights of the folder"
        ) from error


def load_checkpoint(path: Checkpoint | Path | str) -> Checkpoint:
    """Read a checkpoint and verify its hash; one that has been read already is given back as it is.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointFormatError: The file is not a checkpoint of this project, or a single bit of it has changed.
    """
    from safetensors import SafetensorError, safe_open

    if isinstance(path, Checkpoint):
        return path
    source = Path(path)
    if not source.is_file():
        raise CheckpointNotFoundError(f"expected a checkpoint at {source}, found no file; check the path")
    try:
        with safe_open(source, framework="pt", device="cpu") as file:
            entries: dict[str, str] = file.metadata() or {}
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointFormatError(
            f"expected a safetensors file, but {source} cannot be read as one ({error}); it may be cut off"
        ) from error
    header = _parse_header(entries.get(_HEADER, ""))
    if header.get("format") != _FORMAT:
        raise CheckpointFormatError(
            f"expected {source} to state the format {_FORMAT!r}, got {header.get('format')!r}; weights of other "
            "projects are loaded by the trunk's own function"
        )
    metadata = header.get("metadata")
    if not isinstance(metadata, dict) or header.get("sha256") != _digest(tensors, json.dumps(metadata, sort_keys=True)):
        raise CheckpointFormatError(
            f"expected the content of {source} to match the SHA-256 in its header, but it does not: the file is "
            "damaged; copy it again"
        )
    return Checkpoint(tensors, metadata, source)


def _parse_header(text: str) -> dict[str, JsonValue]:
    """Read the JSON of the header; anything else counts as no header."""
    try:
        header: JsonValue = json.loads(text)
    except ValueError:
        return {}
    return header if isinstance(header, dict) else {}


def load_into(module: nn.Module, checkpoint: Checkpoint | Path | str) -> dict[str, JsonValue]:
    """Load a checkpoint into a module whose tensors have exactly these names, shapes and types.

    Args:
        module: Receives the tensors in place; unchanged on error.
        checkpoint: A checkpoint, or the path of one.

    Returns:
        The metadata of the checkpoint.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointFormatError: The file is not a checkpoint of this project, or it is damaged.
        StateMismatchError: A name is missing or unknown, or a shape or type differs.
    """
    checkpoint = load_checkpoint(checkpoint)
    load_exactly(module, checkpoint.tensors, what=checkpoint.name)
    return checkpoint.metadata


def load_exactly(
    module: nn.Module, state: Mapping[str, Tensor], *, what: str, optional_suffixes: tuple[str, ...] = ()
) -> None:
    """Copy tensors into a module after checking that names, shapes and types are exactly those of the module.

    Nothing is copied unless everything fits.

    Args:
        module: Receives the tensors in place.
        state: Tensors by name.
        what: Where they come from, for the message.
        optional_suffixes: Names with one of these endings may be missing and then keep their value.

    Raises:
        StateMismatchError: A name is missing or unknown, or a shape or type differs.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith(optional_suffixes)]
    unknown = [name for name in state if name not in own]
    if missing or unknown:
        raise StateMismatchError(
            f"{what} does not fit {type(module).__name__}: missing {_some(missing)}; unknown {_some(unknown)}; use a "
            "file of this very architecture and configuration"
        )
    for name, tensor in state.items():
        if tensor.shape != own[name].shape or tensor.dtype != own[name].dtype:
            raise StateMismatchError(
                f"{what}: expected {name} of shape {tuple(own[name].shape)} and {own[name].dtype}, got "
                f"{tuple(tensor.shape)} and {tensor.dtype}; was it made with another width, size or precision?"
            )
    module.load_state_dict(dict(state), strict=False)


def flatten(tree: Tree, prefix: str = "") -> tuple[dict[str, Tensor], JsonValue]:
    """Take a nested state apart into named tensors and a JSON skeleton, e.g. ``optimizer.state_dict()``.

    Args:
        tree: Mappings with string or integer keys, lists, tuples, tensors and JSON scalars.
        prefix: Put before the name of every tensor.

    Returns:
        The tensors, and a skeleton from which :func:`restore` rebuilds the tree.

    Raises:
        CheckpointWriteError: A leaf or a key is of another type.
    """
    tensors: dict[str, Tensor] = {}

    def strip(node: Tree, name: str) -> JsonValue:
        if isinstance(node, Tensor):
            tensors[name] = node
            return {"tensor": name}
        if isinstance(node, Mapping):
            if not all(isinstance(key, str | int) for key in node):
                raise CheckpointWriteError(f"expected string or integer keys at {name!r}, got {list(node)!r}")
            return {"items": [[key, strip(value, f"{name}/{key}")] for key, value in node.items()]}
        if isinstance(node, list | tuple):
            kind = "list" if isinstance(node, list) else "tuple"
            return {kind: [strip(value, f"{name}/{index}") for index, value in enumerate(node)]}
        if node is None or isinstance(node, bool | int | float | str):
            return {"value": node}
        raise CheckpointWriteError(f"expected tensors and JSON values, got {type(node).__name__} at {name!r}")

    return tensors, strip(tree, prefix)


def restore(skeleton: JsonValue, tensors: Mapping[str, Tensor]) -> Tree:
    """Rebuild what :func:`flatten` took apart.

    Raises:
        CheckpointFormatError: The skeleton is malformed, or a tensor that it names is not there.
    """
    try:
        return _rebuild(skeleton, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointFormatError(
            f"expected a skeleton made by flatten() and all of its tensors, but found neither ({error!r}); save the "
            "checkpoint again"
        ) from error


def _rebuild(node: JsonValue, tensors: Mapping[str, Tensor]) -> Tree:
    if not isinstance(node, Mapping) or len(node) != 1:
        raise TypeError(f"not a node: {node!r}")
    ((kind, content),) = node.items()
    if kind == "value" and (content is None or isinstance(content, bool | int | float | str)):
        return content
    if kind == "tensor" and isinstance(content, str):
        return tensors[content]
    if not isinstance(content, Sequence) or isinstance(content, str):
        raise TypeError(f"not the content of a {kind!r}: {content!r}")
    if kind == "list":
        return [_rebuild(value, tensors) for value in content]
    if kind == "tuple":
        return tuple(_rebuild(value, tensors) for value in content)
    if kind != "items":
        raise TypeError(f"unknown kind of node {kind!r}")
    return dict(_rebuild_item(pair, tensors) for pair in content)


def _rebuild_item(pair: JsonValue, tensors: Mapping[str, Tensor]) -> tuple[str, Tree]:
    if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
        raise TypeError(f"not a key and a value: {pair!r}")
    key, value = pair
    # Integer keys come back as integers; the annotation speaks of the common case.
    return key, _rebuild(value, tensors)  # type: ignore[return-value]


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """SHA-256 over the metadata and every name, type, shape and value, in the order of the names."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _write_atomically(target: Path, content: bytes) -> None:
    """Write beside the target, force it to the disk, then rename: a crash leaves the old file or the new one."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _some(names: Iterable[str]) -> str:
    """Name the first few, count the rest: a wrong architecture has hundreds."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 4} more" if len(ordered) > 4 else ""
    return (", ".join(ordered[:4]) or "none") + more
