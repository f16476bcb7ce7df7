"""Attention over a growing history: time, memory and error of each codec against BF16.

One layer, because layers are alike; bytes of the whole model are those of a layer times its layers. At each
length, counted in latents with the block being denoised, that block's queries attend to everything once:
reading, decoding and rotating included. They are compared with one call of the fastest BF16 attention there
is here, over keys that lie rotated and contiguous in memory, and take turns with it. "extra" is what a call
takes at its peak beside the cache, its output and decoding scratch included. Decoding alone, of all encoded
spans, and encoding a span are timed too. Errors are relative, of the output, on a random video-like stream.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median

import torch
from torch import Tensor

from qvg.attention import Rotate, attend
from qvg.bench.data import Stream
from qvg.bench.measure import (
    Call,
    Row,
    Timing,
    alternating,
    common_arguments,
    describe,
    extra_bytes,
    finish,
    keep,
    start,
    timed,
)
from qvg.bench.settings import SETTINGS, Setting, chosen, parse_policy, policy_name
from qvg.bench.table import markdown
from qvg.cache import KVCache
from qvg.config import BF16, PRESETS, CodecConfig
from qvg.layer import LayerCache
from qvg.ops.attention import partial_attention
from qvg.ops.attention.fastest import fused_names
from qvg.ops.attention.names import AttentionName
from qvg.policy import CachePolicy
from qvg.rope import Rope
from qvg.scratch import Scratch
from qvg.spans import HistorySlice

LATENTS = (21, 60, 180, 600, 1000)
LATENTS_CPU = (24, 48, 96)
USUAL = ("self-forcing", "worldplay", "longcat")
CODECS = ("QVG INT2", "QVG-Plus INT2", "QVG-Max")
ONE_CALL, OUT_OF_MEMORY = "one BF16 call", "out of memory"
Tell = Callable[[Row], None]


@dataclass(eq=False)
class Case:
    """One codec's cache of one layer, fed block by block."""

    name: str
    cache: KVCache
    encode_ms: list[float] = field(default_factory=list)  # of each span, K and V
    before_ms: float = 0.0

    @property
    def layer(self) -> LayerCache:
        return self.cache.layer(0)

    def commit(self, k: Tensor, v: Tensor) -> None:
        """Makes a block history."""
        spans = self.cache.stats(wait=False).spans
        self.layer.stage(k, v)
        self.cache.commit()
        after = self.cache.stats()
        if after.spans > spans:
            self.encode_ms.append(after.encode_ms - self.before_ms)
        self.before_ms = after.encode_ms


class Dense:
    """The whole history in BF16, keys rotated: attended to in one call of every attention that runs here.

    Raises torch.OutOfMemoryError.
    """

    def __init__(self, layer: LayerCache, rotate: Rotate, q: Tensor) -> None:
        stretches = list(layer.stretches())
        batch, heads, head_dim = layer.heads_shape
        shape = (batch, heads, sum(stretch.tokens for stretch in stretches), head_dim)
        k, v = (torch.empty(shape, dtype=layer.choice.dtype, device=q.device) for _ in range(2))
        start = 0
        for stretch in stretches:
            part = slice(start, start + stretch.tokens)
            for whole, piece in zip((k, v), _read(layer, stretch, rotate), strict=True):
                whole[:, :, part].copy_(piece)
            start = part.stop
        self.nbytes = k.nbytes + v.nbytes
        usual = layer.choice.attention
        self.calls = {
            f"one call, {name}": partial(_attention, q, k, v, name)
            for name in _names(q.device)
            if name == usual or _runs(name, q, k, v)
        }
        self.calls.setdefault(f"one call, {usual}", partial(_attention, q, k, v, usual))
        first = self.calls[f"one call, {usual}"]
        self.out = first().float()
        self.extra = extra_bytes(first, q.device)

    def row(self, setting: Setting, took: Mapping[str, Timing]) -> Row:
        """Of the fastest of `calls`."""
        times = {name.removeprefix("one call, "): took[name] for name in self.calls}
        best = min(times, key=lambda name: times[name].ms)
        return {
            "attention": best,
            "ms": times[best].ms,
            "wall_ms": times[best].wall_ms,
            "held_mib": self.nbytes / 2**20,
            "model_gib": setting.layers * self.nbytes / 2**30,
            **({} if self.extra is None else {"extra_mib": self.extra / 2**20}),
            "attentions_ms": {name: each.ms for name, each in times.items()},
        }


def _names(device: torch.device) -> list[AttentionName]:
    """Attentions that may run on a GPU; a CPU has one."""
    return fused_names() if device.type == "cuda" else []


def _attention(q: Tensor, k: Tensor, v: Tensor, name: AttentionName) -> Tensor:
    return partial_attention(q, k, v, name).out


def _runs(name: AttentionName, q: Tensor, k: Tensor, v: Tensor) -> bool:
    try:
        partial_attention(q[:, :, :64], k[:, :, :64], v[:, :, :64], name)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ImportError) as error:
        print(f"  {name} attention does not run here: {str(error).splitlines()[0]}")
        return False
    return True


def grow(
    setting: Setting,
    codecs: list[str],
    policy: CachePolicy,
    latents: Sequence[int],
    device: torch.device,
    tell: Tell,
    seconds: float = 2.0,
    eight_bit: bool = False,
) -> None:
    """Tells a row for each codec and length, as far as memory goes; then the row says why it ends."""
    blocks = sorted({max(1, length // setting.block) for length in latents})
    rotate = setting.rotate(blocks[-1] * setting.block, device)
    names = list(dict.fromkeys(["BF16", *codecs]))
    cases = [Case(name, _cache(setting, PRESETS[name], policy, device)) for name in names]
    if eight_bit:
        small = replace(policy, attention_bits=8)
        cases += [
            Case(f"{name}, 8-bit attention", _cache(setting, PRESETS[name], small, device))
            for name in names[1:]
        ]
    streams = [Stream(setting.geometry, tensor, device, seed=1) for tensor in ("k", "v")]
    asking = Stream(setting.geometry, "q", device, seed=1)
    with_dense = True
    for number in range(1, blocks[-1] + 1):
        if not cases:
            return
        k, v = (stream.frames(setting.block) for stream in streams)
        length = number * setting.block
        if number not in blocks:
            for case in list(cases):
                try:
                    case.commit(k, v)
                except torch.OutOfMemoryError:
                    _give_up(case, cases, length, tell)
            continue
        for case in cases:
            case.layer.stage(k, v)
        q = rotate(asking.frames(setting.block), length - setting.block).to(cases[0].layer.choice.dtype)
        with_dense = _measure(setting, cases, q, rotate, length, with_dense, tell, seconds)
        for case in list(cases):
            try:
                case.commit(k, v)
            except torch.OutOfMemoryError:
                _give_up(case, cases, length, tell)


def _measure(
    setting: Setting,
    cases: list[Case],
    q: Tensor,
    rotate: Rotate,
    length: int,
    with_dense: bool,
    tell: Tell,
    seconds: float,
) -> bool:
    """Rows of one length. Whether there was memory for the history in one piece."""
    head: Row = {"latents": length, "video_frames": setting.video_frames(length), "queries": q.shape[2]}
    dense: Dense | None = None
    bf16 = next((case for case in cases if case.name == "BF16"), None)
    if with_dense and bf16 is not None:
        try:
            dense = Dense(bf16.layer, rotate, q)
        except torch.OutOfMemoryError:
            tell({**head, "codec": ONE_CALL, "skipped": OUT_OF_MEMORY})
    calls: dict[str, Call] = {} if dense is None else dict(dense.calls)
    rows: dict[str, Row] = {}
    for case in list(cases):
        call = calls[case.name] = lambda case=case: attend(q, case.layer, rotate)
        try:
            out = call().float()
            extra = extra_bytes(call, q.device)
            row = {**_row(setting, case), "decode_ms": _decode_ms(case, rotate, seconds / 4)}
        except torch.OutOfMemoryError:
            del calls[case.name]
            _give_up(case, cases, length, tell)
            continue
        if extra is not None:
            # What reading keeps for the next time was taken by the first call.
            kept = case.cache.stats().scratch_bytes - case.layer.scratch_bytes
            row["extra_mib"] = (extra + kept) / 2**20
        if dense is not None:
            row["error"] = ((out - dense.out).norm() / dense.out.norm()).item()
        rows[case.name] = row
        del out
    took = alternating(calls, q.device, seconds)
    fastest = None
    if dense is not None:
        fastest = min((took[name] for name in dense.calls), key=lambda each: each.ms)
        tell({**head, "codec": ONE_CALL, **dense.row(setting, took)})
    for name, row in rows.items():
        times: Row = {"ms": took[name].ms, "wall_ms": took[name].wall_ms}
        if fastest is not None:
            times["over_dense"] = took[name].ms / fastest.ms
            times["decode_share"] = row["decode_ms"] / fastest.ms
        tell({**head, "codec": name, **times, **row})
    return dense is not None


def _row(setting: Setting, case: Case) -> Row:
    stats = case.cache.stats()
    return {
        "held_mib": stats.stored_bytes / 2**20,
        **({"host_mib": stats.host_bytes / 2**20} if stats.host_bytes else {}),
        "beside_mib": case.layer.scratch_bytes / 2**20,
        "model_gib": setting.layers * stats.stored_bytes / 2**30,
        "bf16_gib": setting.layers * stats.bf16_bytes / 2**30,
        "ratio": stats.ratio,
        "spans": stats.spans,
        # The first compiles what the others only run.
        **({"encode_ms": median(case.encode_ms[1:])} if case.encode_ms[1:] else {}),
    }


def _decode_ms(case: Case, rotate: Rotate, seconds: float) -> float:
    """Of every encoded span, keys rotated, to the same scratch memory."""
    layer = case.layer
    encoded = [each for each in layer.stretches(staged=False) if not isinstance(each.k, Tensor)]
    if not encoded:
        return 0.0
    device = case.cache.device
    scratch = Scratch(layer.choice.dtype)

    def decode() -> None:
        for stretch in encoded:
            batch, heads, _, head_dim = stretch.k.shape
            shape = torch.Size((batch, heads, stretch.tokens, head_dim))
            out = scratch.take(device, 0, shape) if device.type == "cuda" else None
            _read(layer, stretch, rotate, out)

    return timed([decode], device, seconds).ms


def _read(
    layer: LayerCache, stretch: HistorySlice, rotate: Rotate, out: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Keys, rotated, and values of a stretch, as `attend` reads them."""
    if isinstance(rotate, Rope):
        return layer.read(stretch, layer.choice.dtype, rope=rotate, out=out)
    k, v = layer.read(stretch, layer.choice.dtype, out=out)
    return rotate(k, stretch.first_frame), v


def _give_up(case: Case, cases: list[Case], length: int, tell: Tell) -> None:
    cases.remove(case)
    case.cache.reset()
    if case.cache.device.type == "cuda":
        torch.cuda.empty_cache()
    tell({"latents": length, "codec": case.name, "skipped": OUT_OF_MEMORY})


def _cache(
    setting: Setting,
    config: CodecConfig,
    policy: CachePolicy,
    device: torch.device,
) -> KVCache:
    return KVCache(
        setting.geometry,
        setting.codec(config),
        policy,
        frames_per_block=setting.block,
        device=device,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common_arguments(parser)
    parser.add_argument("--geometry", nargs="+", choices=list(SETTINGS), help="models whose shapes to take")
    parser.add_argument(
        "--codec",
        nargs="+",
        default=list(CODECS),
        choices=list(PRESETS),
        metavar="PRESET",
        help="beside BF16",
    )
    parser.add_argument("--eight-bit", action="store_true", help="each codec with 8-bit attention too")
    parser.add_argument("--latents", nargs="+", type=int, help=f"lengths of the video ({LATENTS})")
    parser.add_argument(
        "--policy", default="", metavar="every=N,sink=N", help="in blocks, device_bytes=N, attention_bits=8"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="for each length (%(default)s)")


def run(options: argparse.Namespace) -> None:
    device = start(options)
    settings = chosen(options.geometry, device, USUAL)
    latents = options.latents or (LATENTS if device.type == "cuda" else LATENTS_CPU)
    result: Row = {"kind": "cache", **describe(device, options.commit), "shapes": {}}
    print(
        f"{result['card']}, torch {result['torch']}, triton {result['triton']}, commit {result['commit']}\n"
    )
    for name, setting in settings.items():
        policy = parse_policy(options.policy, setting.policy)
        rows: list[Row] = []
        shape: Row = {
            "title": setting.title,
            "layers": setting.layers,
            "heads": setting.heads,
            "tokens_per_frame": setting.geometry.tokens_per_frame,
            "block": setting.block,
            "policy": policy_name(policy),
            "rows": rows,
        }
        result["shapes"][name] = shape
        grow(setting, options.codec, policy, latents, device, rows.append, options.seconds, options.eight_bit)
        choice = _cache(setting, BF16, policy, device).choice
        shape["attention"] = f"{choice.attention}: {choice.reason}"
        print(markdown({"kind": "cache", "shapes": {name: shape}}), flush=True)
        keep(result, options.json)
    finish(result, options.json)
