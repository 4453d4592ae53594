"""Worker processes of Dask: python -m benchmarks.cluster [--size 8192] [--folder F] [--compressed [blosc]].

Two single-threaded worker processes are timed against one, by the clock and by the processor seconds of the busier of
them, and what they send is counted. Any number of workers is simulated: each task of the graph is timed by itself, and
then given to the first worker that is free, in Dask's own order; what a worker needs of another's results is sent at
1 GB/s after a millisecond, and planning comes before all. The critical path, the longest chain of tasks that wait for
each other, is what no number of workers could do without.
"""

import argparse
import heapq
import os
import pickle
import statistics
import tempfile
import time
from typing import Any

import numpy as np

import kernelfit.scale
from benchmarks import scale
from benchmarks.scale import SIDE, make_store, median_ratio


def measured(names: list[str], side: int, repeats: int) -> None:
    """Time one and two single-threaded worker processes in turn, and count what they send."""
    import dask
    import dask.array as da
    import distributed

    arrays = [da.from_zarr(name) for name in names]
    # a worker of one thread: Zarr, too, would decode with as many as there are processors
    variables = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "ZARR_THREADING__MAX_WORKERS": "1"}
    environment = {f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in variables.items()}
    with dask.config.set(environment):
        clusters = [
            distributed.LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=None, silence_logs=50)
            for n in (1, 2)
        ]
        clients = [distributed.Client(c, set_as_default=False) for c in clusters]

    def spent(client: distributed.Client) -> list[float]:
        return list(client.run(time.process_time).values())

    def run(client: distributed.Client) -> None:
        with client.as_current():
            kernelfit.scale.accumulate(*arrays, SIDE)

    ratio, seconds = median_ratio(lambda: run(clients[0]), lambda: run(clients[1]), repeats)
    ratios = []
    for _ in range(repeats):
        most = []
        for client in clients:
            start = spent(client)
            run(client)
            most.append(max(b - a for a, b in zip(start, spent(client), strict=True)))
        ratios.append(most[0] / most[1])
    before, began = loopback(), time.perf_counter()
    time.sleep(seconds)
    idle = (loopback() - before) / (time.perf_counter() - began)
    before, began = loopback(), time.perf_counter()
    run(clients[1])
    sent = loopback() - before
    seconds_of_run = time.perf_counter() - began
    pixels = 2 * 2 * side**2
    print(
        f"two worker processes: {ratio:.2f} times the throughput of one by the clock ({seconds:.1f} s for "
        f"{side}^2), {statistics.median(ratios):.2f} times by processor seconds of the busier one; over the "
        f"loopback device in a run with two: {sent / 1e6:.2f} MB, {100 * sent / pixels:.3f} % of the pixels' bytes "
        f"(of which heartbeats and the like some {idle * seconds_of_run / 1e6:.2f} MB)",
        flush=True,
    )
    for client, some in zip(clients, clusters, strict=True):
        client.close()
        some.close()


def loopback() -> int:
    """Return the bytes that have passed through this machine's loopback device: all that its processes send."""
    with open("/proc/net/dev") as file:
        return next(int(line.split()[1]) for line in file if line.strip().startswith("lo:"))


def simulated(names: list[str], side: int) -> None:
    """Time each task, and print what workers would make of them."""
    import dask
    import dask.array as da
    import dask.order
    from dask.callbacks import Callback

    arrays = [da.from_zarr(name) for name in names]
    seconds: dict[Any, float] = {}
    sizes: dict[Any, int] = {}
    graph: dict[Any, Any] = {}

    def began(key: Any, dsk: Any, state: Any) -> None:
        seconds[key] = -time.process_time()

    def ended(key: Any, result: Any, dsk: Any, state: Any, worker: Any) -> None:
        seconds[key] += time.process_time()
        sizes[key] = len(pickle.dumps(result))
        graph["dependencies"] = state["dependencies"]

    some = np.random.default_rng(0).random((600, 600))
    kernelfit.scale.accumulate(some, some, SIDE, compute=False).compute(
        scheduler="synchronous"
    )  # loads what is compiled
    start = time.process_time()
    made = kernelfit.scale.accumulate(*arrays, SIDE, compute=False)
    planned = time.process_time() - start
    with Callback(pretask=began, posttask=ended), dask.config.set(scheduler="synchronous"):
        made.compute(optimize_graph=False)
    needs = {key: set(graph["dependencies"][key]) for key in seconds}
    order = dask.order.order(dict(made.__dask_graph__()))
    path: dict[Any, float] = {}
    for key in sorted(seconds, key=lambda k: order.get(k, 0)):
        path[key] = seconds[key] + max((path[d] for d in needs[key] if d in path), default=0.0)
    total = sum(seconds.values())
    print(
        f"{side}^2 in {len(seconds)} tasks: {total:.2f} s, planned in {planned:.2f} s; critical path "
        f"{planned + max(path.values()):.2f} s"
    )
    print("| workers | seconds | times one |\n|---|---|---|")
    alone = planned + makespan(seconds, needs, order, sizes, 1)
    for n in (1, 2, 4, 8):
        with_n = planned + makespan(seconds, needs, order, sizes, n)
        print(f"| {n} | {with_n:.2f} | {alone / with_n:.2f} |", flush=True)


def makespan(
    seconds: dict[Any, float], needs: dict[Any, set[Any]], order: dict[Any, int], sizes: dict[Any, int], n: int
) -> float:
    """Return when so many workers are done with tasks, each taken by the first that is free, in an order."""
    free = [(0.0, worker) for worker in range(n)]
    done: dict[Any, tuple[float, int]] = {}
    waiting = sorted(seconds, key=lambda key: order.get(key, 0))
    while waiting:
        now, worker = heapq.heappop(free)
        ready = [k for k in waiting if all(d in done and done[d][0] <= now for d in needs[k] if d in seconds)]
        if not ready:  # until the next task ends
            later = min(end for end, _ in done.values() if end > now)
            heapq.heappush(free, (later, worker))
            continue
        key = ready[0]
        waiting.remove(key)
        sent = sum(1e-3 + sizes[d] / 1e9 for d in needs[key] if d in done and done[d][1] != worker)
        done[key] = now + sent + seconds[key], worker
        heapq.heappush(free, (done[key][0], worker))
    return max(end for end, _ in done.values())


def main() -> None:
    """Simulate, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--folder", help="where the files go, and stay; default: a temporary folder")
    parser.add_argument("--compressed", nargs="?", const="auto", choices=["auto", "blosc"])
    parser.add_argument("--simulate", action="store_true", help="start no workers")
    options = parser.parse_args()
    scale.CODEC = options.compressed
    with tempfile.TemporaryDirectory() as own:
        names = make_store(options.folder or own, options.size)
        simulated(names, options.size)
        if not options.simulate:
            measured(names, options.size, options.repeats)


if __name__ == "__main__":
    main()
