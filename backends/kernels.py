"""Every kernel that the generators launch on a card, compiled without one.

The launches are those of the generators' own caches (`qvg.launches`) with every preset. A row of the table is
a kernel for a kind of card: shared memory of a block, registers and spilled bytes of a thread. The command
exits with 1 where a kernel does not fit its card or cannot be compiled. What was compiled stays in Triton's
cache: the same again takes a fraction of the time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import replace
from importlib import import_module
from itertools import product
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from backends import registry
from backends.base import BackendSpec
from backends.memory_plan import codec_for
from backends.pocket.scene import HARMONICS, OBJECTS, Scenes
from qvg.config import PRESETS, CodecConfig
from qvg.launches import META
from qvg.ops.ahead import Launch, compile_for, noted, resources_of
from qvg.ops.card import Card, kind_of_card
from qvg.policy import CachePolicy

# A100; 3090 and A10; 4090 and L4; H100 and H200; B200; 5090 and RTX PRO 6000.
CAPABILITIES = ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
EIGHT_BIT_FROM = (9, 0)
DEMANDING = 0.1  # of a card's shared memory
LAYERS = 2


def every_launch(card: Card) -> dict[Launch, None]:
    """Returns what any generator launches on `card` with any preset, and what heads of 64 channels would."""
    launches: dict[Launch, None] = {}
    for spec in registry.specs():
        # More layers launch the same again.
        geometry = replace(spec.geometry, layers=min(LAYERS, spec.geometry.layers))
        for head_dim, preset in product({64, geometry.head_dim}, PRESETS):
            described = replace(spec, geometry=replace(geometry, head_dim=head_dim))
            codec = codec_for(described, preset)
            try:
                codec.stored_bytes(1, geometry.heads, 1, head_dim)
            except ValueError:
                continue  # this preset is for wider heads
            for policy, mode in _ways(described, card):
                launches |= launches_of(described, codec, policy, card, mode)
    return launches | pictures(card)


def launches_of(
    described: BackendSpec, codec: CodecConfig, policy: CachePolicy, card: Card, mode: str
) -> dict[Launch, None]:
    """Returns what a video of a generator launches on `card`, each once."""
    return import_module(f"backends.{described.id}.launches").launches(described, codec, policy, card, mode)


def _ways(described: BackendSpec, card: Card) -> Iterator[tuple[CachePolicy, str]]:
    """Policies and modes that launch different kernels."""
    for policy, mode in {(described.policy, ""), *((mode.policy, mode.id) for mode in described.modes)}:
        yield policy, mode
        yield replace(policy, device_bytes=0), mode
        if card.capability >= EIGHT_BIT_FROM and not described.modes:
            yield replace(policy, attention_bits=8), mode


def pictures(card: Card) -> dict[Launch, None]:
    """What Pocket World's pictures launch."""
    from backends.pocket.render.triton import render
    from backends.pocket.spec import HEIGHT, WIDTH

    def empty(*shape: int) -> Tensor:
        return torch.empty(1, *shape, device=META)

    look, colour = (torch.empty(1, *shape, dtype=torch.long, device=META) for shape in ((), (OBJECTS,)))
    scenes = Scenes(look, empty(OBJECTS, 9), colour, empty(HARMONICS, 2), empty(3))
    with noted(card) as launches:
        render(scenes, empty(4), HEIGHT, WIDTH)
    return launches


class Row(NamedTuple):
    """A kernel compiled for a kind of card, or why it is not."""

    kernel: str
    capability: tuple[int, int]
    constants: tuple[int | float | bool | str, ...]  # those that are compiled in
    shared_bytes: int
    limit_bytes: int
    registers: int
    spilled_bytes: int
    error: str = ""

    @property
    def fits(self) -> bool:
        return not self.error and self.shared_bytes <= self.limit_bytes

    def __str__(self) -> str:
        name = f"{self.kernel:<42} sm_{self.capability[0]}{self.capability[1]:<3}"
        if self.error:
            return f"{name} {self.error} {self.constants}"
        percent = 100 * self.shared_bytes / self.limit_bytes
        return (
            f"{name} {self.shared_bytes:>7,} of {self.limit_bytes:,} bytes ({percent:3.0f} %), "
            f"{self.registers:3} registers, {self.spilled_bytes:4} spilled {self.constants}"
        )


def compiled(launches: Iterable[Launch], card: Card) -> Iterator[Row]:
    """Compiles `launches` for `card`; of those that come to the same, one."""
    seen: set[str] = set()
    for launch in launches:
        row = Row(launch.name, card.capability, compiled_in(launch), 0, card.shared_bytes, 0, 0)
        try:
            found = compile_for(launch, card.capability)
        except Exception as error:
            yield row._replace(error=f"cannot be compiled: {type(error).__name__}: {error}")
            continue
        if found.key not in seen:
            seen.add(found.key)
            registers, spilled = resources_of(found.cubin)
            yield row._replace(shared_bytes=found.shared_bytes, registers=registers, spilled_bytes=spilled)


def compiled_in(launch: Launch) -> tuple[int | float | bool | str, ...]:
    """Of the constants of a launch those that the kernel declares as such: not strides."""
    parameters = launch.kernel.params[len(launch.tensors) + launch.numbers :]
    pairs = zip(parameters, launch.constants, strict=True)
    return tuple(constant for parameter, constant in pairs if parameter.is_constexpr)


def distinct(launches: Iterable[Launch]) -> list[Launch]:
    """One launch of those that differ only in where memory begins and how far apart it is."""
    return _first_of(launches, lambda launch: (_kind(launch), compiled_in(launch)))


def largest(launches: Iterable[Launch]) -> list[Launch]:
    """Of every kernel, for each combination of types, the launch with the largest tiles."""
    by_size = sorted(distinct(launches), key=_size, reverse=True)
    return _first_of(by_size, _kind)


def _kind(launch: Launch) -> Hashable:
    return launch.name, tuple(None if x is None else x.dtype for x in launch.tensors)


def _size(launch: Launch) -> int:
    return prod(c for c in compiled_in(launch) if type(c) is int and c > 0)


def _first_of(launches: Iterable[Launch], key: Callable[[Launch], Hashable]) -> list[Launch]:
    found: dict[Hashable, Launch] = {}
    for launch in launches:
        found.setdefault(key(launch), launch)
    return list(found.values())


SELECTIONS: dict[str, Callable[[Iterable[Launch]], list[Launch]]] = {
    "largest": largest,
    "distinct": distinct,
    "all": list,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="backends.kernels", description=__doc__)
    parser.add_argument(
        "--target",
        nargs="+",
        metavar="X.Y",
        default=[f"{major}.{minor}" for major, minor in CAPABILITIES],
        help="compute capabilities (default: %(default)s)",
    )
    parser.add_argument(
        "--select",
        choices=list(SELECTIONS),
        default="distinct",
        help="the largest tiles of each kernel (those that need little: for the first target only); every "
        "distinct kernel; or also those that differ only in how memory is laid out (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there too")
    options = parser.parse_args(arguments)
    rows: list[Row] = []
    demanding: set[str] = set()
    noted_for: dict[Hashable, list[Launch]] = {}
    for target in options.target:
        major, minor = map(int, target.split("."))
        card = kind_of_card((major, minor))
        # Launches depend on a card's tiles and on whether it has 8-bit attention, on nothing else.
        kind = (card.tiles(128), card.capability >= EIGHT_BIT_FROM)
        if kind not in noted_for:
            noted_for[kind] = SELECTIONS[options.select](every_launch(card))
        launches = noted_for[kind]
        if options.select == "largest" and rows:
            # What took next to nothing on one card will not fill another.
            easy = {row.kernel for row in rows} - demanding
            launches = [launch for launch in launches if launch.name not in easy]
        for row in compiled(launches, card):
            rows.append(row)
            if row.error or row.shared_bytes > DEMANDING * row.limit_bytes:
                demanding.add(row.kernel)
            print(row, flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([{**row._asdict(), "fits": row.fits} for row in rows], indent=1))
    wrong = [row for row in rows if not row.fits]
    print(f"{len(rows)} kernels, {len(wrong)} that do not fit:" if wrong else f"{len(rows)} kernels fit.")
    for row in wrong:
        print(row)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
