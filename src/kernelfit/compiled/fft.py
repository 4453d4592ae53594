"""Transforms of rows, of blocks and of whole images: plans and buffers, the only importer of pyFFTW.

A plan writes to buffers of its own, or to what it is told, and serves one thread at a time; planning is done on
scratch, under a lock, and finished plans go back to a pool from which the next pass of the same size takes them.
"""

import contextlib
import functools
import math
import sys
import threading
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import scipy.fft

from .threads import in_order

BACKENDS = ("pyfftw", "scipy")
EFFORTS = ("estimate", "measure", "patient")
Transforms = TypeVar("Transforms")
_lock = threading.Lock()
_planning = threading.Lock()  # FFTW's wisdom is the whole process's
_settings = {"backend": "pyfftw", "effort": "estimate"}
_pool: "OrderedDict[tuple[object, ...], list[Any]]" = OrderedDict()
#: Pixels of an image up to which threads cost more than they bring, and its buffers are kept.
SMALL = 2**20
_PART = 2**15  # points, about, that are transformed at a time
#: Rows that loops over spectra may read and write beyond the last.
MORE_ROWS = 7
_POOL_KINDS = 16


def set_fft(*, backend: str | None = None, effort: str | None = None) -> dict[str, str]:
    """Choose the library that transforms rows and blocks, and how hard it plans.

    Parameters
    ----------
    backend : {"pyfftw", "scipy"}, optional
        Library used by ``method="fft"``, by `deconvolve`, and by ``method="wiener"`` for blocks; images that it takes
        whole are always transformed by SciPy. The default is "pyfftw"; "scipy" serves where pyFFTW cannot be imported.
        Nothing ever changes it silently.
    effort : {"estimate", "measure", "patient"}, optional
        Planning effort of pyFFTW. The default "estimate" plans in milliseconds and always finds the same
        plan, so that results are the same to the last bit in every process; "measure" and "patient" time
        candidates first (0.1 s to minutes for each new size), may gain a little speed and may differ in the last
        bits from run to run.

    Returns
    -------
    dict
        The settings that were in force before, to be given back with ``set_fft(**previous)``.

    Raises
    ------
    ValueError
        If a name is not one of those listed.

    Examples
    --------
    >>> import kernelfit
    >>> previous = kernelfit.set_fft(backend="scipy")
    >>> kernelfit.set_fft(**previous)["backend"]
    'scipy'
    """
    for keyword, value, names in (("backend", backend, BACKENDS), ("effort", effort, EFFORTS)):
        if value is not None and value not in names:
            raise ValueError(f"got {keyword}={value!r}, need one of {', '.join(map(repr, names))}")
    with _lock:
        previous = dict(_settings)
        _settings.update({k: v for k, v in (("backend", backend), ("effort", effort)) if v is not None})
    return previous


class RowTransforms:
    """Real transforms of the rows of images and targets, all between buffers of its own."""

    image: npt.NDArray[np.float64]  # (halo + rows, length): the rows of a source to be transformed
    result: npt.NDArray[np.float64]  # (rows, length): those of a target
    model: npt.NDArray[np.float64]  # those that `backward` makes
    #: (arrays, halo + rows and a few more, 2 * frequencies and a few more): of the sources, then of the targets, real
    #: and imaginary parts in turn
    spectra: npt.NDArray[np.float64]

    def __init__(
        self, rows: int, length: int, n_arrays: int, n_sources: int, halo: int, backend: str, effort: str
    ) -> None:
        self.key = (type(self), rows, length, n_arrays, n_sources, halo, backend, effort)
        self.n_sources, self.halo = n_sources, halo
        # Whole cache lines, an odd number of them apart: else they crowd in the cache, for up to three times as long.
        half = length // 2 + 1
        values = aligned((n_arrays, halo + rows + MORE_ROWS, 4 * (-(-half // 4) | 1)))
        self.spectra = values.view(np.float64)
        self._used = values[:, : halo + rows, :half]
        self._plans: list[tuple[Any, ...]] = []
        self._back: dict[int, Any] = {}
        self._pyfftw, self._effort = _library(backend), effort
        heights = (halo + rows, rows, rows) if n_arrays > n_sources else (halo + rows,)
        buffers = [aligned((n * length // 2 + 1,)).view(np.float64)[: n * length].reshape(n, -1) for n in heights]
        self.image, self.result, self.model = buffers[0], buffers[-1], buffers[len(buffers) // 2]
        if self._pyfftw is None:
            return
        with _planner(self._pyfftw, effort) as plan:
            for i, values in enumerate(self._used):
                parts = [(self.image[halo:], values[halo:]), (self.image[:halo], values[:halo])]
                parts = parts[: 1 + bool(halo)] if i < n_sources else [(self.result, values[:rows])]
                self._plans.append(tuple(plan(*part, axes=(1,)) for part in parts))

    def clear(self, image_cols: int, result_cols: int) -> None:
        """Set everything beyond these columns to zero, and what planning may have left behind."""
        self.image[:, image_cols:] = 0.0
        self.result[:, result_cols:] = 0.0

    def forward(self, array: int, *, below: bool = False) -> None:
        """Transform `image`, or for a target `result`, into the spectra of one array.

        If the rows are those `below` the last ones, the spectra of the halo are there (`go_below`).
        """
        if self._plans:
            for plan in self._plans[array][: 1 if below else None]:
                plan.execute()
            return
        source = array < self.n_sources
        first = self.halo if source and below else 0
        rows = self.image[first:] if source else self.result
        self._used[array, first : first + len(rows)] = scipy.fft.rfft(rows, axis=1)

    def go_below(self, rows: int) -> None:
        """Keep what follows so many rows of the sources as the halo of what lies below."""
        for spectra in self.spectra[: self.n_sources]:
            spectra[: self.halo] = spectra[rows : rows + self.halo]

    def backward(self, array: int) -> None:
        """Transform the spectra of one array, which may be used up, into `model`, times the length."""
        if self._pyfftw is None:
            spectra = self._used[array, : len(self.model)]
            self.model[...] = scipy.fft.irfft(spectra, n=self.model.shape[1], axis=1, norm="forward")
            return
        if array not in self._back:  # planned with effort, it would destroy the spectra
            spectra = self._used[array, : len(self.model)]
            kept = spectra.copy()
            way = spectra, self.model, "FFTW_DESTROY_INPUT"
            with _planner(self._pyfftw, self._effort) as plan:
                self._back[array] = plan(*way, axes=(1,), direction="FFTW_BACKWARD")
            spectra[...] = kept
        self._back[array].execute()


class PlaneTransforms:
    """Real transforms along both axes, one thread or several, each of as many rows or columns as the cache holds."""

    dtype: "np.dtype[Any]"  # of the image, float32 or float64
    small: bool  # whether threads would cost more than they bring
    #: (cols // 2 + 1, rows and a few more): the frequencies of a column beside each other, so that they are transformed
    #: along the memory, and FFTW writes the spectra of rows across it at hardly any cost
    spectrum: npt.NDArray[Any]
    _lines: npt.NDArray[Any]

    def __init__(self, rows: int, cols: int, dtype: str, backend: str, effort: str) -> None:
        self.key = (type(self), rows, cols, dtype, backend, effort)
        self.shape, self.dtype, half = (rows, cols), np.dtype(dtype), cols // 2 + 1
        self.small = rows * cols <= SMALL
        self._tile, lines = (16 * max(1, _PART // (16 * n)) for n in (cols, rows))  # whole cache lines
        self._group = -(-half // -(-half // lines))  # so that none is but partly filled
        kind = np.result_type(self.dtype, np.complex64)
        line = 64 // kind.itemsize  # and an odd number of them apart, as in RowTransforms
        room = (-(-rows // self._tile) * self._tile // line + 1 | 1) * line
        self._room = (-(-half // self._group) * self._group, room), kind
        self.claim()
        self._pyfftw, self._effort = _library(backend), effort
        self._idle: list[tuple[Any, ...]] = []

    def claim(self) -> None:
        """Take memory for the spectrum, unless it has been kept."""
        if not hasattr(self, "_lines"):
            self._lines = aligned(*self._room)
            self.spectrum = self._lines[: self.shape[1] // 2 + 1]

    def release(self) -> None:
        """Give back the memory of a large spectrum, to which plans hold on until they have other arrays."""
        if self.small:
            return
        del self._lines, self.spectrum
        for _, *plans in self._idle if self._pyfftw else ():
            for plan in plans:
                plan.update_arrays(*map(_hollow, (plan.input_array, plan.output_array)))

    def forward(self, load: Callable[[int, npt.NDArray[Any]], None], workers: int) -> None:
        """Transform the image whose rows from some row on ``load(row, out)`` gives."""

        def rows(first: int) -> None:
            with self._own() as (block, transform, *_):
                load(first, block[: self.shape[0] - first])
                self._do(transform, block, self.spectrum[:, first : first + self._tile].T)

        self._each(range(0, self.shape[0], self._tile), rows, workers)
        self._along(3, None, workers)

    def backward(
        self, change: Callable[[slice], None], store: Callable[[int, npt.NDArray[Any]], None], n_rows: int, workers: int
    ) -> None:
        """Transform the spectrum, which is used up, lines of which ``change(lines)`` has changed before."""
        # ``store(row, rows)`` takes the rows from some row on, `n_rows` in all, times the number of pixels.
        self._along(4, change, workers)

        def rows(first: int) -> None:
            with self._own() as (block, _, transform, *_):
                self._do(transform, self.spectrum[:, first : first + self._tile].T, block)
                store(first, block[: n_rows - first])

        self._each(range(0, n_rows, self._tile), rows, workers)

    def _along(self, which: int, change: Callable[[slice], None] | None, workers: int) -> None:
        def lines(first: int) -> None:
            if change is not None:
                change(slice(first, min(first + self._group, len(self.spectrum))))
            part = self._lines[first : first + self._group, : self.shape[0]]
            with self._own() as plans:
                self._do(plans[which], part, part)

        self._each(range(0, len(self.spectrum), self._group), lines, workers)

    @staticmethod
    def _each(parts: range, do: Callable[[int], None], workers: int) -> None:
        for _ in in_order(parts, do, workers):
            pass

    @contextlib.contextmanager
    def _own(self) -> Iterator[tuple[Any, ...]]:
        """Lend a buffer and plans that no other thread uses."""
        try:
            own = self._idle.pop()
        except IndexError:
            own = self._plans()
        yield own
        self._idle.append(own)

    def _plans(self) -> tuple[Any, ...]:
        cols, rows = self.shape[1], self.shape[0]
        block = aligned((self._tile, cols), self.dtype)
        if self._pyfftw is None:
            return (
                block,
                lambda a: scipy.fft.rfft(a, axis=1, workers=1),
                lambda a: scipy.fft.irfft(a, n=cols, axis=1, norm="forward", workers=1),
                lambda a: scipy.fft.fft(a, axis=1, workers=1),
                lambda a: scipy.fft.ifft(a, axis=1, norm="forward", workers=1),
            )
        scratch = aligned(self._lines.shape, self._lines.dtype)  # planned with effort, it is written to
        across, lines = scratch[: len(self.spectrum), : self._tile].T, scratch[: self._group, :rows]
        with _planner(self._pyfftw, self._effort) as plan:
            plans = [
                plan(*arrays, *flags, axes=(1,), direction=f"FFTW_{direction}")
                for arrays, direction, *flags in (
                    ((block, across), "FORWARD"),
                    ((across, block), "BACKWARD", "FFTW_DESTROY_INPUT"),
                    ((lines, lines), "FORWARD"),
                    ((lines, lines), "BACKWARD"),
                )
            ]
        block[...] = 0.0
        return block, *plans

    def _do(self, transform: Any, source: npt.NDArray[Any], result: npt.NDArray[Any]) -> None:
        if self._pyfftw is None:
            result[...] = transform(source)
        else:
            transform.update_arrays(source, result)
            transform.execute()


class BlockTransforms:
    """Real transforms of the block of an image and of that of a target, from one buffer, `block`, which is kept."""

    def __init__(self, rows: int, cols: int, backend: str, effort: str) -> None:
        self.key = (type(self), rows, cols, backend, effort)
        self.block = aligned((rows * cols // 2 + 1,)).view(np.float64)[: rows * cols].reshape(rows, cols)
        # (2, rows, cols // 2 + 1 and more): whole cache lines, and not a power of two apart
        self.spectra = aligned((2, rows, -(-(cols // 2 + 1) // 4) * 4))
        self._used = self.spectra[:, :, : cols // 2 + 1]
        self._plans: list[Any] = []
        pyfftw = _library(backend)
        if pyfftw is not None:
            with _planner(pyfftw, effort) as plan:
                self._plans = [plan(self.block, values, axes=(0, 1)) for values in self._used]

    def forward(self, array: int) -> None:
        """Transform `block` into one of the spectra."""
        if self._plans:
            self._plans[array].execute()
        else:
            self._used[array] = scipy.fft.rfft2(self.block, workers=1)


class SliceTransforms:
    """Real transforms of a plane of a volume, from `block`, to anywhere, a column's frequencies side by side."""

    def __init__(self, height: int, rows: int, cols: int, backend: str, effort: str) -> None:
        """Plan for planes of up to `height` rows, transformed as if they had more."""
        self.key = (type(self), height, rows, cols, backend, effort)
        self.block = aligned((height * cols // 2 + 1,)).view(np.float64)[: height * cols].reshape(height, cols)
        self.rows = rows
        lines = aligned(self.room(rows, cols))
        self._lines, self._across = lines[:, :rows], lines[:, :height].T
        self._plans: list[Any] = []
        pyfftw = _library(backend)
        if pyfftw is not None:
            result = aligned(lines.shape)[:, :rows]
            with _planner(pyfftw, effort) as plan:
                self._plans.append(plan(self.block, self._across, axes=(1,)))
                self._plans.append(plan(self._lines, result, axes=(1,)))
            lines[:] = 0.0

    @staticmethod
    def room(rows: int, cols: int) -> tuple[int, int]:
        """Return the shape of an array for spectra: whole cache lines, and an odd number of them apart."""
        return cols // 2 + 1, 4 * (-(-rows // 4) | 1)

    def forward(self, out: npt.NDArray[np.complex128]) -> None:
        """Transform `block` into a spectrum, an array of `room` that starts a cache line."""
        if not self._plans:
            self._across[:] = scipy.fft.rfft(self.block, axis=1, workers=1)
            out[:, : self.rows] = scipy.fft.fft(self._lines, axis=1, workers=1)
            return
        across, along = self._plans
        across.execute()
        along.update_arrays(self._lines, out[:, : self.rows])
        along.execute()


def _library(backend: str) -> Any:
    """Return pyFFTW, None for SciPy."""
    if backend == "scipy":
        return None
    try:
        return _pyfftw()
    except ImportError as error:
        raise ImportError(
            f"pyFFTW cannot be imported ({error}); reinstall pyfftw, "
            "or choose SciPy's transforms with kernelfit.set_fft(backend='scipy')"
        ) from error


@functools.cache
def _pyfftw() -> Any:
    """Return pyFFTW; its interfaces, which import SciPy's and Dask's, wait until they are asked for."""
    name = "pyfftw.interfaces"
    if "pyfftw" in sys.modules or name in sys.modules:
        import pyfftw

        return pyfftw
    sys.modules[name] = types.ModuleType(name)
    try:
        import pyfftw
    finally:
        del sys.modules[name]

    def attribute(of: str) -> Any:
        if of != "interfaces":
            raise AttributeError(f"module 'pyfftw' has no attribute {of!r}")
        import pyfftw.interfaces

        return pyfftw.interfaces

    vars(pyfftw).pop("interfaces", None)
    vars(pyfftw)["__getattr__"] = attribute
    return pyfftw


@contextlib.contextmanager
def _planner(pyfftw: Any, effort: str) -> Iterator[Callable[..., Any]]:
    """Lend what plans transforms; with "estimate" as in a fresh process, whatever was planned in this one before."""
    # FFTW would take what it has measured for a plan that is to be estimated, and so other bits would come out. To put
    # its knowledge aside and back takes as long as a plan: once for some, which share what they find out.
    flag, own = f"FFTW_{effort.upper()}", effort == "estimate"
    with _planning:
        known = pyfftw.export_wisdom() if own else None
        if own:
            pyfftw.forget_wisdom()
        try:
            yield lambda source, result, *flags, **how: pyfftw.FFTW(source, result, flags=(flag, *flags), **how)
        finally:
            if own:
                pyfftw.forget_wisdom()
                pyfftw.import_wisdom(known)


def aligned(shape: tuple[int, ...], dtype: npt.DTypeLike = np.complex128) -> npt.NDArray[Any]:
    """Return an array of zeros that starts a cache line."""
    size = np.dtype(dtype).itemsize * math.prod(shape)
    raw = np.zeros(size + 64, dtype=np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + size].view(dtype).reshape(shape)


def _hollow(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return what passes for an array of these strides, but is hardly any memory: not to be looked into."""
    return np.lib.stride_tricks.as_strided(aligned((1,), array.dtype), array.shape, array.strides)


def borrow(rows: int, length: int, n_arrays: int, n_sources: int, *, halo: int = 0) -> RowTransforms:
    """Take transforms of rows from the pool, or plan them."""
    return take(RowTransforms, rows, length, n_arrays, n_sources, halo)


def borrow_plane(rows: int, cols: int, dtype: npt.DTypeLike) -> PlaneTransforms:
    """Take transforms of an image from the pool, or plan them; what is left in the spectra is anything."""
    found = take(PlaneTransforms, rows, cols, np.dtype(dtype).name)
    found.claim()
    return found


def take(kind: type[Transforms], *sides: int | str) -> Transforms:
    """Take transforms of these sides from the pool, or plan them; what is left in their buffers is anything."""
    with _lock:
        rest: tuple[Any, ...] = *sides, _settings["backend"], _settings["effort"]
        idle = _pool.get((kind, *rest))
        return idle.pop() if idle else kind(*rest)


def give_back(transform: RowTransforms | BlockTransforms | SliceTransforms | PlaneTransforms) -> None:
    """Put a transform back into the pool."""
    if isinstance(transform, PlaneTransforms):
        transform.release()
    with _lock:
        _pool.setdefault(transform.key, []).append(transform)
        _pool.move_to_end(transform.key)
        while len(_pool) > _POOL_KINDS:
            _pool.popitem(last=False)
