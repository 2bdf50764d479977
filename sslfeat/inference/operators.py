"""Operators that an encoder may use: arithmetic on tensors, whose cost is bounded by the tensor sizes.

Excluded operators of ONNX: those with subgraphs (a Loop can run 2^62 iterations), random numbers (features must be
reproducible), sequences, optionals, maps and text, recurrent cells, image decoders, and losses.
"""

from __future__ import annotations

KINDS = {
    "elementwise": (
        "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil "
        "Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN "
        "LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink "
        "Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum SwiGLU Swish Tan Tanh ThresholdedRelu Where Xor"
    ),
    "products": "Attention Conv ConvInteger ConvTranspose DeformConv Einsum Gemm MatMul MatMulInteger RotaryEmbedding",
    "normalization": (
        "BatchNormalization Dropout GroupNormalization Hardmax InstanceNormalization LRN LayerNormalization LogSoftmax "
        "LpNormalization MeanVarianceNormalization RMSNormalization Softmax"
    ),
    "pooling, resampling": (
        "AffineGrid AveragePool Col2Im GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample LpPool MaxPool MaxRoiPool "
        "MaxUnpool Resize RoiAlign Upsample"
    ),
    "over an axis": (
        "ArgMax ArgMin CumProd CumSum ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
        "ReduceProd ReduceSum ReduceSumSquare TopK"
    ),
    "shapes and places": (
        "CenterCropPad Compress Concat Constant ConstantOfShape DepthToSpace Expand EyeLike Flatten Gather GatherElements "
        "GatherND NonZero OneHot Pad Range Reshape ReverseSequence ScatterElements ScatterND Shape Size Slice SpaceToDepth "
        "Split Squeeze Tile Transpose Trilu Unsqueeze"
    ),
    "linear algebra, frequencies": "BlackmanWindow DFT Det HammingWindow HannWindow STFT",
    "whole numbers": "DequantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul QuantizeLinear",
}
PLAIN_OPERATORS = frozenset(name for names in KINDS.values() for name in names.split())
