"""Curves between the values of a file and light: families of few parameters, and what was found, with its errors."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .validation import Array

CURVES = ("gamma", "srgb", "monotone")
SIDES = ("both", "image", "target")
#: Nodes of the monotone curve, the value that is added before their logarithms are taken, and points of its table.
_NODES, _DARK, _TABLE = 7, 0.05, 2049
_LEAST = 1e-12


class Family(Protocol):
    """A curve g of values from 0 to 1, and how it changes with its parameters."""

    names: tuple[str, ...]

    def value(self, v: Array, theta: Array) -> Array:
        """Return g(v)."""

    def inverse(self, light: Array, theta: Array) -> Array:
        """Return the values of some light."""

    def slope(self, v: Array, theta: Array) -> Array:
        """Return g'(v)."""

    def change(self, v: Array, theta: Array) -> list[Array]:
        """Return the derivative of g(v) with each parameter."""


class _Gamma:
    """``g(v) = v^gamma``, ``-(-v)^gamma`` below 0, where noise is, so that the power 1 changes nothing."""

    names: tuple[str, ...] = ("gamma",)

    def value(self, v: Array, theta: Array) -> Array:
        return np.asarray(np.sign(v) * np.abs(v) ** theta[0])

    def inverse(self, light: Array, theta: Array) -> Array:
        return np.asarray(np.sign(light) * np.abs(light) ** (1.0 / theta[0]))

    def slope(self, v: Array, theta: Array) -> Array:
        return np.asarray(theta[0] * np.maximum(np.abs(v), _LEAST) ** (theta[0] - 1.0))

    def change(self, v: Array, theta: Array) -> list[Array]:
        size = np.maximum(np.abs(v), _LEAST)
        return [np.sign(v) * size ** theta[0] * np.log(size)]


class _Srgb:
    """The curve of sRGB, IEC 61966-2-1: ``v / 12.92`` up to 0.04045, then ``((v + 0.055) / 1.055)^2.4``."""

    names: tuple[str, ...] = ()

    def value(self, v: Array, theta: Array) -> Array:
        return np.where(v <= 0.04045, v / 12.92, ((np.maximum(v, 0.0) + 0.055) / 1.055) ** 2.4)

    def inverse(self, light: Array, theta: Array) -> Array:
        return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0) ** (1 / 2.4) - 0.055)

    def slope(self, v: Array, theta: Array) -> Array:
        return np.where(v <= 0.04045, 1 / 12.92, 2.4 / 1.055 * ((np.maximum(v, 0.0) + 0.055) / 1.055) ** 1.4)

    def change(self, v: Array, theta: Array) -> list[Array]:
        return []


class Monotone:
    """A curve from (0, 0) to (1, 1) whose slope is positive everywhere.

    The logarithm of the slope is linear between nodes, as a function of ``log(v + 0.05)``, in which that of a power is
    nearly a straight line; the parameters are its values there less that of the last node.
    """

    names = tuple(f"log_slope_{i}" for i in range(_NODES - 1))

    def __init__(self) -> None:
        self.at = np.linspace(0.0, 1.0, _TABLE) ** 3  # closer together where it is dark
        place = (np.log(self.at + _DARK) - np.log(_DARK)) / (np.log(1 + _DARK) - np.log(_DARK)) * (_NODES - 1)
        self.hats = np.maximum(0.0, 1.0 - np.abs(place - np.arange(_NODES)[:, None]))[:-1]

    def _table(self, theta: Array) -> tuple[Array, Array, float]:
        """Return slope and value at the points of the table, and the factor that makes the last value 1."""
        slope = np.exp(np.clip(theta @ self.hats, -30.0, 30.0))
        value = self._integral(slope)
        return slope / value[-1], value / value[-1], float(value[-1])

    def _integral(self, f: Array) -> Array:
        return np.concatenate([[0.0], np.cumsum(0.5 * (f[1:] + f[:-1]) * np.diff(self.at))])

    def _read(self, v: Array, table: Array, first: float, last: float) -> Array:
        """Read a table at values, beyond its ends along straight lines of these slopes."""
        inside = np.interp(v, self.at, table)
        return np.asarray(inside + first * np.minimum(v, 0.0) + last * np.maximum(v - 1.0, 0.0))

    def value(self, v: Array, theta: Array) -> Array:
        """Return g(v)."""
        slope, value, _ = self._table(theta)
        return self._read(v, value, slope[0], slope[-1])

    def inverse(self, light: Array, theta: Array) -> Array:
        """Return the values of some light."""
        slope, value, _ = self._table(theta)
        inside = np.interp(light, value, self.at)
        return np.asarray(inside + np.minimum(light, 0.0) / slope[0] + np.maximum(light - 1.0, 0.0) / slope[-1])

    def slope(self, v: Array, theta: Array) -> Array:
        """Return g'(v)."""
        return np.asarray(np.interp(v, self.at, self._table(theta)[0]))

    def change(self, v: Array, theta: Array) -> list[Array]:
        """Return the derivative of g(v) with each parameter."""
        slope, value, _ = self._table(theta)
        out = []
        for hat in self.hats:
            part = self._integral(slope * hat)
            ends = slope * (hat - part[-1])
            out.append(self._read(v, part - value * part[-1], float(ends[0]), float(ends[-1])))
        return out

    def near(self, other: Family, theta: Array) -> Array:
        """Return the parameters of the curve that is near another one."""
        at = _DARK * ((1 + _DARK) / _DARK) ** (np.arange(_NODES) / (_NODES - 1)) - _DARK
        logs = np.log(np.maximum(other.slope(np.maximum(at, 0.02), theta), 1e-6))
        return np.asarray(logs[:-1] - logs[-1])


FAMILIES: dict[str, Family] = {"gamma": _Gamma(), "srgb": _Srgb(), "monotone": Monotone()}


@dataclass(frozen=True, eq=False)
class Curve:
    """The curve from the values of a file to light, found together with the kernel.

    ``light = scale * g(value / scale)``: it is called with values and returns light, in the same units.

    Attributes
    ----------
    family : {"gamma", "srgb", "monotone"}
        What was asked for.
    side : {"both", "image", "target"}
        Which of the two it belongs to: ``g(y) = k * g(x)``, ``y = k * g(x)`` or ``g(y) = k * x``.
    parameters : ndarray, shape (parameters,)
        Of `names`: the exponent; none; or the logarithms of the slope at the nodes, less that of the brightest one.
    covariance : ndarray, shape (parameters, parameters)
        Of the parameters, from the joint covariance with the taps.
    scale : (float, float)
        White of the image's values and of the target's: the largest number of an integer type; of floats 1, 255, 65535
        or the largest value, the first of them that no value exceeds.
    rounds : int
        Number of fits.
    """

    family: str
    side: str
    parameters: Array
    covariance: Array = dataclasses.field(repr=False)
    scale: tuple[float, float]
    rounds: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters."""
        return FAMILIES[self.family].names

    @property
    def stderr(self) -> Array:
        """Standard errors of the parameters."""
        return np.asarray(np.sqrt(np.maximum(np.diag(self.covariance), 0.0)))

    def _white(self, of: str | None) -> float:
        return self.scale[(self.side if of is None else of) == "target"]

    def __call__(self, values: npt.ArrayLike, of: str | None = None) -> Array:
        """Return the light of some values.

        Parameters
        ----------
        values : array_like
            Values of the image; of the target where the curve belongs to that alone.
        of : {"image", "target"}, optional
            Which of the two they are of, where the two differ in white.
        """
        white = self._white(of)
        return np.asarray(white * FAMILIES[self.family].value(np.asarray(values, float) / white, self.parameters))

    def inverse(self, light: npt.ArrayLike, of: str | None = None) -> Array:
        """Return the values of some light.

        Parameters
        ----------
        light : array_like
            What `__call__` returns.
        of : {"image", "target"}, optional
            Which of the two it belongs to, where the two differ in white.
        """
        white = self._white(of)
        return np.asarray(white * FAMILIES[self.family].inverse(np.asarray(light, float) / white, self.parameters))

    def error(self, values: npt.ArrayLike, of: str | None = None) -> Array:
        """Return the standard error of the light of some values.

        Parameters
        ----------
        values : array_like
            As for `__call__`.
        of : {"image", "target"}, optional
            Which of the two it belongs to, where the two differ in white.
        """
        white, given = self._white(of), np.asarray(values, dtype=np.float64)
        change = FAMILIES[self.family].change(given / white, self.parameters)
        if not change:
            return np.zeros(given.shape)
        table = np.stack(change)
        variance = np.einsum("i...,ij,j...->...", table, self.covariance, table)
        return np.asarray(white * np.sqrt(np.maximum(variance, 0.0)))

    def image(self, values: Any) -> Array:
        """Return what the kernel is laid on.

        Parameters
        ----------
        values : array_like
            The image.
        """
        return np.asarray(values, dtype=np.float64) if self.side == "target" else self(values, "image")

    def target(self, values: Any) -> Array:
        """Return what the kernel makes.

        Parameters
        ----------
        values : array_like
            The target.
        """
        return np.asarray(values, dtype=np.float64) if self.side == "image" else self(values, "target")

    def shown(self, light: Array) -> Array:
        """Return the target's values of what the kernel makes.

        Parameters
        ----------
        light : ndarray
            What the kernel makes.
        """
        return light if self.side == "image" else self.inverse(light, "target")

    def __str__(self) -> str:
        where = {"both": "image and target", "image": "the image", "target": "the target"}[self.side]
        if self.family == "gamma" and self.parameters[0] == 1.0:
            found = f"the power 1 lies within the error of what was found, {self.stderr[0]:.2g}"
            return f"values of {where} are light: {found}"
        if self.family == "gamma":
            return f"values of {where} to the power of {self.parameters[0]:.5g} +/- {self.stderr[0]:.2g} are light"
        if self.family == "srgb":
            return f"values of {where} are sRGB"
        half = self([0.5 * self._white(None)])[0] / self._white(None)
        error = self.error([0.5 * self._white(None)])[0] / self._white(None)
        return f"monotone, of {where}: half of white is {half:.4g} +/- {error:.2g} of its light"


def curve_from(stored: Any) -> Curve | None:
    """Rebuild a curve from its stored values; refuse what none can be."""
    if stored is None:
        return None
    theta, covariance = (np.array(stored[name], dtype=np.float64) for name in ("parameters", "covariance"))
    if stored["family"] not in CURVES or stored["side"] not in SIDES:
        raise ValueError("a curve that is none")
    n = len(FAMILIES[stored["family"]].names)
    covariance = covariance.reshape(n, n)
    first, second = (float(one) for one in stored["scale"])
    if theta.shape != (n,) or not (
        np.isfinite(theta).all() and np.isfinite(covariance).all() and min(first, second) > 0
    ):
        raise ValueError("a curve whose numbers are none")
    return Curve(stored["family"], stored["side"], theta, covariance, (first, second), int(stored["rounds"]))
