"""Training of Pocket World from scratch: `python -m backends.pocket.training.train --minutes 25` on one GPU.

It stops after `--stop-after` minutes of wall time, if given, and resumes from its checkpoint when called
again; the learning rates follow trained time, so one run or several give the same schedule. Data are rendered
on the fly.

The transformer learns by teacher forcing: each sequence contains its chunks twice, clean and noised, and a
noised chunk attends to the clean chunks before it and to itself, as with the cache in generation. In the last
two stages most of the history is the model's own, generated with as few steps as at inference, while the
target stays the ground truth: small faults are to be corrected, not propagated. In the last one, keys and
values of history have the error of two-bit quantization. Independent noise of that size is no substitute:
attention averages it out, while similar tokens get similar quantization errors.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from backends.pocket import weights
from backends.pocket.autoencoder import Autoencoder
from backends.pocket.conditioning import (
    Conditioning,
    Layout,
    condition,
    describe,
    sample_layouts,
    split,
    unseen_by_block,
)
from backends.pocket.render import render
from backends.pocket.sampler import LEVELS
from backends.pocket.scene import (
    Scenes,
    hide_obstacles,
    sample_scenes,
    sample_trajectories,
)
from backends.pocket.spec import BLOCK_FRAMES, COLUMNS, HEIGHT, ROWS, SPEC, WEIGHTS, WIDTH
from backends.pocket.transformer import Rotary, Transformer, ray_features
from qvg import QVG
from qvg.metrics import psnr_of_mse

TOKENS = ROWS * COLUMNS
CHUNK_TOKENS = BLOCK_FRAMES * TOKENS
CHUNKS = 40  # 160 frames per trajectory
SCHEDULE = (1.0, 1.0, *LEVELS, 0.9, 0.5, 0.25)  # noise levels of samplers, most of all of the first step
KV_NOISE = (0.3, 0.36)  # at most, on keys and values of history, relative to their size
SPAN = SPEC.policy.every * CHUNK_TOKENS  # tokens that are encoded together
FROM_PICTURE = 0.3  # share of sequences that begin with a given frame
ONLY_PICTURE = 0.7  # share of these with nothing in the layout that the frame shows
KMEANS_ROUNDS = 3
MAX_GAP = 320  # frames
POOL = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage of training."""

    name: str
    share: float  # of the total time
    batch: int
    chunks: int  # of a sequence; 0 for the autoencoder
    rate: tuple[float, float]  # learning rate at the start and at the end of the stage
    rounds: int = 0  # how often the model generates the history again, each time from the one before
    kv_noise: tuple[float, float] | None = None
    two_bits: bool = False


STAGES = (
    Stage(name="autoencoder", share=0.128, batch=64, chunks=0, rate=(1.2e-3, 2e-5)),
    Stage(name="transformer", share=0.368, batch=16, chunks=6, rate=(8e-4, 5e-4)),
    Stage(name="long", share=0.16, batch=8, chunks=12, rate=(5e-4, 2.5e-4), kv_noise=KV_NOISE),
    Stage(name="own", share=0.144, batch=8, chunks=12, rate=(2.5e-4, 1e-5), rounds=2, kv_noise=KV_NOISE),
    Stage(name="codec", share=0.2, batch=8, chunks=12, rate=(2.5e-4, 1e-5), rounds=2, two_bits=True),
)


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """A batch of training sequences.

    scenes of B; poses [B, F, 4]; frame indices [B, F]; whether the first frame is given [B]; a layout of the
    scenes, and when its objects are included [B, F, OBJECTS].
    """

    scenes: Scenes
    poses: Tensor
    frames: Tensor
    from_picture: Tensor
    layout: Layout
    unseen: Tensor

    def split(self, size: int) -> list[Sequences]:
        columns = (
            split(column, size) if isinstance(column, (Scenes, Layout)) else column.split(size)
            for column in (getattr(self, field.name) for field in fields(self))
        )
        return [Sequences(*parts) for parts in zip(*columns, strict=True)]


def pick_chunks(poses: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Returns the chunks [B, count], ascending, to keep of `poses` [B, CHUNKS * BLOCK_FRAMES, 4].

    Two in five keep the beginning. The others keep a contiguous tail, the chunk before it, the chunks that
    saw the same objects as the tail, and random ones, so that long memory costs a short sequence.
    """
    batch, device = poses.shape[0], poses.device
    centre = poses.view(batch, CHUNKS, BLOCK_FRAMES, 4)[:, :, 1]
    chunk = torch.arange(CHUNKS, device=device).expand(batch, -1)
    tail = max(1, count // 4)
    start = torch.randint(count - tail, CHUNKS - tail + 1, (batch, 1), generator=generator, device=device)
    here = centre.gather(1, start.unsqueeze(-1).expand(-1, -1, 4))
    turned = torch.remainder(centre[..., 2] - here[..., 2] + math.pi, 2 * math.pi) - math.pi
    apart = turned.abs() + 0.3 * (centre[..., :2] - here[..., :2]).norm(dim=-1)
    noise = torch.rand(batch, CHUNKS, generator=generator, device=device)
    relevance = torch.rand(batch, 1, generator=generator, device=device) * 3
    score = noise - relevance * apart
    score = score.masked_fill(chunk >= start, -1e4)
    score = score.masked_fill((chunk >= start - 1) & (chunk < start + tail), 1e4)
    recalled = score.topk(count, dim=1).indices.sort(dim=1).values
    beginning = torch.rand(batch, 1, generator=generator, device=device) < 0.4
    return torch.where(beginning, chunk[:, :count], recalled)


def sample_sequences(batch: int, chunks: int, generator: torch.Generator) -> Sequences:
    poses = sample_trajectories(batch, CHUNKS * BLOCK_FRAMES, generator)
    scenes = hide_obstacles(sample_scenes(batch, generator), poses)
    kept = pick_chunks(poses, chunks, generator)
    offsets = torch.arange(BLOCK_FRAMES, device=poses.device)
    frames = (kept.unsqueeze(-1) * BLOCK_FRAMES + offsets).flatten(1)
    poses = poses.gather(1, frames.unsqueeze(-1).expand(-1, -1, 4))
    chance = torch.rand(2, batch, generator=generator, device=poses.device)
    from_picture = chance[0] < FROM_PICTURE
    return Sequences(
        scenes,
        poses,
        _let_time_pass(frames, kept, generator),
        from_picture,
        sample_layouts(scenes, poses[:, 0], from_picture & (chance[1] < ONLY_PICTURE), generator),
        # Of the complete scene: an object behind one that is left out has not been seen either.
        unseen_by_block(describe(scenes), poses, BLOCK_FRAMES),
    )


def _let_time_pass(frames: Tensor, kept: Tensor, generator: torch.Generator) -> Tensor:
    """Returns `frames` with a gap of up to MAX_GAP between the memory and the tail.

    A third of the sequences that skip chunks get one.
    """
    batch, device = frames.shape[0], frames.device
    skips = kept[:, 1:] - kept[:, :-1] > 1
    after_last_skip = (skips.flip(1).cumsum(1).flip(1) == 0).repeat_interleave(BLOCK_FRAMES, 1)
    after_last_skip = torch.cat([torch.zeros_like(after_last_skip[:, :BLOCK_FRAMES]), after_last_skip], 1)
    chosen = torch.rand(batch, 1, generator=generator, device=device) < 0.33
    chosen = chosen & skips.any(dim=1, keepdim=True)
    gap = torch.randint(0, MAX_GAP // BLOCK_FRAMES + 1, (batch, 1), generator=generator, device=device)
    return frames + torch.where(chosen & after_last_skip, gap * BLOCK_FRAMES, 0)


def pictures(sequences: Sequences) -> Tensor:
    """Returns [B * F, 3, HEIGHT, WIDTH] in -1..1."""
    frames = sequences.poses.shape[1]
    return render(sequences.scenes.repeat(frames), sequences.poses.flatten(0, 1), HEIGHT, WIDTH) * 2 - 1


def training_mask(chunks: int, device: torch.device) -> BlockMask:
    """Returns the attention mask of a sequence: the clean chunks, then the noised ones."""
    half = chunks * CHUNK_TOKENS

    def allowed(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        q_noisy, k_noisy = q >= half, k >= half
        q_chunk, k_chunk = (q % half) // CHUNK_TOKENS, (k % half) // CHUNK_TOKENS
        clean = ~k_noisy & ((k_chunk < q_chunk) | (~q_noisy & (k_chunk == q_chunk)))
        return clean | (q_noisy & k_noisy & (q_chunk == k_chunk))

    return create_block_mask(allowed, None, None, 2 * half, 2 * half, device=str(device))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    pairs = cos.shape[-1]
    a, b, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], -1)


class Conditions(NamedTuple):
    """The conditions of a sequence.

    rays [B, F, P, RAY_VALUES]; look [B, LOOK_FEATURES]; cos and sin of both halves [B, 1, 2 F P, pairs];
    t_clean [B, F]
    """

    rays: Tensor
    conditioning: Conditioning
    look: Tensor
    cos: Tensor
    sin: Tensor
    t_clean: Tensor


def predict(
    model: Transformer, clean: Tensor, noisy: Tensor, t_noisy: Tensor, given: Conditions, mask: BlockMask,
    kv_noise: Tensor | None, kv_codes: Tensor | None,
) -> Tensor:  # fmt: skip
    """Returns latents [B, F, 12, h, w] predicted from `noisy`, after a history of `clean`.

    t_noisy [B, F]; for keys and values of history kv_noise [2, B], and kv_codes [2, B, spans] as in
    `_encoded`
    """
    frames = clean.shape[1]

    def attention(_layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if kv_noise is not None:
            k, v = (_disturb(x, level, frames * TOKENS) for x, level in zip((k, v), kv_noise, strict=True))
        if kv_codes is not None:
            k, v = (_encoded(x, share, frames * TOKENS) for x, share in zip((k, v), kv_codes, strict=True))
        q, k = _rotate(q, given.cos, given.sin), _rotate(k, given.cos, given.sin)
        return flex_attention(q, k, v, block_mask=mask)  # type: ignore[return-value]

    with torch.autocast("cuda", torch.bfloat16):
        view = model.view(given.rays, given.conditioning)
        t = torch.cat([given.t_clean, t_noisy], 1)
        both = model(torch.cat([clean, noisy], 1), t, torch.cat([view, view], 1), given.look, attention)
    return both[:, frames:].float()


def _disturb(x: Tensor, level: Tensor, remembered: int) -> Tensor:
    """Returns x [B, H, S, D] with noise of `level` [B] times its size on the first `remembered` tokens."""
    size = x[:, :, :remembered].detach().float().square().mean(dim=(2, 3), keepdim=True).sqrt()
    noise = torch.randn_like(x) * (level.view(-1, 1, 1, 1) * size).to(x.dtype)
    first = torch.arange(x.shape[2], device=x.device)[:, None] < remembered
    return x + noise * first


def _encoded(x: Tensor, share: Tensor, remembered: int) -> Tensor:
    """Returns x [B, H, S, D] with a `share` [B, spans] of the two-bit error on each remembered span.

    The gradient is passed straight through.
    """
    first, rest = x.split([remembered, x.shape[2] - remembered], dim=2)
    spans = first.detach().unflatten(2, (-1, SPAN))
    error = (two_bits(spans.flatten(0, 2)).view_as(spans) - spans) * share[:, None, :, None, None]
    return torch.cat([first + error.flatten(2, 3).to(x.dtype), rest], dim=2)


def two_bits(x: Tensor) -> Tensor:
    """Returns fp32 [N, S, D]: x encoded and decoded as by `qvg.QVG`, to within the rounding of its scales.

    Compiled, it costs a fraction of the codec: k-means begins at evenly spaced tokens, and sums are products.
    """
    count, group = SPEC.clusters, QVG.group_of(x.shape[-1])
    with torch.autocast(x.device.type, enabled=False):
        points = x.float()
        centroids = points[:, :: points.shape[1] // count][:, :count]
        for _ in range(KMEANS_ROUNDS):
            near = torch.baddbmm(centroids.square().sum(-1).unsqueeze(1) / 2, points, centroids.mT, alpha=-1)
            mine = F.one_hot(near.argmin(-1), count).float()
            sizes = mine.sum(1).unsqueeze(-1)
            centroids = torch.where(sizes > 0, mine.mT @ points / sizes.clamp_min(1), centroids)
        smooth = mine @ centroids
        residual = (points - smooth).unflatten(-1, (-1, group))
        scale = residual.abs().amax(-1, keepdim=True).clamp_min(1e-9)
        return smooth + ((residual / scale).round() * scale).flatten(-2)


def diffusion_loss(
    model: Transformer, latents: Tensor, clean: Tensor, noisy: Tensor, t_noisy: Tensor, counted: Tensor,
    given: Conditions, mask: BlockMask, kv_noise: Tensor | None, kv_codes: Tensor | None,
) -> Tensor:  # fmt: skip
    """Returns the weighted error of the latents predicted from `noisy`; counted [B, F]."""
    predicted = predict(model, clean, noisy, t_noisy, given, mask, kv_noise, kv_codes)
    error = (predicted - latents).square().mean(dim=(2, 3, 4))
    weight = counted / t_noisy.clamp_min(0.15).square()
    return (error * weight).sum() / counted.sum().clamp_min(1)


def mix(latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Returns (1 - t) latents + t noise; t [B, F]."""
    level = t[..., None, None, None]
    return (1 - level) * latents + level * noise


def sample_noise_levels(
    from_picture: Tensor, chunks: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (t of the clean half, t of the noised half, frames that count), each [B, F]."""
    batch, device = len(from_picture), generator.device

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    grid = torch.tensor(SCHEDULE, device=device)[(rand(batch, chunks) * len(SCHEDULE)).long()]
    free = torch.sigmoid(0.4 + 1.2 * torch.randn(batch, chunks, generator=generator, device=device))
    noisy = torch.where(rand(batch, chunks) < 0.5, grid, free).repeat_interleave(BLOCK_FRAMES, 1)
    kind = rand(batch, chunks)
    clean = torch.where(
        kind < 0.5, 0.0, torch.where(kind < 0.9, 0.1 * rand(batch, chunks), 0.4 * rand(batch, chunks))
    )
    counted = torch.ones_like(noisy)
    noisy[:, 0] = noisy[:, 0].masked_fill(from_picture, 0.0)
    counted[:, 0] = counted[:, 0].masked_fill(from_picture, 0.0)
    return clean.repeat_interleave(BLOCK_FRAMES, 1), noisy, counted


def autoencoder_loss(model: nn.Module, images: Tensor, noise: float) -> Tensor:
    with torch.autocast("cuda", torch.bfloat16):
        latents = model.norm(model.encoder(images).float())
        decoded = model.decoder(latents + noise * torch.randn_like(latents)).float()
    gap = decoded - images
    edges = (gap[..., 1:] - gap[..., :-1]).abs().mean() + (gap[..., 1:, :] - gap[..., :-1, :]).abs().mean()
    return gap.abs().mean() + 0.5 * edges + gap.square().mean()


class Trainer:
    """Models, their averages, and the training time spent; all of it is part of the checkpoint."""

    def __init__(self, minutes: float, device: torch.device, seed: int = 0) -> None:
        self.total = minutes * 60
        self.device = device
        torch.manual_seed(seed)
        self.generator = torch.Generator(device).manual_seed(seed)
        self.autoencoder = Autoencoder().to(device, memory_format=torch.channels_last)
        self.transformer = Transformer().to(device)
        self.average = Transformer().to(device)
        self.average.load_state_dict(self.transformer.state_dict())
        self.spent = dict.fromkeys((stage.name for stage in STAGES), 0.0)
        self.steps = 0
        self.optimizers = {
            "autoencoder": torch.optim.AdamW(
                self.autoencoder.parameters(), weight_decay=0.0, betas=(0.9, 0.98)
            ),
            "transformer": torch.optim.AdamW(_decay_groups(self.transformer), betas=(0.9, 0.95), fused=True),
        }

    def state_dict(self) -> dict:
        return {
            "autoencoder": self.autoencoder.state_dict(),
            "transformer": self.transformer.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "generator": self.generator.get_state(),
            "spent": self.spent,
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict) -> None:
        for name in ("autoencoder", "transformer", "average"):
            getattr(self, name).load_state_dict(state[name])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][name])
        self.generator.set_state(state["generator"].cpu())
        self.spent, self.steps = state["spent"], state["steps"]

    def start_from(self, folder: Path) -> None:
        """Loads released weights and skips all stages but the last."""
        autoencoder, transformer = weights.load(folder, self.device, torch.float32)
        self.autoencoder.load_state_dict(autoencoder.state_dict())
        for model in (self.transformer, self.average):
            model.load_state_dict(transformer.state_dict())
        self.spent |= {stage.name: stage.share * self.total for stage in STAGES[:-1]}

    def stage(self) -> Stage | None:
        """Returns the stage with time left; None at the end of training."""
        return next((stage for stage in STAGES if self.spent[stage.name] < stage.share * self.total), None)

    def run(self, stage: Stage, deadline: float) -> None:
        """Trains until the stage's time is spent or the wall clock passes `deadline`."""
        step = self._autoencoder_step(stage) if stage.chunks == 0 else self._transformer_step(stage)
        total = stage.share * self.total
        shown, losses = self.spent[stage.name], torch.zeros((), device=self.device)
        began, count = time.perf_counter(), 0
        while self.spent[stage.name] < total and time.monotonic() < deadline:
            progress = self.spent[stage.name] / total
            warm = min(1.0, (self.spent[stage.name] + 1) / 8)
            start, end = stage.rate
            rate = warm * (end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress)))
            loss = step()
            self._update(stage, loss, rate)
            losses += loss.detach()
            count += 1
            if count % 20 == 0 or count == 1:
                torch.cuda.synchronize()
                now = time.perf_counter()
                if count > 1:  # compiling does not count as training
                    self.spent[stage.name] += now - began
                began = now
            if count % 200 == 0:
                spent = self.spent[stage.name]
                rate_now = 200 / (spent - shown) if spent > shown else 0.0
                shown = spent
                print(
                    f"{stage.name}: {spent:.0f} of {total:.0f} s, step {count}, "
                    f"loss {losses.item() / 200:.4f}, {rate_now:.1f} steps/s, lr {rate:.1e}",
                    flush=True,
                )
                losses.zero_()

    def _update(self, stage: Stage, loss: Tensor, rate: float) -> None:
        """Takes one optimizer step at learning rate `rate`, and updates the transformer's average."""
        name, model = ("transformer", self.transformer) if stage.chunks else ("autoencoder", self.autoencoder)
        optimizer = self.optimizers[name]
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if stage.chunks:
            decay = min(0.9995, (1 + self.steps) / (20 + self.steps))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.average.parameters()), list(model.parameters()), 1 - decay)
            self.steps += 1

    def _autoencoder_step(self, stage: Stage) -> Callable[[], Tensor]:
        loss = torch.compile(autoencoder_loss)
        pool: list[tuple[Scenes, Tensor]] = []

        def step() -> Tensor:
            if not pool:
                poses = sample_trajectories(POOL * 2, 64, self.generator)
                scenes = hide_obstacles(sample_scenes(POOL * 2, self.generator), poses)
                last = torch.randint(0, 64, (POOL * 2, 1, 1), generator=self.generator, device=self.device)
                chosen = poses.gather(1, last.expand(-1, -1, 4)).squeeze(1)
                pool.extend(zip(split(scenes, stage.batch), chosen.split(stage.batch), strict=True))
            scenes, poses = pool.pop()
            images = render(scenes, poses, HEIGHT, WIDTH) * 2 - 1
            return loss(self.autoencoder, images.contiguous(memory_format=torch.channels_last), 0.1)

        return step

    def _transformer_step(self, stage: Stage) -> Callable[[], Tensor]:
        frames = stage.chunks * BLOCK_FRAMES
        mask = training_mask(stage.chunks, self.device)
        loss = torch.compile(diffusion_loss, dynamic=False)
        look_ahead = torch.compile(predict, dynamic=False)
        encode = torch.compile(self.autoencoder.encode)
        draw = torch.compile(condition, dynamic=False)
        rotary = Rotary(CHUNKS * BLOCK_FRAMES + MAX_GAP, self.device, torch.bfloat16)
        self.autoencoder.eval()
        pool: list[Sequences] = []

        def rand(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=self.generator, device=self.device)

        def step() -> Tensor:
            if not pool:
                pool.extend(sample_sequences(POOL, stage.chunks, self.generator).split(stage.batch))
            batch = pool.pop()
            with torch.no_grad():
                with torch.autocast("cuda", torch.bfloat16):
                    images = pictures(batch).contiguous(memory_format=torch.channels_last)
                    latents = encode(images).float().unflatten(0, (stage.batch, frames))
                conditioning = draw(batch.layout, batch.poses, batch.unseen)
                cos, sin = (
                    torch.cat([table[batch.frames].flatten(1, 2)] * 2, 1).unsqueeze(1)
                    for table in (rotary.cos, rotary.sin)
                )
                t_clean, t_noisy, counted = sample_noise_levels(
                    batch.from_picture, stage.chunks, self.generator
                )
                given = Conditions(
                    ray_features(batch.poses), conditioning, batch.layout.look(), cos, sin, t_clean
                )
                kv_noise = None
                if stage.kv_noise is not None:
                    kv_noise = torch.stack([most * rand(stage.batch) for most in stage.kv_noise])
                kv_codes = None
                if stage.two_bits:  # a quarter of the spans exact, a quarter with the full error
                    spans = rand(2, stage.batch, frames * TOKENS // SPAN)
                    kv_codes = (2 * spans - 0.5).clamp(0, 1)
                noise = torch.randn(2, *latents.shape, generator=self.generator, device=self.device)
                history, noisy = latents, mix(latents, noise[1], t_noisy)
                for _ in range(stage.rounds):
                    # As in the sampler, but all chunks at once: each from the history of the round before.
                    guess = noise[1]
                    for t in LEVELS:
                        level = torch.full_like(t_noisy, t)
                        met = mix(guess, noise[1], level)
                        before = mix(history, noise[0], t_clean)
                        guess = look_ahead(
                            self.transformer, before, met, level, given, mask, kv_noise, kv_codes
                        ).clone()
                    own = rand(stage.batch, stage.chunks) < 0.7
                    own[:, 0] &= ~batch.from_picture  # a given picture is not generated again
                    own = own.repeat_interleave(BLOCK_FRAMES, 1)[..., None, None, None]
                    history = torch.where(own, guess, latents)
                if stage.rounds:
                    # The last step as at inference: from the model's own guess, not from the ground truth.
                    lately = rand(stage.batch, stage.chunks) < 0.5
                    lately[:, 0] = False
                    lately = lately.repeat_interleave(BLOCK_FRAMES, 1)
                    noisy = torch.where(lately[..., None, None, None], met, noisy)
                    t_noisy = t_noisy.masked_fill(lately, LEVELS[-1])
            return loss(
                self.transformer, latents, mix(history, noise[0], t_clean), noisy, t_noisy, counted,
                given, mask, kv_noise, kv_codes,
            )  # fmt: skip

        return step


def _decay_groups(model: nn.Module) -> list[dict]:
    matrices = [p for p in model.parameters() if p.ndim == 2 and min(p.shape) > 6]
    others = [p for p in model.parameters() if not (p.ndim == 2 and min(p.shape) > 6)]
    return [{"params": matrices, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]


@torch.no_grad()
def reconstruction_psnr(autoencoder: Autoencoder, generator: torch.Generator) -> float:
    """Returns the mean PSNR in dB of 256 fresh pictures, encoded and decoded."""
    poses = sample_trajectories(256, 40, generator)
    scenes = hide_obstacles(sample_scenes(256, generator), poses)
    images = render(scenes, poses[:, -1], HEIGHT, WIDTH) * 2 - 1
    decoded = autoencoder.decode(autoencoder.encode(images)).clamp(-1, 1)
    errors = ((decoded - images) / 2).square().mean(dim=(1, 2, 3)).tolist()
    return mean(psnr_of_mse(error, 1) for error in errors)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--minutes", type=float, default=25.0, help="training time in all, compilation not counted"
    )
    parser.add_argument("--stop-after", type=float, help="minutes of wall time after which to save and stop")
    parser.add_argument("--start", type=Path, help="released files to go on from, with the last stage")
    parser.add_argument("--checkpoint", type=Path, default=Path("pocket-checkpoint.pt"))
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="where the released files go")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        raise SystemExit("Training needs an NVIDIA GPU; the released weights run without one.")
    deadline = time.monotonic() + 60 * (options.stop_after or math.inf)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda")
    trainer = Trainer(options.minutes, device, options.seed)
    if options.start is not None and not options.checkpoint.exists():
        trainer.start_from(options.start)
    if options.checkpoint.exists():
        trainer.load_state_dict(torch.load(options.checkpoint, map_location=device, weights_only=True))
        print(f"going on from {options.checkpoint}: {trainer.spent}", flush=True)
    while (stage := trainer.stage()) is not None and time.monotonic() < deadline:
        trainer.run(stage, deadline)
        torch.save(trainer.state_dict(), options.checkpoint)
        if stage.chunks == 0:
            trainer.autoencoder.eval()
            held_out = torch.Generator(device).manual_seed(10_000)
            psnr = reconstruction_psnr(trainer.autoencoder, held_out)
            print(f"autoencoder: {psnr:.2f} dB on held-out pictures")
            trainer.autoencoder.train()
    weights.save(options.out, trainer.autoencoder, trainer.average)
    left = trainer.stage()
    print(f"{'trained' if left is None else 'stopped in ' + left.name}; weights in {options.out}", flush=True)


if __name__ == "__main__":
    main()
