"""HTTP on 127.0.0.1, for whoever knows the token: the page's files, jobs as JSON, pictures in and results out.

Nobody else gets in: another machine cannot reach the address, another user of this one does not know the token, and
another page in the same browser has the wrong ``Host`` (a name made to point here) or ``Origin``. What is sent in is
counted before it is read, and written nowhere but to a private folder under a name of our own making. What is sent out
forbids the browser to load anything from elsewhere.
"""

import hmac
import json
import os
import re
import secrets
import shutil
import socket
import socketserver
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any

from .jobs import SIDES, Job, Jobs, TooManyError, Work

HOST = "127.0.0.1"
_PATIENCE = 30.0  # seconds that a connection may take, and that it may be silent
_SLOWEST = 2e5  # bytes a second of files
_MOST_CONNECTIONS = 48
_MOST_WORDS = 2**14  # bytes of what is asked for, as JSON
_MOST_CHARACTERS = 60  # of the value of a field
_SPARE = 2**28  # bytes of the disk that uploads leave
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
    ".png": "image/png",
    ".npz": "application/zip",
}
_NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'"
_POLICIES = {  # what a browser may load for each kind of answer
    "page": f"{_NOTHING}; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "frame-src 'self'; frame-ancestors 'none'",
    "report": f"{_NOTHING}; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; "
    "sandbox allow-same-origin",
    "other": f"{_NOTHING}; frame-ancestors 'none'",
}
_PAGE = ("", "style.css", "page.js")


class Refusal(Exception):
    """What is answered to a request that is not served: a status and a sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Page(ThreadingHTTPServer):
    """The server, whose `work` does the jobs with the `fields` that may be asked; a context that leaves nothing."""

    daemon_threads = True
    allow_reuse_address = os.name == "posix"  # elsewhere it would let another program share the port

    def __init__(self, work: Work, fields: tuple[str, ...], port: int = 0, limit: int = 2**29) -> None:
        self.fields, self.limit = fields, limit
        self.token, self._code = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self._deadlines: dict[Any, float] = {}
        self._lock = threading.Lock()
        super().__init__((HOST, port), _Handler)
        self._folder = tempfile.TemporaryDirectory(prefix="kernelfit-", ignore_cleanup_errors=True)
        self.jobs = Jobs(work, Path(self._folder.name))

    def server_bind(self) -> None:
        """Bind without asking the network for this machine's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]

    def server_close(self) -> None:
        """Close, end the jobs and remove all files."""
        super().server_close()
        if hasattr(self, "jobs"):
            self.jobs.close()
            self._folder.cleanup()

    @property
    def address(self) -> str:
        """The address of the page, token included."""
        return f"http://{HOST}:{self.server_port}/{self.token}/"

    @property
    def opening(self) -> str:
        """An address that leads to the page once: other users of the machine see what a browser is started with."""
        return f"http://{HOST}:{self.server_port}/open/{self._code}"

    def spend(self, code: str) -> bool:
        """Say whether a code is the one of `opening`, and not yet used."""
        with self._lock:
            good = bool(self._code) and _same(code, self._code)
            self._code = "" if good else self._code
        return good

    def allow(self, connection: Any, seconds: float) -> None:
        """Give a connection time from now on."""
        with self._lock:
            if connection in self._deadlines:
                self._deadlines[connection] = time.monotonic() + seconds

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own, unless there are too many."""
        with self._lock:
            full = len(self._deadlines) >= _MOST_CONNECTIONS
            if not full:
                self._deadlines[request] = time.monotonic() + _PATIENCE
        if full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._lock:
            self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut connections whose time is over, however lively."""
        with self._lock:
            now = time.monotonic()
            for request, deadline in self._deadlines.items():
                if now > deadline:
                    _cut(request, socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that broke: browsers break them all the time."""


class _Handler(BaseHTTPRequestHandler):
    server: Page
    server_version, sys_version = "kernelfit", ""
    timeout = _PATIENCE

    def do_GET(self) -> None:  # noqa: D102, N802
        self._serve(self._get)

    def do_POST(self) -> None:  # noqa: D102, N802
        self._serve(self._post)

    def do_PUT(self) -> None:  # noqa: D102, N802
        self._serve(self._put)

    def _serve(self, method: Any) -> None:
        try:
            method(self._admitted())
        except Refusal as refusal:
            self.send_error(refusal.status, str(refusal))
        except OSError as error:
            if isinstance(error, (ConnectionError, TimeoutError)):
                raise
            self.send_error(507, f"the files could not be kept ({error.strerror}); make room on the disk")

    def _admitted(self) -> list[str]:
        """Return the path behind the token, if the request comes from the page itself."""
        hosts = {f"{name}:{self.server.server_port}" for name in (HOST, "localhost")}
        given = self.headers.get_all("Host", [])
        if len(given) != 1 or given[0] not in hosts:
            raise Refusal(421, f"got another Host, need {HOST}:{self.server.server_port}; open the address as printed")
        origins = self.headers.get_all("Origin", [])
        if (origins or self.command != "GET") and origins != [f"http://{given[0]}"]:
            raise Refusal(403, "got a request from another page, need one from this page")
        parts = self.path.split("/")
        if len(parts) == 3 and parts[1] == "open" and self.command == "GET":
            if not self.server.spend(parts[2]):
                raise Refusal(403, "this address leads to the page once; open the one that kernelfit serve printed")
            raise Refusal(303, f"/{self.server.token}/")
        if len(parts) < 3 or not _same(parts[1], self.server.token):
            raise Refusal(403, "got an address without its token, need the one that kernelfit serve printed")
        return parts[2:]

    def _get(self, parts: list[str]) -> None:
        if len(parts) == 1 and parts[0] in _PAGE:
            name = parts[0] or "index.html"
            data = resources.files(__package__).joinpath("page", name).read_bytes()
            if name == "index.html":
                data = data.replace(b"{limit}", str(self.server.limit).encode())
            self._answer(200, data, _TYPES[Path(name).suffix], policy="page")
        elif parts == ["jobs"]:
            self._json(self.server.jobs.listed())
        elif len(parts) == 3 and parts[0] == "jobs":
            self._result(self._job(parts[1]), parts[2])
        elif len(parts) == 4 and parts[0] == "jobs" and parts[3] == "save":
            self._result(self._job(parts[1]), parts[2], save=True)
        else:
            raise Refusal(404, "there is nothing at this address")

    def _result(self, job: Job, name: str, save: bool = False) -> None:
        if job.state != "done" or name not in job.answer["files"]:
            raise Refusal(404, "there is no such result; find the kernel again")
        suffix = Path(name).suffix
        data = (job.folder / "results" / name).read_bytes()
        more = {"Content-Disposition": f'attachment; filename="{name}"'} if save else {}
        kind = _TYPES.get(suffix, "application/octet-stream")
        self._answer(200, data, kind, policy="report" if suffix == ".html" else "other", **more)

    def _post(self, parts: list[str]) -> None:
        if parts == ["jobs"]:
            asked = self._asked()
            try:
                job = self.server.jobs.new(asked["names"], asked["fields"])
            except TooManyError as error:
                raise Refusal(429, str(error)) from None
            self._json({"id": job.ident})
        elif len(parts) == 3 and parts[0] == "jobs" and parts[2] == "cancel":
            self._length(0)
            self.server.jobs.cancel(self._job(parts[1]))
            self._json({})
        else:
            raise Refusal(404, "there is nothing at this address")

    def _asked(self) -> dict[str, dict[str, str]]:
        """Return names and fields, judged."""
        if self.headers.get_content_type() != "application/json":
            raise Refusal(415, "got another type of content, need application/json")
        try:
            asked = json.loads(self.rfile.read(self._length(_MOST_WORDS)))
            names, fields = dict(asked["names"]), dict(asked["fields"])
        except (ValueError, TypeError, LookupError, RecursionError):
            raise Refusal(400, "got no JSON with names and fields") from None
        texts = (*names.values(), *fields.values())
        if set(names) != set(SIDES) or not set(fields) <= set(self.server.fields):
            raise Refusal(400, f"got other fields, need names of {' and '.join(SIDES)} and known fields")
        if not all(isinstance(text, str) for text in texts):
            raise Refusal(400, "got values that are no text, need text")
        if any(len(text) > _MOST_CHARACTERS or not text.isprintable() for text in fields.values()):
            raise Refusal(400, f"got a field of more than {_MOST_CHARACTERS} characters, need fewer")
        return {"names": names, "fields": fields}

    def _put(self, parts: list[str]) -> None:
        if len(parts) != 3 or parts[0] != "jobs" or parts[2] not in SIDES:
            raise Refusal(404, "there is nothing at this address")
        job, side = self._job(parts[1]), parts[2]
        if job.state != "uploading" or side in job.arrived:
            raise Refusal(409, "the file is already there, or no longer wanted; find the kernel again")
        try:
            self._receive(job.path(side))
        except FileExistsError:
            raise Refusal(409, "the file is already being sent") from None
        except Refusal as refusal:
            self.server.jobs.cancel(job, "failed", str(refusal))
            raise
        except OSError as error:
            words = error.strerror or "the connection broke"
            self.server.jobs.cancel(job, "failed", f"the file did not arrive whole ({words}); send it again")
            raise
        self.server.jobs.arrived(job, side)
        self._json({})

    def _receive(self, path: Path) -> None:
        left = self._length(self.server.limit)
        if shutil.disk_usage(path.parent).free < left + _SPARE:
            raise Refusal(507, f"got a file of {left} bytes, for which the disk has no room; make room there")
        self.server.allow(self.connection, _PATIENCE + left / _SLOWEST)
        with path.open("xb") as file:
            while left:
                data = self.rfile.read1(min(left, 2**18))
                if not data:
                    raise Refusal(400, "the file did not arrive whole; send it again")
                file.write(data)
                left -= len(data)

    def _length(self, most: int) -> int:
        """Return how many bytes follow, if that is said once, plainly, and not too many."""
        given = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or len(given) != 1 or not re.fullmatch("[0-9]{1,18}", given[0]):
            raise Refusal(411, "got a request that does not say how long it is, need one Content-Length")
        if int(given[0]) > most:
            got = f"got a file of {int(given[0])} bytes, need at most {most} ({most / 2**20:g} MiB)"
            raise Refusal(413, f"{got}; cut a part out of it, or use kernelfit find, which reads files of any size")
        return int(given[0])

    def _job(self, ident: str) -> Job:
        job = self.server.jobs.get(ident)
        if job is None:
            raise Refusal(404, "there is no such job any more; find the kernel again")
        return job

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), "application/json")

    def _answer(self, status: int, data: bytes, kind: str, policy: str = "other", **more: str) -> None:
        self.server.allow(self.connection, _PATIENCE + len(data) / _SLOWEST)
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(data)),
            "Content-Security-Policy": _POLICIES[policy],
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "no-store",
            **more,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer with a sentence; the base class does so, too, where it cannot read a request."""
        if code == 303:
            self._answer(303, b"", _TYPES[".html"], Location=message or "/")
            return
        self._answer(code, f"{message or 'bad request'}".encode(), "text/plain; charset=utf-8")
        if self.command in ("POST", "PUT"):  # a connection closed upon unread data would take the answer with it
            _cut(self.connection, socket.SHUT_WR)
            end = time.monotonic() + 1.0
            self.connection.settimeout(1.0)
            while time.monotonic() < end and self.connection.recv(2**18):
                pass

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Keep no log: addresses hold the token."""


def _same(text: str, secret: str) -> bool:
    return hmac.compare_digest(text.encode("utf-8", "replace"), secret.encode())


def _cut(connection: socket.socket, how: int) -> None:
    try:
        connection.shutdown(how)
    except OSError:
        return  # it is gone
