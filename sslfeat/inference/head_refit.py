"""Refit the last matrix of a network after quantization of the preceding weights.

Quantization errors of the weights contain a part that is a linear map of the features, the same for all images, which a
final whitening amplifies. It is compensated by ridge regression from the quantized to the original features.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from sslfeat.data.decode import Pixels
from sslfeat.inference.backends import OnnxRuntimeBackend
from sslfeat.numerics.arrays import FloatArray

BATCH = 64
RIDGE = 0.1  # relative to the mean variance of the features
FEWEST = 2  # images per dimension; with fewer, the map overfits


def last_matrix(graph: onnx.GraphProto) -> onnx.TensorProto | None:
    """Return the constant (K, D) of the final matrix product; None if the graph does not end with one."""
    last = graph.node[-1]
    if last.op_type != "MatMul" or last.output[0] != graph.output[0].name:
        return None
    found = (tensor for tensor in graph.initializer if tensor.name == last.input[1])
    return next((tensor for tensor in found if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2), None)


def refit(model: onnx.ModelProto, reference: bytes, pixels: Pixels) -> bool:
    """Refit the last matrix of ``model`` and add a bias, so that its features of ``pixels`` (N, S, S, 3) approximate those of
    ``reference``. Returns False, without changes, if there is no such matrix or fewer than FEWEST images per dimension."""
    matrix = last_matrix(model.graph)
    if matrix is None or len(pixels) < FEWEST * matrix.dims[1]:
        return False
    wanted, found = (_run(data, pixels) for data in (reference, model.SerializeToString()))
    turn, bias = linear_map(found, wanted)
    matrix.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(matrix) @ turn).astype(np.float32), matrix.name))
    last, name = model.graph.node[-1], model.graph.output[0].name
    last.output[0] = f"{name}.unbiased"
    model.graph.initializer.append(numpy_helper.from_array(bias.astype(np.float32), f"{name}.bias"))
    model.graph.node.append(helper.make_node("Add", [last.output[0], f"{name}.bias"], [name]))
    return True


def linear_map(found: FloatArray, wanted: FloatArray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Matrix (D, D) and bias (D,) that map rows ``found`` (N, D) to ``wanted``: ridge regression toward the identity."""
    x, y = found.astype(np.float64), wanted.astype(np.float64)
    centers = x.mean(0), y.mean(0)
    x, y = x - centers[0], y - centers[1]
    gram = x.T @ x
    ridge = RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    turn = np.eye(len(gram)) + np.linalg.solve(gram + ridge, x.T @ (y - x))
    return turn, centers[1] - centers[0] @ turn


def _run(data: bytes, pixels: Pixels) -> FloatArray:
    session = OnnxRuntimeBackend(data, "cpu", 1)
    return np.concatenate([session.run(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)])
