"""How loops are compiled, and vectors for those that the compiler does not find by itself: the only importer of Numba.

Numba's cache looks at the file of a function alone, so what one loop calls of another stands in the same file; whoever
changes a vector here must delete the caches of the loops.

A `Vector` is `LANES` numbers of an array, side by side, in one register or two: ``load(a, i)``, arithmetic as with
plain numbers, ``store(a, i, v)``; a loop over many of them keeps its sums in registers, which no loop over numbers
made the compiler do.

Loops never validate, raise or allocate in an inner loop; they are serial and release the GIL, so that threads can run
them. Their arrays are C-contiguous float64 unless they say otherwise, so that each is compiled once.
"""

import contextlib
import functools
import hashlib
import operator
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite.binding
import llvmlite.ir as ir
import numba
import numpy.typing as npt
from numba import types
from numba.core import caching as numba_caching
from numba.core import event as numba_event
from numba.extending import intrinsic, models, overload, register_model

from . import plain_vectors

# Numba's own types are in part only.
caching: Any = numba_caching
event: Any = numba_event
config: Any = numba.config
Array = npt.NDArray[Any]
# Without nnan and ninf: a NaN must stay visible.
FASTMATH = {"nsz", "arcp", "contract", "afn", "reassoc"}


def jit(function: Callable[..., Any], fastmath: set[str] | bool = False) -> Any:
    """Compile a loop, at its first call for each kind of arguments, and keep it on disk."""
    compiled = functools.partial(numba.njit, nogil=True, error_model="numpy", fastmath=fastmath)
    try:
        loop: Any = compiled(cache=True)(function)
    except RuntimeError:  # no directory to write the cache to
        loop = compiled()(function)
    if not config.DISABLE_JIT:
        loop._cache = _Kept(loop._cache, function)
    return loop


class _Kept:
    """Machine code on disk: Numba's own cache, and before it what lies in a folder that nobody may write to.

    Numba passes over such folders, as a package installed by somebody else or a read-only container have them, and
    compiles anew for every user. What cannot be written, since the disk is full, is not kept.
    """

    def __init__(self, own: Any, function: Callable[..., Any]) -> None:
        self.own, self.given = own, None
        path, code = Path(function.__code__.co_filename), function.__code__
        name = f"{path.stem}.{function.__qualname__}-{code.co_firstlineno}.py{sys.version_info[0]}{sys.version_info[1]}"
        folders = [path.parent / "__pycache__"]
        if config.CACHE_DIR:
            below = f"{path.parent.name}_{hashlib.sha1(os.path.abspath(path.parent).encode()).hexdigest()}"
            folders.insert(0, Path(config.CACHE_DIR, below))
        for folder in folders:
            if str(folder) != own.cache_path and (folder / f"{name}.nbi").exists():
                with contextlib.suppress(OSError, RuntimeError, AttributeError):
                    self.given = _given(function, folder)
                    break

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def load_overload(self, signature: Any, context: Any) -> Any:
        """Return the machine code for some types, if there is any."""
        for cache in (self.own, self.given):
            with contextlib.suppress(OSError):
                found = None if cache is None else cache.load_overload(signature, context)
                if found is not None:
                    return found
        return None

    def save_overload(self, signature: Any, code: Any) -> None:
        """Keep machine code, if that can be done."""
        with contextlib.suppress(OSError):
            self.own.save_overload(signature, code)


def _given(function: Callable[..., Any], folder: Path) -> Any:
    """Return Numba's cache of a function in a folder that need not be writable."""

    class Locator(caching._CacheLocator):  # type: ignore[misc]
        def get_cache_path(self) -> str:
            return str(folder)

        def get_source_stamp(self) -> Any:
            return stamped.get_source_stamp()

        def get_disambiguator(self) -> str:
            return str(function.__code__.co_firstlineno)

        @classmethod
        def from_function(cls, _function: Any, _file: str) -> Any:
            return cls()

    class Code(caching.CompileResultCacheImpl):  # type: ignore[misc]
        _locator_classes = [Locator]

    class Given(caching.FunctionCache):  # type: ignore[misc]
        _impl_class = Code

    in_tree = getattr(caching, "InTreeCacheLocator", None) or caching._InTreeCacheLocator
    stamped = in_tree(function, function.__code__.co_filename)
    return Given(function)


def flat(array: Array) -> Array:
    """Return an array as one of one axis; what is written to it is written to the array."""
    if not array.flags.c_contiguous:
        raise ValueError(f"got an array of strides {array.strides}, need its numbers row after row")
    return array.reshape(-1)


class _Listener(event.Listener):  # type: ignore[misc]
    """Tells once, when something has been compiled for a second and there is more."""

    def __init__(self, tell: Callable[[], object]) -> None:
        self.tell: Callable[[], object] | None = tell
        self.spent = 0.0
        self.began: list[float] = []

    def on_start(self, _event: Any) -> None:
        """See that something is to be compiled."""
        self.began.append(time.monotonic())
        if self.spent > 1.0 and self.tell is not None:
            tell, self.tell = self.tell, None
            tell()

    def on_end(self, _event: Any) -> None:
        """See that it is."""
        began = self.began.pop() if self.began else time.monotonic()
        self.spent += 0.0 if self.began else time.monotonic() - began


@contextlib.contextmanager
def told_of_compiling(tell: Callable[[], object]) -> Iterator[None]:
    """Call `tell` once, should loops be compiled for longer than a second."""
    listener = _Listener(tell)
    event.register("numba:compile", listener)
    try:
        yield
    finally:
        event.unregister("numba:compile", listener)


#: The same for loops whose sums may be taken in any order.
jit_sum = functools.partial(jit, fastmath=FASTMATH)
#: Numbers in a register of 512 bits, or of 256 where there are none so wide; always whole complex numbers.
LANES = 8 if config.DISABLE_JIT or llvmlite.binding.get_host_cpu_features().get("avx512f") else 4


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


def _address(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.data_model_manager[kind].get(builder, array, "data")
    return builder.gep(data, [index], inbounds=True)


@_emitted
def item(_context: Any, array: Any, index: Any) -> Any:
    """Return a number of an array of one axis, the index not being checked, nor counted from the end.

    Slices of arrays take most of the time that a loop takes to compile; numbers of flat arrays take a third of it.
    """

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], *args))

    return types.float64(array, types.intp), emit


@_emitted
def put(_context: Any, array: Any, index: Any, number: Any) -> Any:
    """Write a number to an array of one axis, at an index as in `item`."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, signature.args[0], *args[:2]))
        return context.get_dummy_value()

    return types.void(array, types.intp, types.float64), emit


def _place(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    return builder.bitcast(_address(context, builder, kind, array, index), _LANES.as_pointer())


@_emitted
def load(_context: Any, array: Any, index: Any) -> Any:
    """Return the vector that starts at an index of an array of one axis, which is not checked; float32 is widened."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if array.dtype == types.float32:
            at = _address(context, builder, signature.args[0], *args)
            narrow = builder.load(builder.bitcast(at, ir.VectorType(ir.FloatType(), LANES).as_pointer()), align=4)
            return builder.fpext(narrow, _LANES)
        return builder.load(_place(context, builder, signature.args[0], *args), align=8)

    return _vector(array, types.intp), emit


@_emitted
def repeated(_context: Any, array: Any, index: Any) -> Any:
    """Return a vector that holds one number of an array of one axis over and over."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = builder.load(_address(context, builder, signature.args[0], *args))
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


if config.DISABLE_JIT:
    globals().update(plain_vectors.FUNCTIONS)
