"""Vectors of fp32 numbers as values inside compiled functions: one processor register, WIDTH cells at a time.

Loops over arrays leave it to the compiler whether vector instructions come out, in how many versions, and how often
intermediate results go through memory. Formulas on lanes say it: every lane does the same operations in the same
order, so results depend neither on where arrays lie in memory nor on what shares a register, and there is little code
to compile. `lanes` values have + - * / (with one another and with fp32 scalars) and the functions below.
"""

from __future__ import annotations

import operator
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

WIDTH = 16 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 8
FLOATS, INTS = ir.VectorType(ir.FloatType(), WIDTH), ir.VectorType(ir.IntType(32), WIDTH)


class LanesType(types.Type):
    """The type of a vector."""

    def __init__(self) -> None:
        super().__init__("lanes")


lanes = LanesType()


@register_model(LanesType)
class LanesModel(models.PrimitiveModel):
    """A vector is a register."""

    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, FLOATS)


def widened(builder: Any, value: Any) -> Any:
    """Repeat a scalar in every lane; a vector stays what it is."""
    if value.type == FLOATS:
        return value
    one = builder.insert_element(ir.Constant(FLOATS, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    first = ir.Constant(INTS, [0] * WIDTH)
    return builder.shuffle_vector(one, ir.Constant(FLOATS, ir.Undefined), first)


def arithmetic(function: Any, instruction: str) -> None:
    """Give an operator of Python its meaning for vectors; a product and a sum may become one instruction."""
    pairs = (lanes, lanes), (lanes, types.float32), (types.float32, lanes)

    @infer_global(function)
    class Operator(ConcreteTemplate):
        cases = tuple(signature(lanes, *pair) for pair in pairs)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*(widened(builder, v) for v in args), flags=("contract",))

    for pair in pairs:
        lower_builtin(function, *pair)(lower)


for function, instruction in (
    (operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv"),
):  # fmt: skip
    arithmetic(function, instruction)


def unary(emit: Any) -> Any:
    """Make a function of one vector or scalar from ``emit(builder, vector)``."""

    def typed(context, a):
        return signature(lanes, a), lambda _, builder, sig, args: emit(builder, widened(builder, args[0]))

    return intrinsic(typed)


def binary(emit: Any) -> Any:
    """Make a function of two vectors or scalars."""

    def typed(context, a, b):
        def build(_: Any, builder: Any, sig: Any, args: Any) -> Any:
            return emit(builder, *(widened(builder, v) for v in args))

        return signature(lanes, a, b), build

    return intrinsic(typed)


def call(builder: Any, name: str, value: Any) -> Any:
    """Call a function of LLVM on a vector."""
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(FLOATS, [FLOATS]), f"{name}.v{WIDTH}f32")
    return builder.call(function, [value])


def scaled_two(builder: Any, v: Any) -> Any:
    """Put a whole number into the exponent of 1."""
    whole = builder.add(builder.fptosi(v, INTS), ir.Constant(INTS, [127] * WIDTH))
    return builder.bitcast(builder.shl(whole, ir.Constant(INTS, [23] * WIDTH)), FLOATS)


splat = unary(lambda builder, v: v)
root = unary(lambda builder, v: call(builder, "llvm.sqrt", v))
nearest = unary(lambda builder, v: call(builder, "llvm.rint", v))  # whole numbers, ties to even
two_to = unary(scaled_two)  # 2 to the power of a whole number between -126 and 127
larger = binary(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
smaller = binary(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b))


def positive(builder: Any, v: Any) -> Any:
    """Compare with 0."""
    return builder.fcmp_ordered(">", v, ir.Constant(FLOATS, [0.0] * WIDTH))


@intrinsic
def where_positive(context, x, a, b):
    """Take a in the lanes where x > 0, else b."""

    def build(_: Any, builder: Any, sig: Any, args: Any) -> Any:
        x, a, b = (widened(builder, v) for v in args)
        return builder.select(positive(builder, x), a, b)

    return signature(lanes, x, a, b), build


@intrinsic
def any_positive(context, x):
    """Tell whether some lane is > 0."""

    def build(_: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.bitcast(positive(builder, args[0]), ir.IntType(WIDTH))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(WIDTH), 0))

    return signature(types.boolean, x), build


def place(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Point at WIDTH numbers of a C-ordered array, from an index on or from a tuple of indices on.

    No view is made of a row first: views count references.
    """
    view = context.make_array(array_type)(context, builder, array)
    indices = [index] if array_type.ndim == 1 else cgutils.unpack_tuple(builder, index)
    offset = indices[0]
    for n, next_one in zip(cgutils.unpack_tuple(builder, view.shape)[1:], indices[1:], strict=True):
        offset = builder.add(builder.mul(offset, n), next_one)
    return builder.bitcast(builder.gep(view.data, [offset]), FLOATS.as_pointer())


def index_type(array: Any) -> Any:
    """Return what indexes an array."""
    return types.intp if array.ndim == 1 else types.UniTuple(types.intp, array.ndim)


@intrinsic
def load(context, array, index):
    """Read WIDTH numbers from an index on, wherever they lie."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = builder.load(place(context, builder, sig.args[0], args[0], args[1]))
        vector.align = 4
        return vector

    return signature(lanes, array, index_type(array)), build


@intrinsic
def store(context, array, index, v):
    """Write WIDTH numbers from an index on."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        instruction = builder.store(widened(builder, args[2]), place(context, builder, sig.args[0], args[0], args[1]))
        instruction.align = 4
        return context.get_dummy_value()

    return signature(types.none, array, index_type(array), v), build


@intrinsic
def store_all(context, array, index, values):
    """Write a tuple of vectors one after the other, from an index on."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = place(context, builder, sig.args[0], args[0], args[1])
        for k in range(sig.args[2].count):
            address = builder.gep(start, [ir.Constant(ir.IntType(64), k)])
            builder.store(builder.extract_value(args[2], k), address).align = 4
        return context.get_dummy_value()

    return signature(types.none, array, index_type(array), values), build


@intrinsic
def swapped(context, v):
    """Swap the lanes of every pair."""

    def build(_: Any, builder: Any, sig: Any, args: Any) -> Any:
        order = ir.Constant(INTS, [k ^ 1 for k in range(WIDTH)])
        return builder.shuffle_vector(args[0], ir.Constant(FLOATS, ir.Undefined), order)

    return signature(lanes, v), build
