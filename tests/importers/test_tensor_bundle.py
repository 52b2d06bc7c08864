"""TensorFlow's checkpoint files: some that TensorFlow wrote, some written here by the letter of the format."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from places import GOLDEN_FOLDER

from simclr_plus.errors import CheckpointError, NotFoundError
from simclr_plus.importers.tensor_bundle import TensorBundle, crc32c, find_bundle, object_graph

TF1 = GOLDEN_FOLDER / "tf1_ckpt" / "model.ckpt-123"


@pytest.mark.parametrize(
    ("data", "checksum"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # these three from RFC 3720, appendix B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_checksums_are_castagnolis(data: bytes, checksum: int) -> None:
    assert crc32c(data) == checksum


def test_tensorflows_own_file_lists_every_variable_with_its_shape() -> None:
    lines = [line.split("\t") for line in (TF1.parent / "keys.txt").read_text().splitlines()]
    bundle = TensorBundle(TF1)
    assert {key: str(list(entry.shape)) for key, entry in bundle.entries.items()} == dict(lines)
    assert all(bundle.tensor(key).shape == entry.shape for key, entry in bundle.entries.items())
    assert bundle.tensor("global_step") == 123


def test_the_object_graph_names_each_variable_and_its_key() -> None:
    variables = object_graph(TensorBundle(find_bundle(GOLDEN_FOLDER / "tf2_saved_model")))
    names = [str(name).removesuffix(":0") for name in np.load(GOLDEN_FOLDER / "tf2_saved_model_io.npz")["names"]]
    assert sorted(v.full_name for v in variables) == sorted(names)
    assert {v.key.split("/")[0] for v in variables} == {"trainable_variables_list", "model"}


# a writer, to have all types and several blocks and shards


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Keys share what they have in common with the one before; one restart point, at the start."""
    out, before = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(before)) and key[shared] == before[shared]:
            shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return out + struct.pack("<II", 0, 1)


def write_bundle(
    prefix: Path, tensors: dict[str, tuple[int, tuple[int, ...], bytes]], *, compression: int = 0, header: bytes = b""
) -> None:
    """tensors: type number, shape and bytes by key; one shard a tensor, two entries a block."""
    entries = [(b"", field(1, len(tensors)) + header)]
    for i, (key, (kind, shape, data)) in enumerate(sorted(tensors.items())):
        dims = b"".join(field(2, field(1, side)) for side in shape)
        numbers = field(1, kind) + field(2, dims) + field(3, i) + field(4, 3) + field(5, len(data))
        entries.append((key.encode(), numbers + varint(6 << 3 | 5) + struct.pack("<I", masked(data))))
        shard = prefix.with_name(f"{prefix.name}.data-{i:05}-of-{len(tensors):05}")
        shard.write_bytes(b"xyz" + data)  # it starts at byte 3
    table, handles = b"", []
    for content in [*(entries[i : i + 2] for i in range(0, len(entries), 2)), []]:  # the last: the meta index
        contents = block(content)
        handles.append((content[-1][0] if content else b"", varint(len(table)) + varint(len(contents))))
        kind = bytes([compression])
        table += contents + kind + struct.pack("<I", masked(contents + kind))
    meta = handles.pop()[1]
    index = block(handles)
    footer = meta + varint(len(table)) + varint(len(index))
    table += index + b"\0" + struct.pack("<I", masked(index + b"\0"))
    table += footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    prefix.with_name(prefix.name + ".index").write_bytes(table)


def test_every_type_shard_and_block_is_read(tmp_path: Path) -> None:
    numbers = np.array([[1.5, -2.0, 0.15625], [3.0, 0.0, 1e4]])
    rounded = (numbers.astype(np.float32).view(np.uint32) >> 16).astype("<u2")  # exact in bfloat16, but for 1e4
    kinds = {"a/float": (1, "<f4"), "a/floats/double": (2, "<f8"), "b/half": (19, "<f2"), "b/int": (9, "<i8")}
    tensors = {key: (kind, (2, 3), numbers.astype(dtype).tobytes()) for key, (kind, dtype) in kinds.items()}
    tensors["c"] = (14, (2, 3), rounded.tobytes())
    write_bundle(tmp_path / "all", tensors)
    bundle = TensorBundle(tmp_path / "all")
    assert sorted(bundle.entries) == sorted(tensors)
    for key, (_, dtype) in kinds.items():
        assert np.array_equal(bundle.tensor(key), numbers.astype(dtype)), key
    assert bundle.tensor("c").dtype == np.float32
    assert np.allclose(bundle.tensor("c"), numbers, rtol=2**-7) and bundle.tensor("c")[0, 0] == 1.5


@pytest.mark.parametrize(
    ("tensor", "how", "says"),
    [
        ((5, (1,), b"\0\0"), {}, "has a type that is not read"),
        ((1, (3,), b"\0" * 8), {}, "has 2 numbers for the shape"),
        ((1, (2,), b"\0" * 8), {"compression": 1}, "compressed"),
        ((1, (2,), b"\0" * 8), {"header": field(2, 1)}, "big-endian"),
    ],
)
def test_what_is_not_read_is_said(
    tmp_path: Path, tensor: tuple[int, tuple[int, ...], bytes], how: dict[str, object], says: str
) -> None:
    write_bundle(tmp_path / "x", {"w": tensor}, **how)
    with pytest.raises(CheckpointError, match=says):
        TensorBundle(tmp_path / "x").tensor("w")


# damage


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(TF1.parent, tmp_path / "copy", copy_function=shutil.copyfile)
    return tmp_path / "copy" / TF1.name


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def test_a_flipped_bit_in_the_data_is_found_by_the_checksum(copy: Path) -> None:
    entry = TensorBundle(copy).entries["base_model/conv2d_3/kernel"]
    flip(copy.with_name(copy.name + ".data-00000-of-00001"), entry.offset + entry.size // 2)
    bundle = TensorBundle(copy)
    with pytest.raises(CheckpointError, match=r"base_model/conv2d_3/kernel is damaged.*fetch the file again"):
        bundle.tensor("base_model/conv2d_3/kernel")
    bundle.tensor("base_model/conv2d_4/kernel")


def test_a_flipped_bit_anywhere_in_the_index_is_found(copy: Path) -> None:
    index = copy.with_name(copy.name + ".index")
    whole = index.read_bytes()
    for at in [*range(0, len(whole) - 48, 97), len(whole) - 1]:
        flip(index, at)
        with pytest.raises(CheckpointError, match="is no index of a TensorFlow checkpoint, or is damaged"):
            TensorBundle(copy)
        index.write_bytes(whole)


@pytest.mark.parametrize("kept", [0, 20, 3000, -1])
def test_a_cut_index_is_refused(copy: Path, kept: int) -> None:
    index = copy.with_name(copy.name + ".index")
    index.write_bytes(index.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"model\.ckpt-123\.index is no index"):
        TensorBundle(copy)


def test_cut_or_missing_data_is_named(copy: Path) -> None:
    shard = copy.with_name(copy.name + ".data-00000-of-00001")
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"data-00000-of-00001 is cut off: head_supervised"):
        TensorBundle(copy).tensor("head_supervised/linear_layer/dense/kernel")
    shard.unlink()
    with pytest.raises(NotFoundError, match=r"data-00000-of-00001 is missing"):
        TensorBundle(copy).tensor("global_step")


# what a user names


def test_a_checkpoint_is_found_by_prefix_file_and_folder(copy: Path) -> None:
    for named in (copy, copy.with_name(copy.name + ".index"), copy.with_name(copy.name + ".data-00000-of-00001")):
        assert find_bundle(named) == copy
    assert find_bundle(copy.parent) == copy
    (copy.parent / "checkpoint").unlink()
    assert find_bundle(copy.parent) == copy


def test_the_file_checkpoint_says_which_of_several_is_meant(copy: Path) -> None:
    shutil.copy(copy.with_name(copy.name + ".index"), copy.parent / "model.ckpt-9.index")
    (copy.parent / "checkpoint").write_text('model_checkpoint_path: "/gone/elsewhere/model.ckpt-9"\n')
    assert find_bundle(copy.parent).name == "model.ckpt-9"
    (copy.parent / "checkpoint").unlink()
    with pytest.raises(NotFoundError, match="holds 2 TensorFlow checkpoints; name one by its prefix"):
        find_bundle(copy.parent)


def test_a_saved_model_is_found_by_its_folder(tmp_path: Path) -> None:
    model = tmp_path / "saved_model"
    shutil.copytree(GOLDEN_FOLDER / "tf2_saved_model", model)
    (model / "saved_model.pb").touch()
    assert find_bundle(model) == find_bundle(model / "saved_model.pb") == model / "variables" / "variables"
    with pytest.raises(NotFoundError, match=r"no checkpoint .*nowhere: nowhere\.index is missing"):
        TensorBundle(find_bundle(tmp_path / "nowhere"))
