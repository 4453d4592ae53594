"""Memory that is used again, once nobody looks at it."""

import gc
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kernelfit.data import buffer_pool


@pytest.fixture
def pool():
    return buffer_pool.BufferPool()


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.slow
def test_memory_comes_back_when_the_last_view_of_it_is_gone(pool):
    first = pool.empty((300, 400), "f4")
    assert first.shape == (300, 400) and first.dtype == "f4" and first.flags.c_contiguous and first.flags.writeable
    first[...] = 5
    where, view = address(first), np.moveaxis(first[10:, 3:].T[::2].view("i4"), 0, 1)
    del first
    gc.collect()
    assert address(pool.empty((300, 400), "f4")) != where
    assert np.all(view.view("f4") == 5)
    del view
    assert address(pool.empty((301, 399), "i4")) == where  # nearly as large will do


def test_no_more_is_kept_than_said(pool, monkeypatch):
    monkeypatch.setattr(buffer_pool, "KEPT", 2**22)
    arrays = [pool.empty((n * 2**17,), "u1") for n in (4, 6, 8, 8, 8)]
    assert arrays[-1].base is None  # all five are more, and this one is not used again
    sizes = [a.nbytes for a in arrays]
    while arrays:
        del arrays[0]
    assert pool.n_bytes == sum(sizes[:4]) <= 2**22
    again = pool.empty((7 * 2**17,), "u1")
    assert again.base is not None and [len(memory) for memory in pool.free] == sizes[1:4]  # the first made room
    assert pool.empty((2**22,), "u1").base is None and pool.empty((9,), "u1").base is None


def test_garbage_that_is_collected_in_the_midst_of_it_does_no_harm(pool):
    array = pool.empty((2**17,), "u1")
    with pool.lock:  # the thread that holds it would wait for itself
        del array
    assert not pool.free and pool.returned
    again = pool.empty((2**17,), "u1")
    assert again.base is not None and not pool.returned


def test_no_code_runs_when_memory_comes_back(pool):
    """A Ctrl-C that came in the midst of it would be lost."""
    array, seen = pool.empty((2**17,), "u1"), []
    sys.setprofile(lambda frame, event, arg: seen.append(event))
    del array
    sys.setprofile(None)
    assert len(pool.returned) == 1 and "call" not in seen


def test_memory_is_not_taken_back_from_what_still_runs_at_the_end():
    held = "held = [buffer_pool.empty((2**18,), 'u1')]"
    late = "print(np.shares_memory(held[0], buffer_pool.empty((2**18,), 'u1')))"
    load = "import numpy as np\nfrom kernelfit.data import buffer_pool"
    script = f"import atexit\natexit.register(lambda: {late})\n{load}\n{held}"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_threads_do_not_share_memory(pool):
    def work(own):
        rng = np.random.default_rng(own)
        held = []
        for _ in range(300):
            array = pool.empty((int(rng.integers(1, 40)) * 2**13,), "u1")
            array[:: 2**10] = own
            held.append(array[::2])
            if len(held) > 5:
                assert (held.pop(int(rng.integers(5)))[:: 2**9] == own).all()
        return own

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(work, range(8))) == list(range(8))
