"""Which plane of a file is meant, and the errors of files."""

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.npz import ImageFileError


class NoChannelsError(ImageFileError):
    """A channel was asked for of an image of one plane."""


class MissingExtraError(ImportError):
    """A package that belongs to one of kernelfit's extras is not installed; the message names the extra."""


def require(module: str, *, package: str, extra: str, purpose: str) -> Any:
    """Import `module`, or raise a `MissingExtraError` that says which extra brings it.

    Parameters
    ----------
    module : str
        The module to import, such as ``"PIL.Image"``.
    package : str
        The name of its distribution, such as ``"pillow"``.
    extra : str
        The extra of kernelfit that installs it.
    purpose : str
        What it is needed for, as the start of a sentence.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        msg = f"{purpose} needs {package}, which cannot be imported; do: pip install 'kernelfit[{extra}]'"
        raise MissingExtraError(msg) from error


@dataclass(frozen=True)
class Choice:
    """Which part of a file is meant, where it holds more than one gray plane.

    Parameters
    ----------
    page : int, optional
        Page of a TIFF file, or plane of a stack, from 0.
    hdu : int or str, optional
        HDU of a FITS file, by number from 0 or by name.
    dataset : str, optional
        Array in an HDF5 or Zarr file, such as ``"/night1/image"``.
    channel : int or str, optional
        Channel of a colour image: from 0, or "red", "green", "blue", "alpha" or "luma".
    colours : bool, optional
        Whether a colour image (rows, cols, channels) will do.
    allow_external : bool, optional
        Whether what the file names outside itself may be read.
    """

    page: int | None = None
    hdu: int | str | None = None
    dataset: str | None = None
    channel: int | str | None = None
    colours: bool = False
    allow_external: bool = False

    def refuse_external(self, path: object, what: str) -> None:
        """Refuse pixels that are not in the file itself, unless they are allowed."""
        if not self.allow_external:
            raise ImageFileError(
                f"{path}: got {what}, which lie outside the file; need pixels inside it, or, if you trust the file, "
                "leave to read what it names (--allow-external, allow_external=True)"
            )

    def refuse_unused(self, path: object, kind: str, **used: bool) -> None:
        """Refuse a choice that this kind of file has no use for, rather than ignore it."""
        for name in ("page", "hdu", "dataset", "channel"):
            if getattr(self, name) is not None and not used.get(name, False):
                msg = f"{path}: got {name}={getattr(self, name)!r} for {kind}, which has no {name}; leave it out"
                raise ImageFileError(msg)


def pick_plane(name: object, array: Any, choice: Choice) -> Any:
    """Take the page and the channel that were asked for; refuse choices that the array has no axis for."""
    shape = tuple(array.shape)
    if choice.channel is not None:
        if len(shape) < 3:
            raise NoChannelsError(f"{name}: got channel={choice.channel!r} for an image without channels; leave it out")
        names = {2: ("luma", "alpha"), 3: COLOURS, 4: (*COLOURS, "alpha")}.get(shape[-1], ())
        at = names.index(choice.channel) if choice.channel in names else choice.channel
        if at == "luma" and shape[-1] in (3, 4):
            array = np.asarray(array[..., :3]) @ np.array(LUMA)
        elif isinstance(at, int) and 0 <= at < shape[-1]:
            array = array[..., at]
        else:
            luma = ["luma"] if shape[-1] in (3, 4) else []
            known = ", ".join([*names, *luma, f"0 to {shape[-1] - 1}"])
            raise ImageFileError(f"{name}: got channel={choice.channel!r}, need one of {known}")
        shape = tuple(array.shape)
    if choice.page is not None:
        if len(shape) < 3:
            raise ImageFileError(f"{name}: got page={choice.page} for a single plane; leave it out")
        if not 0 <= choice.page < shape[0]:
            raise ImageFileError(f"{name}: got page={choice.page}, need 0 to {shape[0] - 1}")
        array = array[choice.page]
    return array


COLOURS = ("red", "green", "blue")


LUMA = (0.299, 0.587, 0.114)  # Rec. ITU-R BT.601, as Pillow's gray


def judge_planes(name: object, shape: tuple[int, ...], colours: bool = False) -> None:
    """Refuse anything but one plane, saying what it looks like."""
    if len(shape) == 2 or (colours and len(shape) == 3 and shape[-1] in (2, 3, 4)):
        return
    sides = " x ".join(map(str, shape))
    if len(shape) == 3 and shape[-1] in (2, 3, 4):
        gray = shape[-1] == 2
        what = (
            f"{'an image with alpha' if gray else 'a colour image or one with alpha'} ({sides}, {shape[-1]} channels)"
        )
        which = "--channel luma, channel='luma'" if gray else "--channel green or luma, channel='green'"
        msg = (
            f"{name}: got {what}, need one gray plane; choose a channel ({which}), or take all (--channels shared, "
            "colours=True)"
        )
    elif len(shape) == 3:
        msg = f"{name}: got {shape[0]} planes ({sides}), need one gray plane; choose one (--page 0, page=0)"
    else:
        msg = f"{name}: got an array of {len(shape)} dimensions ({sides}), need 2; save one gray plane"
    raise ImageFileError(msg)
