"""Speed and memory of a whole generator, block by block: `python -m backends.bench pocket`.

Measures one whole video, or with `--latents` single blocks at chosen lengths of history. The history is
filled with random keys and values (backends that rebuild K/V from latents generate the history instead). The
time of a block covers everything from noise to frames in CPU memory; decoding overlaps where the backend
overlaps it. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from backends import bench_output, registry
from backends.base import Backend, BackendSpec, BackendUnavailable, Request, Rollout
from backends.bench_output import GIB, Row
from backends.camera import parse_path
from backends.memory_plan import codec_for, plan
from backends.runtime import hardware
from backends.runtime.errors import is_out_of_memory
from backends.runtime.peak_memory import PeakMemory
from backends.runtime.session import free_memory
from backends.validation import check
from qvg import BF16, CachePolicy, KVCache
from qvg.config import CodecConfig, with_clusters

PATH = "right-40, left-40, w-16"
PROMPT = "a stone bridge over a river at dawn, mist between the pines, slow pan of the camera"


@dataclass(frozen=True, slots=True)
class Case:
    """A named pair of codec and cache policy to measure."""

    name: str
    codec: CodecConfig
    policy: CachePolicy
    mode: str = ""

    def cache(self, backend: Backend, device: torch.device) -> KVCache:
        """Returns an empty cache for `backend` with this codec and policy."""
        spec = backend.spec
        return KVCache(
            spec.geometry, self.codec, self.policy, frames_per_block=spec.latents_per_block, device=device
        )


def whole(backend: Backend, case: Case, blocks: int, device: torch.device) -> Row:
    """Generates one video. Returns the times of its blocks, and the bytes and times of its cache."""
    spec = backend.spec
    cache = case.cache(backend, device)
    peak = PeakMemory(device)
    ms, context, denoise, decode = [], [], [], []
    began = time.perf_counter()
    rollout = _open(backend, cache, blocks, case.mode)
    while (segment := rollout.step()) is not None:
        now = time.perf_counter()
        ms.append(1e3 * (now - began))
        context.append(segment.ms.get("context", 0.0))
        denoise.append(segment.ms.get("denoise", 0.0))
        decode.append(segment.ms.get("decode", 0.0))
        began = now
    stats = cache.stats()
    frames = spec.video_frames(blocks)
    return {
        "frames": frames,
        "frames_per_second": 1e3 * frames / sum(ms),
        "first_block_ms": ms[0],
        "early_block_ms": statistics.median(ms[1:5] or ms),
        "late_block_ms": statistics.median(ms[-4:]),
        "late_context_ms": statistics.median(context[-4:]),
        "late_denoise_ms": statistics.median(denoise[-4:]),
        "late_decode_ms": statistics.median(decode[-4:]),
        "encode_share": stats.encode_ms / sum(ms),
        "read_share": stats.read_ms / sum(ms),
        "cache_mib": stats.stored_bytes / 2**20,
        "bf16_mib": stats.bf16_bytes / 2**20,
        "ratio": stats.ratio,
        "peak_gib": peak.read() / GIB,
    }


def at_lengths(
    backend: Backend,
    case: Case,
    latents: list[int],
    repeat: int,
    device: torch.device,
    on_row: Callable[[Row], None],
) -> None:
    """Reports a row for each length: `repeat` blocks are timed, the last of which completes that length."""
    info = hardware.inspect(device)
    spec = backend.spec
    cache = case.cache(backend, device)
    for length in sorted(latents):
        blocks = length // spec.latents_per_block
        planned = plan(spec, case.codec, case.policy, blocks, info)
        if not planned.fits:
            on_row({"latents": length, "skipped": planned.sentence})
            continue
        try:
            row = _block(backend, cache, blocks, repeat, device, case.mode)
            on_row({"latents": cache.frames, **row})
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            on_row({"latents": length, "skipped": f"out of memory, {planned.sentence}"})
            break
        finally:
            free_memory()
    cache.reset()


def _block(
    backend: Backend, cache: KVCache, blocks: int, repeat: int, device: torch.device, mode: str
) -> Row:
    """Returns the time of one block, and memory, at the end of a video of `blocks` blocks."""
    peak = PeakMemory(device)
    fill(cache, blocks - repeat - 1)
    rollout = _open(
        backend, cache, repeat + 2, mode
    )  # the last block of a video is not committed, so it is not among them
    rollout.step()
    before = cache.stats()
    began = time.perf_counter()
    segments = [rollout.step() for _ in range(repeat)]
    after = cache.stats()
    ms = 1e3 * (time.perf_counter() - began) / repeat
    # Encoding happens once in several blocks: its time is spread over all of them.
    encode_here = (after.encode_ms - before.encode_ms) / repeat
    encode = after.encode_ms / (cache.frames // cache.frames_per_block)
    stages = [segment.ms for segment in segments if segment is not None]
    return {
        "block_ms": ms - encode_here + encode,
        "denoise_ms": statistics.mean(stage.get("denoise", 0.0) for stage in stages),
        "read_ms": (after.read_ms - before.read_ms) / repeat,
        "encode_ms": encode,
        "decode_ms": statistics.mean(stage.get("decode", 0.0) for stage in stages),
        **_held(cache),
        "peak_gib": peak.read() / GIB,
    }


def grown(
    backend: Backend, case: Case, latents: list[int], device: torch.device, on_row: Callable[[Row], None]
) -> None:
    """A row for each length: the block that is made when the video is that long already."""
    info = hardware.inspect(device)
    spec = backend.spec
    cache = case.cache(backend, device)
    blocks = max(latents) // spec.latents_per_block
    rollout = _open(backend, cache, blocks + 1, case.mode)
    encoded: list[float] = []
    for past in range(0, (blocks + 1) * spec.latents_per_block, spec.latents_per_block):
        planned = plan(spec, case.codec, case.policy, past // spec.latents_per_block + 1, info)
        if not planned.fits:
            on_row({"latents": past, "skipped": planned.sentence})
            break
        peak = PeakMemory(device)
        before = cache.stats()
        began = time.perf_counter()
        try:
            segment = rollout.step()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            on_row({"latents": past, "skipped": f"out of memory, {planned.sentence}"})
            break
        ms = 1e3 * (time.perf_counter() - began)
        after = cache.stats()
        encoded.append(after.encode_ms - before.encode_ms)
        if past not in latents or segment is None:
            continue
        # Some blocks encode many, others none: every block is given its share.
        encode = statistics.mean(encoded[-case.policy.every :])
        on_row(
            {
                "latents": past,
                "block_ms": ms - encoded[-1] + encode,
                "context_ms": segment.ms.get("context", 0.0) - encoded[-1],
                "denoise_ms": segment.ms.get("denoise", 0.0),
                "read_ms": after.read_ms - before.read_ms,
                "encode_ms": encode,
                "decode_ms": segment.ms.get("decode", 0.0),
                **_held(cache),
                "peak_gib": peak.read() / GIB,
            }
        )
    cache.reset()
    free_memory()


def _held(cache: KVCache) -> Row:
    """What the history takes."""
    stats = cache.stats()
    encoded = sum(size for name, size in stats.parts.items() if name not in ("sink", "recent"))
    return {
        "kv_gib": stats.stored_bytes / GIB,
        "kv_host_gib": stats.host_bytes / GIB,
        "kv_scratch_gib": stats.scratch_bytes / GIB,
        "encoded_mib_a_layer": encoded / 2**20 / cache.geometry.layers,
        "ratio": stats.ratio,
    }


def fill(cache: KVCache, blocks: int, seed: int = 0) -> None:
    """Commits random keys and values until `cache` holds `blocks` blocks. What they are changes no time."""
    geometry = cache.geometry
    tokens = cache.frames_per_block * geometry.tokens_per_frame
    shape = (cache.batch, geometry.heads, tokens, geometry.head_dim)
    generator = torch.Generator(cache.device).manual_seed(seed)
    k, v = (torch.randn(shape, generator=generator, device=cache.device, dtype=cache.dtype) for _ in range(2))
    while cache.frames < blocks * cache.frames_per_block:
        for layer in range(geometry.layers):
            cache.layer(layer).stage(k, v)
        cache.commit()


def _open(backend: Backend, cache: KVCache, blocks: int, mode: str) -> Rollout:
    spec = backend.spec
    moves = parse_path(PATH) if "camera" in spec.inputs else ()
    prompt = spec.examples[0] if spec.examples else PROMPT
    request = Request(prompt=prompt, moves=moves, blocks=blocks, mode=mode)
    check(request, spec)
    return backend.open(request, cache, lambda step, steps: None)


def parse_case(spec: BackendSpec, preset: str, policy: str, mode: str = "") -> Case:
    """`every=1,clusters=64,device_gib=0.5`, or nothing for the mode's own. Raises ValueError."""
    check(Request(mode=mode, blocks=1), spec)
    codec, changes = codec_for(spec, preset), {}
    usual = next((each.policy for each in spec.modes if each.id == mode), spec.policy)
    for part in filter(None, policy.split(",")):
        name, _, number = part.partition("=")
        if name == "clusters":
            codec = with_clusters(codec, int(number))
        elif name in ("every", "sink", "recent", "window", "attention_bits"):
            changes[name] = int(number)
        elif name in ("grows", "fine"):
            changes[name] = bool(int(number))
        elif name == "device_gib":
            changes["device_bytes"] = int(float(number) * GIB)
        else:
            raise ValueError(
                f"{part!r} is not one of every=, sink=, recent=, window=, device_gib=, attention_bits=, "
                "grows=, fine=, clusters="
            )
    name = " ".join(filter(None, (preset, mode, policy)))
    return Case(name, codec, dataclasses.replace(usual, **changes), mode)


def load(name: str, device: torch.device, random_weights: bool, tiny: bool) -> Backend:
    """Raises BackendUnavailable for a generator that has no random weights or lacks its own."""
    if not random_weights:
        return registry.load(name, device, lambda text: None)
    make = getattr(importlib.import_module(f"backends.{name}.load"), "load_random", None)
    if make is None:
        raise BackendUnavailable(f"{name} cannot be made of random weights.")
    return make(device, lambda text: None, tiny=tiny)


def describe(options: argparse.Namespace, backend: Backend, device: torch.device, load_s: float) -> Row:
    try:
        triton = importlib.import_module("triton").__version__
    except ImportError:
        triton = "none"
    return {
        "backend": options.backend,
        "weights": "random" if options.random_weights else "its own",
        "compiled": options.compile,
        "picture": f"{backend.spec.width} x {backend.spec.height}",
        "torch": torch.__version__,
        "triton": triton,
        "device": dataclasses.asdict(hardware.inspect(device)),
        "load_s": load_s,
    }


def against_bf16(rows: list[Row]) -> None:
    """Adds to each row how much longer its block takes than the fastest BF16 one of that length."""
    fastest: dict[int, float] = {}
    for row in rows:
        if row["codec"] == "BF16" and "block_ms" in row:
            fastest[row["latents"]] = min(row["block_ms"], fastest.get(row["latents"], row["block_ms"]))
    for row in rows:
        if "block_ms" in row and row["latents"] in fastest:
            row["over_bf16"] = row["block_ms"] / fastest[row["latents"]] - 1


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    own = f"backends.{arguments[0].replace('-', '_')}.bench" if arguments else ""
    if arguments and arguments[0] in registry.IDS and importlib.util.find_spec(own):
        # Blocks of minutes are measured step by step.
        importlib.import_module(own).main(arguments[1:])
        return
    options = _parser().parse_args(arguments)
    options.backend = options.backend.replace("-", "_")
    torch.set_num_threads(options.threads or hardware.physical_cores())
    device = hardware.choose(options.device)
    if options.compile:
        os.environ["QVG_STUDIO_COMPILE"] = "1"
    began = time.perf_counter()
    try:
        backend = load(options.backend, device, options.random_weights, options.tiny)
        cases = [
            (preset, parse_case(backend.spec, preset, policy, mode))
            for mode in options.mode
            for preset in options.codec
            for policy in options.policy
        ]
    except (BackendUnavailable, ValueError) as error:
        raise SystemExit(str(error)) from None
    result = describe(options, backend, device, time.perf_counter() - began)
    here = hardware.inspect(device)
    print(
        f"{backend.spec.title}, {result['weights']} weights, {result['picture']}, on {here.name}: torch "
        f"{torch.__version__}, triton {result['triton']}, {here.dtype}, {here.attention} attention "
        f"({'; '.join(here.reasons)})",
        flush=True,
    )
    # The first blocks of a process also build kernels.
    whole(backend, Case("", BF16, backend.spec.policy), 2, device)
    rows: list[Row] = []
    for preset, case in cases:

        def on_row(row: Row, preset: str = preset, case: Case = case) -> None:
            rows.append({"codec": preset, "case": case.name, **row})
            against_bf16(rows)
            print(bench_output.line(rows[-1], without=("codec",)), flush=True)

        if options.latents and backend.spec.rebuilds_history:
            # Kernels are built for lengths met for the first time.
            grown(backend, case, options.latents, device, lambda row: None)
            grown(backend, case, options.latents, device, on_row)
        elif options.latents:
            # A codec's kernels, too, are built once.
            at_lengths(backend, case, [min(options.latents)], 1, device, lambda row: None)
            at_lengths(backend, case, options.latents, options.repeat, device, on_row)
        else:
            on_row(whole(backend, case, options.blocks, device))
    result["rows"] = rows
    bench_output.finish(result, options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="backends.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*registry.IDS, *(name.replace("_", "-") for name in registry.IDS if "_" in name)]
    parser.add_argument("backend", choices=names, metavar="NAME", help=", ".join(names))
    bench_output.add_arguments(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--policy",
        nargs="+",
        default=[""],
        metavar="every=N,clusters=N,device_gib=X",
        help="each with every codec; encoded history beyond X GiB is kept in the host's memory",
    )
    parser.add_argument(
        "--mode", nargs="+", default=[""], metavar="MODE", help="each of a generator that has several"
    )
    parser.add_argument("--blocks", type=int, default=24, help="of a whole video (%(default)s)")
    parser.add_argument(
        "--latents", type=int, nargs="+", help="time blocks at these lengths instead of a whole video"
    )
    parser.add_argument(
        "--repeat",
        type=int,
        default=2,
        help="blocks timed at each length (%(default)s), after another one",
    )
    parser.add_argument("--compile", action="store_true", help="compile the model where it can be")
    parser.add_argument("--threads", type=int, help="of the CPU; every core by default")
    return parser


if __name__ == "__main__":
    main()
