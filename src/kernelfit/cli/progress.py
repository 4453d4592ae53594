"""A bar for work that takes long: on a terminal with the rate and the time left, in a pipe nothing at all."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

_EVERY = 0.1  # seconds between two drawings
_AFTER = 0.4  # seconds before the first one: quick work draws nothing
_WIDTH = 24
#: Who is told, instead of a terminal: words, and the share that is done where it is known.
_told: list[Callable[[str, float | None], None]] = []


@contextlib.contextmanager
def told(listener: Callable[[str, float | None], None]) -> Iterator[None]:
    """Tell somebody of all progress meanwhile."""
    _told.append(listener)
    try:
        yield
    finally:
        _told.remove(listener)


def duration(seconds: float) -> str:
    """Say how long something took."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


class Bar:
    """A progress callback ``bar(stage, done, total)`` that draws one line on a terminal, and wipes it away."""

    def __init__(self, n_pixels: int, stream: TextIO | None = None) -> None:
        self.stream = stream if stream is not None else sys.stderr
        self.n_pixels = n_pixels
        self.stage = ""
        self.drawn = 0
        self.first = 0.0  # how far it was when the stage began: what a checkpoint held takes no time
        self.born = self.start = self.last = time.monotonic()
        self.listener = _told[-1] if _told else None
        self.on = self.listener is not None or (self.stream is not None and self.stream.isatty())
        self.listening = contextlib.ExitStack()

    def __call__(self, stage: str, done: float, total: float) -> None:
        """Draw how far the stage is, if it is time to."""
        if not self.on:
            return
        now = time.monotonic()
        if stage != self.stage:
            self.stage, self.start, self.first = stage, now, done
        if now - self.born < _AFTER or (now - self.last < _EVERY and done < total):
            return
        self.last = now
        if done >= total:
            self.note(f"{stage}: done; solving")
        elif self.listener is not None:
            words = pace(done, total, now - self.start, self.n_pixels, self.first)
            self.listener(stage + words, done / total)
        else:
            self._draw(line(stage, done, total, now - self.start, self.n_pixels, self.first))

    def note(self, text: str) -> None:
        """Draw a line of words, on a terminal, until something else is drawn."""
        if self.listener is not None:
            self.listener(text, None)
        elif self.on:
            self._draw(text)

    def _draw(self, text: str) -> None:
        self.stream.write("\r" + text.ljust(self.drawn))
        self.stream.flush()
        self.drawn = len(text)

    def __enter__(self) -> "Bar":
        if self.on:
            from ..compiled.jit import told_of_compiling

            self.listening.enter_context(told_of_compiling(lambda: self.note("compiling, once, about 10 s")))
        return self

    def __exit__(self, *_: object) -> None:
        self.listening.close()
        if self.drawn:
            self.stream.write("\r" + " " * self.drawn + "\r")
            self.stream.flush()
            self.drawn = 0


def line(stage: str, done: float, total: float, seconds: float, n_pixels: int, first: float = 0.0) -> str:
    """Return one line: the stage, a bar, the share done, and since it was `first` the rate and the time left."""
    share = min(1.0, done / total) if total else 1.0
    full = int(share * _WIDTH)
    text = f"{stage:12s} [{'#' * full}{'.' * (_WIDTH - full)}] {share:4.0%}"
    return text + pace(done, total, seconds, n_pixels, first)


def pace(done: float, total: float, seconds: float, n_pixels: int, first: float = 0.0) -> str:
    """Return the rate, and the time left, nothing before they are known."""
    share = min(1.0, done / total) if total else 1.0
    fresh = share - first / total if total else 0.0
    if seconds <= 0 or fresh <= 0:
        return ""
    left = seconds * (1 - share) / fresh
    return f"  {fresh * n_pixels / seconds / 1e6:.3g} Mpixel/s  {int(left) // 60}:{int(left) % 60:02d} left"
