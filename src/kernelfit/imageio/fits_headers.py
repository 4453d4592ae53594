"""Headers of FITS files that go with an image into another file: what was told of it, and its place on the sky."""

import math
import re
from pathlib import Path
from typing import Any

from .planes import Choice, require
from .read import kind_of
from .scientific import chosen_hdu, open_fits

#: Cards that hold for the pixels of the old file alone.
_OWN = ("CHECKSUM", "DATASUM", "ZHECKSUM", "ZDATASUM", "BLANK", "DATAMIN", "DATAMAX", "INHERIT", "EXTVER", "EXTLEVEL")
_SKY = re.compile(
    r"(WCSAXES|WCSNAME|CTYPE\d|CRVAL\d|CRPIX\d|CDELT\d|CUNIT\d|CROTA\d|(CD|PC|PV|PS)\d_\d+|LONPOLE|LATPOLE|RADESYS)[A-Z]?"
    r"|EQUINOX|RADECSYS|MJD-OBS|DATE-OBS|([AB]P?)_(ORDER|DMAX|\d_\d)"
)
_THIRD = re.compile(
    r"(CTYPE|CRVAL|CRPIX|CDELT|CUNIT|CROTA|CNAME|CRDER|CSYER)[3-9][A-Z]?|(CD|PC)(\d_[3-9]|[3-9]_\d)[A-Z]?"
    r"|(PV|PS)[3-9]_\d+[A-Z]?"
)


def read_header(path: str, choice: Choice) -> Any:
    """Return the header of the image that a choice means, with what the first HDU tells beside it; None if not FITS."""
    if path == "-" or kind_of(Path(path)) != "FITS":
        return None
    with open_fits(Path(path)) as hdus:
        hdu = chosen_hdu(Path(path), hdus, choice)
        header = hdu.header.copy(strip=True)
        if hdu is not hdus[0] and not hdus[0].shape:
            header.extend(hdus[0].header.copy(strip=True), unique=True)
    for name in _OWN:
        header.remove(name, ignore_missing=True, remove_all=True)
    for name in [name for name in header if _THIRD.fullmatch(name)]:
        del header[name]
    if int(header.get("WCSAXES", 2)) > 2:
        header["WCSAXES"] = 2
    return header


def sky_of(header: Any) -> Any:
    """Return the cards of a header that say where pixels lie on the sky."""
    kept = header.copy()
    for name in [name for name in kept if not _SKY.fullmatch(name)]:
        kept.remove(name, ignore_missing=True, remove_all=True)
    return kept


def moved(header: Any, first: tuple[int, int], stride: tuple[int, int]) -> Any:
    """Return the header of ``image[first[0]::stride[0], first[1]::stride[1]]``, as it lies on the sky."""
    # The pixel of reference moves, ``CRPIX' = (CRPIX - 1 - first) / stride + 1``, and the pixels grow by the stride (E.
    # Greisen and M. Calabretta, A&A 395 (2002) 1061, section 2.1); the polynomials of SIP are of old pixels.
    header = header.copy()
    for axis, (begin, step) in enumerate(zip(first[::-1], stride[::-1], strict=True), start=1):
        for name in list(header):
            if re.fullmatch(rf"CRPIX{axis}[A-Z]?", name):
                header[name] = (float(header[name]) - 1 - begin) / step + 1
            grows = rf"CD[12]_{axis}[A-Z]?" if any(re.match(r"CD\d_\d", n) for n in header) else rf"CDELT{axis}[A-Z]?"
            if step != 1 and re.fullmatch(grows, name):
                header[name] = float(header[name]) * step
    if max(stride) > 1:
        down, across = stride
        for name in list(header):
            power = re.fullmatch(r"([AB])P?_(\d)_(\d)", name)
            if power:  # u^p v^q in pixels of the new size, of a correction in such pixels
                own = across if power[1] == "A" else down
                scale = math.prod((float(across) ** int(power[2]), float(down) ** int(power[3]), 1 / own))
                header[name] = float(header[name]) * scale
    return header


def offset_of(science: Any, reference: Any, shape: tuple[int, int]) -> float | None:
    """Return how many pixels apart two headers put the middle of an image; None where they do not tell."""
    wcs = require("astropy.wcs", package="astropy", extra="io", purpose="reading FITS")
    if any(header is None or "CTYPE1" not in header for header in (science, reference)):
        return None
    middle = [0.5 * (n - 1) for n in shape[::-1]]
    try:
        there = wcs.WCS(science).celestial.pixel_to_world_values(*middle)
        back = wcs.WCS(reference).celestial.world_to_pixel_values(*there)
    except Exception:  # of headers that are no whole ones, which say nothing then
        return None
    apart = math.hypot(*(float(a) - b for a, b in zip(back, middle, strict=True)))
    return apart if math.isfinite(apart) else None
