"""Export a torch encoder to an encoder file: one self-contained, reproducible ONNX graph without traces of this machine."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import torch
from onnx.external_data_helper import uses_external_data

from sslfeat.errors import ExportError
from sslfeat.inference.onnx_model import INPUT_NAME, OUTPUT_NAME

OPSET = 20
Exportable = torch.nn.Module  # uint8 (N, S, S, 3), an argument named ``image``, to float32 (N, D)


def to_onnx(encoder: Exportable, image_size: int) -> onnx.ModelProto:
    """Trace ``encoder`` (uint8 (N, S, S, 3) to float32 (N, D), N dynamic) into an ONNX model without metadata.

    Raises ExportError if torch cannot export it or if its weights exceed protobuf's 2 GiB.
    """
    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    try:
        with quiet():
            program = torch.onnx.export(
                encoder.eval(),
                (example,),
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except ModuleNotFoundError:
        raise
    except Exception as error:  # the exporter may raise any exception
        raise ExportError(f"torch could not export the encoder: {str(error).strip().splitlines()[0]}") from error
    if program is None:
        raise ExportError("torch returned no program")
    model: onnx.ModelProto = program.model_proto
    if any(uses_external_data(tensor) for tensor in model.graph.initializer):
        raise ExportError("the weights exceed 2 GiB, the limit of an ONNX file: choose a smaller backbone")
    _anonymise(model)
    return model


def _anonymise(model: onnx.ModelProto) -> None:
    """Remove the exporter's metadata (stack traces with source paths, class names) from every part of the graph."""
    graph = model.graph
    parts: list[Any] = [model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output]
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""
    model.producer_name, model.producer_version = "sslfeat", ""
    graph.name = "encoder"
    del graph.value_info[:]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Context manager that hides progress messages and deprecation warnings of converters; failures still raise."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fused attention cannot be exported to ONNX
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        torch.backends.mha.set_fastpath_enabled(fastpath)
