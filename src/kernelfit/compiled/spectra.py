"""The compiled loops of spectra: blocks tapered and multiplied, frequencies sorted and divided."""

import numpy as np

from .jit import jit, jit_sum


@jit_sum
def taper(block, mean, down, across, n_rows, n_cols, sums):
    """Replace a block's values v by ``(v - mean) * down[r] * across[c]``, as far as these reach."""
    # To `sums` are added the sum of v, and of its square, over the first `n_rows` rows and `n_cols` columns.
    total = energy = 0.0
    for r in range(len(down)):
        line = block[r]
        if r < n_rows:
            for c in range(n_cols):
                total += line[c]
                energy += line[c] * line[c]
        weight = down[r]
        for c in range(len(across)):
            line[c] = (line[c] - mean) * (weight * across[c])
    sums[0] += total
    sums[1] += energy


@jit
def cross_spectra(image, target, image_power, target_power, cross):
    """Add a pair of spectra (complex128): ``|X|^2``, ``|Y|^2`` and ``conj(X) Y``, as many columns as these have."""
    n_rows, n_cols = cross.shape
    for r in range(n_rows):
        for c in range(n_cols):
            x = image[r, c]
            y = target[r, c]
            image_power[r, c] += x.real * x.real + x.imag * x.imag
            target_power[r, c] += y.real * y.real + y.imag * y.imag
            cross[r, c] += complex(x.real * y.real + x.imag * y.imag, x.real * y.imag - x.imag * y.real)


@jit
def cross_spectra_in_place(image, target, even, sums):
    """Replace Y by ``conj(X) Y``, and X by ``|X|^2``, then ``|Y|^2``, in the first and second half of each row."""
    # Complex numbers as pairs of floats: memory that has not been touched yet costs more than the work. To `sums` are
    # added the sums of both powers over the whole band, so that `even` says whether the transform has an even number of
    # columns, the last of which counts once, as the first.
    n_cols = image.shape[1] // 2
    second = np.empty(n_cols)
    for r in range(image.shape[0]):
        x, y = image[r], target[r]
        for c in range(n_cols):
            a, b, u, v = x[2 * c], x[2 * c + 1], y[2 * c], y[2 * c + 1]
            x[c] = a * a + b * b  # of what is there, 2 * c and more are still to be read
            second[c] = u * u + v * v
            y[2 * c] = a * u + b * v
            y[2 * c + 1] = a * v - b * u
        for c in range(n_cols):
            x[n_cols + c] = second[c]
        for half in range(2):
            line = x[half * n_cols : (half + 1) * n_cols]
            once = line[0] + line[n_cols - 1] if even else line[0]
            sums[half] += 2.0 * _sum(line) - once


@jit_sum
def _sum(values):
    total = 0.0
    for value in values:
        total += value
    return total


@jit_sum
def add_products(factors, rows, out):
    """Add ``factors.T @ rows`` to `out`: a few hundred columns at a time, four of the `rows` at once."""
    # Slices, so that indices start from 0: those that might be negative keep a loop from being vectorised.
    n_rows, n_cols = rows.shape
    for first in range(0, n_cols, 512):
        last = min(first + 512, n_cols)
        for f in range(0, n_rows - 3, 4):
            a, b, c, d = rows[f, first:last], rows[f + 1, first:last], rows[f + 2, first:last], rows[f + 3, first:last]
            for y in range(factors.shape[1]):
                line = out[y, first:last]
                s, t, u, v = factors[f, y], factors[f + 1, y], factors[f + 2, y], factors[f + 3, y]
                for j in range(len(line)):
                    line[j] += s * a[j] + t * b[j] + u * c[j] + v * d[j]
        for f in range(n_rows - n_rows % 4, n_rows):
            a = rows[f, first:last]
            for y in range(factors.shape[1]):
                line, s = out[y, first:last], factors[f, y]
                for j in range(len(line)):
                    line[j] += s * a[j]


@jit
def ring_misfit(power, cross, target, transfer, rings, row_weights, col_weights, out):
    """Add the weighted power of the residual, ``|Y - H X|^2`` but zero where it is rounding, to its ring."""
    for r in range(power.shape[0]):
        for c in range(power.shape[1]):
            h, z = transfer[r, c], cross[r, c]
            both = target[r, c] + (h.real * h.real + h.imag * h.imag) * power[r, c]
            left = both - 2.0 * (z.real * h.real + z.imag * h.imag)
            if left > 1e-14 * both or left != left:
                out[rings[r, c]] += left * row_weights[r] * col_weights[c]


@jit_sum
def _combine(weights, lines, out):
    """Set ``out = sum_i weights[i] * lines[i]``, three lines at a time."""
    n, cols = lines.shape
    first = n % 3
    for j in range(cols):
        out[j] = 0.0
    for i in range(first):
        x, line = weights[i], lines[i]
        for j in range(cols):
            out[j] += x * line[j]
    for i in range(first, n, 3):
        x, y, z = weights[i], weights[i + 1], weights[i + 2]
        a, b, c = lines[i], lines[i + 1], lines[i + 2]
        for j in range(cols):
            out[j] += x * a[j] + y * b[j] + z * c[j]


@jit_sum
def transform_columns(lines, cosines, sines, out):
    """Set ``out[f] = sum_i (cosines[f, i] - 1j * sines[f, i]) * lines[i]``; a row and its mirror image at a time."""
    # `lines` and `out` are complex numbers as pairs of floats; `cosines` and `sines` end with half the rows of `out`.
    n, cols = out.shape
    for f in range(n // 2 + 1):
        even = out[f]
        odd = out[(n - f) % n]
        _combine(cosines[f], lines, even)
        if f == 0 or 2 * f == n:
            continue
        _combine(sines[f], lines, odd)
        for j in range(0, cols, 2):
            a, b, c, d = even[j], even[j + 1], odd[j], odd[j + 1]
            even[j] = a + d
            even[j + 1] = b - c
            odd[j] = a - d
            odd[j + 1] = b + c


@jit_sum
def _transfer(sums, differences, turns, at, both, re, im):
    """Set ``re + 1j * im = sum_d cos(k turn) sums[d] - 1j * sin(k turn) differences[d]``, ``k = at * d``."""
    # That is a line of a transform of two dimensions: sums and differences are those of the transforms of n real
    # numbers each, d places before and behind the origin. Of each, the real and then the imaginary parts are given, up
    # to half the length; there are a multiple of three of them. `turns` are the cosines and sines of a whole turn.
    # `both` is scratch.
    n_lines, double = sums.shape
    half, m = double // 2, turns.shape[1]
    even, odd = both[0], both[1]
    for j in range(double):
        even[j] = odd[j] = 0.0
    for i in range(0, n_lines, 3):
        a, b, c, x, y, z = sums[i], sums[i + 1], sums[i + 2], differences[i], differences[i + 1], differences[i + 2]
        p, q, r = at * i % m, at * (i + 1) % m, at * (i + 2) % m
        d, e, f, s, t, u = turns[0, p], turns[0, q], turns[0, r], turns[1, p], turns[1, q], turns[1, r]
        for j in range(double):
            even[j] += d * a[j] + e * b[j] + f * c[j]
            odd[j] += s * x[j] + t * y[j] + u * z[j]
    even_im, odd_im = even[half:], odd[half:]
    for j in range(half):
        re[j] = even[j] + odd_im[j]
        im[j] = even_im[j] - odd[j]
    n = np.uintp(len(re))  # of no sign, so that n - j keeps no loop from being vectorised
    for j in range(np.uintp(1), n - np.uintp(half - 1)):
        re[n - j] = even[j] - odd_im[j]
        im[n - j] = -even_im[j] - odd[j]


@jit
def bridge(lines, after, before, shares):
    """Fill the last ``len(shares)`` columns: between what columns `after` and `before` hold, the shares of the second.

    The lines may be float32.
    """
    n = lines.shape[1] - len(shares)
    for r in range(lines.shape[0]):
        line = lines[r]
        for i in range(len(shares)):
            last, first = line[after[i]], line[before[i]]
            line[n + i] = last + shares[i] * (first - last)


@jit_sum
def roughness(image, rows, cols, skip, sums):
    """Set the mean squares of steps between neighbours: at the edges, within `rows` and `cols` of them, and inside."""
    # Steps down, then steps along the rows, twice the mean for the inside as there are two edges; then the sum and the
    # sum of squares of pixels. But near the edges one row of `skip` is looked at. The image may be float32.
    n, m = image.shape
    sums[:] = 0.0
    counts = np.zeros(2)
    for r in range(n - 1):
        edge = r < rows or r >= n - 1 - rows
        if not edge and (r - rows) % skip:
            continue
        a, b, total = image[r], image[r + 1], 0.0
        for c in range(m):
            step = b[c] - a[c]
            total += step * step
        sums[0 if edge else 1] += total
        counts[0 if edge else 1] += m
    sums[0] *= 2.0 / counts[0]
    sums[1] *= 2.0 / counts[1]
    n_lines = 0
    left = inside = 0.0
    for r in range(0, n, skip):
        a = image[r]
        for c in range(m):
            sums[2] += a[c]
            sums[3] += a[c] * a[c]
        for c in range(m - 1):
            step = a[c + 1] - a[c]
            inside += step * step
        for c in range(cols):
            step, other = a[c + 1] - a[c], a[m - 1 - c] - a[m - 2 - c]
            left += step * step + other * other
        n_lines += 1
    sums[0] += left / (cols * n_lines)
    sums[1] += 2.0 * (inside - left) / ((m - 1 - 2 * cols) * n_lines)
    sums[2] /= n_lines * m
    sums[3] = sums[3] / (n_lines * m) - sums[2] * sums[2]


@jit
def classes(spectrum, plus, minus, turns, across, down, scale, step, even, sums, counts):
    """Add ``|Y|^2`` and the numbers of every `step`-th line's frequencies to classes of ``|K|^2 / (scale * q)``."""
    # Four classes to an octave, from 2^-67 on: exponent and first digits of the float are the number of the class. ``q
    # = (across[at] + down[f])^2``. Frequency zero counts in the last class, with no power. Line 0 counts once, the
    # others stand for their mirror images too, but for the last one if their whole number is `even`. `spectrum` may be
    # complex64.
    n, last = len(down), len(sums) - 1
    re, im, both = np.empty(n), np.empty(n), np.empty((2, plus.shape[1]))
    ratios = np.empty(n)
    digits = ratios.view(np.int64)
    for at in range(0, spectrum.shape[0], step):
        weight = 1.0 if at == 0 or (even and at == spectrum.shape[0] - 1) else 2.0
        _transfer(plus, minus, turns, at, both, re, im)
        for f in range(n):
            q = (across[at] + down[f]) ** 2
            ratios[f] = ((re[f] * re[f] + im[f] * im[f]) / scale + 1e-30) / (q + 1e-30)
        for f in range(n):
            y = spectrum[at, f]
            i = min(max((digits[f] >> 50) - ((1023 - 67) << 2), 0), last)
            power = float(y.real) * float(y.real) + float(y.imag) * float(y.imag)
            if at == 0 and f == 0:
                i, power = last, 0.0
            sums[i] += weight * power
            counts[i] += weight


@jit_sum
def least_validated(ratios, sums, counts, share):
    """Return the balance of least (robust) cross-validation, by steps of a factor of three, then by small ones."""
    # With ``passed = u / (u + balance)``, u the `ratios`, the score is ``sum((1 - passed)^2 sums) / sum((1 - passed)
    # counts)^2`` times ``share + (1 - share) mean(passed^2)``.
    best, total, number = -6.0, sums.sum(), counts.sum()
    for first, step, n in ((-16.0, 0.5, 40), (-0.5, 0.125, 9)):
        start, least = first if n > 9 else best + first, np.inf
        for i in range(n):
            balance = 10.0 ** (start + i * step)
            left = held = passed = 0.0
            for j in range(len(ratios)):
                kept = balance / (ratios[j] + balance)
                left += kept * kept * sums[j]
                held += kept * counts[j]
                passed += (1.0 - kept) * (1.0 - kept) * counts[j]
            score = (left + 1e-30 * total) / (held * held) * (share + (1.0 - share) * passed / number)
            if score < least:
                best, least = start + i * step, score
    return 10.0**best


@jit
def divide_spectrum(spectrum, first, plus, minus, turns, across, down, strength, least, factor, flipped):
    """Multiply by ``factor * conj(K) / (|K|^2 + strength * q)``, 0 for next to nothing; K as it is unless `flipped`."""
    # The spectrum's lines from `first` on. ``q = (across[at] + down[f])^2``. A divisor of at most `least` is next to
    # nothing. `spectrum` may be complex64.
    n = len(down)
    re, im, both = np.empty(n), np.empty(n), np.empty((2, plus.shape[1]))
    for i in range(spectrum.shape[0]):
        at, line = first + i, spectrum[i]
        _transfer(plus, minus, turns, at, both, re, im)
        for f in range(n):
            root = across[at] + down[f]
            divisor = re[f] * re[f] + im[f] * im[f] + strength * (root * root)
            gain = factor / divisor if divisor > least else 0.0
            a, b = re[f] * gain, (-im[f] if flipped else im[f]) * gain
            y = line[f]
            line[f] = complex(y.real * a - y.imag * b, y.real * b + y.imag * a)


@jit
def not_passed(plus, minus, turns, across, down, strength, least, factor, out):
    """Set what a division leaves, ``factor * strength * q / (|K|^2 + strength * q)``, `factor` for next to nothing."""
    n = len(down)
    re, im, both = np.empty(n), np.empty(n), np.empty((2, plus.shape[1]))
    for at in range(out.shape[0]):
        _transfer(plus, minus, turns, at, both, re, im)
        for f in range(n):
            root = across[at] + down[f]
            held = strength * (root * root)
            divisor = re[f] * re[f] + im[f] * im[f] + held
            out[at, f] = factor * held / divisor if divisor > least else factor
