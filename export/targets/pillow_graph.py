"""Pillow's resize, written as an ONNX graph: whole numbers, so that its pixels are Pillow's and not nearly Pillow's."""

from __future__ import annotations

import onnx
from onnx import inliner, parser

from sslfeat.data.transforms import Preprocess

OPSET = 18
KERNELS = {
    "bilinear": """
        far_off = Sub(one, distance)
        weight = Max(zero, far_off)""",
    # Keys' cubic with a = -0.5, in the order of operations of Pillow's
    "bicubic": """
        three_halves = Constant <value = double {1.5}> ()
        five_halves = Constant <value = double {2.5}> ()
        two = Constant <value = double {2.0}> ()
        four = Constant <value = double {4.0}> ()
        five = Constant <value = double {5.0}> ()
        eight = Constant <value = double {8.0}> ()
        near_1 = Mul(three_halves, distance)
        near_2 = Sub(near_1, five_halves)
        near_3 = Mul(near_2, distance)
        near_4 = Mul(near_3, distance)
        near = Add(near_4, one)
        far_1 = Sub(distance, five)
        far_2 = Mul(far_1, distance)
        far_3 = Add(far_2, eight)
        far_4 = Mul(far_3, distance)
        far_5 = Sub(far_4, four)
        far_6 = Mul(far_5, half)
        far = Neg(far_6)
        is_near = Less(distance, one)
        is_far = Less(distance, two)
        far_or_none = Where(is_far, far, zero)
        weight = Where(is_near, near, far_or_none)""",
}

# The shorter side becomes RESIZE, the middle SIZE x SIZE stays. Pillow filters along rows first, rounds, then along columns.
GRAPH = """
<ir_version: 10, opset_import: ["": 18, "sslfeat": 1]>
preprocess (uint8[batch, height, width, 3] image) => (uint8[batch, SIZE, SIZE, 3] pixels)
{
    sides = Shape <start = 1, end = 3> (image)
    shorter = ReduceMin <keepdims = 1> (sides)
    resize = Constant <value_ints = [RESIZE]> ()
    grown = Mul(sides, resize)
    wanted = Div(grown, shorter)
    height_in, width_in = Split <num_outputs = 2> (sides)
    height_out, width_out = Split <num_outputs = 2> (wanted)
    planes = Transpose <perm = [0, 3, 1, 2]> (image)
    narrow = sslfeat.filtered(planes, width_in, width_out)
    turned = Transpose <perm = [0, 1, 3, 2]> (narrow)
    small = sslfeat.filtered(turned, height_in, height_out)
    pixels = Transpose <perm = [0, 3, 2, 1]> (small)
}
"""

# Weights in double precision, rounded to 22 bits after the point as Pillow's, then cut into three digits of base 256, each
# from -128: products of 8 bits with sums of 32 are what every processor does fast, and nothing is rounded on the way.
FILTERED = """
<domain: "sslfeat", opset_import: ["": 18]>
filtered (values, length, wanted) => (filtered_values)
{
    zero = Constant <value = double {0.0}> ()
    half = Constant <value = double {0.5}> ()
    one = Constant <value = double {1.0}> ()
    first = Constant <value = int64 {0}> ()
    step = Constant <value = int64 {1}> ()
    size = Constant <value = int64 {SIZE}> ()
    down = Constant <value_ints = [1]> ()
    scalar = Constant <value_ints = [0]> ()
    over = Sub(wanted, size)
    over_double = Cast <to = 11> (over)
    margin = Mul(over_double, half)
    start = Round(margin)
    to = Range(first, size, step)
    to_double = Cast <to = 11> (to)
    to_whole = Add(to_double, start)
    to_middle = Add(to_whole, half)
    length_double = Cast <to = 11> (length)
    wanted_double = Cast <to = 11> (wanted)
    scale = Div(length_double, wanted_double)
    center = Mul(to_middle, scale)
    spread = Max(scale, one)
    closeness = Div(one, spread)
    end = Squeeze(length, scalar)
    from = Range(first, end, step)
    from_double = Cast <to = 11> (from)
    from_column = Unsqueeze(from_double, down)
    left = Sub(from_column, center)
    apart = Add(left, half)
    scaled = Mul(apart, closeness)
    distance = Abs(scaled)
    KERNEL
    total = ReduceSum <keepdims = 1> (weight, scalar)
    share = Div(weight, total)
    unit = Constant <value = double {4194304.0}> ()
    units = Mul(share, unit)
    sign = Sign(units)
    magnitude = Abs(units)
    magnitude_up = Add(magnitude, half)
    magnitude_whole = Floor(magnitude_up)
    fixed = Mul(magnitude_whole, sign)
    fixed_whole = Cast <to = 7> (fixed)
    lift = Constant <value = int64 {8421504}> ()
    base = Constant <value = int64 {256}> ()
    lifted = Add(fixed_whole, lift)
    upper = Div(lifted, base)
    high = Div(upper, base)
    middle = Mod(upper, base)
    low = Mod(lifted, base)
    digits = Concat <axis = 1> (high, middle, low)
    digits_8 = Cast <to = 2> (digits)
    nothing = Constant <value = uint8 {0}> ()
    digit_zero = Constant <value = uint8 {128}> ()
    sums = MatMulInteger(values, digits_8, nothing, digit_zero)
    high_sum, middle_sum, low_sum = Split <axis = -1, num_outputs = 3> (sums)
    base_32 = Constant <value = int32 {256}> ()
    half_32 = Constant <value = int32 {2097152}> ()
    unit_32 = Constant <value = int32 {4194304}> ()
    none_32 = Constant <value = int32 {0}> ()
    most_32 = Constant <value = int32 {255}> ()
    sum_1 = Mul(high_sum, base_32)
    sum_2 = Add(sum_1, middle_sum)
    sum_3 = Mul(sum_2, base_32)
    sum_4 = Add(sum_3, low_sum)
    sum_5 = Add(sum_4, half_32)
    sum_6 = Max(sum_5, none_32)
    sum_7 = Div(sum_6, unit_32)
    level = Min(sum_7, most_32)
    filtered_values = Cast <to = 2> (level)
}
"""


def pillow_graph(prep: Preprocess) -> onnx.ModelProto:
    """``image``, uint8 (N, H, W, 3), to ``pixels``, uint8 (N, S, S, 3). The filter is one of ``KERNELS``.

    Source: Pillow's src/libImaging/Resample.c, its arithmetic for 8 bits a channel.
    """
    function = FILTERED.replace("KERNEL", KERNELS[prep.filter])
    text = (GRAPH + function).replace("RESIZE", str(prep.resize)).replace("SIZE", str(prep.size))
    return inliner.inline_local_functions(parser.parse_model(text))
