"""TensorFlow's checkpoint files without TensorFlow: what TF1's Saver, TF2's Checkpoint and SavedModel all write.

`PREFIX.index` is a sorted table in LevelDB's format (blocks of prefix-compressed keys, a footer at the end) from tensor
names to BundleEntryProto messages: type, shape, shard, offset, size, checksum. `PREFIX.data-00000-of-00001` holds the
bytes. Formats: leveldb's doc/table_format.md; tensorflow/core/protobuf/tensor_bundle.proto and
trackable_object_graph.proto. Checksums are compared, so that a damaged file is found out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from simclr_plus.augmentations.compiled_code import compiled
from simclr_plus.errors import CheckpointError, NotFoundError

_FOOTER = 48  # bytes: two handles, padded, and the magic number
_MAGIC = 0xDB4775248B80FB57
_STRING = 7
_BFLOAT16 = 14
_TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "<u1", 6: "<i1", 9: "<i8", 10: "?", 19: "<f2", _BFLOAT16: "<u2"}
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"

Message = dict[int, list[Any]]  # field number -> its values: int, or bytes


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: type (a number of types.proto), shape, shard, offset and size in bytes, masked checksum."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


class TensorBundle:
    """An opened checkpoint: `entries` by key; `tensor(key)` reads one. Raises CheckpointError for a damaged file."""

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        index = prefix.with_name(prefix.name + ".index")
        try:
            table = dict(_table(index.read_bytes()))
            header = _message(table.pop(b""))
            self.shards: int = header.get(1, [0])[0]
            big_endian = header.get(2, [0])[0]
            self.entries = {key.decode(): _entry(value) for key, value in table.items()}
        except FileNotFoundError:
            raise NotFoundError(f"no checkpoint {prefix}: {index.name} is missing") from None
        except (_DamageError, IndexError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{index} is no index of a TensorFlow checkpoint, or is damaged ({error})") from None
        if big_endian:
            raise CheckpointError(f"{index} was written on a big-endian machine; such files are not read")

    def tensor(self, key: str) -> np.ndarray[Any, Any]:
        """The numbers under a key; bfloat16 comes as float32."""
        entry = self.entries[key]
        if entry.dtype not in _TYPES:
            raise CheckpointError(f"{key} in {self.prefix} has a type that is not read (number {entry.dtype})")
        data = self._bytes(key, entry)
        if _masked(crc32c(data)) != entry.checksum:
            raise CheckpointError(f"{self.prefix}: {key} is damaged, its checksum is wrong; fetch the file again")
        values = np.frombuffer(data, _TYPES[entry.dtype])
        if values.size != math.prod(entry.shape):
            raise CheckpointError(f"{self.prefix}: {key} has {values.size} numbers for the shape {list(entry.shape)}")
        if entry.dtype == _BFLOAT16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.reshape(entry.shape)

    def string(self, key: str) -> bytes:
        """A single string."""
        entry = self.entries[key]
        data = self._bytes(key, entry)
        length, start = _varint(data, 0)
        checked = length.to_bytes(4 if length < 2**32 else 8, "little") + data[start:]
        if entry.dtype != _STRING or start + 4 + length != len(data) or _masked(crc32c(checked)) != entry.checksum:
            raise CheckpointError(f"{self.prefix}: {key} is damaged; fetch the file again")
        return data[start + 4 :]

    def _bytes(self, key: str, entry: Entry) -> bytes:
        shard = self.prefix.with_name(f"{self.prefix.name}.data-{entry.shard:05}-of-{self.shards:05}")
        try:
            with shard.open("rb") as file:
                file.seek(entry.offset)
                data = file.read(entry.size)
        except FileNotFoundError:
            raise NotFoundError(f"{shard} is missing: {key} lies in it") from None
        if len(data) < entry.size:
            raise CheckpointError(f"{shard} is cut off: {key} lies beyond its end; fetch the file again")
        return data


def find_bundle(path: Path) -> Path:
    """The prefix that a user means: the prefix itself, one of its files, a SavedModel, a folder with one checkpoint.

    In a folder the file `checkpoint` (which Saver and CheckpointManager write) says which is the latest.
    """
    if path.is_dir():
        if (path / "saved_model.pb").is_file() or (path / "variables" / "variables.index").is_file():
            return path / "variables" / "variables"
        if (path / "checkpoint").is_file():
            match = re.search(
                r'^model_checkpoint_path: "(.+)"',
                (path / "checkpoint").read_text("utf-8", errors="replace"),
                re.MULTILINE,
            )
            if match:
                return path / Path(match[1]).name
        indices = sorted(path.glob("*.index"))
        if len(indices) != 1:
            raise NotFoundError(
                f"folder {path} holds {len(indices)} TensorFlow checkpoints; name one by its prefix, "
                f"e.g. {path / 'model.ckpt-250228'}"
            )
        path = indices[0]
    if path.name == "saved_model.pb":
        return path.parent / "variables" / "variables"
    return path.with_name(re.sub(r"\.(index|data-\d+-of-\d+)$", "", path.name))


def is_tensorflow(path: Path) -> bool:
    """Whether a path looks like a TensorFlow checkpoint (or a folder of one) rather than a file of PyTorch."""
    named = re.search(r"\.(index|data-\d+-of-\d+)$", path.name) or path.name == "saved_model.pb"
    return path.is_dir() or bool(named) or path.with_name(path.name + ".index").is_file()


@dataclass(frozen=True)
class Variable:
    """A variable of a TF2 object graph: its name in the program that made it, and the key of its tensor."""

    full_name: str
    key: str


def object_graph(bundle: TensorBundle) -> list[Variable]:
    """The variables that a TF2 checkpoint lists; optimizer slots are among them."""
    variables = []
    try:
        for node in _message(bundle.string(OBJECT_GRAPH)).get(1, []):
            for attribute in _message(node).get(2, []):
                fields = _message(attribute)
                name, key = (fields.get(number, [b""])[0].decode() for number in (2, 3))
                variables.append(Variable(name, key))
    except (_DamageError, AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{bundle.prefix}: {OBJECT_GRAPH} cannot be read ({error})") from None
    return variables


class _DamageError(Exception):
    """The bytes are not what the format says."""


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a LevelDB table, in order."""
    if len(data) < _FOOTER or int.from_bytes(data[-8:], "little") != _MAGIC:
        raise _DamageError("its last eight bytes are not those of a table")
    _, at = _handle(data, len(data) - _FOOTER)  # of the meta index, which holds nothing
    (offset, size), _ = _handle(data, at)
    for _, value in _block(data, offset, size):
        (offset, size), _ = _handle(value, 0)
        yield from _block(data, offset, size)


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _block(data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Entries of a block: each key gives the bytes it shares with the one before and the rest."""
    block, trailer = data[offset : offset + size], data[offset + size : offset + size + 5]
    if len(block) < size or len(trailer) < 5:
        raise _DamageError("a block lies beyond the end")
    if trailer[0]:
        raise _DamageError("its blocks are compressed, which TensorFlow does not do")
    if _masked(crc32c(block + trailer[:1])) != int.from_bytes(trailer[1:], "little"):
        raise _DamageError("the checksum of a block is wrong")
    end = size - 4 - 4 * int.from_bytes(block[-4:], "little")  # restart points, and their number
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        rest, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + rest]
        at += rest
        yield key, block[at : at + length]
        at += length


def _entry(value: bytes) -> Entry:
    fields = _message(value)
    if 7 in fields:
        raise _DamageError("it holds partitioned variables, which the authors' checkpoints do not")
    shape = [_message(dim).get(1, [0])[0] for dim in _message(fields.get(2, [b""])[0]).get(2, [])]
    numbers = (fields.get(number, [0])[0] for number in (1, 3, 4, 5, 6))
    dtype, shard, offset, size, checksum = numbers
    return Entry(dtype, tuple(shape), shard, offset, size, checksum)


def _message(data: bytes) -> Message:
    """A protocol buffer's fields by number; nested messages stay bytes."""
    fields: Message = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        value: int | bytes
        if kind == 0:
            value, at = _varint(data, at)
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            value, at = int.from_bytes(data[at : at + width], "little"), at + width
        elif kind == 2:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        else:
            raise _DamageError(f"a field of unknown kind {kind}")
        if at > len(data):
            raise _DamageError("a field lies beyond the end")
        fields.setdefault(number, []).append(value)
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and the place behind it."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise _DamageError("a number has no end")
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum (RFC 3720, appendix B.4)."""
    return int(_crc32c(np.frombuffer(data, np.uint8), _CRC_TABLE))


def _masked(crc: int) -> int:
    """LevelDB stores checksums turned and shifted, since data may hold checksums of its own."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_table() -> np.ndarray[Any, Any]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return table.astype(np.uint32)


_CRC_TABLE = _crc_table()


@compiled(nogil=True)
def _crc32c(data: np.ndarray[Any, Any], table: np.ndarray[Any, Any]) -> Any:
    crc = np.uint32(0xFFFFFFFF)
    for i in range(len(data)):
        crc = (crc >> np.uint32(8)) ^ table[(crc ^ data[i]) & np.uint32(255)]
    return crc ^ np.uint32(0xFFFFFFFF)
