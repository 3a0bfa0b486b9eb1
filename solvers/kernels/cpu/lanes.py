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
ELEMENTS = {"float32": ir.FloatType(), "float64": ir.DoubleType()}


class LanesType(types.Type):
    """The type of a vector of `count` numbers."""

    def __init__(self, element: Any, count: int) -> None:
        super().__init__(f"{count} lanes of {element}")
        self.element, self.count = element, count

    @property
    def vector(self) -> Any:
        """The type in LLVM."""
        return ir.VectorType(ELEMENTS[self.element.name], self.count)


lanes = LanesType(types.float32, WIDTH)
# one register, and what is left of rows that fill none
SHORT = {1: [LanesType(t, 1) for t in (types.float32, types.float64)]}
SHORT[2] = [LanesType(t, 2) for t in (types.float32, types.float64)]
WIDE = [lanes, LanesType(types.float64, WIDTH // 2)]


@register_model(LanesType)
class LanesModel(models.PrimitiveModel):
    """A vector is a register."""

    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, fe_type.vector)


def integers(v: Any, bits: int = 32) -> Any:
    """Return the type of as many integers as a vector type has lanes."""
    return ir.VectorType(ir.IntType(bits), v.count)


def repeated(builder: Any, vector: Any, value: Any) -> Any:
    """Repeat a scalar in every lane; a vector stays what it is."""
    if isinstance(value.type, ir.VectorType):
        return value
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ir.Constant(integers(vector), None))


def arithmetic(function: Any, instruction: str) -> None:
    """Give an operator of Python its meaning for vectors; a product and a sum may become one instruction."""
    known = [*WIDE, *SHORT[1], *SHORT[2]]
    pairs = [(t, pair) for t in known for pair in ((t, t), (t, t.element), (t.element, t))]

    @infer_global(function)
    class Operator(ConcreteTemplate):
        cases = tuple(signature(t, *pair) for t, pair in pairs)

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector = sig.return_type.vector
        return getattr(builder, instruction)(*(repeated(builder, vector, v) for v in args), flags=("contract",))

    for _, pair in pairs:
        lower_builtin(function, *pair)(lower)


for function, instruction in (
    (operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv"),
):  # fmt: skip
    arithmetic(function, instruction)


def kind_of(*arguments: Any) -> LanesType:
    """Return the type of the vectors among arguments; of fp32 scalars alone, that of a full register."""
    return next((t for t in arguments if isinstance(t, LanesType)), lanes)


def elementwise(emit: Any) -> Any:
    """Make a function of vectors or scalars from ``emit(builder, *vectors)``."""

    def lowered(kind: Any) -> Any:
        def build(_: Any, builder: Any, sig: Any, args: Any) -> Any:
            return emit(builder, *(repeated(builder, kind.vector, v) for v in args))

        return build

    if emit.__code__.co_argcount == 2:

        def unary(context, a):
            return signature(kind_of(a), a), lowered(kind_of(a))

        return intrinsic(unary)

    def binary(context, a, b):
        return signature(kind_of(a, b), a, b), lowered(kind_of(a, b))

    return intrinsic(binary)


def call(builder: Any, name: str, value: Any) -> Any:
    """Call a function of LLVM on a vector."""
    t = value.type
    bits = 32 if t.element == ELEMENTS["float32"] else 64
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(t, [t]), f"{name}.v{t.count}f{bits}")
    return builder.call(function, [value])


def scaled_two(builder: Any, v: Any) -> Any:
    """Put a whole number into the exponent of 1."""
    whole = integers(v.type)
    biased = builder.add(builder.fptosi(v, whole), ir.Constant(whole, [127] * v.type.count))
    return builder.bitcast(builder.shl(biased, ir.Constant(whole, [23] * v.type.count)), v.type)


splat = elementwise(lambda builder, v: v)
root = elementwise(lambda builder, v: call(builder, "llvm.sqrt", v))
nearest = elementwise(lambda builder, v: call(builder, "llvm.rint", v))  # whole numbers, ties to even
two_to = elementwise(scaled_two)  # 2 to the power of a whole number between -126 and 127, fp32
larger = elementwise(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
smaller = elementwise(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), a, b))


def positive(builder: Any, v: Any) -> Any:
    """Compare with 0."""
    return builder.fcmp_ordered(">", v, ir.Constant(v.type, [0.0] * v.type.count))


@intrinsic
def where_positive(context, x, a, b):
    """Take a in the lanes where x > 0, else b."""
    kind = kind_of(x, a, b)

    def build(_: Any, builder: Any, sig: Any, args: Any) -> Any:
        x, a, b = (repeated(builder, kind.vector, v) for v in args)
        return builder.select(positive(builder, x), a, b)

    return signature(kind, x, a, b), build


@intrinsic
def any_positive(context, x):
    """Tell whether some lane is > 0."""

    def build(_: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.bitcast(positive(builder, args[0]), ir.IntType(x.count))
        return builder.icmp_unsigned("!=", bits, ir.Constant(ir.IntType(x.count), 0))

    return signature(types.boolean, x), build


def address(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    """Point at an element of a C-ordered array, by an index or a tuple of indices.

    No view is made of a row first: views count references.
    """
    view = context.make_array(array_type)(context, builder, array)
    indices = [index] if array_type.ndim == 1 else cgutils.unpack_tuple(builder, index)
    offset = indices[0]
    for n, next_one in zip(cgutils.unpack_tuple(builder, view.shape)[1:], indices[1:], strict=True):
        offset = builder.add(builder.mul(offset, n), next_one)
    return builder.gep(view.data, [offset])


def load_vector(builder: Any, pointer: Any, count: int) -> Any:
    """Read as many numbers as there are lanes, wherever they lie."""
    element = pointer.type.pointee
    vector = builder.load(builder.bitcast(pointer, ir.VectorType(element, count).as_pointer()))
    vector.align = element.width // 8 if isinstance(element, ir.IntType) else 4
    return vector


def store_vector(builder: Any, v: Any, pointer: Any) -> None:
    """Write all lanes."""
    builder.store(v, builder.bitcast(pointer, v.type.as_pointer())).align = 4


def index_type(array: Any) -> Any:
    """Return what indexes an array."""
    return types.intp if array.ndim == 1 else types.UniTuple(types.intp, array.ndim)


@intrinsic
def load(context, array, index):
    """Read WIDTH fp32 numbers from an index on, wherever they lie."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return load_vector(builder, address(context, builder, sig.args[0], args[0], args[1]), WIDTH)

    return signature(lanes, array, index_type(array)), build


@intrinsic
def store(context, array, index, v):
    """Write all lanes from an index on, in the array's type."""
    kind = kind_of(v)
    if array.dtype != kind.element:
        raise TypeError(f"got {kind} for an array of {array.dtype}")

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        v = repeated(builder, kind.vector, args[2])
        store_vector(builder, v, address(context, builder, sig.args[0], args[0], args[1]))
        return context.get_dummy_value()

    return signature(types.none, array, index_type(array), v), build


@intrinsic
def store_all(context, array, index, values):
    """Write a tuple of vectors one after the other, from an index on."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        start = address(context, builder, sig.args[0], args[0], args[1])
        for k in range(sig.args[2].count):
            place = builder.gep(start, [ir.Constant(ir.IntType(64), k * WIDTH)])
            store_vector(builder, builder.extract_value(args[2], k), place)
        return context.get_dummy_value()

    return signature(types.none, array, index_type(array), values), build


def shuffled(builder: Any, a: Any, b: Any, order: list[int]) -> Any:
    """Choose lanes of two vectors, counted through."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order))


swapped = elementwise(lambda builder, v: shuffled(builder, v, v, [k ^ 1 for k in range(v.type.count)]))  # within pairs
