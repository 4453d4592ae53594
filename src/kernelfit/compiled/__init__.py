"""Loops, transforms and threads: the only importers of Numba and pyFFTW."""
