"""A page that is served while a test runs."""

import contextlib
import threading

from kernelfit.cli.parser import main
from kernelfit.cli.serving import LABELS, Find
from kernelfit.serve.server import Page
from work import Copy


@contextlib.contextmanager
def serving(work=None, limit=2**20, seconds=None):
    """Serve a page; the work is `kernelfit find` unless it is given, or only takes some seconds."""
    work = work or (Find(main) if seconds is None else Copy(seconds))
    with Page(work, tuple(LABELS), limit=limit) as page:
        thread = threading.Thread(target=page.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield page
        finally:
            page.shutdown()
            thread.join()
