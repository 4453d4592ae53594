"""What the commands do with signals: WAV, NPY of one axis, columns of tables, and all else where --lags is given."""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

import kernelfit

from ..core.npz import write_whole
from ..imageio import kernels, signals, write
from ..imageio.signals import Signal
from . import arguments
from .options import SOLVED, BadCallError, say
from .series import Found, fit_pair

#: Taps from which on a prior chosen by evidence would take minutes.
_MOST_CHOSEN = 1000


def wanted(args: argparse.Namespace) -> bool:
    """Say whether a call is about signals."""
    if getattr(args, "lags", None) is not None or signals.is_signal(args.image):
        return True
    # what the sides of the kernel do not tell, a table of one column does
    return hasattr(args, "lags") and not isinstance(args.shape, tuple) and signals.is_column(args.image)


def find(args: argparse.Namespace, settings: dict[str, Any]) -> tuple[Found, int | None]:
    """Find the kernel of a pair of signals; return also how many samples there are in a second."""
    for name in ("page", "hdu"):
        if getattr(args, name) is not None:
            raise BadCallError(f"got --{name} for signals, which have none; leave it out")
    if args.checkpoint is not None:
        raise BadCallError("got --checkpoint for signals, need images; leave it out")
    (one, first), (other, second) = (_read(args, name, at) for at, name in enumerate(("image", "target")))
    x, y, code = one.samples, other.samples, (first, second)
    rates = {rate for rate in (one.rate, other.rate) if rate is not None}
    if len(rates) > 1:
        raise BadCallError(f"got signals of {' and '.join(map(str, rates))} samples a second, need the same; resample")
    if args.output not in (None, "-"):
        kernels.require_complex(args.output, x.dtype, y.dtype)
    several = args.channels is not None
    sides = (len(x.shape), len(y.shape))
    mixed = args.channels == "mixed" and max(sides) == 2  # from one channel to several, or back
    for path, values in ((args.image, x), (args.target, y)):
        if (len(values.shape) == 2) != several and not mixed:
            kinds = f"{values.shape[1]} channels" if len(values.shape) == 2 else "one channel"
            whole = "shared" if min(sides) == 2 else "mixed"
            need = "several; leave it out" if several else f"a channel (--channel 0) or all (--channels {whole})"
            raise BadCallError(
                f"{path}: got {kinds} of a signal{' with --channels' if several else ''}, need {need}; or, if "
                "it is an image, another of two dimensions beside it"
            )
    if several:
        code = (code[0] + "[:, None]" * (sides[0] == 1), code[1] + "[:, None]" * (sides[1] == 1))
        x, y = (values[:, None] if len(values.shape) == 1 else values for values in (x, y))
    maps, map_code = arguments.maps(args, signals.read_signal, "read_signal({!r})")
    solver, solver_code = arguments.solver(args, x)
    if args.lags is not None:
        settings = {"lags": args.lags, **settings}
        n_taps = args.lags[1] - args.lags[0] + 1
    else:
        n_taps = args.shape if isinstance(args.shape, int) else 0
    if solver == "auto" and n_taps > _MOST_CHOSEN:
        solver, solver_code = None, ""
    call = arguments.python(args.shape, code, settings, {**map_code, "solver": solver_code}, "read_signal")
    words = {"solver": solver, **settings, **maps}
    return fit_pair(args, (x, y), args.shape, words, f"{len(x)} samples", call), next(iter(rates), None)


def _read(args: argparse.Namespace, name: str, at: int) -> tuple[Signal, str]:
    return arguments.read_one(args, name, at, signals.load, "read_signal", ("channel", "dataset"))


def apply(args: argparse.Namespace) -> int:
    """Lay a kernel on a signal."""
    held = kernels.read_kernel(args.kernel)
    words = {"workers": args.workers, **arguments.laying(args, held.convention, "fill")}
    if args.stride is not None:
        words |= {"stride": args.stride, "offset": args.offset or 0}
    return _written(args, held, kernelfit.apply_kernel, words, f"boundary {words['boundary']}")


def deconvolve(args: argparse.Namespace) -> int:
    """Restore what a signal was before a kernel."""
    held = kernels.read_kernel(args.kernel)
    words = arguments.restoring(args, held.convention)
    return _written(args, held, kernelfit.deconvolve, words, f"balance {args.balance}")


def _written(
    args: argparse.Namespace, held: kernels.KernelFile, verb: Callable[..., Any], words: dict[str, Any], how: str
) -> int:
    """Do it, and write what comes of it."""
    (kept,) = arguments.check_outputs(args, (args.output, "the signal", signals.SUFFIXES))
    signal, _ = _read(args, "image", 0)
    if len(signal.samples.shape) != 1:
        raise BadCallError(f"{args.image}: got {signal.samples.shape[1]} channels, need one: --channel 0")
    taps = held.kernel[:, 0] if held.convention is None and held.kernel.shape[1:] == (1,) else held.kernel
    if taps.ndim != 1:
        raise BadCallError(f"{args.kernel}: got kernels of shape {taps.shape} for a signal, need one of one dimension")
    made = verb(signal.samples, taps, **words)
    if isinstance(args.nan, float):
        made = np.where(np.isnan(made), args.nan, made)
    if kept is None:
        write.write_stdout(made)
        return SOLVED
    write_whole(kept, signals.signal_writer(kept, made, signal.rate), "the signal", overwrite=args.force)
    say(f"{args.output}: {len(made)} samples, {how}")
    return SOLVED
