"""Row transforms: plans and buffers, the only importer of pyFFTW.

A plan writes to buffers of its own and serves one thread at a time; planning is done on scratch, under a
lock, and finished plans go back to a shelf from which the next pass of the same size takes them.
"""

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.fft

BACKENDS = ("pyfftw", "scipy")
EFFORTS = ("estimate", "measure", "patient")

_lock = threading.Lock()
_settings = {"backend": "pyfftw", "effort": "estimate"}
_shelf: "OrderedDict[tuple[int, int, str, str], list[RowTransform]]" = OrderedDict()
_SHELF_KINDS = 4  # sizes whose idle plans and buffers are kept


def set_fft(*, backend: str | None = None, effort: str | None = None) -> dict[str, str]:
    """Choose the library that transforms rows, and how hard it plans.

    Parameters
    ----------
    backend : {"pyfftw", "scipy"}, optional
        Library used by ``method="fft"``. The default is "pyfftw"; "scipy" serves where pyFFTW cannot be imported.
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
            msg = f"got {keyword}={value!r}, need one of {', '.join(map(repr, names))}"
            raise ValueError(msg)
    with _lock:
        previous = dict(_settings)
        _settings.update({k: v for k, v in (("backend", backend), ("effort", effort)) if v is not None})
    return previous


class RowTransform:
    """Real transforms of `batch` rows of `length` samples, from and to its own `rows`.

    Spectra stand in rows of `width` complex numbers of somebody else's array, so padded that each starts a cache line;
    the transforms read and write them where they are.
    """

    rows: npt.NDArray[np.float64]

    def __init__(self, batch: int, length: int, backend: str, effort: str) -> None:
        self.key = (batch, length, backend, effort)
        self.n_frequencies = length // 2 + 1
        self.width = spectrum_width(length)
        self._plans: tuple[Any, Any] | None = None
        self._room = np.zeros((0, 0, 0), dtype=np.complex128)
        if backend == "scipy":
            self.rows = np.zeros((batch, length))
            return
        try:
            import pyfftw
        except ImportError as error:
            msg = (
                f"pyFFTW cannot be imported ({error}); reinstall pyfftw, "
                "or choose SciPy's transforms with kernelfit.set_fft(backend='scipy')"
            )
            raise ImportError(msg) from error
        self.rows = pyfftw.zeros_aligned((batch, length), dtype="float64", n=64)
        spectra = aligned((batch, self.width))[:, : self.n_frequencies]
        flags = (f"FFTW_{effort.upper()}",)
        back = (*flags, "FFTW_DESTROY_INPUT")
        self._plans = (
            pyfftw.FFTW(self.rows, spectra, axes=(1,), flags=flags),
            pyfftw.FFTW(spectra, self.rows, axes=(1,), direction="FFTW_BACKWARD", flags=back),
        )

    def room(self, shape: tuple[int, int]) -> npt.NDArray[np.complex128]:
        """Return an array of `shape` rows of spectra, the same as before if the shape is: new pages cost time."""
        if self._room.shape[:2] != shape:
            self._room = aligned((*shape, self.width))
        return self._room

    def forward(self, spectra: npt.NDArray[np.complex128]) -> None:
        """Transform `rows` into the first rows of `spectra`, which has `width` columns."""
        used = spectra[: len(self.rows), : self.n_frequencies]
        if self._plans and len(used) == len(self.rows):
            self._plans[0].update_arrays(self.rows, used)
            self._plans[0].execute()
        else:
            used[...] = scipy.fft.rfft(self.rows[: len(used)], axis=1)

    def backward(self, spectra: npt.NDArray[np.complex128]) -> None:
        """Transform the first rows of `spectra` into `rows`, times the length; they may be used up."""
        used = spectra[: len(self.rows), : self.n_frequencies]
        if self._plans and len(used) == len(self.rows):
            self._plans[1].update_arrays(used, self.rows)
            self._plans[1].execute()
        else:
            self.rows[: len(used)] = scipy.fft.irfft(used, n=self.rows.shape[1], axis=1, norm="forward")


def spectrum_width(length: int) -> int:
    """Return the number of complex numbers in a padded row of the spectrum of `length` samples."""
    return -(-(length // 2 + 1) // 8) * 8


def aligned(shape: tuple[int, ...]) -> npt.NDArray[np.complex128]:
    """Return an array of zeros that starts a cache line."""
    raw = np.zeros(16 * int(np.prod(shape)) + 64, dtype=np.uint8)
    skip = -raw.ctypes.data % 64
    return raw[skip : skip + 16 * int(np.prod(shape))].view(np.complex128).reshape(shape)


def borrow(batch: int, length: int) -> RowTransform:
    """Take a transform from the shelf, or plan one."""
    with _lock:
        key = (batch, length, _settings["backend"], _settings["effort"])
        idle = _shelf.get(key)
        if idle:
            return idle.pop()
        return RowTransform(*key)


def give_back(transform: RowTransform) -> None:
    """Put a transform back on the shelf."""
    with _lock:
        _shelf.setdefault(transform.key, []).append(transform)
        _shelf.move_to_end(transform.key)
        while len(_shelf) > _SHELF_KINDS:
            _shelf.popitem(last=False)
