"""Encoders as graphs that run without SimCLR+: ONNX, and torch.export's .pt2. One file each, with the weights.

The graph takes "images", RGB [B, 3, S, S] in [0, 1] for any B from 1 on, normalises them itself where the encoder does,
and gives "features" [B, F]. What the header of an encoder file says stands in ONNX's metadata_props, and in a .pt2 file
as the JSON document `simclr_plus.json` (one of torch.export's extra files). No place of this machine is in the graph.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from simclr_plus.encoders.encoder import Encoder
from simclr_plus.errors import EnvironmentNotAbleError, RecipeError, SimclrPlusError
from simclr_plus.machine.whole_files import write_whole
from simclr_plus.weights.encoder_files import encoder_header, load_encoder
from simclr_plus.weights.export import image_size_of, training_metadata
from simclr_plus.weights.outputs import require_output

ONNX_FORMAT = "simclr-plus onnx 1"
TORCH_EXPORT_FORMAT = "simclr-plus torch_export 1"
EXTRA_FILE = "simclr_plus.json"
LARGEST_ONNX = 2**31 - 2**24  # bytes of weights: one file of ONNX ends at 2 GiB, and the graph takes some
LARGEST_DIFFERENCE = 1e-3  # a graph that is further from the encoder is another function
BATCHES = (1, 3)  # images at a time in the comparison


@dataclass(frozen=True)
class Graph:
    """What was written. difference: of the file's features from the encoder's on random images, as a share of the
    largest feature; None where nothing here runs such a file.
    """

    encoder: Encoder
    image_size: int
    difference: float | None


def export_onnx(source: Path, target: Path, *, anonymous: bool = False) -> Graph:
    """Checkpoint or encoder file -> ONNX file, compared by onnxruntime where that is installed.

    Raises EnvironmentNotAbleError without onnx and onnxscript, RecipeError for more than 2 GiB, SimclrPlusError where
    PyTorch's exporter fails or the file gives other features.
    """
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript")):
        raise EnvironmentNotAbleError("--format onnx needs onnx and onnxscript: pip install 'simclr-plus[onnx]'")
    require_output(target, ONNX_FORMAT, inputs=[source], format_of=_format_in_onnx)
    encoder = load_encoder(source)
    size = image_size_of(source, encoder)
    weights = sum(t.numel() * t.element_size() for t in encoder.state_dict().values())
    if weights > LARGEST_ONNX:
        raise RecipeError(
            f"an ONNX file holds 2 GiB and the weights of {encoder.title} are {weights / 2**30:.1f} GiB; --format "
            "torch_export has no such limit"
        )
    header = _header(encoder, ONNX_FORMAT, source, size, anonymous)
    with _named_failure(encoder, "torch.onnx"):
        program: Any = torch.onnx.export(
            _program(encoder, size),
            dynamo=True,
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes={"images": {0: "batch"}},  # names the axis; it is free by the program itself
            external_data=False,
            verbose=False,
        )
    program.model.metadata_props.update(header)

    def save(aside: Path) -> None:
        with _named_failure(encoder, "torch.onnx"):
            program.save(aside, external_data=False)

    return _written(encoder, target, size, save, _run_by_onnxruntime)


def export_torch_export(source: Path, target: Path, *, anonymous: bool = False) -> Graph:
    """Checkpoint or encoder file -> .pt2 file for torch.export.load, compared as that reads it.

    Raises SimclrPlusError where torch.export fails or the file gives other features.
    """
    require_output(target, TORCH_EXPORT_FORMAT, inputs=[source], format_of=_format_in_pt2)
    encoder = load_encoder(source)
    size = image_size_of(source, encoder)
    header = _header(encoder, TORCH_EXPORT_FORMAT, source, size, anonymous)
    program = _program(encoder, size)

    def save(aside: Path) -> None:
        with _named_failure(encoder, "torch.export"), aside.open("wb") as file:
            torch.export.save(program, file, extra_files={EXTRA_FILE: json.dumps(header)})

    return _written(encoder, target, size, save, _run_by_torch)


def _header(encoder: Encoder, format: str, source: Path, size: int, anonymous: bool) -> dict[str, str]:
    metadata = training_metadata(source, anonymous=anonymous) | {"image_size": str(size)}
    metadata["input"] = f"images: RGB in [0, 1], float32 [B, 3, {size}, {size}]; the graph does all else to them itself"
    return encoder_header(encoder, format, metadata)


def _program(encoder: Encoder, size: int) -> torch.export.ExportedProgram:
    """The graph for any number of images, without the places of source files."""
    batch = torch.export.Dim("batch", min=1)
    with _named_failure(encoder, "torch.export"):
        program = torch.export.export(  # two images: one would be taken for the only number
            encoder, (torch.zeros(2, 3, size, size),), dynamic_shapes={"images": {0: batch}}, strict=False
        )
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


def _written(
    encoder: Encoder,
    target: Path,
    size: int,
    save: Callable[[Path], None],
    runner: Callable[[Path], Callable[[Tensor], Tensor] | None],
) -> Graph:
    """Write the file aside, compare what it gives, and put it in place."""
    differences: list[float] = []

    def write(aside: Path) -> None:
        save(aside)
        with _named_failure(encoder, "the file, opened again,"):
            if run := runner(aside):
                differences.append(_difference(encoder, run, size))
        if differences and not differences[0] <= LARGEST_DIFFERENCE:
            raise SimclrPlusError(
                f"{target} was not written: its features would differ from those of {encoder.title} by "
                f"{differences[0]:.1e} of the largest; simclr_plus.load_encoder(path) rebuilds the network"
            )

    write_whole(target, write)
    return Graph(encoder, size, differences[0] if differences else None)


def _difference(encoder: Encoder, run: Callable[[Tensor], Tensor], size: int) -> float:
    """The largest one between features of the same random images, as a share of the largest feature."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(count, 3, size, size, generator=generator) for count in BATCHES]
    with torch.no_grad():
        expected = torch.cat([encoder(images) for images in batches])
        features = torch.cat([run(images) for images in batches])
    return float((features - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


def _run_by_torch(path: Path) -> Callable[[Tensor], Tensor]:
    with path.open("rb") as file:
        module: Callable[[Tensor], Tensor] = torch.export.load(file).module()
    return module


def _run_by_onnxruntime(path: Path) -> Callable[[Tensor], Tensor] | None:
    """None where onnxruntime is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    onnxruntime.set_default_logger_severity(3)  # errors alone
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["features"], {"images": images.numpy()})[0])


def _format_in_onnx(path: Path) -> str | None:
    """What an ONNX file says it is; None for any other file."""
    import onnx

    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception:  # protobuf's own, or whatever a damaged file makes it raise
        return None
    return next((entry.value for entry in model.metadata_props if entry.key == "format"), None)


def _format_in_pt2(path: Path) -> str | None:
    """What a .pt2 file says it is; None for any other file. Nothing in it is unpickled."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.rpartition("/")[2] == EXTRA_FILE)
            format: str | None = json.loads(archive.read(name)).get("format")
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError, AttributeError):
        return None
    return format


@contextmanager
def _named_failure(encoder: Encoder, what: str) -> Iterator[None]:
    """Whatever it raises as one sentence; what it prints, warns of and logs beside errors is dropped."""
    level = logging.root.manager.disable
    logging.disable(max(level, logging.WARNING))
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (SimclrPlusError, OSError):
        raise
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise SimclrPlusError(
            f"{encoder.title} cannot be exported: {what} fails ({lines[0].strip()[:200]}); "
            "simclr_plus.load_encoder(path) rebuilds the network"
        ) from error
    finally:
        logging.disable(level)
