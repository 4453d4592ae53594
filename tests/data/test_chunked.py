"""Chunks are read ahead by threads that would otherwise wait."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kernelfit.data import cells, chunked


class Slow:
    """A store of four cells, the first of which takes until others have been read, or refused."""

    def __init__(self, others, broken=()):
        self.array = np.arange(40.0 * 60).reshape(40, 60)
        self.shape, self.dtype, self.chunks = self.array.shape, self.array.dtype, (20, 30)
        self.others, self.broken, self.read, self.more = others, broken, [], threading.Condition()

    def __getitem__(self, key):
        place = key[0].start // 20, key[1].start // 30
        with self.more:
            self.read.append(place)
            self.more.notify_all()
            if place == (0, 0):
                assert self.more.wait_for(lambda: len(self.read) > self.others, timeout=10)
        if place in self.broken:
            raise OSError("broken")
        return self.array[key]


@pytest.mark.parametrize("broken", [(), [(1, 0)]])
def test_who_waits_for_a_cell_reads_another(monkeypatch, broken):
    monkeypatch.setattr(cells, "LEAST", 1)
    store = Slow(1, broken)
    view = chunked.Chunked(store)
    with ThreadPoolExecutor(2) as pool:
        for got in list(pool.map(lambda n: view[n:19, 2:9], (0, 1))):
            assert got[0, 0] in (2.0, 62.0)
    assert store.read == [(0, 0), (1, 0)]
    if broken:
        with pytest.raises(OSError, match="broken"):
            view[22:30, 2:9]
        store.broken = ()
    np.testing.assert_array_equal(view[22:30, 2:9], store.array[22:30, 2:9])


def test_there_is_nothing_to_read_after_the_last_cell(monkeypatch):
    monkeypatch.setattr(cells, "LEAST", 1)
    view = chunked.Chunked(Slow(0))
    own = view.cells
    cell = own._cells[1, 1] = cells.Cell()
    threading.Timer(0.05, lambda: (own._read(1, 1, cell), cell.reading.release())).start()
    np.testing.assert_array_equal(view[20:40, 30:60], view.array.array[20:40, 30:60])
    assert view.array.read == [(1, 1)]


@pytest.mark.parametrize("step", ["before", "after"])
def test_nobody_waits_for_a_cell_whose_reading_was_interrupted(monkeypatch, step):
    monkeypatch.setattr(cells, "LEAST", 1)
    view, read = chunked.Chunked(Slow(0)), cells.Cells._read

    def interrupted(self, row, col, cell):
        if step == "after":
            read(self, row, col, cell)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cells.Cells, "_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            view[22:30, 2:9]
    assert not view.cells._cells  # otherwise the next one would wait for ever
    np.testing.assert_array_equal(view[22:30, 2:9], view.array.array[22:30, 2:9])
