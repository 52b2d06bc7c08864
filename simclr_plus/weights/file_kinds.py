"""What a file is that was taken for weights, by its first bytes, and what to do with it. Light: nothing is loaded."""

from __future__ import annotations

import json
from pathlib import Path

IMPORT = "`simclr-plus import {path} -o encoder.safetensors` reads it and runs nothing in it"
ANOTHER = "name a file of weights"
UNPACK = "unpack it and name the file in it"
LONGEST_HEADER = 100_000_000  # bytes; safetensors reads no longer one
PICKLES = (b"PK\x03\x04", b"\x80")
_BEGINNINGS = (  # first bytes, what they tell, the remedy
    (b"GGUF", "a GGUF file of a language model", "name a file of an image encoder"),
    (b"\x89HDF", "an HDF5 file of Keras", "save its weights with TensorFlow (model.save_weights) and import those"),
    (b"version https://git-lfs", "a pointer of Git LFS, without the weights", "fetch them with `git lfs pull`"),
    (b"\x1f\x8b", "a gzip archive", UNPACK),
    (b"BZh", "a bzip2 archive", UNPACK),
    (b"\xfd7zXZ", "an xz archive", UNPACK),
    (b"\x93NUMPY", "an array of NumPy", ANOTHER),
    (b"\xff\xd8\xff", "a JPEG image", ANOTHER),
    (b"\x89PNG", "a PNG image", ANOTHER),
)


def no_weights(path: Path) -> str:
    """What is known of a file that holds no weights at all, and the remedy: a clause after its name; "" for others."""
    if path.is_dir():
        return "is no file but a folder; name a file of weights in it"
    with path.open("rb") as file:
        first = file.read(512)
    if not first:
        return "is no file of weights but empty (0 bytes); copy or download it again"
    for beginning, what, remedy in _BEGINNINGS:
        if first.startswith(beginning):
            return f"is no file of weights but {what}: {remedy}"
    if first.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<":
        return "is no file of weights but a web page (HTML or XML): fetch it again, the download gave this instead"
    return ""


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: with eight bytes of length, then JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def why_no_safetensors(path: Path) -> str:
    """Why safetensors cannot read a file, and the remedy: a clause that follows the file's name."""
    if known := no_weights(path):
        return known
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        file.seek(0)
        if file.read(4).startswith(PICKLES):
            return f"is no safetensors file but looks like one of PyTorch's: {IMPORT.format(path=path)}"
        file.seek(8)
        text = file.read(min(length, LONGEST_HEADER))
    if not text.startswith(b"{") or length > LONGEST_HEADER:
        return f"is no safetensors file, or its beginning is damaged; {ANOTHER}"
    size = path.stat().st_size
    if len(text) < length:
        return (
            f"is no whole safetensors file but cut off: its header should have {length:,} bytes, the file has "
            f"{size:,} in all; copy it again"
        )
    try:
        ends = [entry["data_offsets"][1] for name, entry in json.loads(text).items() if name != "__metadata__"]
        promised = 8 + length + int(max(ends, default=0))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return "is no safetensors file, or its header is damaged; copy it again"
    if size < promised:
        return (
            f"is no whole safetensors file but cut off: its header promises {promised:,} bytes, the file has "
            f"{size:,}; copy it again"
        )
    if any("\udc80" <= letter <= "\udcff" for letter in str(path)):
        return "has a name, or lies in a folder, that is no UTF-8, which safetensors cannot open; rename that"
    return "is no safetensors file that can be read, or is damaged; copy it again"
