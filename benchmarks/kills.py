"""A fit on a cluster, killed with -9 at random moments: python -m benchmarks.kills [--times 20] [--seed 0].

A scheduler, two workers and a client are processes of their own. The client finds a kernel without noise, whose
rounding is corrected in further passes, with a checkpoint that is written after every two tasks. In turn the client, a
worker and the scheduler are killed, at a moment that is drawn evenly from the time that a run takes. Then what is
missing is started again, and the same call made, until it ends. Printed are, for each of the three, how many runs were
killed on the way, how often the bits of kernel and errors are those of a run that nobody disturbed, whether the
checkpoint could be read, and what was left beside it; and what the client said where it ended by itself.
"""

import argparse
import asyncio
import logging
import multiprocessing
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import distributed
import numpy as np
import zarr

import kernelfit.scale
from kernelfit.core import npz
from kernelfit.fitting import dask_portions

#: Seconds within which whatever ends has to have ended.
PATIENCE = 300
logging.getLogger("distributed").setLevel(logging.CRITICAL)
SETTINGS = {
    "distributed.comm.timeouts.connect": "20s",
    "distributed.scheduler.worker-ttl": None,  # a machine that others use is slow, not dead
    "distributed.worker.memory.terminate": False,
    "distributed.admin.tick.limit": "60s",
}


def slowly(pixels: np.ndarray) -> np.ndarray:
    """Return the pixels a little later, so that there is a moment in which to be killed."""
    time.sleep(0.05)
    return pixels


def schedule(place: str) -> None:
    """Be a scheduler."""

    async def serve() -> None:
        async with distributed.Scheduler(port=0, dashboard=False, scheduler_file=place) as one:
            await one.finished()

    dask.config.set(SETTINGS)
    asyncio.run(serve())


def work(place: str, folder: str) -> None:
    """Be a worker."""

    async def serve() -> None:
        async with distributed.Worker(scheduler_file=place, nthreads=1, dashboard=False, local_directory=folder) as one:
            await one.finished()

    dask.config.set(SETTINGS)
    asyncio.run(serve())


def ask(place: str, folder: str, checkpoint: str, result: str) -> None:
    """Be a client: write the kernel and its errors to a file, or what went wrong to another."""
    dask.config.set(SETTINGS)
    dask_portions._LEAST = 2
    try:
        with distributed.Client(scheduler_file=place):
            pair = [
                da.from_zarr(f"{folder}/{name}.zarr").map_blocks(slowly, dtype=float) for name in ("image", "target")
            ]
            fit = kernelfit.scale.find_kernel(*pair, (5, 4), block=20, checkpoint=checkpoint, every=0.0)
            assert fit.refined > 0 and fit.verdict.name == "SOLVED", str(fit)
            np.save(result, np.stack([fit.kernel, fit.stderr]))
    except Exception as error:
        Path(result + ".error").write_text(f"{type(error).__name__}: {error}".splitlines()[0][:200])
        raise SystemExit(1) from None


class Cluster:
    """A scheduler and two workers; processes come of one that has imported all, and has run nothing."""

    def __init__(self, folder: Path) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["benchmarks.kills"])
        self.folder, self.n, self.scheduler, self.workers = folder, 0, self.started(time.sleep, 0), list[Any]()

    def started(self, what: Callable[..., None], *args: Any) -> Any:
        """Start a process."""
        process = self.context.Process(target=what, args=args, daemon=True)
        process.start()
        return process

    def complete(self) -> str:
        """Start what is missing; return the file that says where the scheduler is."""
        if not self.scheduler.is_alive() or not self.n:
            for one in self.workers:
                one.kill()
            self.n += 1
            self.scheduler = self.started(schedule, str(self.folder / f"scheduler{self.n}.json"))
        place = self.folder / f"scheduler{self.n}.json"
        while not place.exists():
            time.sleep(0.05)
        self.workers = [one for one in self.workers if one.is_alive()]
        while len(self.workers) < 2:
            self.workers.append(self.started(work, str(place), str(self.folder)))
        return str(place)

    def client(self, checkpoint: Path, result: Path) -> Any:
        """Start a client."""
        return self.started(ask, self.complete(), str(self.folder), str(checkpoint), str(result))


def trial(cluster: Cluster, who: str, own: Path, moment: float, expected: bytes) -> tuple[Counter[str], str]:
    """Kill one of a cluster's processes, and call until there is a kernel; return what to count, and what was said."""
    own.mkdir()
    checkpoint, result, count, said = own / "sums.npz", own.with_suffix(".npy"), Counter(times=1), ""
    client = cluster.client(checkpoint, result)
    time.sleep(moment)
    victim = {"client": client, "worker": cluster.workers[0], "scheduler": cluster.scheduler}[who]
    count["on the way"] += client.is_alive()
    victim.kill()
    victim.join()
    client.join(PATIENCE)
    if client.is_alive():
        said = "still waiting"
        client.kill()
        client.join()
    error = Path(str(result) + ".error")
    if error.exists():
        said = error.read_text()
    count["half"] += sum(p != checkpoint for p in own.iterdir())
    if checkpoint.exists():
        npz.load(checkpoint, "Checkpoint", lambda header, arrays: header)  # judges its checksum
        count["checkpoints"] += 1
    while not result.exists() and count["called again"] < 5:
        count["called again"] += 1
        cluster.client(checkpoint, result).join(PATIENCE)
    count["same"] += result.exists() and np.load(result).tobytes() == expected
    count["left"] += sum(p != checkpoint for p in own.iterdir())
    return count, said


def main() -> None:
    """Kill, and count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    image = np.random.default_rng(1).random((150, 110)) + 10.0
    target = kernelfit.apply_kernel(image, np.random.default_rng(2).normal(size=(5, 4)), mode="valid")
    victims = "client", "worker", "scheduler"
    counts = {who: Counter[str]() for who in victims}
    said: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder, seconds = Path(name), 0.0
        for what, pixels in (("image", image), ("target", target)):
            zarr.create_array(str(folder / f"{what}.zarr"), data=pixels, chunks=(50, 40))
        cluster = Cluster(folder)
        for i in range(2):  # the first loads what is compiled
            begun = time.monotonic()
            cluster.client(folder / f"first{i}.npz", folder / f"expected{i}.npy").join()
            seconds = time.monotonic() - begun
        expected = np.load(folder / "expected1.npy").tobytes()
        print(f"a run takes {seconds:.1f} s; seed {options.seed}", flush=True)
        for i in range(options.times):
            who = victims[i % 3]
            count, words = trial(cluster, who, folder / f"run{i}", rng.uniform(0.0, seconds), expected)
            counts[who] += count
            said[f"{who}: {words}"] += bool(words)
            print(i, who, dict(counts[who]), words, file=sys.stderr, flush=True)
        for one in (*cluster.workers, cluster.scheduler):
            one.kill()
    columns = ("killed", "times", "on the way", "called again", "checkpoints there, whole", "the same bits")
    print("|", " | ".join((*columns, "half a file beside it, after the next call")), "|\n|---|---|---|---|---|---|---|")
    for who, count in counts.items():
        row = (count[key] for key in ("times", "on the way", "called again", "checkpoints", "same"))
        print(f"| {who} |", " | ".join(map(str, row)), f"| {count['half']}, {count['left']} |")
    for words, n in said.items():
        print(f"{n} times {words}" if n else "", end="\n" if n else "")


if __name__ == "__main__":
    main()
