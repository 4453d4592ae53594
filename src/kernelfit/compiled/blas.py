"""BLAS kept to one thread while the package works.

The threads of BLAS spin while they wait for more work. On a busy machine each of its small steps then waits for a core
that its own threads hold, and the passes over the pixels, which have threads of their own, wait with it.
"""

import functools
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class _Limit:
    """One limit for all calls at a time: the first that comes sets it, the last that goes takes it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._controller: Any = None
        self._limited: Any = None
        self._setter: threading.Thread | None = None
        self._n_inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._n_inside:
                if self._controller is None:  # it looks at every library that is loaded, which takes milliseconds
                    import scipy.linalg  # noqa: F401
                    import threadpoolctl

                    self._controller = threadpoolctl.ThreadpoolController()
                self._limited = self._controller.limit(limits=1, user_api="blas")
                self._setter = threading.current_thread()
            self._n_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if not self._n_inside:
                self._let_go(force=self._setter is not threading.current_thread())
                self._limited.restore_original_limits()
                self._let_go()

    def _let_go(self, *, force: bool = False) -> None:
        """Let any thread set the limits; newer versions of threadpoolctl keep that to the thread that did it first."""
        for kind in {type(one) for one in self._controller.lib_controllers}:
            if hasattr(kind, "clear_controlling_thread"):
                kind.clear_controlling_thread(force=force)


_limit = _Limit()


def one_blas_thread(function: Callable[P, R]) -> Callable[P, R]:
    """Keep BLAS to one thread while a function runs, whoever calls it, also from several threads at a time."""

    @functools.wraps(function)
    def limited(*args: P.args, **kwargs: P.kwargs) -> R:
        with _limit:
            return function(*args, **kwargs)

    return limited
