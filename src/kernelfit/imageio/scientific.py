"""One gray plane out of FITS, HDF5 and Zarr, whose files hold several arrays by number or by name."""

from pathlib import Path
from typing import Any

import numpy as np

from .planes import Choice, ImageFileError, pick_plane, require

_MOST_NAMES = 8  # of what is in a file, in a message


def read_fits(path: Path, choice: Choice) -> Any:
    """Read one image of a FITS file; the rows come in the order of the file, the first one at the bottom of the sky."""
    choice.refuse_unused(path, "FITS", page=True, hdu=True)
    fits = require("astropy.io.fits", package="astropy", extra="io", purpose="reading FITS")
    with fits.open(path, memmap=True) as hdus, fits.open(path, memmap=False) as in_memory:
        images = {at: hdu for at, hdu in enumerate(hdus) if getattr(hdu, "is_image", False) and hdu.shape}
        names = [f"{at} {hdu.name} {' x '.join(map(str, hdu.shape))}".replace("  ", " ") for at, hdu in images.items()]
        if choice.hdu is None:
            if not images:
                msg = f"{path}: got a FITS file without an image, need one with an image HDU"
                raise ImageFileError(msg)
            if len(images) > 1:
                listed = _list(names)
                msg = f"{path}: got {len(images)} images ({listed}), need one; choose it (--hdu {next(iter(images))})"
                raise ImageFileError(msg)
            hdu = next(iter(images.values()))
        else:
            try:
                hdu = hdus[choice.hdu]
            except (KeyError, IndexError):
                hdu = None
            if hdu is None or not getattr(hdu, "is_image", False) or not hdu.shape:
                msg = f"{path}: got hdu={choice.hdu!r}, need one that holds an image: {_list(names) or 'there is none'}"
                raise ImageFileError(msg)
        try:
            data = hdu.data
        except ValueError:  # numbers that are stored scaled cannot be mapped
            data = in_memory[list(hdus).index(hdu)].data
        if data.ndim > 2 and choice.page is None and data.size == data.shape[-1] * data.shape[-2]:
            data = data.reshape(data.shape[-2:])
        return pick_plane(path, np.asanyarray(data), choice)


def read_hdf5(path: Path, choice: Choice) -> Any:
    """Return one dataset of an HDF5 file, read when it is used."""
    choice.refuse_unused(path, "HDF5", page=True, dataset=True, channel=True)
    h5py = require("h5py", package="h5py", extra="io", purpose="reading HDF5")
    file = h5py.File(path, "r")
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim >= 2 and item.dtype.kind in "biufc":
            found[f"/{name}"] = item

    try:
        file.visititems(visit)
        return pick_plane(path, _chosen(path, found, choice.dataset), choice)
    except BaseException:
        file.close()
        raise


def read_zarr(path: Path, choice: Choice) -> Any:
    """Return one array of a Zarr store, read when it is used."""
    choice.refuse_unused(path, "Zarr", page=True, dataset=True, channel=True)
    zarr = require("zarr", package="zarr", extra="io", purpose="reading Zarr")
    node = zarr.open(str(path), mode="r")
    if isinstance(node, zarr.Array):
        if choice.dataset is not None:
            msg = f"{path}: got dataset={choice.dataset!r} for a Zarr array, which holds no others; leave it out"
            raise ImageFileError(msg)
        return pick_plane(path, node, choice)
    found = {f"/{name}": item for name, item in node.members(max_depth=None) if isinstance(item, zarr.Array)}
    found = {name: item for name, item in found.items() if item.ndim >= 2 and item.dtype.kind in "biufc"}
    return pick_plane(path, _chosen(path, found, choice.dataset), choice)


def _chosen(path: Path, found: dict[str, Any], name: str | None) -> Any:
    """Return the dataset of that name, or the only one."""
    listed = _list([f"{key} {' x '.join(map(str, item.shape))}" for key, item in found.items()])
    if name is None:
        if len(found) == 1:
            return next(iter(found.values()))
        what = f"{len(found)} arrays ({listed})" if found else "no array of numbers"
        msg = f"{path}: got {what}, need one; choose it (--dataset {next(iter(found), '/name')})"
        raise ImageFileError(msg)
    key = "/" + name.strip("/")
    if key not in found:
        msg = f"{path}: got dataset={name!r}, need one of: {listed or 'there is none'}"
        raise ImageFileError(msg)
    return found[key]


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
