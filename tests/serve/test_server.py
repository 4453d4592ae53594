"""The page's server: who gets in, what is taken, and a whole round trip."""

import contextlib
import functools
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import numpy as np
import pytest

import kernelfit
from kernelfit.cli import serving as command
from kernelfit.cli.parser import main
from kernelfit.imageio.kernels import read_kernel
from kernelfit.serve import server
from kernelfit.serve.jobs import plain_name
from served import serving

NAMES = {"image": "a.csv", "target": "b.csv"}


class Client:
    """What a browser would send, and anything else."""

    def __init__(self, page):
        self.page, self.host = page, f"127.0.0.1:{page.server_port}"

    def send(self, verb, path, body=None, *, root=None, **headers):
        """Return status, headers and body; `headers` with _ for -, and None to leave one out."""
        given = {"Host": self.host}
        given |= {"Origin": f"http://{self.host}"} if verb != "GET" else {}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        if verb != "GET" and "Content-Length" not in given and "Transfer-Encoding" not in given:
            given["Content-Length"] = str(len(body or b""))
        connection = http.client.HTTPConnection("127.0.0.1", self.page.server_port, timeout=20)
        with contextlib.closing(connection):
            connection.putrequest(verb, (f"/{self.page.token}/" if root is None else root) + path, True, True)
            for name, value in given.items():
                for one in value if isinstance(value, list) else [value] * (value is not None):
                    connection.putheader(name, one)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def new(self, names=NAMES, **fields):
        body = json.dumps({"names": names, "fields": fields}).encode()
        return self.send("POST", "jobs", body, Content_Type="application/json")

    def give(self, image, target, names=NAMES, **fields):
        """Have a job done, and return its name."""
        status, _, body = self.new(names, **fields)
        assert status == 200, body
        ident = json.loads(body)["id"]
        for side, data in (("image", image), ("target", target)):
            assert self.send("PUT", f"jobs/{ident}/{side}", data)[0] == 200
        return ident

    def job(self, ident):
        return next(job for job in json.loads(self.send("GET", "jobs")[2]) if job["id"] == ident)

    def wait(self, ident, *states):
        """Return a job as soon as it is in one of the states, or over."""
        end = time.monotonic() + 60
        while (job := self.job(ident))["state"] not in (*states, "done", "failed", "cancelled"):
            assert time.monotonic() < end, job
            time.sleep(0.02)
        return job


@pytest.fixture(scope="module")
def quick():
    """A page whose work takes no time."""
    with serving(seconds=0, limit=4096) as page:
        yield Client(page)


# ---- who gets in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", ["/", "", "/jobs/", "/wrong/", "/%2e%2e/", "//", "/ü/", "/open/"])
def test_no_way_in_without_the_token(quick, root):
    for verb in ("GET", "POST", "PUT"):
        status, headers, body = quick.send(
            verb, "jobs" if root.endswith("/") else "/", b"", root=urllib.parse.quote(root)
        )
        assert status in (403, 404) and b"<" not in body, (verb, root)
        assert headers["Content-Type"].startswith("text/plain")
        assert quick.page.token.encode() not in body


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "[::1]:80", None, "", "two"])
def test_a_name_that_was_made_to_point_here_gets_nothing(quick, host):
    given = [quick.host, "evil.example"] if host == "two" else host
    status, _, body = quick.send("GET", "", Host=given)
    assert status in (400, 421) and b"<html" not in body


@pytest.mark.parametrize("origin", ["http://evil.example", "null", None, "", "https://127.0.0.1", "http://127.0.0.1"])
def test_another_page_in_the_browser_can_ask_for_nothing(quick, origin):
    before = quick.send("GET", "jobs")[2]
    body = json.dumps({"names": NAMES, "fields": {}}).encode()
    assert quick.send("POST", "jobs", body, Content_Type="application/json", Origin=origin)[0] == 403
    if origin is not None:
        assert quick.send("GET", "jobs", Origin=origin)[0] == 403
    assert quick.send("GET", "jobs")[2] == before


def test_the_address_that_starts_a_browser_leads_to_the_page_once(quick):
    code = quick.page.opening.rpartition("/")[2]
    assert quick.send("GET", "wrong", root="/open/")[0] == 403
    status, headers, _ = quick.send("GET", code, root="/open/")
    assert status == 303 and headers["Location"] == f"/{quick.page.token}/"
    assert quick.send("GET", code, root="/open/")[0] == 403
    assert quick.send("GET", "", root="/open/")[0] == 403  # the spent code is empty


def test_no_other_address_is_listened_at(quick):
    assert quick.page.socket.getsockname()[0] == "127.0.0.1"
    assert len(quick.page.token) >= 40 and quick.page.token not in quick.page.opening


def test_the_page_may_load_nothing_from_elsewhere(quick):
    for name in ("", "style.css", "page.js"):
        status, headers, body = quick.send("GET", name)
        assert status == 200 and int(headers["Content-Length"]) == len(body)
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["Content-Security-Policy"] and headers["X-Content-Type-Options"] == "nosniff"
        assert b"http" not in body.replace(b"http-equiv", b"")
        assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Type"] == "text/javascript; charset=utf-8"
    body = quick.send("GET", "")[2]
    assert b'content="4096"' in body and b"style=" not in body and b"onclick" not in body


def test_every_field_of_the_page_is_an_option_of_the_command(quick):
    body = quick.send("GET", "")[2].decode()
    fields = set(re.findall(r'<(?:input|select) name="(\w+)"', body))
    assert fields == set(command.LABELS)
    for name, label in command.LABELS.items():
        assert re.search(rf"<label>{label} <(?:input|select) name=\"{name}\"", body)


# ---- what is taken --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["nothing", "../style.css", "page.js/", "jobs/", "jobs/x/kernel.npz", "..%2f", "index.html"]
)
def test_there_is_nothing_at_other_addresses(quick, path):
    assert quick.send("GET", path)[0] == 404
    assert quick.send("POST", path, b"{}")[0] == 404
    assert quick.send("PUT", path, b"")[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[1]",
        b"{",
        b"[" * 9000,
        b'{"names": {"image": "a"}, "fields": {}}',
        b'{"names": {"image": "a", "target": 5}, "fields": {}}',
        b'{"names": {"image": "a", "target": "b", "third": "c"}, "fields": {}}',
        b'{"names": {"image": "a", "target": "b"}, "fields": {"allow_external": "1"}}',
        b'{"names": {"image": "a", "target": "b"}, "fields": {"shape": "5\\n"}}',
        b'{"names": {"image": "a", "target": "b"}, "fields": {"shape": "%s"}}' % (b"5" * 61),
        b'{"names": {"image": "a", "target": "b"}, "fields": 7}',
    ],
)
def test_what_is_asked_for_is_judged(quick, body):
    status, _, said = quick.send("POST", "jobs", body, Content_Type="application/json")
    assert status == 400 and said.startswith(b"got")


def test_what_no_page_of_ours_would_send(quick):
    body = json.dumps({"names": NAMES, "fields": {}}).encode()
    assert quick.send("POST", "jobs", body, Content_Type="text/plain")[0] == 415
    for length in ("-1", "1e3", "", "9" * 19, "9" * 5000, ["5", "5"], "+5"):
        assert quick.send("POST", "jobs", b"", Content_Type="application/json", Content_Length=length)[0] == 411
    chunked = {"Transfer_Encoding": "chunked", "Content_Type": "application/json"}
    assert quick.send("POST", "jobs", b"0\r\n\r\n", **chunked)[0] == 411
    assert quick.send("POST", "jobs", b"", Content_Type="application/json", Content_Length="16385")[0] == 413
    assert quick.send("DELETE", "jobs", b"")[0] == 501
    assert quick.send("GET", "jobs", X=["1"] * 150)[0] == 431


@pytest.mark.parametrize("size", [4097, 10**6, 10**17])
def test_a_file_that_is_too_large_is_refused_before_it_is_read(quick, size):
    ident = json.loads(quick.new()[2])["id"]
    status, _, said = quick.send("PUT", f"jobs/{ident}/image", b"x" * min(size, 10**6), Content_Length=str(size))
    assert status == 413 and b"need at most 4096" in said and str(size).encode() in said
    job = quick.job(ident)
    assert job["state"] == "failed" and "need at most 4096" in job["answer"]["error"]
    assert not quick.page.jobs.get(ident).folder.exists()


def test_a_file_that_is_cut_short_is_refused(quick):
    ident = json.loads(quick.new()[2])["id"]
    with socket.create_connection(("127.0.0.1", quick.page.server_port)) as raw:
        head = f"PUT /{quick.page.token}/jobs/{ident}/image HTTP/1.1\r\nHost: {quick.host}\r\n"
        raw.sendall(f"{head}Origin: http://{quick.host}\r\nContent-Length: 100\r\n\r\nshort".encode())
        raw.shutdown(socket.SHUT_WR)
        assert b"did not arrive whole" in raw.makefile("rb").read()
    assert quick.wait(ident)["state"] == "failed"


def test_a_file_is_taken_once(quick):
    ident = quick.give(b"1\n", b"2\n")
    assert quick.send("PUT", f"jobs/{ident}/image", b"3\n")[0] == 409
    job = quick.wait(ident)
    assert job["state"] == "done"
    assert quick.send("GET", f"jobs/{ident}/image.csv")[2] == b"1\n"
    assert quick.send("PUT", f"jobs/{ident}/kernel", b"3\n")[0] == 404


def test_only_results_that_were_named_are_given(quick):
    ident = quick.give(b"1\n", b"2\n")
    quick.wait(ident)
    folder = f"jobs/{ident}"
    status, headers, body = quick.send("GET", f"{folder}/report.html")
    assert (status, body) == (200, b"<h1>Report</h1>")
    assert "script" not in headers["Content-Security-Policy"] and "sandbox" in headers["Content-Security-Policy"]
    assert "Content-Disposition" not in headers
    headers = quick.send("GET", f"{folder}/target.csv/save")[1]
    assert headers["Content-Disposition"] == 'attachment; filename="target.csv"'
    for name in ("../../x", "..", "", "b.csv", "..%2ffiles", "%2e%2e", "report.html%00", "../results/report.html"):
        assert quick.send("GET", f"{folder}/{name}")[0] == 404


def test_slow_connections_are_cut(monkeypatch):
    monkeypatch.setattr(server, "_PATIENCE", 0.4)
    with serving(seconds=0) as page:
        with socket.create_connection(("127.0.0.1", page.server_port), timeout=20) as slow:
            with contextlib.suppress(OSError):  # a byte now and then does not help
                for _ in range(100):
                    slow.sendall(b"G")
                    time.sleep(0.02)
                pytest.fail("still connected")
        assert Client(page).send("GET", "")[0] == 200


def test_too_many_connections_are_cut(monkeypatch):
    monkeypatch.setattr(server, "_MOST_CONNECTIONS", 3)
    with serving(seconds=0) as page, contextlib.ExitStack() as stack:
        address = "127.0.0.1", page.server_port
        held = [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(3)]
        while len(page._deadlines) < 3:
            time.sleep(0.01)
        with socket.create_connection(address, timeout=20) as fourth:
            assert fourth.recv(1) == b""
        assert time.monotonic() < min(page._deadlines.values())  # it is not for their time that it was cut
        for one in held:
            one.close()
        while page._deadlines:
            time.sleep(0.01)
        assert Client(page).send("GET", "")[0] == 200


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, expected",
    [
        ("photo 1.png", "photo 1.png"),
        ("../../etc/passwd", "passwd"),
        ("..\\..\\x.png", "x.png"),
        ("--force", "force"),
        ("-", "image"),
        ("", "image"),
        ("....", "image"),
        ("/", "image"),
        (".hidden.npy", "hidden.npy"),
        ("*.png", "_.png"),
        ("a\r\nb: c.png", "a__b_ c.png"),
        ('<img src="x">.png', "_img src=_x__.png".replace("=", "_")),
        ("a\0b\x1b[31m.png", "a_b__31m.png"),
        ("星" * 300 + ".zarr.zip", "星" * 41 + ".zarr.zip"),
    ],
)
def test_names_of_files(given, expected):
    name = plain_name(given, "image")
    assert name == expected and len(name.encode()) <= 250


def test_files_of_one_name_do_not_overwrite_each_other(quick):
    ident = quick.give(b"1\n", b"2\n", {"image": "x.csv", "target": "../x.csv"})
    assert quick.wait(ident)["names"] == {"image": "x.csv", "target": "target-x.csv"}
    assert quick.send("GET", f"jobs/{ident}/target.csv")[2] == b"2\n"


# ---- jobs -----------------------------------------------------------------------------------------------------------


def test_jobs_in_turn_and_cancelled():
    with serving(seconds=600) as page:
        client = Client(page)
        first, second = client.give(b"1\n", b"2\n"), client.give(b"3\n", b"4\n")
        unsent = json.loads(client.new()[2])["id"]
        assert client.wait(first, "running")["state"] == "running"
        while client.job(first)["share"] != 0.25:
            time.sleep(0.02)
        assert client.job(second)["state"] == "waiting"
        for ident in (second, unsent, first):
            assert client.send("POST", f"jobs/{ident}/cancel", b"")[0] == 200
            assert client.job(ident)["state"] == "cancelled"
            assert client.send("PUT", f"jobs/{ident}/image", b"1\n")[0] == 409
        third = client.give(b"1\n", b"2\n")  # a cancelled process leaves its place
        assert client.wait(third, "running")["state"] == "running"
        for _ in range(7):
            assert client.new()[0] == 200
        status, _, said = client.new()
        assert status == 429 and b"cancel one" in said
        folder = page.jobs.folder
        assert folder.exists() and oct(folder.stat().st_mode)[-3:] == "700"
    assert not folder.exists()


def test_a_process_that_dies_is_an_answer():
    with serving(seconds=30) as page:
        client = Client(page)
        ident = client.give(b"1\n", b"2\n")
        while client.job(ident)["share"] is None:
            time.sleep(0.02)
        page.jobs._child.process.kill()
        job = client.wait(ident)
        assert job["state"] == "failed" and "memory" in job["answer"]["error"]


def test_old_jobs_are_forgotten(quick):
    idents = [quick.give(b"1\n", b"2\n") for _ in range(3)]
    for ident in idents:
        quick.wait(ident)
    folders = [quick.page.jobs.get(ident).folder for ident in idents]
    for _ in range(12):
        ident = json.loads(quick.new()[2])["id"]
        quick.send("POST", f"jobs/{ident}/cancel", b"")
    assert quick.page.jobs.get(idents[0]) is None and not folders[0].exists()
    assert len(json.loads(quick.send("GET", "jobs")[2])) <= 13


# ---- what the command finds -----------------------------------------------------------------------------------------


def test_fields_are_options():
    assert command.options({"shape": "5 x 7", "colours": "luma", "boundary": "symm"}) == [
        *("--shape=5,7", "--channel=luma", "--boundary=symm")
    ]
    assert command.options({"shape": "3,5,7", "colours": "mixed"}) == ["--shape=3,5,7", "--channels=mixed", "--volume"]
    assert command.options({"shape": "", "stride": " 2 "}) == ["--stride=2"]
    said = command.in_labels("got --channels, need --shape 5 or --page 3")
    assert said == "got “Colours”, need “Size” 5 or --page 3"


def test_a_bad_file_and_a_bad_field_are_a_sentence_each(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    files = tmp_path / "files"
    files.mkdir()
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(files)
    rows = "\n".join(",".join(map(str, row)) for row in np.arange(56).reshape(7, 8) ** 2 % 17)
    for name, text in (("a.csv", rows), ("b.csv", "no numbers"), ("c.csv", "1,2\n3\n")):
        Path(name).write_text(text)
    heard = []
    find = command.Find(main)
    for target, shape, words in (
        ("b.csv", "3,5", "b.csv: got a file of another format"),
        ("c.csv", "3,5", "c.csv: "),
        ("a.csv", "3,0", "argument “Size”: got '3,0', need"),
        ("a.csv", "x", "argument “Size”: got 'x', need"),
    ):
        answer = find({"image": "a.csv", "target": target}, {"shape": shape}, lambda *words: heard.append(words))
        assert set(answer) == {"error"} and words in answer["error"]
        assert not re.search("\n|--shape|--help", answer["error"])
    assert not list((tmp_path / "results").iterdir()) and heard[0] == ("starting", None)


@pytest.mark.slow
def test_a_pair_goes_round(pair):
    """The kernel, in every format, and the report."""
    before, after, truth = pair
    pytest.importorskip("matplotlib")
    with serving() as page:
        client = Client(page)
        data = before.read_bytes(), after.read_bytes()
        ident = client.give(*data, {"image": "<i>before&.png", "target": "after.png"}, shape="3x5")
        job = client.wait(ident)
        assert job["state"] == "done" and job["answer"]["verdict"]["ok"], job
        assert "read_image('_i_before_.png')" in job["answer"]["python"]
        found = {name: client.send("GET", f"jobs/{ident}/{name}") for name in job["answer"]["files"]}
        assert set(found) == {"report.html", *(f"kernel.{kind}" for kind in ("csv", "json", "npy", "npz", "png"))}
        assert all(status == 200 for status, _, _ in found.values())
        assert b"From _i_before_.png to after.png" in found["report.html"][2]
        assert found["kernel.png"][2].startswith(b"\x89PNG")
        kept = before.with_name("kept.npz")
        kept.write_bytes(found["kernel.npz"][2])
        kernel = read_kernel(kept).kernel
        assert np.abs(kernel - truth).max() < 0.02
        kept.with_suffix(".csv").write_bytes(found["kernel.csv"][2])
        np.testing.assert_array_equal(np.loadtxt(kept.with_suffix(".csv"), delimiter=","), kernel)
        assert str(page.jobs.folder) not in json.dumps(job)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_it_ends_clean(ending, tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(kernelfit.__file__).parents[1])}
    words = [sys.executable, "-m", "kernelfit", "serve", "--no-browser"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a run in the background ignores it
    with subprocess.Popen(words, preexec_fn=heard, **pipes) as process:
        try:
            address = process.stdout.readline().strip()
            assert address.startswith("http://127.0.0.1:") and len(list(tmp_path.glob("kernelfit-*"))) == 1
            process.send_signal(ending)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0 and "removed" in out and not err
    assert not list(tmp_path.glob("kernelfit-*"))


def test_a_port_that_is_taken(quick, capsys):
    pytest.importorskip("matplotlib")
    for port, words in ((str(quick.page.server_port), "choose another --port"), ("70000", "need 0 to 65535")):
        assert main(["serve", "--no-browser", "--port", port]) == 2
        assert words in capsys.readouterr().err
