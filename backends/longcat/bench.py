"""Benchmark of LongCat-Video at full scale, by step: `python -m backends.longcat.bench --random-weights`.

For every precision of the weights and every codec it measures a step of a clip, a continuation's history
(encoded by the autoencoder, read by the transformer, quantized), a step after it, decoding, and the
allocator's peak in each. With `--whole`, blocks from noise to frames; with `--limit-gib`, within that much
memory. Under torchrun, processes share the work. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import torch

from backends import bench_output
from backends.base import BackendUnavailable, Request, Stopped
from backends.bench_output import GIB, Row
from backends.longcat import cli, image_latents, parallel, random_weights
from backends.longcat.load import load_models
from backends.longcat.parallel import Team
from backends.longcat.rollout import LongCatBackend
from backends.longcat.settings import FULL, latents_of
from backends.longcat.spec import SPEC
from backends.longcat.weights import Precision
from backends.runtime import hardware
from backends.runtime.errors import is_out_of_memory
from backends.runtime.peak_memory import PeakMemory
from backends.runtime.session import free_memory
from backends.wan import checkpoint, text
from qvg import PRESETS, KVCache


@dataclass(slots=True)
class StepTimer:
    """A `Tick` that records when each step begins, and raises Stopped after `steps` of them."""

    steps: int
    began: list[float] = field(default_factory=list)
    prepare_began: float = 0.0  # when the work before the first step began

    def __call__(self, step: int, steps: int) -> None:
        now = time.perf_counter()
        if step == 0:
            self.prepare_began = self.began[-1] if self.began else now
            self.began.clear()
        self.began.append(now)
        if len(self.began) > self.steps:
            raise Stopped

    @property
    def ms(self) -> list[float]:
        return [1e3 * (after - before) for before, after in zip(self.began, self.began[1:], strict=False)]

    @property
    def step_ms(self) -> float:
        """Returns the median without the first step, if there are others."""
        return statistics.median(self.ms[1:] or self.ms)


class Bench:
    """One model with weights of one precision."""

    def __init__(self, backend: LongCatBackend, device: torch.device, distilled: bool) -> None:
        self.backend, self.device = backend, device
        self._options = (("distilled", "yes"),) if distilled else ()

    def clip(self, steps: int) -> Row:
        """Returns a step of a clip from nothing: the median of `steps`, without the first."""
        timer, peak = StepTimer(steps + 1), PeakMemory(self.device)
        self._run(self._cache("BF16"), timer, None)
        return {"clip_step_ms": timer.step_ms, "clip_peak_gib": peak.read() / GIB}

    def continuation(self, codec: str, steps: int) -> Row:
        """Returns a step of a continuation of a full history, and the time and memory of that history."""
        cache = self._cache(codec)
        # The first use compiles kernels.
        self._run(cache, StepTimer(1), self._frames())
        cache.reset()
        timer, peak = StepTimer(steps + 1), PeakMemory(self.device)
        self._run(cache, timer, self._frames())
        stats = cache.stats()
        return {
            "codec": codec,
            "history_ms": 1e3 * (timer.began[0] - timer.prepare_began),
            "encode_ms": stats.encode_ms,
            "step_ms": timer.step_ms,
            "read_ms": stats.read_ms / len(timer.ms),
            "kv_mib": stats.stored_bytes / 2**20,
            "kv_mib_a_layer": stats.stored_bytes / 2**20 / cache.geometry.layers,
            "ratio": stats.ratio,
            "peak_gib": peak.read() / GIB,
        }

    def autoencoder(self) -> Row:
        """Returns the time to encode the frames of a continuation, and to decode those of its window."""
        models, settings = self.backend.models, self.backend.settings
        frames = self._frames()
        latents = latents_of(settings.window)
        sides = (side // models.vae.scale for side in frames.shape[1:3])
        z = torch.randn(1, models.vae.channels, latents, *sides, device=self.device)
        peak, ms = PeakMemory(self.device), {}
        for name, work in (
            (
                "vae_encode_ms",
                lambda: image_latents.encode(models.vae, frames, torch.Generator(), torch.float32),
            ),
            ("vae_decode_ms", lambda: list(image_latents.decode(models.vae, z, []))),
        ):
            for _ in range(2):  # the first one chooses convolutions
                began = self._now()
                work()
                ms[name] = 1e3 * (self._now() - began)
        return {**ms, "vae_peak_gib": peak.read() / GIB}

    def whole(self, codec: str, blocks: int) -> Row:
        """Returns the times of blocks from noise to frames, as in a run."""
        cache, peak = self._cache(codec), PeakMemory(self.device)
        began = self._now()
        request = Request(prompt=SPEC.examples[0], blocks=blocks, options=self._options)
        video = self.backend.open(request, cache, lambda step, steps: None)
        ms = []
        while (segment := video.step()) is not None:
            ms.append({"ms": 1e3 * (self._now() - began), "frames": len(segment.frames), **segment.ms})
            began = self._now()
        return {"codec": codec, "whole": ms, "peak_gib": peak.read() / GIB}

    def prompt(self) -> Row:
        """Returns the cost of encoding a prompt with a random UMT5-XXL beside the other models."""
        from transformers import UMT5Config

        before, peak, began = self._held(), PeakMemory(self.device), self._now()
        encoder = text.build(UMT5Config(**text.XXL))
        checkpoint.fill_randomly(encoder, self.device, torch.bfloat16, seed=3)
        loaded = self._now()
        with torch.inference_mode():
            ids = torch.arange(1, 1 + text.LENGTH, device=self.device).unsqueeze(0)
            encoder(ids, attention_mask=torch.ones_like(ids))
        read_ms = 1e3 * (self._now() - loaded)
        del encoder
        free_memory()
        return {
            "prompt_load_ms": 1e3 * (loaded - began),
            "prompt_ms": read_ms,
            "prompt_peak_gib": peak.read() / GIB,
            "prompt_left_mib": (self._held() - before) / 2**20,
        }

    def _run(self, cache: KVCache, timer: StepTimer, clip: np.ndarray | None) -> None:
        """Runs one block until `timer` stops it."""
        request = Request(prompt=SPEC.examples[0], clip=clip, blocks=1, options=self._options)
        video = self.backend.open(request, cache, timer)
        with suppress(Stopped):
            video.step()

    def _cache(self, codec: str) -> KVCache:
        spec = self.backend.spec
        return KVCache(
            spec.geometry,
            PRESETS[codec],
            spec.policy,
            frames_per_block=spec.latents_per_block,
            device=self.device,
        )

    def _frames(self) -> np.ndarray:
        spec, settings = self.backend.spec, self.backend.settings
        shape = (settings.condition_frames, spec.height, spec.width, 3)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _held(self) -> int:
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else 0


def measure(bench: Bench, options: argparse.Namespace, on_row: Callable[[Row], None]) -> None:
    """Runs the selected measurements, one row each. One that runs out of memory is reported and skipped."""
    stages: list[Callable[[], Row]] = []
    if options.prompt_reader:
        stages.append(bench.prompt)
    if options.clip_steps:
        stages.append(lambda: bench.clip(options.clip_steps))
    if options.steps:
        stages += [lambda codec=codec: bench.continuation(codec, options.steps) for codec in options.codec]
    if not options.no_autoencoder and bench.backend.models.team.leads:
        stages.append(bench.autoencoder)
    if options.whole:
        stages += [lambda codec=codec: bench.whole(codec, options.whole) for codec in options.codec]
    for stage in stages:
        try:
            on_row(stage())
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            on_row({"out_of_memory": str(error).partition("\n")[0][:200]})
        free_memory()


def load(
    options: argparse.Namespace, device: torch.device, precision: Precision, team: Team
) -> LongCatBackend:
    """Loads the backend. Raises BackendUnavailable, and ValueError if work cannot be divided evenly."""
    beside = [torch.device(name) for name in options.beside]
    if options.random_weights:
        models, settings, spec = random_weights.make(
            device, options.tiny, precision, team, adapter=options.distilled, beside=beside
        )
    else:
        models = load_models(device, lambda words: None, precision, team, beside=beside)
        settings, spec = FULL, SPEC
    if options.condition_frames:
        settings = dataclasses.replace(settings, condition_frames=options.condition_frames)
    spec = dataclasses.replace(spec, geometry=cli.sharded(spec.geometry, models))
    return LongCatBackend(models, settings, spec)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    device = cli.pick_device(options.device)
    here = hardware.inspect(device)
    if options.limit_gib and device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(options.limit_gib * GIB / here.memory_bytes, device)
    try:
        team = parallel.join(options.split == "guidance", device)
        result: Row = {
            "backend": "longcat",
            "weights": "random" if options.random_weights else "its own",
            "device": dataclasses.asdict(here),
            "torch": torch.__version__,
            "processes": max(1, int(torch.distributed.get_world_size())) if team is not parallel.ALONE else 1,
            "split": options.split if team is not parallel.ALONE else None,
            "limit_gib": options.limit_gib,
            "distilled": options.distilled,
            "condition_frames": options.condition_frames,
            "rows": [],
        }
        if team.leads:
            print(
                f"LongCat-Video on {result['processes']} x {here.name}, {here.attention} attention",
                flush=True,
            )
        for precision in options.weights:

            def on_row(row: Row, precision: str = precision) -> None:
                row = {"weights": precision, **row}
                result["rows"].append(row)
                if team.leads:
                    print(bench_output.line(row), flush=True)

            began, peak = time.perf_counter(), PeakMemory(device)
            backend = load(options, device, precision, team)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            on_row({"load_ms": 1e3 * (time.perf_counter() - began), "load_peak_gib": peak.read() / GIB})
            measure(Bench(backend, device, options.distilled), options, on_row)
            del backend
            free_memory()
    except (BackendUnavailable, ValueError) as error:
        raise SystemExit(str(error)) from None
    finally:
        parallel.leave()
    if team.leads:
        bench_output.finish(result, options.json)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="backends.longcat.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench_output.add_arguments(made)
    made.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    made.add_argument("--weights", nargs="+", default=["bf16", "int8"], choices=("bf16", "int8"))
    made.add_argument("--clip-steps", type=int, default=2, help="of a clip to time, after one; 0: none")
    made.add_argument("--steps", type=int, default=3, help="of a continuation to time, after one; 0: none")
    made.add_argument("--condition-frames", type=int, help="that a continuation looks back on (73)")
    made.add_argument("--no-autoencoder", action="store_true", help="leave it out")
    made.add_argument("--distilled", action="store_true", help="with the adapter and without guidance")
    made.add_argument("--whole", type=int, default=0, metavar="BLOCKS", help="also whole blocks")
    made.add_argument("--prompt-reader", action="store_true", help="also UMT5-XXL, made up, beside the rest")
    made.add_argument("--limit-gib", type=float, help="of GPU memory that torch may hold")
    made.add_argument("--split", default="guidance", choices=("guidance", "heads"), help="under torchrun")
    made.add_argument("--beside", nargs="*", default=[], metavar="cuda:1", help="cards that share the blocks")
    return made


if __name__ == "__main__":
    main()
