"""Work for a page that takes no time: in a file that imports next to nothing, as each process has to import it anew."""

import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Copy:
    """Work that takes no time, or as many seconds as it is told, and imports nothing."""

    seconds: float = 0.0

    def prepare(self):
        """Nothing is needed."""

    def __call__(self, names, fields, tell):
        """Copy both files."""
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            tell("waiting for the end", 0.25)
            time.sleep(0.02)
        for side, name in names.items():
            Path("..", "results", f"{side}.csv").write_bytes(Path(name).read_bytes())
        Path("..", "results", "report.html").write_text("<h1>Report</h1>")
        verdict = {"name": "SOLVED", "ok": True, "text": "solved"}
        files = ["image.csv", "target.csv", "report.html"]
        return {"files": files, "fields": dict(fields), "verdict": verdict, "seconds": 0.0}
