"""Pillow's resize as an ONNX graph in integer arithmetic, for pixels equal to Pillow's."""

from __future__ import annotations

import onnx
import PIL
from onnx import inliner, parser
from PIL import ImageColor

from sslfeat.data.transforms import BORDER, CENTER, SQUASH, STRIP, Preprocess

OPSET = 18
KERNELS = {
    "bilinear": """
        far_off = Sub(one, distance)
        weight = Max(zero, far_off)""",
    # Keys' cubic with a = -0.5, in Pillow's order of operations
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

SIZES = {  # ``wanted``: height and width of the whole resized image
    CENTER: """
    shorter = ReduceMin <keepdims = 1> (sides)
    resize = Constant <value_ints = [RESIZE]> ()
    grown = Mul(sides, resize)
    wanted = Div(grown, shorter)""",
    SQUASH: """
    wanted = Constant <value_ints = [RESIZE, RESIZE]> ()""",
    BORDER: """
    longer = ReduceMax <keepdims = 1> (sides)
    resize = Constant <value_floats = [RESIZE.0]> ()
    least = Constant <value_floats = [1.0]> ()
    resize_double = Cast <to = 11> (resize)
    least_double = Cast <to = 11> (least)
    longer_double = Cast <to = 11> (longer)
    ratio = Div(longer_double, resize_double)
    sides_double = Cast <to = 11> (sides)
    shrunk = Div(sides_double, ratio)
    whole = Round(shrunk)
    whole_or_one = Max(whole, least_double)
    wanted = Cast <to = 7> (whole_or_one)""",
}
# Final pixels from the ``small`` image: a border, which up to here repeats the outermost pixels, gets the fill color.
PADDED = """
    missing = Sub(size, wanted)
    none = Constant <value = int64 {0}> ()
    two = Constant <value = int64 {2}> ()
    step = Constant <value = int64 {1}> ()
    lacking = Max(missing, none)
    before = Div(lacking, two)
    after = Add(before, wanted)
    place = Range(none, size, step)
    height_before, width_before = Split <num_outputs = 2> (before)
    height_after, width_after = Split <num_outputs = 2> (after)
    below = GreaterOrEqual(place, height_before)
    above = Less(place, height_after)
    row = And(below, above)
    right = GreaterOrEqual(place, width_before)
    left = Less(place, width_after)
    column = And(right, left)
    down = Constant <value_ints = [1, 2]> ()
    across = Constant <value_ints = [0, 2]> ()
    rows = Unsqueeze(row, down)
    columns = Unsqueeze(column, across)
    inside = And(rows, columns)
    fill = Constant <value_ints = [FILL]> ()
    fill_8 = Cast <to = 2> (fill)
    pixels = Where(inside, small, fill_8)"""
CROPPED = """
    pixels = Identity(small)"""
# Whether Pillow filters along columns first, which rounds differently; never if it is called for one axis at a time.
TALL = """
    height_in, width_in = Split <num_outputs = 2> (sides)
    height_out, width_out = Split <num_outputs = 2> (made)
    shorter_by = Sub(height_in, height_out)
    narrower_by = Sub(width_in, width_out)
    shrinks = Less(no_side, shorter_by)
    times = Constant <value = int64 {TIMES}> ()
    of_width = Mul(COMPARED, times)
    is_far_higher = Less(of_width, HEIGHT)
    down_first = And(shrinks, is_far_higher)"""
NEVER = """
    down_first = Less(no_side, no_side)"""
PILLOW_13 = {"COMPARED": "narrower_by", "HEIGHT": "shorter_by", "TIMES": "2"}
PILLOW_12 = {"COMPARED": "width_in", "HEIGHT": "height_in", "TIMES": "100"}

# The region to resize: the whole image; for strips only the crop, a box that Pillow stores in single precision.
WHOLE = """
    made = Identity(wanted)
    begin = Identity(start)
    lower = Mul(start, zero)
    scale = Identity(ratio_of_all)"""
STRIP_BOX = """
    shortest_side = ReduceMin <keepdims = 1> (sides)
    longest_side = ReduceMax <keepdims = 1> (sides)
    strip_at = Constant <value = int64 {STRIP_RATIO}> ()
    strip_length = Mul(shortest_side, strip_at)
    is_strip = Less(strip_length, longest_side)
    no_sides = Constant <value_ints = [0, 0]> ()
    sizes = Add(no_sides, size)
    made = Where(is_strip, sizes, wanted)
    begin = Where(is_strip, zero, start)
    stop = Add(start, size_double)
    box_low = Mul(start, ratio_of_all)
    box_above = Mul(stop, ratio_of_all)
    box_high = Min(box_above, sides_in)
    box_low_single = Cast <to = 1> (box_low)
    box_high_single = Cast <to = 1> (box_high)
    box_single = Sub(box_high_single, box_low_single)
    box_low_double = Cast <to = 11> (box_low_single)
    box_double = Cast <to = 11> (box_single)
    lower = Where(is_strip, box_low_double, zero)
    ratio_of_box = Div(box_double, size_double)
    scale = Where(is_strip, ratio_of_box, ratio_of_all)"""

# The middle SIZE x SIZE of the resized image is kept; if the resized image is smaller, ``start`` is negative. Pillow filters
# along one axis, rounds, then along the other.
GRAPH = """
<ir_version: 10, opset_import: ["": 18, "sslfeat": 1]>
preprocess (uint8[batch, height, width, 3] image) => (uint8[batch, SIZE, SIZE, 3] pixels)
{
    sides = Shape <start = 1, end = 3> (image)
    WANTED
    zero = Constant <value = double {0.0}> ()
    half = Constant <value = double {0.5}> ()
    size = Constant <value = int64 {SIZE}> ()
    size_double = Cast <to = 11> (size)
    no_side = Constant <value_ints = [0]> ()
    sides_in = Cast <to = 11> (sides)
    sides_out = Cast <to = 11> (wanted)
    ratio_of_all = Div(sides_in, sides_out)
    over = Sub(sides_out, size_double)
    margin = Mul(over, half)
    start_within = Round(margin)
    start_before = Ceil(margin)
    is_within = Less(zero, margin)
    start = Where(is_within, start_within, start_before)
    BOX
    ORDER
    down_then_across = Constant <value_ints = [0, 1]> ()
    across_then_down = Constant <value_ints = [1, 0]> ()
    order = Where(down_first, down_then_across, across_then_down)
    axis_1, axis_2 = Split <num_outputs = 2> (order)
    length_1 = Gather(sides, axis_1)
    length_2 = Gather(sides, axis_2)
    wanted_1 = Gather(wanted, axis_1)
    wanted_2 = Gather(wanted, axis_2)
    begin_1 = Gather(begin, axis_1)
    begin_2 = Gather(begin, axis_2)
    lower_1 = Gather(lower, axis_1)
    lower_2 = Gather(lower, axis_2)
    scale_1 = Gather(scale, axis_1)
    scale_2 = Gather(scale, axis_2)
    down_first_scalar = Squeeze(down_first)
    planes = If (down_first_scalar) <
        then_branch = columns_last () => (columns_of_image) { columns_of_image = Transpose <perm = [0, 3, 2, 1]> (image) },
        else_branch = rows_last () => (rows_of_image) { rows_of_image = Transpose <perm = [0, 3, 1, 2]> (image) }>
    narrow = sslfeat.filtered(planes, length_1, wanted_1, begin_1, lower_1, scale_1)
    turned = Transpose <perm = [0, 1, 3, 2]> (narrow)
    turned_small = sslfeat.filtered(turned, length_2, wanted_2, begin_2, lower_2, scale_2)
    small = If (down_first_scalar) <
        then_branch = upright () => (small_upright) { small_upright = Transpose <perm = [0, 2, 3, 1]> (turned_small) },
        else_branch = lying () => (small_lying) { small_lying = Transpose <perm = [0, 3, 2, 1]> (turned_small) }>
    PIXELS
}
"""

# Weights in double precision, rounded to 22 fractional bits as in Pillow, then split into three digits of base 256, starting at
# -128: products of 8 bits with sums of 32 bits are fast on every processor, and there is no intermediate rounding.
FILTERED = """
<domain: "sslfeat", opset_import: ["": 18]>
filtered (values, length, wanted, begin, lower, scale) => (filtered_values)
{
    zero = Constant <value = double {0.0}> ()
    half = Constant <value = double {0.5}> ()
    one = Constant <value = double {1.0}> ()
    first = Constant <value = int64 {0}> ()
    step = Constant <value = int64 {1}> ()
    size = Constant <value = int64 {SIZE}> ()
    down = Constant <value_ints = [1]> ()
    scalar = Constant <value_ints = [0]> ()
    to = Range(first, size, step)
    to_double = Cast <to = 11> (to)
    to_any = Add(to_double, begin)
    wanted_double = Cast <to = 11> (wanted)
    to_last = Sub(wanted_double, one)
    to_below = Min(to_any, to_last)
    to_whole = Max(to_below, zero)
    to_middle = Add(to_whole, half)
    in_box = Mul(to_middle, scale)
    center = Add(in_box, lower)
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


def pillow_graph(prep: Preprocess, pillow: str = PIL.__version__) -> onnx.ModelProto:
    """``image``, uint8 (N, H, W, 3), to ``pixels``, uint8 (N, S, S, 3). The filter must be one of ``KERNELS``.

    Sources: src/libImaging/Resample.c of Pillow 13, its arithmetic for 8 bits per channel, and Image.resize of Pillow 12, which
    starts with the columns of other images; ``pillow``: the version whose order is used.
    """
    parts = {"KERNEL": KERNELS[prep.filter], "WANTED": SIZES[prep.crop], "PIXELS": CROPPED, "BOX": WHOLE, "ORDER": TALL}
    if prep.crop == BORDER:
        parts["PIXELS"] = PADDED.replace("FILL", ", ".join(map(str, ImageColor.getrgb(prep.fill))))
    elif prep.crop == CENTER:
        parts["BOX"] = STRIP_BOX.replace("STRIP_RATIO", str(STRIP))
    else:
        parts["ORDER"] = NEVER
    parts |= PILLOW_13 if int(pillow.split(".")[0]) >= 13 else PILLOW_12
    text = GRAPH + FILTERED
    for name, part in parts.items():
        text = text.replace(name, part)
    text = text.replace("RESIZE", str(prep.resize)).replace("SIZE", str(prep.size))
    return inliner.inline_local_functions(parser.parse_model(text))
