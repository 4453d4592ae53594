"""How loops are compiled, and vectors for those that the compiler does not find by itself: the only importer of Numba.

Numba's cache looks at the file of a function alone, so what one loop calls of another stands in the same file; whoever
changes a vector here must delete the caches of the loops.

A `Vector` is `LANES` numbers of an array, side by side, in one register or two: ``load(a, i)``, arithmetic as with
plain numbers, ``store(a, i, v)``; a loop over many of them keeps its sums in registers, which no loop over numbers
made the compiler do.

Loops never validate, raise or allocate in an inner loop; they are serial and release the GIL, so that threads can run
them. Their arrays are C-contiguous float64 unless they say otherwise, so that each is compiled once.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import llvmlite.ir as ir
import numba
from numba import types
from numba.extending import intrinsic, models, overload, register_model

from . import plain_vectors

# Without nnan and ninf: a NaN must stay visible.
FASTMATH = {"nsz", "arcp", "contract", "afn", "reassoc"}


def jit(function: Callable[..., Any], fastmath: set[str] | bool = False) -> Any:
    """Compile a loop, at its first call for each kind of arguments, and keep it on disk."""
    compiled = functools.partial(numba.njit, nogil=True, error_model="numpy", fastmath=fastmath)
    try:
        return compiled(cache=True)(function)
    except RuntimeError:  # no directory to write the cache to
        return compiled()(function)


#: The same for loops whose sums may be taken in any order.
jit_sum = functools.partial(jit, fastmath=FASTMATH)
#: Numbers in a register of 512 bits, or of 256 where there are none so wide; always whole complex numbers.
LANES = 8 if numba.config.DISABLE_JIT or llvmlite.binding.get_host_cpu_features().get("avx512f") else 4


def _emitted(function: Callable[..., Any]) -> Any:
    """Let loops call what writes instructions, without the context of their types."""
    return intrinsic(function)


_LANES = ir.VectorType(ir.DoubleType(), LANES)


class Vector(types.Type):
    """As many numbers as are worked on at once."""

    def __init__(self) -> None:
        super().__init__(name=f"Vector({LANES})")


_vector = Vector()


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _LANES)  # type: ignore[no-untyped-call]


def _arithmetic(symbol: Callable[..., Any], instruction: str) -> None:
    """Let Numba know an operator of two vectors; a product that is added to something becomes one instruction."""

    @_emitted
    def compute(_context: Any, a: Any, b: Any) -> Any:
        def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return getattr(builder, instruction)(*args, flags=("contract",))

        return _vector(a, b), emit

    @overload(symbol)
    def operate(a, b):  # Numba compares the signatures
        both = isinstance(a, Vector) and isinstance(b, Vector)
        return (lambda a, b: compute(a, b)) if both else None


for _symbol, _instruction in ((operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul")):
    _arithmetic(_symbol, _instruction)


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    start = builder.gep(context.make_array(kind)(context, builder, array).data, [index])
    return builder.bitcast(start, _LANES.as_pointer())


@_emitted
def load(_context: Any, array: Any, index: Any) -> Any:
    """Return the vector that starts at an index of an array of one axis, which is not checked."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_place(context, builder, signature.args[0], *args), align=8)

    return _vector(array, types.intp), emit


@_emitted
def repeated(_context: Any, array: Any, index: Any) -> Any:
    """Return a vector that holds one number of an array of one axis over and over."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = builder.load(
            builder.gep(context.make_array(signature.args[0])(context, builder, args[0]).data, args[1:])
        )
        first = builder.insert_element(ir.Constant(_LANES, ir.Undefined), number, ir.IntType(32)(0))
        return _shuffled(builder, first, first, [0] * LANES)

    return _vector(array, types.intp), emit


@_emitted
def store(_context: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write a vector to an array of one axis, from an index on that is not checked."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _place(context, builder, signature.args[0], *args[:2]), align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), emit


@_emitted
def zeros(_context: Any) -> Any:
    """Return a vector of zeros."""
    return _vector(), lambda *_: ir.Constant(_LANES, None)


def _shuffled(builder: Any, a: Any, b: Any, order: list[int]) -> Any:
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
    return builder.shuffle_vector(a, b, mask)


@_emitted
def swapped(_context: Any, vector: Any) -> Any:
    """Return a vector with the two numbers of each pair exchanged: of complex ones, real and imaginary part."""

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _shuffled(builder, args[0], args[0], [i ^ 1 for i in range(LANES)])

    return _vector(vector), emit


@_emitted
def conjugate_products(_context: Any, plain: Any, crossed: Any) -> Any:
    """Return the sums of ``conj(a) * b`` from those of the numbers of ``a * b`` and of ``swapped(a) * b``."""

    def emit(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        other = [_shuffled(builder, v, v, [i ^ 1 for i in range(LANES)]) for v in args]
        real, imag = builder.fadd(args[0], other[0]), builder.fsub(args[1], other[1])
        return _shuffled(builder, real, imag, [i + i % 2 * LANES for i in range(LANES)])

    return _vector(plain, crossed), emit


if numba.config.DISABLE_JIT:
    globals().update(plain_vectors.FUNCTIONS)
