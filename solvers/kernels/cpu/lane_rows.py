"""Rows of grids as vectors of `lanes`: any type of number read as fp32 or fp64, neighbours along a row, blocks of two.

``like`` is a vector whose type says how many lanes to read and what to make of them: `full_register` fills a register,
`two_lanes` and `one_lane` have two lanes and one. So one formula serves long rows, short rows and single cells.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing.templates import signature
from numba.extending import intrinsic

from .compile import register_kernel
from .lanes import SHORT, WIDE, address, index_type, integers, load_vector, repeated, shuffled, store_vector

ZERO, ONE = ir.Constant(ir.IntType(32), 0), ir.Constant(ir.IntType(64), 1)


def element_of(array: Any) -> int:
    """Return 0 for fp32 (and for integers, which stand beside fp32), 1 for fp64."""
    return int(array.dtype == types.float64)


def zero_vector(kind: Any) -> Any:
    """Build a vector of zeros."""
    return lambda context, builder, sig, args: ir.Constant(kind.vector, [0.0] * kind.count)


@intrinsic
def full_register(context, array):
    """Return a full register of zeros for the numbers of an array."""
    kind = WIDE[element_of(array)]
    return signature(kind, array), zero_vector(kind)


@intrinsic
def one_lane(context, array):
    """Return a single lane for the numbers of an array."""
    kind = SHORT[1][element_of(array)]
    return signature(kind, array), zero_vector(kind)


@intrinsic
def two_lanes(context, array):
    """Return two lanes for the numbers of an array."""
    kind = SHORT[2][element_of(array)]
    return signature(kind, array), zero_vector(kind)


@intrinsic
def count_lanes(context, like):
    """Return the number of lanes."""
    count = like.count
    return signature(types.intp, like), lambda *_: ir.Constant(ir.IntType(64), count)


def convert_numbers(builder: Any, value: Any, source: Any, vector: Any) -> Any:
    """Make numbers of an array's type those of a vector type, lane by lane."""
    if isinstance(source, types.Integer):
        if source.bitwidth < 32:
            value = builder.zext(value, integers(vector))  # signed conversion has an instruction everywhere
        return builder.sitofp(value, vector)
    if value.type == vector:
        return value
    return builder.fpext(value, vector) if source.bitwidth == 32 else builder.fptrunc(value, vector)


@intrinsic
def read(context, like, array, index):
    """Read numbers from an index on."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = address(context, builder, sig.args[1], args[1], args[2])
        return convert_numbers(builder, load_vector(builder, place, like.count), array.dtype, like.vector)

    return signature(like, like, array, index_type(array)), build


def repeat_number(builder: Any, place: Any, array: Any, kind: Any) -> Any:
    """Read one number of an array and repeat it in all lanes."""
    number = convert_numbers(
        builder, load_vector(builder, place, 1), array.dtype, ir.VectorType(kind.vector.element, 1)
    )
    return repeated(builder, kind.vector, builder.extract_element(number, ZERO))


@intrinsic
def push_lanes(context, v, array, index):
    """Move all lanes up by one and put a number of an array in front."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = address(context, builder, sig.args[1], args[1], args[2])
        return shuffled(builder, args[0], repeat_number(builder, place, array, v), [v.count, *range(v.count - 1)])

    return signature(v, v, array, index_type(array)), build


@intrinsic
def pull_lanes(context, v, array, index):
    """Move all lanes down by one and put a number of an array behind."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = address(context, builder, sig.args[1], args[1], args[2])
        return shuffled(builder, args[0], repeat_number(builder, place, array, v), [*range(1, v.count + 1)])

    return signature(v, v, array, index_type(array)), build


@intrinsic
def read_blocks(context, like, array, index, odd):
    """Read the values of the blocks of two that cells belong to, from block `index` on; `odd`: from its second cell on.

    So lanes 0, 1, 2, 3 get blocks index, index, index + 1, index + 1, or index, index + 1, index + 1, index + 2.
    """

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place = address(context, builder, sig.args[1], args[1], args[2])
        if like.count == 1:
            return load_vector(builder, place, 1)
        half = like.count // 2
        one, other = load_vector(builder, place, half), load_vector(builder, builder.gep(place, [args[3]]), half)
        return shuffled(builder, one, other, [half * (k % 2) + k // 2 for k in range(like.count)])

    return signature(like, like, array, index_type(array), types.intp), build


@intrinsic
def swap_partners(context, v, odd):
    """Swap the lanes of pairs, which begin at the first lane (`odd`) or at the second; 0 where there is no partner."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        n, zero = v.count, ir.Constant(v.vector, [0.0] * v.count)
        from_first = shuffled(builder, args[0], zero, [k ^ 1 if n > 1 else n for k in range(n)])
        from_second = shuffled(builder, args[0], zero, [n, *(k + 1 - 2 * (k % 2 == 0) for k in range(1, n - 1)), n][:n])
        return builder.select(builder.icmp_signed("!=", args[1], ir.Constant(args[1].type, 0)), from_first, from_second)

    return signature(v, v, types.intp), build


@intrinsic
def add_block_sums(context, array, index, v):
    """Add the sums of pairs of lanes to an array, from block `index` on; a single lane is added itself."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place, sums = address(context, builder, sig.args[0], args[0], args[1]), args[2]
        if v.count > 1:
            even, odd = (shuffled(builder, sums, sums, list(range(k, v.count, 2))) for k in (0, 1))
            sums = builder.fadd(even, odd)
        store_vector(builder, builder.fadd(load_vector(builder, place, sums.type.count), sums), place)
        return context.get_dummy_value()

    return signature(types.none, array, index_type(array), v), build


@intrinsic
def from_lane(context, first, a, b):
    """Take a from lane number `first` on, b before it."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        numbers = ir.Constant(integers(a.vector, 64), list(range(a.count)))
        late = builder.icmp_signed(">=", numbers, repeated(builder, integers(a.vector, 64), args[0]))
        return builder.select(late, args[1], args[2])

    return signature(a, types.intp, a, a), build


@intrinsic
def sum_lanes(context, v):
    """Sum over lanes, in an order that depends on their number only."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = args[0]
        while value.type.count > 1:
            half = value.type.count // 2
            low, high = list(range(half)), list(range(half, 2 * half))
            value = builder.fadd(shuffled(builder, value, value, low), shuffled(builder, value, value, high))
        return builder.extract_element(value, ZERO)

    return signature(v.element, v), build


@register_kernel
def read_previous(like, x, i, j, k):
    """Read what lies one before each cell, from cell k of row (i, j) on; the ends wrap."""
    if k > 0:
        return read(like, x, (i, j, k - 1))
    return push_lanes(read(like, x, (i, j, k)), x, (i, j, x.shape[2] - 1))


@register_kernel
def read_next(like, x, i, j, k):
    """Read what lies one after each cell."""
    if k + count_lanes(like) < x.shape[2]:
        return read(like, x, (i, j, k + 1))
    return pull_lanes(read(like, x, (i, j, k)), x, (i, j, 0))
