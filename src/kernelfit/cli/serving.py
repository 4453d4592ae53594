"""The page that `kernelfit serve` opens: `kernelfit find`, with a browser in the place of the terminal."""

import argparse
import contextlib
import io
import json
import os
import re
import signal
import sys
import threading
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kernelfit

from ..imageio import kernels, read
from ..serve.server import Page
from .options import BAD_CALL, CHANNELS, SOLVED, BadCallError, say
from .progress import told

#: What the page may ask for, and its words for it. "colours" is `--channel` or `--channels`, all others are options.
LABELS = {
    "shape": "Size",
    "boundary": "Edge",
    "colours": "Colours",
    "background": "Added light",
    "register": "Motion",
    "curve": "Curve",
    "variation": "Kernel varies",
    "stride": "Step",
    "noise": "Noise",
    "errors": "Error bars",
}
#: The formats of a kernel that are offered, as far as they can hold it.
_FORMATS = (".csv", ".npy", ".json")


@dataclass(frozen=True)
class Find:
    """`kernelfit find` for a page; `main` is the command line."""

    main: Callable[..., int]

    def prepare(self) -> None:
        """Import what takes its time."""
        read.require("matplotlib.figure", package="matplotlib", extra="plot", purpose="the report")
        _ = (kernelfit.find_kernel, kernelfit.recognise, kernelfit.measure_psf)  # imported when first looked at

    def __call__(
        self, names: Mapping[str, str], fields: Mapping[str, str], tell: Callable[[str, float | None], None]
    ) -> dict[str, Any]:
        """Find the kernel between two files of the current folder; all that is written goes to ``../results``."""
        results = Path("..", "results")
        npz = results / "kernel.npz"
        asked = [*options(fields), names["image"], names["target"]]
        with told(tell):
            tell("starting", None)
            said, error, code = self._run("find", *asked, "-o", str(npz), "--report", str(npz.parent / "report.html"))
            if code == BAD_CALL:
                return {"error": in_labels(error)}
            tell("drawing the kernel", None)
            self._run("inspect", str(npz), "--plot", str(npz.with_suffix(".png")))
        for suffix in _FORMATS:
            with contextlib.suppress(ValueError):  # a table has no room for several kernels
                kernels.write_kernel(npz.with_suffix(suffix), kernels.read_kernel(str(npz)).as_fit())
        known = ("verdict", "findings", "seconds", "python")
        return {
            **{name: value for name, value in json.loads(said).items() if name in known},
            "files": sorted(path.name for path in results.iterdir()),
        }

    def _run(self, command: str, *words: str) -> tuple[str, str, int]:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            code = self.main([command, "--json", *words])
        return out.getvalue(), err.getvalue().strip().removeprefix("kernelfit: "), code


def options(fields: Mapping[str, str]) -> list[str]:
    """Return the options that the fields of the page stand for."""
    found = []
    for name, text in fields.items():
        value = re.sub(r"(?<=\d)\s*[x×]\s*(?=\d)", ",", text.strip())  # 5 x 7
        if value:
            option = ("channels" if value in CHANNELS else "channel") if name == "colours" else name
            found.append(f"--{option}={value}")
    return [*found, "--volume"] if fields.get("shape", "").count(",") == 2 else found


def in_labels(text: str) -> str:
    """Say the options of a message as what stands on the page."""

    def label(found: re.Match[str]) -> str:
        name = "colours" if found[1] in ("channel", "channels") else found[1]
        return f"“{LABELS[name]}”" if name in LABELS else found[0]

    return re.sub(r"--([a-z]+)\b", label, text.partition("; see kernelfit")[0])


def serve(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    read.require("matplotlib.figure", package="matplotlib", extra="plot", purpose="the report")
    if args.port > 65535:
        raise BadCallError(f"got --port {args.port}, need 0 to 65535")
    if threading.current_thread() is threading.main_thread():  # whoever ends us by a signal leaves no files either
        for name in ("SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), _stop)
    try:
        page = Page(Find(args.main), tuple(LABELS), args.port, args.limit * 2**20)
    except OSError as error:
        what = f"port {args.port} cannot be had ({error.strerror})"
        raise BadCallError(f"{what}; choose another --port, or leave it out") from error
    with page:
        say(f"{page.address}\nDrop two pictures there. Files stay on this machine. Ctrl-C ends it.")
        sys.stdout.flush()
        try:
            if not args.no_browser and _has_screen():
                threading.Thread(target=webbrowser.open, args=(page.opening,), daemon=True).start()
            page.serve_forever()
        except KeyboardInterrupt:
            say("stopped; the files are removed")
    return SOLVED


def _has_screen() -> bool:
    """Say whether a browser would have a window: in a terminal it would take the keys."""
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _stop(*_: object) -> None:
    raise KeyboardInterrupt
