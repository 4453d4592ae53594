"""Jobs in turn, each in a process of its own, with files in a private folder."""

import multiprocessing
import os
import re
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

SIDES = ("image", "target")
MOST_WAITING = 8  # jobs that are not done
MOST_KEPT = 12  # jobs whose results are kept
_PATIENCE = 600.0  # seconds that a job may wait for its files
_EVERY = 0.1  # seconds between two words of progress
#: How much of a name is kept, in characters, so that the bytes of any alphabet fit into 255.
_LONGEST = 50

Tell = Callable[[str, float | None], None]


class Work(Protocol):
    """What is done: handed to a process of its own, so it has to be picklable."""

    def prepare(self) -> None:
        """Import what the work will need, before there is any."""

    def __call__(self, names: Mapping[str, str], fields: Mapping[str, str], tell: Tell) -> dict[str, Any]:
        """Work on the files `names` of the current folder, write into ``../results``, and return plain types.

        The answer has "files", the names of what was written, or "error", a sentence.
        """


class TooManyError(Exception):
    """More jobs than are taken."""


@dataclass
class Job:
    """One pair of files and what is asked of it."""

    folder: Path
    names: dict[str, str]
    fields: dict[str, str]
    ident: str = field(default_factory=lambda: secrets.token_hex(8))
    state: str = "uploading"  # then waiting, running, and done, failed or cancelled
    text: str = ""
    share: float | None = None
    answer: dict[str, Any] = field(default_factory=dict)
    arrived: set[str] = field(default_factory=set)
    born: float = field(default_factory=time.monotonic)

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ("done", "failed", "cancelled")

    def path(self, side: str) -> Path:
        """Return where a file of the pair is kept."""
        return self.folder / "files" / self.names[side]

    def told(self) -> dict[str, Any]:
        """Return the job as plain types."""
        told = {"id": self.ident, "names": self.names, "fields": self.fields, "state": self.state}
        return {**told, "text": self.text, "share": self.share, "answer": self.answer}

    def end(self, state: str, answer: dict[str, Any]) -> None:
        """Set how it ended, and remove the files that are no longer needed."""
        self.state, self.answer, self.text, self.share = state, answer, "", None
        shutil.rmtree(self.folder / "files" if state == "done" else self.folder, ignore_errors=True)


def plain_name(text: str, default: str) -> str:
    """Return a file's name without folders, signs that mean something to a system or a pattern, and too many letters.

    >>> plain_name("../../etc/--x*.png", "image")
    'x_.png'
    """
    last = re.split(r"[/\\]", text)[-1]
    return re.sub(r"[^\w. +-]", "_", last)[-_LONGEST:].strip(" .-") or default


class Child:
    """A process that does one job; it is there, with all imports done, before the job is."""

    def __init__(self, work: Work) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_child, args=(theirs, work), daemon=True)
        self.process.start()
        theirs.close()  # else the end of the process would not be the end of the pipe

    def do(self, job: Job) -> dict[str, Any] | None:
        """Have a job done, and return the answer; None if the process ended without one."""
        try:
            self.pipe.send((str(job.folder / "files"), job.names, job.fields))
            while True:
                answer, text, share = self.pipe.recv()
                if answer is not None:
                    return dict(answer)
                job.text, job.share = text, share
        except (EOFError, OSError):
            return None

    def end(self) -> None:
        """End the process, whatever it does."""
        self.process.terminate()
        self.process.join(2)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(2)
        self.pipe.close()


def _child(pipe: Connection, work: Work) -> None:
    """Wait for a job, and do it; the process ends with it, or with the one that would have given it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the server sees to us
    last = 0.0

    def tell(text: str, share: float | None = None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _EVERY:
            last = now
            pipe.send((None, text, share))

    try:
        work.prepare()
        folder, names, fields = pipe.recv()
        os.chdir(folder)
        pipe.send((work(names, fields, tell), "", None))
    except (EOFError, BrokenPipeError):
        return


class Jobs:
    """The jobs of a page: taken in, done one after the other, cancelled, and forgotten in the end."""

    def __init__(self, work: Work, folder: Path) -> None:
        self._work, self.folder = work, folder
        self._jobs: dict[str, Job] = {}
        self._change = threading.Condition()
        self._closed = False
        self._child = Child(work)
        self._thread = threading.Thread(target=self._in_turn, daemon=True)
        self._thread.start()

    def new(self, names: Mapping[str, str], fields: Mapping[str, str]) -> Job:
        """Take in a job whose files will follow."""
        plain = {side: plain_name(names[side], side) for side in SIDES}
        if plain["image"] == plain["target"]:
            plain["target"] = f"target-{plain['target']}"
        job = Job(self.folder / secrets.token_hex(8), plain, dict(fields))
        with self._change:
            for one in list(self._jobs.values()):
                if one.state == "uploading" and time.monotonic() - one.born > _PATIENCE:
                    one.end("failed", {"error": "the files did not arrive"})
            over = [one for one in self._jobs.values() if one.over]
            if len(self._jobs) - len(over) >= MOST_WAITING:
                raise TooManyError(f"got {MOST_WAITING} jobs that are not done, need fewer; cancel one, or wait")
            for one in over[: max(0, len(over) - MOST_KEPT + 1)]:
                shutil.rmtree(one.folder, ignore_errors=True)
                del self._jobs[one.ident]
            (job.folder / "files").mkdir(parents=True)
            (job.folder / "results").mkdir()
            self._jobs[job.ident] = job
        return job

    def get(self, ident: str) -> Job | None:
        """Return a job by its name."""
        return self._jobs.get(ident)

    def listed(self) -> list[dict[str, Any]]:
        """Return all jobs as plain types, the oldest first."""
        with self._change:
            return [job.told() for job in self._jobs.values()]

    def arrived(self, job: Job, side: str) -> None:
        """Note that a file is there; with the second the job waits for its turn."""
        with self._change:
            job.arrived.add(side)
            if job.state == "uploading" and len(job.arrived) == len(SIDES):
                job.state = "waiting"
                self._change.notify_all()

    def cancel(self, job: Job, state: str = "cancelled", error: str = "") -> None:
        """End a job, wherever it is."""
        with self._change:
            if job.over:
                return
            running = job.state == "running"
            job.end(state, {"error": error} if error else {})
            if running:
                self._child.process.terminate()

    def close(self) -> None:
        """End everything."""
        with self._change:
            self._closed = True
            self._change.notify_all()
            self._child.process.terminate()
        self._thread.join(5)
        self._child.end()

    def _next(self) -> Job | None:
        return next((job for job in self._jobs.values() if job.state == "waiting"), None)

    def _in_turn(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._closed or self._next() is not None)
                job = self._next()
                if self._closed or job is None:
                    return
                if not self._child.process.is_alive():
                    self._child = Child(self._work)
                child, job.state = self._child, "running"
            answer = child.do(job)
            child.end()
            with self._change:
                if not job.over:
                    code = child.process.exitcode
                    gone = f"the work ended without an answer (exit code {code}); the memory may be too small for it"
                    answer = {"error": gone} if answer is None else answer
                    job.end("failed" if "error" in answer else "done", answer)
                else:  # cancelled meanwhile: what was written after that goes, too
                    shutil.rmtree(job.folder, ignore_errors=True)
                if not self._closed:
                    self._child = Child(self._work)
