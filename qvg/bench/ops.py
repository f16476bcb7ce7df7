"""Encoding and decoding a span of one layer's keys and values: times, bytes a second, errors.

Every kernel is first compared with plain torch on this device; nothing is timed where one is wrong. A time is
of K and V together, the median by device events with the launches queued beforehand; "in a row" is the host's
clock over calls in a row, launching included. GB/s counts the bytes that must move (input or output once, and
the payload) and % is of the rate of a large copy, measured here. NMSE is the squared error over the square,
of spans after the first of a random video-like stream; memory is in turn that of three spans, so that no
cache serves it. With --reference the authors' code is timed in the same run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qvg.bench.data import Stream
from qvg.bench.measure import Row, common_arguments, copy_rate, describe, finish, start, timed
from qvg.bench.reference import Reference
from qvg.bench.settings import SETTINGS, SPANS, Setting, chosen
from qvg.bench.table import markdown
from qvg.codecs import build_codec
from qvg.config import BF16, PRESETS, QVG, CodecConfig
from qvg.layer import encode_pair
from qvg.rope import Rope
from qvg.selfcheck import checks

SETS = 3  # spans that are timed in turn
LONG = 100  # iterations of the authors' LongCat script
ROTATE = "decode and rotate K"
USUAL = ("self-forcing", "longcat")
Pair = tuple[Tensor, Tensor]


class Spans:
    """Consecutive spans of keys and values, [1, H, S, D] each, and where to decode to."""

    def __init__(self, setting: Setting, frames: int, device: torch.device) -> None:
        self.setting, self.frames, self.device = setting, frames, device
        streams = [Stream(setting.geometry, tensor, device, seed=1) for tensor in ("k", "v")]
        self.pairs: list[Pair] = [
            (streams[0].frames(frames), streams[1].frames(frames)) for _ in range(SETS + 1)
        ]
        self.outs: list[Pair] = [(torch.empty_like(k), torch.empty_like(v)) for k, v in self.pairs[1:]]
        self.pair_bytes = 2 * self.pairs[0][0].nbytes

    @property
    def shape(self) -> list[int]:
        return list(self.pairs[0][0].shape)

    def rope(self) -> Rope | None:
        """Fused into decoding; None for a model that turns keys by a function of its own."""
        rotate = self.setting.rotate(self.frames, self.device)
        return rotate if isinstance(rotate, Rope) else None


class Codecs:
    """One config's codecs for keys and for values."""

    def __init__(self, config: CodecConfig) -> None:
        self._k, self._v = build_codec(config, "k"), build_codec(config, "v")

    def encode(self, pair: Pair, warm: tuple[Any, Any] | None = None) -> tuple[Any, Any]:
        """Side by side, as the cache does."""
        return encode_pair((self._k, self._v), *pair, warm or (None, None))

    def decode(self, payloads: tuple[Any, Any], out: Pair, rope: Rope | None = None) -> Pair:
        k = self._k.decode(payloads[0], rope=rope, out=out[0])
        return k, self._v.decode(payloads[1], out=out[1])


def nmse(decoded: Pair, pair: Pair) -> dict[str, float]:
    """Of keys and of values. Raises RuntimeError where something was not decoded."""
    result = {}
    for name, x, exact in zip(("nmse_k", "nmse_v"), decoded, pair, strict=True):
        error = (x.float() - exact.float()).square().sum(dtype=torch.float64)
        result[name] = (error / exact.float().square().sum(dtype=torch.float64)).item()
        if not result[name] < float("inf"):
            raise RuntimeError(f"{name} is {result[name]}: what was decoded is not finite")
    return result


def measure(spans: Spans, codecs: Codecs, rate: float, seconds: float, cold: bool = False) -> dict[str, Row]:
    """Rows of encoding (after the previous span, or `cold`) and of decoding what that gave."""
    before = [codecs.encode(pair) for pair in spans.pairs[:1]]
    if not cold:
        for pair in spans.pairs[1:]:
            before.append(codecs.encode(pair, before[-1]))
    warm = [None if cold else before[number] for number in range(SETS)]
    jobs = list(zip(spans.pairs[1:], warm, spans.outs, strict=True))
    payloads = [codecs.encode(pair, start) for pair, start, _ in jobs]
    stored = sum(payload.stored_bytes for payload in payloads[0])
    for out in spans.outs:
        for part in out:
            part.fill_(float("nan"))
    error = nmse(codecs.decode(payloads[0], spans.outs[0]), spans.pairs[1])
    least = spans.pair_bytes + stored

    def row(calls: list[Callable[[], object]]) -> Row:
        took = timed(calls, spans.device, seconds)
        speed = least / took.ms / 1e6
        return {
            "ms": took.ms,
            "wall_ms": took.wall_ms,
            "gb_s": speed,
            "of_copy": speed / rate,
            "ratio": spans.pair_bytes / stored,
            **error,
        }

    rope = spans.rope()
    decoding = list(zip(payloads, spans.outs, strict=True))
    rows = {
        "encode": row([lambda job=job: codecs.encode(job[0], job[1]) for job in jobs]),
        "decode": row([lambda job=job: codecs.decode(*job) for job in decoding]),
    }
    if rope is not None:
        rows[ROTATE] = row([lambda job=job: codecs.decode(*job, rope) for job in decoding])
    return rows


def measure_reference(spans: Spans, folder: Path, iterations: int, seconds: float) -> dict[str, Row]:
    """The authors' encoding and decoding of the same spans."""
    code = Reference(folder, iterations)
    with torch.random.fork_rng([torch.cuda.current_device()]):  # it draws from the global generator
        torch.manual_seed(0)
        encoded = [code.encode(*pair) for pair in spans.pairs[1:]]
        decoded = (code.decode(encoded[0][0]), code.decode(encoded[0][1]))
        error = nmse(decoded, spans.pairs[1])
        del decoded
        encode = timed(
            [lambda pair=pair: code.encode(*pair) for pair in spans.pairs[1:]], spans.device, seconds
        )
    decode = timed(
        [lambda parts=parts: (code.decode(parts[0]), code.decode(parts[1])) for parts in encoded],
        spans.device,
        seconds,
    )
    return {
        name: {"ms": took.ms, "wall_ms": took.wall_ms, **error}
        for name, took in (("encode", encode), ("decode", decode))
    }


def kernel_rows(spans: Spans, rate: float, reference: Path | None, seconds: float) -> list[Row]:
    """QVG INT2 at the paper's settings, beside the authors' code where it is."""
    config = spans.setting.codec(QVG)
    cold, warm = (measure(spans, Codecs(config), rate, seconds, cold) for cold in (True, False))
    rows = [
        ("encode, 2 iterations, cold", cold["encode"]),
        ("encode, 2 iterations, from the span before", warm["encode"]),
    ]
    for iterations in (10, LONG):
        longer = Codecs(spans.setting.codec(replace(QVG, iterations=iterations)))
        rows.append(
            (f"encode, {iterations} iterations, cold", measure(spans, longer, rate, seconds, True)["encode"])
        )
    rows += [(name, warm[name]) for name in ("decode", ROTATE) if name in warm]
    took = timed(
        [lambda out=out: [part.fill_(1.0) for part in out] for out in spans.outs], spans.device, seconds
    )
    speed = spans.pair_bytes / took.ms / 1e6
    alone: Row = {"ms": took.ms, "wall_ms": took.wall_ms, "gb_s": speed, "of_copy": speed / rate}
    rows.append(("write alone, as much as is decoded", alone))
    theirs: dict[str, Row] = {}
    if reference is not None:
        short, long = (measure_reference(spans, reference, count, seconds) for count in (2, LONG))
        theirs = {rows[0][0]: short["encode"], rows[3][0]: long["encode"], "decode": short["decode"]}
    table = []
    for name, row in rows:
        beside = {f"reference_{key}": value for key, value in theirs.get(name, {}).items()}
        table.append({"op": name, **row, **beside})
    return table


def codec_rows(spans: Spans, rate: float, seconds: float) -> list[Row]:
    """Every preset but BF16, in the paper's order of spans: each encoded after the one before."""
    rows = []
    for name, config in PRESETS.items():
        if config == BF16:
            continue
        took = measure(spans, Codecs(spans.setting.codec(config)), rate, seconds)
        kept = ("ratio", "gb_s", "of_copy", "nmse_k", "nmse_v")
        rows.append(
            {
                "codec": name,
                "encode_ms": took["encode"]["ms"],
                "decode_ms": took["decode"]["ms"],
                **({"rotate_ms": took[ROTATE]["ms"]} if ROTATE in took else {}),
                **{key: took["decode"][key] for key in kept},
            }
        )
    return rows


def refuse_if_wrong(device: torch.device) -> int:
    """How many comparisons passed. Raises SystemExit naming those that did not."""
    done = list(checks(device))
    wrong = [check for check in done if not check.passed]
    if wrong:
        lines = "\n".join(f"  {each.sentence}" for each in wrong)
        raise SystemExit(f"Nothing is timed: on {device} these differ from plain torch:\n{lines}")
    return len(done)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common_arguments(parser)
    parser.add_argument("--geometry", nargs="+", choices=list(SETTINGS), help="models whose shapes to take")
    parser.add_argument("--reference", type=Path, metavar="DIR", help="a checkout of Quant-VideoGen")
    parser.add_argument("--seconds", type=float, default=0.4, help="for each time (%(default)s)")
    parser.add_argument("--no-codecs", action="store_true", help="leave out the table of all codecs")


def run(options: argparse.Namespace) -> None:
    device = start(options)
    if options.reference is not None and device.type != "cuda":
        raise SystemExit("The authors' code runs on CUDA only: leave out --reference, or give --device cuda")
    began = time.perf_counter()
    passed = refuse_if_wrong(device)
    kernels = "kernels agree with plain torch" if device.type == "cuda" else "plain torch alone runs here"
    result: Row = {"kind": "ops", **describe(device, options.commit), "checks": passed}
    print(f"{result['card']}, torch {result['torch']}, triton {result['triton']}, commit {result['commit']}")
    print(f"{passed} comparisons passed in {time.perf_counter() - began:.0f} s: {kernels}")
    rate = result["copy_gb_s"] = copy_rate(device)
    print(f"copy: {rate:,.0f} GB/s, bytes read and written. All times are of K and V together.\n")
    result["shapes"] = {}
    for name, setting in chosen(options.geometry, device, USUAL).items():
        spans = Spans(setting, SPANS[name], device)
        head: Row = {"title": setting.title, "shape": spans.shape, "note": "K and V of one layer"}
        rows = result["shapes"][name] = {**head}
        rows["kernels"] = kernel_rows(spans, rate, options.reference, options.seconds)
        _show({**head, "kernels": rows["kernels"]})
        if not options.no_codecs:
            rows["codecs"] = codec_rows(spans, rate, options.seconds)
            _show({**head, "codecs": rows["codecs"]})
    finish(result, options.json)


def _show(shape: Row) -> None:
    print(markdown({"kind": "ops", "shapes": {"": shape}}), flush=True)
