"""Command line for a LongCat video, on one GPU or several:

    python -m backends.longcat.cli "a red fox in the snow" --blocks 4 --out fox.mp4
    torchrun --nproc-per-node 2 -m backends.longcat.cli "a red fox in the snow" --split heads --out fox.mp4

Blocks are written as they are generated. Each further prompt is for the next block; the last one stays.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from backends.base import BackendUnavailable, PromptChange, Request, Segment
from backends.longcat import parallel, random_weights
from backends.longcat.load import load_models
from backends.longcat.models import Models
from backends.longcat.rollout import LongCatBackend, LongCatRollout
from backends.longcat.settings import FPS, FULL, NEGATIVE, TINY_SETTINGS, Settings
from backends.longcat.spec import SPEC
from backends.media import clips, images
from backends.media.clips import ClipError, Limits
from backends.media.images import PictureError
from backends.media.video import VideoWriter
from qvg import PRESETS, KVCache
from qvg.config import CacheGeometry

MOST_FRAMES = 600  # of a clip, if a continuation is conditioned on all of it
_MOST_BYTES = 8 << 30  # of the user's own file
# Every frame is complete on disk: a video takes hours, and may be interrupted at any time.
_COMPLETE = {"movflags": "empty_moov+default_base_moof+frag_every_frame", "flush_packets": "1"}
_AT_ONCE = {"tune": "zerolatency"}  # encodes each frame without waiting for later ones


class FragmentedVideoWriter(VideoWriter):
    """An mp4 playable up to its last but one frame even if the program ends before it is closed."""

    def __init__(self, path: Path) -> None:
        """Creates the file. Raises ValueError if it cannot be written."""
        try:
            # Fails now, not after the first block.
            path.touch()
        except OSError as error:
            raise ValueError(f"{path} cannot be written: {error}") from error
        super().__init__(path, FPS, 18, container=_COMPLETE, encoder=_AT_ONCE)


def read_clip(path: Path, frames: int) -> np.ndarray:
    """Returns the last `frames` frames of a video, uint8 [T, H, W, 3], at 15 a second as upstream takes them.

    They are no larger than the model needs. Raises ValueError for a file without a video.
    """
    size = (SPEC.width, SPEC.height)
    try:
        return clips.read_clip(path, FPS, size, frames, Limits(file_bytes=_MOST_BYTES))
    except ClipError as error:
        raise ValueError(f"{path} cannot be read as a video: {error}") from error


def read_picture(path: Path) -> np.ndarray:
    """Returns uint8 [H, W, 3]. Raises ValueError for a file without a picture."""
    try:
        return images.read_picture(path, min_side=1, most_bytes=_MOST_BYTES)
    except PictureError as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error


def sharded(geometry: CacheGeometry, models: Models) -> CacheGeometry:
    """Returns the geometry of this process's share of the heads. Raises ValueError if they do not divide."""
    heads = models.team.heads
    if heads is None:
        return geometry
    if geometry.heads % heads.size:
        raise ValueError(f"{geometry.heads} heads cannot be shared by {heads.size} processes")
    return dataclasses.replace(geometry, heads=geometry.heads // heads.size)


def write_blocks(rollout: LongCatRollout, blocks: int, out: Path, takes: int, seed: int, leads: bool) -> None:
    """Generates `blocks` blocks, the last one `takes` times from one history, each into a file of its own."""
    with ExitStack() as open_files:
        video = open_files.enter_context(FragmentedVideoWriter(out)) if leads else None

        def add(segment: Segment | None) -> None:
            assert segment is not None
            if video is not None:
                video.add(segment.frames)
                took = ", ".join(f"{name} {ms / 1e3:.1f} s" for name, ms in segment.ms.items())
                print(
                    f"block {segment.index + 1} of {blocks}: {len(segment.frames)} frames ({took})",
                    flush=True,
                )

        for _ in range(blocks - 1):
            add(rollout.step())
        first = rollout.imagine()
        for take in range(1, takes):
            other = rollout.imagine(seed=seed + take)
            if leads:
                path = out.with_name(f"{out.stem}-take{take + 1}{out.suffix}")
                with FragmentedVideoWriter(path) as beside:
                    beside.add(other.frames)
                print(f"{path}: the last block with seed {seed + take}", flush=True)
        add(rollout.accept(first))


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    if min(options.blocks, options.takes) < 1:
        raise SystemExit(f"--blocks {options.blocks} --takes {options.takes}: both are at least 1")
    try:
        device = pick_device(options.device)
        team = parallel.join(options.split == "guidance", device)
        settings = settings_of(options)
        backend = open_backend(options, device, team, settings)
        spec = backend.spec
        request = Request(
            prompt=options.prompt[0],
            changes=tuple(
                PromptChange(block, text) for block, text in enumerate(options.prompt[1:], start=1)
            ),
            image=read_picture(options.image) if options.image else None,
            clip=read_clip(options.clip, settings.condition_frames or MOST_FRAMES) if options.clip else None,
            seed=options.seed,
            blocks=options.blocks,
        )
        cache = KVCache(
            spec.geometry,
            PRESETS[options.codec],
            spec.policy,
            frames_per_block=spec.latents_per_block,
            device=device,
        )
        rollout = backend.open(request, cache, lambda step, steps: None)
        if team.leads:
            for note in rollout.notes:
                print(note, flush=True)
        write_blocks(rollout, options.blocks, options.out, options.takes, options.seed, team.leads)
        if team.leads:
            held = cache.stats()
            print(
                f"{options.out}: KV cache {held.stored_bytes / 2**20:,.1f} MiB, {held.ratio:.2f}x under BF16"
            )
    except (BackendUnavailable, ValueError) as error:
        raise SystemExit(str(error)) from None
    finally:
        parallel.leave()


def pick_device(name: str) -> torch.device:
    """Returns the device; under torchrun every process has its own GPU."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def settings_of(options: argparse.Namespace) -> Settings:
    """Returns the settings of the options. Raises ValueError for those that exclude each other."""
    chosen = {
        name: value
        for name in ("steps", "guidance", "negative", "condition_frames", "source", "projection", "distilled")
        if (value := getattr(options, name)) is not None
    }
    base = TINY_SETTINGS if options.tiny else FULL
    return dataclasses.replace(base, **chosen)


def open_backend(
    options: argparse.Namespace, device: torch.device, team: parallel.Team, settings: Settings
) -> LongCatBackend:
    """Loads the backend. Raises BackendUnavailable, and ValueError if work cannot be divided evenly."""
    precision = None if options.weights == "auto" else options.weights
    beside = [torch.device(name) for name in options.beside]
    if options.random_weights:
        models, _, spec = random_weights.make(device, options.tiny, precision or "bf16", team, beside=beside)
    else:
        on_status = print if team.leads else (lambda text: None)
        models = load_models(device, on_status, precision, team, options.merge_adapter, beside)
        spec = SPEC
    spec = dataclasses.replace(spec, geometry=sharded(spec.geometry, models))
    return LongCatBackend(models, settings, spec)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="backends.longcat.cli",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("prompt", nargs="+", help="of the first block, of the second, ...")
    made.add_argument("--out", type=Path, default=Path("longcat.mp4"), help="(%(default)s)")
    made.add_argument("--image", type=Path, help="a picture to begin with")
    made.add_argument("--clip", type=Path, help="a video to go on from")
    made.add_argument("--blocks", type=int, default=3, help="(%(default)s)")
    made.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    made.add_argument(
        "--takes", type=int, default=1, help="make the last block so often, of other seeds, from one history"
    )
    made.add_argument("--distilled", action="store_true", default=None, help="16 steps without guidance")
    made.add_argument("--steps", type=int, help="50, or 16 of the distilled model")
    made.add_argument("--guidance", type=float, help=f"({FULL.guidance})")
    made.add_argument("--negative", help=f"({NEGATIVE[:40]}...)")
    made.add_argument(
        "--condition-frames", type=int, help=f"({FULL.condition_frames}) looked back on; 13, or 0 for all"
    )
    made.add_argument("--source", choices=("re-encoded", "kept", "latents"), help="what is looked back on")
    made.add_argument("--projection", choices=("upstream", "consistent"), help="what CFG-zero compares")
    made.add_argument("--codec", default="QVG INT2", choices=list(PRESETS), metavar="PRESET")
    made.add_argument("--weights", default="auto", choices=("auto", "bf16", "int8"))
    made.add_argument("--merge-adapter", action="store_true", help="only distilled sampling, a little faster")
    made.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    made.add_argument("--split", default="guidance", choices=("guidance", "heads"), help="under torchrun")
    made.add_argument("--beside", nargs="*", default=[], metavar="cuda:1", help="cards that share the blocks")
    made.add_argument("--random-weights", action="store_true", help="without files; frames are noise")
    made.add_argument("--tiny", action="store_true", help="with random weights, as small as a CPU likes")
    return made


if __name__ == "__main__":
    main()
