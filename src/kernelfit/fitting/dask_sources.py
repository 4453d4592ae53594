"""Where the pixels of a Dask array come from: a store, a recipe that is sent along, or the scheduler."""

import math
from typing import Any

import numpy as np

from . import dask_tasks
from .dask_tasks import Recipe

#: Data of more bytes than this are not sent along with each block that needs them.
LIGHT = 2**16
#: What of Dask's tasks, and of what makes them, may hold data.
_HOLD = ("args", "kwargs", "value", "task", "indices", "io_deps", "mapping", "arr")
#: Nor are those of a graph, all together.
_LIGHT_GRAPH = 2**20


def import_dask() -> Any:
    """Import Dask, or say how to get it."""
    try:
        import dask
        import dask.array
        import dask.delayed
    except ImportError as error:
        msg = f"kernelfit.scale needs Dask, which cannot be imported ({error}): pip install 'kernelfit[dask]'"
        raise ImportError(msg) from error
    return dask


class Brought:
    """A Dask array whose chunks the scheduler brings, since they lie in memory, here or on a cluster."""

    def __init__(self, dask: Any, array: Any) -> None:
        from dask._task_spec import Alias, Task
        from dask.highlevelgraph import HighLevelGraph

        (array,) = dask.optimize(array)
        self.name, self.ends, self.dtype = array.name, _ends(array), array.dtype
        graph = dict(array.__dask_graph__())
        for at in np.ndindex(*array.numblocks):  # an error says of which chunk it is
            key = (self.name, *at)
            while isinstance(graph.get(key), Alias):
                key = graph[key].target
            node, start = graph.get(key), tuple(ends[i] for ends, i in zip(self.ends, at, strict=True))
            if type(node) is Task:
                graph[key] = Task(key, dask_tasks.made, start, node.func, *node.args, **node.kwargs)
        self.graph = HighLevelGraph({self.name: graph}, {self.name: set()})

    def of(self, key: tuple[slice, ...]) -> tuple[list[Any], list[Any], tuple[slice, ...], Any]:
        """Return the arguments of `dask_tasks.joined` for some slices."""
        from dask.delayed import Delayed

        places = dask_tasks.places_in(self.ends, key)
        delayed: Any = Delayed
        chunks = [delayed((self.name, *at), self.graph, layer=self.name) for at, _, _ in places]
        return chunks, [(to, own) for _, to, own in places], key, self.dtype


def _ends(array: Any) -> tuple[list[int], ...]:
    """Return where the chunks of a Dask array begin and end along each axis."""
    return tuple(np.cumsum([0, *sides]).tolist() for sides in array.chunks)


def _bytes(value: Any) -> float:
    """Return how much data a part of a graph holds, infinite where they lie on a cluster or are much at a time."""
    if isinstance(value, np.ndarray):
        return value.nbytes if value.nbytes <= LIGHT else math.inf
    if type(value).__module__.split(".")[0] == "distributed":
        return math.inf
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    if isinstance(value, (list, tuple, set, frozenset)):
        return sum(map(_bytes, value))
    if not type(value).__module__.startswith("dask."):
        return 0
    return sum(_bytes(getattr(value, name, None)) for name in _HOLD)


def recipe_of(array: Any) -> Recipe | None:
    """Return how a Dask array is made; None if its graph holds much data, or data on a cluster."""
    from dask._task_spec import GraphNode, convert_legacy_graph
    from dask.blockwise import Blockwise
    from dask.highlevelgraph import HighLevelGraph

    graph = array.__dask_graph__()
    if not isinstance(graph, HighLevelGraph):
        graph = HighLevelGraph({array.name: dict(graph)}, {array.name: set()})
    layers: list[Any] = []
    known: Any = None
    for name in reversed(graph._toposort_layers()):
        layer: Any = graph.layers[name]
        if not isinstance(layer, Blockwise):
            layer = dict(layer)
            if not _bytes(layer) <= _LIGHT_GRAPH:
                return None
            if not all(isinstance(node, GraphNode) for node in layer.values()):
                known = graph.get_all_external_keys() if known is None else known
                layer = convert_legacy_graph(layer, known)
        layers.append(layer)
    return Recipe(layers, array.name, _ends(array), array.dtype) if _bytes(layers) <= _LIGHT_GRAPH else None


def store_of(array: Any) -> Any:
    """Return what a Dask array of `from_zarr` or `from_array` reads, unlocked; None for others. It needs no graph."""
    from dask.array import core

    graph, ends = array.__dask_graph__(), _ends(array)
    layers = getattr(graph, "layers", None)
    if layers is not None:  # no more of it than can be the source, and what slices that
        below = [layers[name] for name in graph.dependencies[array.name]]
        if any(len(layer) > 1 for layer in below):
            return None
        graph = {key: node for layer in (layers[array.name], *below) for key, node in layer.items()}
    found: Any = None
    for at in np.ndindex(*array.numblocks):
        node = graph.get((array.name, *at))
        if getattr(node, "func", None) not in (core.getter, core.getter_nofancy, core.getter_inline):
            return None
        assert node is not None
        if len(node.args) != 2 or node.kwargs.get("lock"):
            return None
        source, place = node.args
        source = graph.get(getattr(source, "key", None), source)
        source, place = getattr(source, "value", source), getattr(place, "value", place)
        if place != tuple(slice(e[i], e[i + 1], None) for e, i in zip(ends, at, strict=True)):
            return None
        if found is not None and source is not found:
            return None
        found = source
    usable = not isinstance(found, np.ndarray) and getattr(found, "shape", None) == array.shape
    return found if usable and hasattr(found, "__getitem__") and _bytes(found) <= LIGHT else None
