"""Work shared among threads: in order, whoever does it, and without anything left behind."""

import gc
import os
import threading
import time
import weakref

import numpy as np
import pytest
import threadpoolctl

import kernelfit
from kernelfit.compiled import threads
from kernelfit.compiled.threads import in_order


@pytest.mark.parametrize("workers", [1, 2, 5, 40])
def test_results_come_in_order(workers):
    def do(i):
        time.sleep(0.001 * (i % 3))
        return i * i

    assert list(in_order(range(30), do, workers)) == [i * i for i in range(30)]
    assert list(in_order([], do, workers)) == []


def test_threads_are_used_again():
    def busy(i):
        time.sleep(0.002)
        return threading.get_ident()

    seen = [set(in_order(range(20), busy, 3)) for _ in range(3)]
    assert all(len(one) == 3 for one in seen)
    assert len(set().union(*seen)) < 9


def test_work_may_itself_be_shared():
    def outer(i):
        return sum(in_order(range(10), lambda j: i * j, 3))

    assert list(in_order(range(8), outer, 3)) == [45 * i for i in range(8)]


@pytest.mark.parametrize("at", [0, 1, 7, 19])
def test_an_error_is_raised_by_the_one_who_asked(at):
    def do(i):
        time.sleep(0.001)
        if i == at:
            raise KeyError(i)
        return i

    with pytest.raises(KeyError):
        list(in_order(range(20), do, 3))
    assert list(in_order(range(20), str, 3)) == [str(i) for i in range(20)]


def test_what_is_broken_off_ends():
    begun = []

    def do(i):
        begun.append(i)
        time.sleep(0.002)
        return i

    parts = in_order(range(1000), do, 3)
    assert next(parts) == 0
    parts.close()
    n = len(begun)
    time.sleep(0.02)
    assert len(begun) == n < 100


def test_threads_that_have_nothing_to_do_end(monkeypatch):
    """At moments when they are needed again, too."""
    monkeypatch.setattr(threads, "_IDLE_SECONDS", 0.001)
    for i in range(200):
        assert list(in_order(range(4), str, 3)) == ["0", "1", "2", "3"]
        time.sleep(0.0002 * (i % 10))
    list(in_order(range(4), lambda i: time.sleep(0.005), 3))
    deadline = time.monotonic() + 20
    while threads._idle and time.monotonic() < deadline:  # those of other tests sleep for a second yet
        time.sleep(0.01)
    assert not threads._idle


def test_nothing_of_the_work_is_kept():
    class Large:
        pass

    large = Large()
    list(in_order(range(4), lambda i, held=large: (time.sleep(0.002), held), 3))
    known = weakref.ref(large)
    del large
    deadline = time.monotonic() + 0.5  # less than it takes the thread to end
    while known() is not None and time.monotonic() < deadline:  # it may be on its way back to sleep
        gc.collect()
        time.sleep(0.001)
    assert known() is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_starts_threads_of_its_own():
    list(in_order(range(4), lambda i: time.sleep(0.002), 3))
    assert threads._idle
    child = os.fork()
    if child == 0:
        os._exit(0 if list(in_order(range(4), str, 3)) == ["0", "1", "2", "3"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_threads_that_nobody_waits_for_end():
    """Who waits may be interrupted: what it gave is done, and the thread sleeps, or ends, by itself."""
    helper = threads._Helper()
    ran = []
    done = helper.give(lambda: ran.append(1))
    del done
    deadline = time.monotonic() + 5.0
    while helper not in threads._idle and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ran == [1] and helper in threads._idle


def n_blas_threads():
    return [lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"]


def set_blas_threads(n):
    def limit():
        threadpoolctl.ThreadpoolController().limit(limits=n, user_api="blas")

    thread = threading.Thread(target=limit)  # a thread that sets them keeps others from it while it lives
    thread.start()
    thread.join()


@pytest.fixture
def two_blas_threads():
    before = n_blas_threads()[0]
    set_blas_threads(2)
    yield
    set_blas_threads(before)


class _Watching:
    """A solver that notes how many threads BLAS has while it solves."""

    def __init__(self, meet=None, last=None):
        self.meet, self.last, self.seen = meet, last, []

    def solve(self, stats):
        if self.meet is not None:
            self.meet.wait(timeout=30)
            if threading.current_thread().name == self.last:
                time.sleep(0.3)
        self.seen += n_blas_threads()
        return kernelfit.LeastSquares().solve(stats)


def test_blas_has_one_thread_inside_a_fit_and_its_own_number_afterwards(two_blas_threads):
    rng = np.random.default_rng(0)
    image, target = rng.random((2, 40, 50))
    solver = _Watching()
    kernelfit.find_kernel(image, target, (3, 5), solver=solver)
    assert solver.seen and set(solver.seen) == {1}
    assert set(n_blas_threads()) == {2}


@pytest.mark.parametrize("last", ["fit 0", "fit 1", "fit 2"])
def test_blas_has_its_own_number_after_fits_that_overlapped(two_blas_threads, last):
    rng = np.random.default_rng(0)
    stats = kernelfit.accumulate(*rng.random((2, 40, 50)), (3, 5))
    solver = _Watching(threading.Barrier(3), last)
    threads = [threading.Thread(target=stats.solve, args=(solver,), name=f"fit {i}") for i in range(3)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert len(solver.seen) >= 3 and set(solver.seen) == {1}
    assert set(n_blas_threads()) == {2}


def test_blas_threads_can_be_set_by_others_after_a_fit(two_blas_threads):
    kernelfit.find_kernel(*np.random.default_rng(0).random((2, 40, 50)), (3, 5))
    set_blas_threads(1)
    assert set(n_blas_threads()) == {1}


def test_blas_has_its_own_number_after_a_call_that_failed(two_blas_threads):
    with pytest.raises(ValueError, match="a target that fits"):
        kernelfit.find_kernel(np.ones((5, 6)), np.ones((50, 60)), (3, 5))
    assert set(n_blas_threads()) == {2}
