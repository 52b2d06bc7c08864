"""What a safetensors file says of itself: metadata and tensors, read from its header alone. No torch.

The format: 8 bytes with the header's length (little-endian), then the header as JSON, then the tensors' bytes.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from simclr_plus.errors import CheckpointError

LONGEST_HEADER = 100_000_000  # what the format allows


@dataclass(frozen=True)
class TensorInfo:
    """A tensor by name."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Its elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class FileHeader:
    """The strings and the tensors of a file."""

    metadata: dict[str, str]
    tensors: list[TensorInfo]


def read_file_header(path: Path) -> FileHeader:
    """Read the header of a safetensors file; raises CheckpointError naming the file where it is none."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= LONGEST_HEADER:
                raise CheckpointError(
                    f"{path} is no safetensors file: its first 8 bytes give {length} as header length"
                )
            values = json.loads(file.read(length))
        metadata = {str(k): str(v) for k, v in values.pop("__metadata__", {}).items()}
        tensors = [TensorInfo(name, str(v["dtype"]), tuple(map(int, v["shape"]))) for name, v in values.items()]
        end = max((v["data_offsets"][1] for v in values.values()), default=0)
        if path.stat().st_size < 8 + length + end:
            raise CheckpointError(f"{path} is cut off: {path.stat().st_size} bytes of {8 + length + end}")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path} has no readable safetensors header: {error}") from None
    return FileHeader(metadata, tensors)
