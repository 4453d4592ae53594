"""What a stream has added up, and the file from which a killed run goes on."""

import contextlib
import json
import operator
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from ..core import npz
from ..core.background import eliminated
from ..core.geometry import convention_from
from ..core.normal_equations import NormalEquations, packed, unpacked
from ..core.validation import Array
from ..data.blocks import Tree
from .context import Tile, kept

#: Of what is in the file; 2 came with sums for each kernel, backgrounds and a sample of the pixels.
_VERSION = 2
#: Of equations, or of plain arrays.
Totals = Tree[Any]


def _tree() -> Totals:
    return Tree(operator.add)


@dataclass
class KernelSums:
    """The sums of one kernel: its equations, or an array."""

    whole: Totals = field(default_factory=_tree)  # of the observations that are read, their backgrounds eliminated
    part: Totals = field(default_factory=_tree)  # of the blocks of the one that is being read
    #: noise, pairs: as `ImageNoise` has them
    noise: Array | None = None
    pairs: Array | None = None
    tiles: tuple[Tile, ...] = ()  # the sample of pixels
    method: str = ""  # the engine of the first block
    n_pixels: int = 0  # number of target pixels used, whether they count or not

    def notes(self, stats: NormalEquations) -> tuple[str, ...]:
        """Say how many pixels were excluded."""
        n = self.n_pixels - stats.n_pixels - sum(one.root.shape[1] for one in stats.backgrounds)
        why, parts = "masked, of weight zero, saturated, or not finite", 2 if stats.convention.apart else 1
        return (f"{n // parts} of {self.n_pixels // parts} target pixels excluded: {why}",) if n else ()

    def add(self, equations: NormalEquations | Array, *, last: bool, level: int = 0) -> None:
        """Add a block, or the sum of many (see `Tree.push`); perhaps the last of its observation."""
        self.part.push(equations, level)
        if last:
            total = self.part.total()
            assert total is not None
            self.whole.push(eliminated(total) if isinstance(total, NormalEquations) else total)
            self.part = _tree()

    def count(self, noise: tuple[Array, Array] | None, tiles: list[Tile]) -> None:
        """Add what a block says of the image's noise, and the tiles in it."""
        if noise is not None:
            self.noise = noise[0] if self.noise is None else self.noise + noise[0]
            self.pairs = noise[1] if self.pairs is None else self.pairs + noise[1]
        if tiles:
            self.tiles = kept([*self.tiles, *tiles])


class Sums(dict[tuple[int, int], KernelSums]):
    """The sums of each kernel of a stream, by its group and target."""

    def at(self, group: int, target: int) -> KernelSums:
        """Return those of a kernel."""
        return self.setdefault((group, target), KernelSums())

    def whole(self) -> bool:
        """Return whether there are those of the first kernels, without a gap, as of a pair that was read."""
        before = [(group, target - 1) if target else (group - 1, 0) for group, target in self if group or target]
        held = all(any(total is not None for total, _ in one.whole.levels) for one in self.values())
        return bool(self) and held and all(place in self for place in before)

    def packed(self) -> tuple[list[Any], dict[str, npt.NDArray[Any]]]:
        """Return plain values, and the arrays."""
        header: list[Any] = []
        arrays: dict[str, npt.NDArray[Any]] = {}
        for i, (place, sums) in enumerate(self.items()):
            one: dict[str, Any] = {"place": place, "whole": [], "part": [], "tiles": []}
            one |= {"method": sums.method, "n_pixels": sums.n_pixels}
            for name, tree in (("whole", sums.whole), ("part", sums.part)):
                for level, (total, count) in enumerate(tree.levels):
                    fields: Any = None
                    if total is not None:
                        fields, own = packed(total) if isinstance(total, NormalEquations) else ("array", {"": total})
                        arrays |= {f"{i}/{name}{level}/{key}": value for key, value in own.items()}
                    one[name].append((fields, count))
            for t, tile in enumerate(sums.tiles):
                values, pixels = tile.packed()
                one["tiles"].append((values, tile.observation.convention.stored()))
                arrays |= {f"{i}/tile{t}/{key}": value for key, value in pixels.items()}
            one["kernel"] = next((tile.observation.supports[0] for tile in sums.tiles), None)
            arrays |= {f"{i}/{n}": getattr(sums, n) for n in ("noise", "pairs") if getattr(sums, n) is not None}
            header.append(one)
        return header, arrays

    @classmethod
    def unpacked(cls, header: list[Any], arrays: dict[str, npt.NDArray[Any]]) -> "Sums":
        """Return what `packed` took apart."""

        def under(prefix: str) -> dict[str, npt.NDArray[Any]]:
            return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}

        sums = cls()
        for i, one in enumerate(header):
            _require_counts(*one["place"])
            found = sums.at(*one["place"])
            for name, tree in (("whole", found.whole), ("part", found.part)):
                for level, (fields, count) in enumerate(one[name]):
                    _require_counts(count)
                    own = under(f"{i}/{name}{level}/")
                    value = None if fields is None else own[""] if fields == "array" else unpacked(fields, own)
                    tree.levels.append((NormalEquations(**value) if isinstance(value, dict) else value, count))
            found.tiles = tuple(
                Tile.unpacked(values, under(f"{i}/tile{t}/"), tuple(one["kernel"]), convention_from(convention))
                for t, (values, convention) in enumerate(one["tiles"])
            )
            _require_counts(one["n_pixels"])
            found.method, found.n_pixels = str(one["method"]), one["n_pixels"]
            found.noise, found.pairs = arrays.get(f"{i}/noise"), arrays.get(f"{i}/pairs")
        if len(sums) < len(header):
            raise ValueError("two sums of one kernel")
        return sums


def _require_counts(*counts: object) -> None:
    if any(type(count) is not int or count < 0 for count in counts):
        raise ValueError("numbers of pairs, blocks or pixels that are none")


class Pass(NamedTuple):
    """A reading of all pixels: what it is for, how many pairs and blocks of the next are in the sums, and the sums."""

    asked: str
    pairs: int
    blocks: int
    sums: Sums


class Checkpoint:
    """What a stream, or each pass of a fit, has read so far, in a file that is written `every` so many seconds."""

    # A run goes on from it if the keywords of the call, `call`, are the same.

    def __init__(self, path: str | os.PathLike[str], call: dict[str, Any], every: float) -> None:
        self.path, self.every = Path(path), every
        self.call: dict[str, Any] = json.loads(json.dumps(call))
        #: Blocks of pair number `pairs` that are in the sums, besides all of the pairs before it.
        self.pairs = self.blocks = 0
        self.digest = self.asked = ""
        self.sums = Sums()
        #: Passes that are done, and those of the file that this run has not come to yet.
        self.before: list[Pass] = []
        self._ahead: list[Pass] | None = None
        self._broken, self._written, self._halfway, self._refused = False, True, False, False
        self._new = not self.path.exists()
        npz.sweep(self.path)
        if not self._new:
            self._load()
        else:
            self.save()  # a place that cannot be written to is better known before the work than after
        self._saved = time.monotonic()

    def _load(self) -> None:
        def build(header: dict[str, Any], arrays: dict[str, Any]) -> dict[str, Any]:
            if header.get("version") == _VERSION:
                counts = header["pairs"], header["blocks"]
                _require_counts(*counts)
                if not isinstance(header["call"], dict) or not isinstance(header["digest"], str):
                    raise ValueError("a call or a digest that is none")
                self.sums = Sums.unpacked(header["sums"], arrays)
                one_by_one = bool(header.get("asked"))  # parts of a pass may each be of a kernel
                if counts[0] and not (self.sums if one_by_one else self.sums.whole()):
                    raise ValueError("pairs without the sums of each kernel")
                for p, (asked, pairs, blocks, sums) in enumerate(header.get("before", [])):
                    _require_counts(pairs, blocks)
                    own = {name.removeprefix(f"{p}:"): a for name, a in arrays.items() if name.startswith(f"{p}:")}
                    self.before.append(Pass(str(asked), pairs, blocks, Sums.unpacked(sums, own)))
            return header

        header = npz.load(self.path, "Checkpoint", build)
        if header.get("version") != _VERSION:
            raise ValueError(
                f"got checkpoint={str(self.path)!r}, which another version of kernelfit wrote and keeps other sums; "
                "choose another name, and read the stream anew"
            )
        theirs = header["call"]
        for name in sorted({*theirs, *self.call}):
            if theirs.get(name) != self.call.get(name):
                raise ValueError(
                    f"got checkpoint={str(self.path)!r}, which was written with {name}={theirs.get(name)!r}, and a "
                    f"call with {name}={self.call.get(name)!r}; repeat the call that wrote it, or choose another name"
                )
        self.pairs, self.blocks, self.digest = header["pairs"], header["blocks"], header["digest"]
        self.asked = str(header.get("asked", ""))

    def save(self) -> None:
        """Write the file anew, in one step."""
        sums, arrays = self.sums.packed()
        header: dict[str, Any] = {
            "version": _VERSION,
            "call": self.call,
            "pairs": self.pairs,
            "blocks": self.blocks,
            "digest": self.digest,
            "sums": sums,
        }
        if self.asked:
            header |= {"asked": self.asked, "before": []}
        for p, one in enumerate(self.before):
            sums, own = one.sums.packed()
            header["before"].append((*one[:3], sums))
            arrays |= {f"{p}:{name}": value for name, value in own.items()}
        npz.save(self.path, "Checkpoint", header, arrays, overwrite=True)
        self._saved, self._written = time.monotonic(), True

    def _save_sometimes(self, *, now: bool = False) -> None:
        """Write the file if it is time to; if it cannot be, say so once and go on."""
        if not now and time.monotonic() - self._saved < self.every:
            return
        try:
            self.save()
        except OSError as error:
            self._saved = time.monotonic()
            if not self._broken:
                self._broken = True
                msg = (
                    f"the checkpoint {self.path} cannot be written ({error}); the run goes on and will try again, and "
                    "what was written before stands"
                )
                warnings.warn(msg, RuntimeWarning, stacklevel=3)
            return
        self._broken = False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Write once more when a run ends, whatever ends it, if there is more than in the file."""
        try:
            yield
        except BaseException as error:
            if not self._written and not self._halfway:
                with contextlib.suppress(Warning):  # where warnings are errors, too, the first error is the one to tell
                    self._save_sometimes(now=True)
            elif self._written and isinstance(error, Exception):
                self._withdraw()
            if self._written and not self._refused and (self.pairs or self.blocks or self.before):
                error.add_note(f"what was added up before is in {self.path}; the same call goes on from there")
            raise
        if not self._written:
            self._save_sometimes(now=True)

    def begin_pass(self, asked: str) -> None:
        """Go on with a pass over the pixels: from where the file has it, if it is for the same; or anew."""
        current = Pass(self.asked, self.pairs, self.blocks, self.sums)
        if self._ahead is None:
            self._ahead, self.before = [*self.before, current], []
        else:
            self.before.append(current)
        if not self._ahead or self._ahead[0].asked != asked:
            self._ahead = [Pass(asked, 0, 0, Sums())]
        self.asked, self.pairs, self.blocks, self.sums = self._ahead.pop(0)

    def begins(self) -> None:
        """Expect something to be added: if that is interrupted, what is half added is not written."""
        self._halfway = True

    def goes_on(self, pairs: int, blocks: int) -> None:
        """Take what has been added for pairs, and blocks of the next, and write it if it is time to."""
        self.pairs, self.blocks, self._written = pairs, blocks, False
        self._halfway = False
        self._save_sometimes()

    def _withdraw(self) -> None:
        """Remove the file of a call that was refused before anything was in it, unless it was there before."""
        if self._new and self.pairs == self.blocks == 0 and not self.before:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def mismatch(self, what: str) -> ValueError:
        """Return the error for a stream that is not the one that was read before."""
        self._refused = True
        return ValueError(
            f"got checkpoint={str(self.path)!r}, which was written for another stream: {what}; give the same pairs in "
            "the same order, or choose another name"
        )
