"""Loops over spectra of rows: products at row lags, and their inverse at few lags."""

import numpy as np
import numpy.typing as npt

from .jit import LANES, Array, conjugate_products, flat, jit_sum, load, repeated, store, swapped, zeros

Starts = npt.NDArray[np.intp]


def n_lags(least: int) -> int:
    """Return for how many lags `spectral_lag_sums` has loops, no fewer than `least`: 1, 4, 5, 8, 9 and so on."""
    return least if least == 1 or (least > 3 and least % 4 < 2) else -(-least // 4) * 4


@jit_sum
def _four(array, at):
    """Load four vectors that follow each other."""
    return load(array, at), load(array, at + LANES), load(array, at + 2 * LANES), load(array, at + 3 * LANES)


@jit_sum
def _put_four(array, at, v, w, x, y):
    """Store four vectors one after the other."""
    store(array, at, v)
    store(array, at + LANES, w)
    store(array, at + 2 * LANES, x)
    store(array, at + 3 * LANES, y)


@jit_sum
def _one_lag(factors, a, step_a, spectra, b, step_b, n, sums, p, q):
    """Do the work of `_eight_lags` for one of them."""
    plain, across = load(sums, p), load(sums, q)
    for _ in range(n):
        v, w = load(factors, a), load(spectra, b)
        plain, across = plain + v * w, across + swapped(v) * w
        a += step_a
        b += step_b
    store(sums, p, plain)
    store(sums, q, across)


@jit_sum
def _two_lags(factors, a, step_a, spectra, b, step_b, lag, n, sums, p, q):
    """Do the work of `_eight_lags` for two of them."""
    p0, p1, q0, q1 = load(sums, p), load(sums, p + LANES), load(sums, q), load(sums, q + LANES)
    for _ in range(n):
        v = load(factors, a)
        w = swapped(v)
        x = load(spectra, b)
        p0, q0 = p0 + v * x, q0 + w * x
        x = load(spectra, b + lag)
        p1, q1 = p1 + v * x, q1 + w * x
        a += step_a
        b += step_b
    store(sums, p, p0)
    store(sums, p + LANES, p1)
    store(sums, q, q0)
    store(sums, q + LANES, q1)


@jit_sum
def _four_lags(factors, a, step_a, spectra, b, step_b, lag, n, sums, p, q):
    """Do the work of `_eight_lags` for four of them."""
    p0, p1, p2, p3 = _four(sums, p)
    q0, q1, q2, q3 = _four(sums, q)
    for _ in range(n):
        v = load(factors, a)
        w = swapped(v)
        x = load(spectra, b)
        p0, q0 = p0 + v * x, q0 + w * x
        x = load(spectra, b + lag)
        p1, q1 = p1 + v * x, q1 + w * x
        x = load(spectra, b + 2 * lag)
        p2, q2 = p2 + v * x, q2 + w * x
        x = load(spectra, b + 3 * lag)
        p3, q3 = p3 + v * x, q3 + w * x
        a += step_a
        b += step_b
    _put_four(sums, p, p0, p1, p2, p3)
    _put_four(sums, q, q0, q1, q2, q3)


@jit_sum
def _five_lags(factors, a, step_a, spectra, b, step_b, lag, n, sums, p, q):
    """Do the work of `_eight_lags` for five of them."""
    p0, p1, p2, p3 = _four(sums, p)
    q0, q1, q2, q3 = _four(sums, q)
    p4, q4 = load(sums, p + 4 * LANES), load(sums, q + 4 * LANES)
    for _ in range(n):
        v = load(factors, a)
        w = swapped(v)
        x = load(spectra, b)
        p0, q0 = p0 + v * x, q0 + w * x
        x = load(spectra, b + lag)
        p1, q1 = p1 + v * x, q1 + w * x
        x = load(spectra, b + 2 * lag)
        p2, q2 = p2 + v * x, q2 + w * x
        x = load(spectra, b + 3 * lag)
        p3, q3 = p3 + v * x, q3 + w * x
        x = load(spectra, b + 4 * lag)
        p4, q4 = p4 + v * x, q4 + w * x
        a += step_a
        b += step_b
    _put_four(sums, p, p0, p1, p2, p3)
    _put_four(sums, q, q0, q1, q2, q3)
    store(sums, p + 4 * LANES, p4)
    store(sums, q + 4 * LANES, q4)


@jit_sum
def _eight_lags(factors, a, step_a, spectra, b, step_b, lag, n, sums, p, q):
    """Add lag products of columns, a vector of them: ``p[i] += sum_r v[r] * x[r, i]``, and of swapped v to ``q[i]``."""
    # i < 8, r < `n`; all arrays are flat, v and x start at `a` and `b`, their r are `step_a` and `step_b` apart, the
    # lags of x `lag`. Where there are but sixteen registers, twice four.
    if LANES == 4:
        _four_lags(factors, a, step_a, spectra, b, step_b, lag, n, sums, p, q)
        _four_lags(factors, a, step_a, spectra, b + 4 * lag, step_b, lag, n, sums, p + 4 * LANES, q + 4 * LANES)
        return
    p0, p1, p2, p3 = _four(sums, p)
    p4, p5, p6, p7 = _four(sums, p + 4 * LANES)
    q0, q1, q2, q3 = _four(sums, q)
    q4, q5, q6, q7 = _four(sums, q + 4 * LANES)
    for _ in range(n):
        v = load(factors, a)
        w = swapped(v)
        x = load(spectra, b)
        p0, q0 = p0 + v * x, q0 + w * x
        x = load(spectra, b + lag)
        p1, q1 = p1 + v * x, q1 + w * x
        x = load(spectra, b + 2 * lag)
        p2, q2 = p2 + v * x, q2 + w * x
        x = load(spectra, b + 3 * lag)
        p3, q3 = p3 + v * x, q3 + w * x
        x = load(spectra, b + 4 * lag)
        p4, q4 = p4 + v * x, q4 + w * x
        x = load(spectra, b + 5 * lag)
        p5, q5 = p5 + v * x, q5 + w * x
        x = load(spectra, b + 6 * lag)
        p6, q6 = p6 + v * x, q6 + w * x
        x = load(spectra, b + 7 * lag)
        p7, q7 = p7 + v * x, q7 + w * x
        a += step_a
        b += step_b
    _put_four(sums, p, p0, p1, p2, p3)
    _put_four(sums, p + 4 * LANES, p4, p5, p6, p7)
    _put_four(sums, q, q0, q1, q2, q3)
    _put_four(sums, q + 4 * LANES, q4, q5, q6, q7)


def spectral_lag_sums(spectra: Array, first: int, second: int, rows: int, sums: Array) -> None:
    """Add the lag products, across rows, of row spectra: of ``conj(S_a[r, f]) * S_second[r + i, f]``, r < `rows`.

    a >= `first`; `spectra` (arrays, rows, 2 * frequencies and more) holds real and imaginary parts in turn. What is
    added to `sums` (arrays, 2, vectors of frequencies, lags, LANES) is for `complex_sums` to put together. There are as
    many lags as `n_lags` says, for all of which there must be rows.
    """
    n_arrays, _, n_vectors, n_i, _ = sums.shape
    plane, step = spectra[0].size, spectra.shape[2]
    starts = np.arange(first, n_arrays) * plane
    add_lag_products(flat(spectra), starts, second * plane, step, rows, flat(sums[first:]), n_vectors, n_i)


def plane_lag_sums(spectra: Array, first: Starts, second: int, step: int, rows: int, sums: Array) -> None:
    """Do the work of `spectral_lag_sums` for spectra that lie in one flat array, their rows `step` apart.

    The first factors start at each of `first`, the other at `second`.
    """
    add_lag_products(spectra, first, second, step, rows, flat(sums), sums.shape[2], sums.shape[3])


@jit_sum
def add_lag_products(spectra, first, second, step, rows, out, n_vectors, n_i):
    """Do what `plane_lag_sums` says of a flat array of sums."""
    crossed = n_vectors * n_i * LANES
    for f in range(n_vectors):
        for a in range(len(first)):
            x, y = first[a] + f * LANES, second + f * LANES
            p = (2 * a * n_vectors + f) * n_i * LANES
            q, i = p + crossed, 0
            if n_i == 1:
                _one_lag(spectra, x, step, spectra, y, step, rows, out, p, q)
                i = 1
            while i < n_i:
                at, k = y + i * step, i * LANES
                if n_i - i == 5 or (n_i - i == 9 and LANES > 4):
                    _five_lags(spectra, x, step, spectra, at, step, step, rows, out, p + k, q + k)
                    i += 5
                elif LANES == 4 or n_i - i == 4:  # where there are but sixteen registers
                    _four_lags(spectra, x, step, spectra, at, step, step, rows, out, p + k, q + k)
                    i += 4
                else:
                    _eight_lags(spectra, x, step, spectra, at, step, step, rows, out, p + k, q + k)
                    i += 8


def spectral_line_sums(spectra: Array, first: int, n_sources: int, rows: int, sums: Array) -> None:
    """Do the work of `spectral_lag_sums` at row lag 0, with each source, which stand in `sums` where the lags do."""
    n_arrays, _, n_vectors, _, _ = sums.shape
    steps = spectra[0].size, spectra.shape[2]
    add_line_products(flat(spectra), first, n_arrays, n_sources, *steps, rows, flat(sums), n_vectors)


@jit_sum
def add_line_products(spectra, first, n_arrays, n_sources, plane, step, rows, out, n_vectors):
    """Do what `spectral_line_sums` says of flat arrays: a first factor is read once for as many as eight sources."""
    crossed = n_vectors * n_sources * LANES
    for f in range(n_vectors):
        for a in range(first, n_arrays):
            x, s = a * plane + f * LANES, 0
            while s < n_sources:
                y, p = s * plane + f * LANES, ((2 * a * n_vectors + f) * n_sources + s) * LANES
                if n_sources - s >= 8:
                    _eight_lags(spectra, x, step, spectra, y, step, plane, rows, out, p, p + crossed)
                    s += 8
                elif n_sources - s >= 4:
                    _four_lags(spectra, x, step, spectra, y, step, plane, rows, out, p, p + crossed)
                    s += 4
                elif n_sources - s >= 2:
                    _two_lags(spectra, x, step, spectra, y, step, plane, rows, out, p, p + crossed)
                    s += 2
                else:
                    _one_lag(spectra, x, step, spectra, y, step, rows, out, p, p + crossed)
                    s += 1


@jit_sum
def scaled_lag_sums(spectra, first, second, rows, scales, sums):
    """Add what `spectral_lag_sums` does of one array whose rows are multiplied by some factors."""
    # ``scales[m, r] conj(S_first[r, f]) * S_second[r + i, f]`` is added to ``sums[m]``.
    n_scales, _, n_vectors, n_i, _ = sums.shape
    flat, out, factors, step, plane = spectra.ravel(), sums.ravel(), scales.ravel(), spectra.shape[2], spectra[0].size
    crossed, scaled = n_vectors * n_i * LANES, np.empty(rows * LANES)
    for f in range(n_vectors):
        x, y = first * plane + f * LANES, second * plane + f * LANES
        for m in range(n_scales):
            for r in range(rows):
                store(scaled, r * LANES, load(flat, x + r * step) * repeated(factors, m * scales.shape[1] + r))
            p = (2 * m * n_vectors + f) * n_i * LANES
            if n_i == 1:
                _one_lag(scaled, 0, LANES, flat, y, step, rows, out, p, p + crossed)
                continue
            for i in range(0, n_i, 4):
                _four_lags(scaled, 0, LANES, flat, y + i * step, step, step, rows, out, p, p + crossed)
                p += 4 * LANES


@jit_sum
def exchange(first, second, at, lag, sums):
    """Add products of spectra that enter a sum over planes, less those that leave it, to `sums` (rows, rows, width)."""
    # `first` and `second` (rows, planes, width) hold those that leave, and then as many that enter: ``conj(F[p, n +
    # at]) * S[q, n + at + lag] - conj(F[p, at]) * S[q, at + lag]``, width whole vectors.
    n, width = first.shape[1] // 2, first.shape[2]
    one, other, out = first.ravel(), second.ravel(), sums.ravel()
    for p in range(len(first)):
        for q in range(len(second)):
            a, b = (2 * n * p + at) * width, (2 * n * q + at + lag) * width
            c, d, k = a + n * width, b + n * width, (p * len(second) + q) * width
            for f in range(0, width, LANES):
                v, w, x, y = load(one, a + f), load(one, c + f), load(other, b + f), load(other, d + f)
                found = conjugate_products(w * y - v * x, swapped(w) * y - swapped(v) * x)
                store(out, k + f, load(out, k + f) + found)


def complex_sums(sums: Array, out: Array) -> None:
    """Put together what `spectral_lag_sums` has summed: `out` (arrays, lags, 2 * frequencies and more)."""
    (n_arrays, _, n_vectors, n_i, _), (_, lags, width) = sums.shape, out.shape
    put_together(flat(sums), n_arrays, n_vectors, n_i, flat(out), lags, width)


@jit_sum
def put_together(sums, n_arrays, n_vectors, n_i, out, lags, width):
    """Do what `complex_sums` says of flat arrays."""
    crossed = n_vectors * n_i * LANES
    for a in range(n_arrays):
        for f in range(n_vectors):
            for i in range(n_i):
                p = (2 * a * n_vectors * n_i + f * n_i + i) * LANES
                place = (a * lags + i) * width + f * LANES
                store(out, place, conjugate_products(load(sums, p), load(sums, p + crossed)))


@jit_sum
def spectral_correlate(spectra, n_sources, target, taps, rows):
    """Correlate row spectra with tap spectra: ``S_target[r, f] = sum_ai conj(taps[a, i, f]) * S_a[r + i, f]``."""
    # a < `n_sources`, r < `rows`, and up to seven rows more, which must be there; all as in `spectral_lag_sums`.
    n_i, width, step = taps.shape[1], taps.shape[2], spectra.shape[2]
    flat, factors, sums = spectra.ravel(), taps.ravel(), np.empty(16 * LANES)
    for f in range(0, width, LANES):
        for r in range(rows if n_i == 1 else 0):
            plain = across = zeros()
            for a in range(n_sources):
                v, x = load(factors, a * width + f), load(flat, (a * spectra.shape[1] + r) * step + f)
                plain, across = plain + v * x, across + swapped(v) * x
            store(flat, (target * spectra.shape[1] + r) * step + f, conjugate_products(plain, across))
        for r in range(0, 0 if n_i == 1 else rows, 8):
            for p in range(0, 16 * LANES, LANES):
                store(sums, p, zeros())
            for a in range(n_sources):
                x = (a * spectra.shape[1] + r) * step + f
                _eight_lags(factors, a * n_i * width + f, width, flat, x, step, step, n_i, sums, 0, 8 * LANES)
            y = (target * spectra.shape[1] + r) * step + f
            for i in range(8):
                found = conjugate_products(load(sums, i * LANES), load(sums, (i + 8) * LANES))
                store(flat, y + i * step, found)


@jit_sum
def spectral_products(spectra, n, groups, out):
    """Add the products of pairs of row spectra: ``out[p, i] += sum_g conj(S_1[g n + p]) * S_0[g n + p + i]``."""
    # p + i < `n`, and up to seven i more, for which there must be rows; g < `groups`. `out` (n, lags, 2 * frequencies
    # and more), whole vectors of them.
    n_i, width, step = out.shape[1], out.shape[2], spectra.shape[2]
    flat, line, plane, sums = spectra.ravel(), out.ravel(), spectra.shape[1] * spectra.shape[2], np.empty(16 * LANES)
    for f in range(0, width, LANES):
        for p in range(n):
            for i in range(0, n - p, 8):
                for k in range(0, 16 * LANES, LANES):
                    store(sums, k, zeros())
                x, y = p * step + f, (p + i) * step + f
                _eight_lags(flat, plane + x, n * step, flat, y, n * step, step, groups, sums, 0, 8 * LANES)
                for k in range(8):
                    at = (p * n_i + i + k) * width + f
                    found = conjugate_products(load(sums, k * LANES), load(sums, (k + 8) * LANES))
                    store(line, at, load(line, at) + found)


@jit_sum
def inverse_at_lags(sums, cosines, sines, out):
    """Transform summed spectra back at some lags: ``out[i, j] = sum_f re(sums[i, f]) cos[f, j] - im(...) sin[f, j]``.

    `sums` (rows, 2 * frequencies and more) holds real and imaginary parts in turn.
    """
    out[:] = 0.0
    n_i, n_j = out.shape
    for f in range(len(cosines)):
        c, s = cosines[f], sines[f]
        for i in range(n_i):
            y, a, b = out[i], sums[i, 2 * f], sums[i, 2 * f + 1]
            for j in range(n_j):
                y[j] += a * c[j] - b * s[j]
