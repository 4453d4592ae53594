"""The vectors of `jit` as arrays, for loops that run as plain Python under ``NUMBA_DISABLE_JIT=1``."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LANES = 8


def item(array: Array, index: int) -> Any:
    """Return a number of an array of one axis."""
    return array[index]


def put(array: Array, index: int, number: float) -> None:
    """Write a number to an array of one axis."""
    array[index] = number


def load(array: Array, index: int) -> Array:
    """Return the vector that starts at an index of an array of one axis."""
    return array[index : index + LANES].astype(np.float64)


def repeated(array: Array, index: int) -> Array:
    """Return a vector that holds one number of an array over and over."""
    return np.full(LANES, array[index])


def store(array: Array, index: int, vector: Array) -> None:
    """Write a vector to an array of one axis, from an index on."""
    array[index : index + LANES] = vector


def zeros() -> Array:
    """Return a vector of zeros."""
    return np.zeros(LANES)


def swapped(vector: Array) -> Array:
    """Return a vector with the two numbers of each pair exchanged."""
    return np.ascontiguousarray(vector.reshape(-1, 2)[:, ::-1]).ravel()


def conjugate_products(plain: Array, crossed: Array) -> Array:
    """Return the sums of ``conj(a) * b`` from those of the numbers of ``a * b`` and of ``swapped(a) * b``."""
    products = np.empty(LANES)
    products[::2] = (plain + swapped(plain))[::2]
    products[1::2] = (crossed - swapped(crossed))[1::2]
    return products


FUNCTIONS = {f.__name__: f for f in (item, put, load, repeated, store, zeros, swapped, conjugate_products)}
