"""Each part of this program beside what was recorded of the original: how far the two are apart."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from backends.camera import each_latent, parse_path
from backends.worldplay.cameras import Projections, project, rotate_and_project
from backends.worldplay.context import Context
from backends.worldplay.memory import FieldOfView, Memory, choose
from backends.worldplay.model import Mixed, Transformer
from backends.worldplay.poses import Views
from backends.worldplay.sampler import Sampler
from qvg import BF16, CacheGeometry, CachePolicy, KVCache
from qvg.config import CodecConfig
from qvg.rope import Rope, grid_rope
from tests.backends.worldplay.tiny import CHUNK, COLUMNS, CONFIG, PATHS, ROWS, compound_path, walk

DATA = Path(__file__).resolve().parents[2] / "data" / "worldplay.safetensors"
CPU = torch.device("cpu")
GEOMETRY = CacheGeometry(
    layers=CONFIG.layers, heads=CONFIG.heads, head_dim=CONFIG.head_dim, tokens_per_frame=ROWS * COLUMNS
)
EVERYTHING = CachePolicy(every=16)  # nothing is encoded: FP32 blocks come back as they were
UPSTREAM = Memory(refresh="recompute", blocks=4, retrieved=1)


@functools.cache
def recorded() -> dict[str, Tensor]:
    return load_file(DATA)


def layout() -> dict[str, list[int]]:
    """Shapes of all parameters at full size; those of one block stand for all."""
    return json.loads(bytes(recorded()["layout"].tolist()))


def model(dtype: torch.dtype = torch.float32) -> Transformer:
    transformer = Transformer(CONFIG)
    prefix = "weights."
    state = {name[len(prefix) :]: w for name, w in recorded().items() if name.startswith(prefix)}
    transformer.load_state_dict(state, strict=True)
    return transformer.to(dtype).eval().requires_grad_(False)


def rope() -> Rope:
    return grid_rope(64, ROWS, COLUMNS, CONFIG.rotary_pairs)


def cache(
    dtype: torch.dtype = torch.float32, policy: CachePolicy = EVERYTHING, codec: CodecConfig = BF16
) -> KVCache:
    return KVCache(GEOMETRY, codec, policy, frames_per_block=CHUNK, dtype=dtype)


def views(name: str) -> Views:
    w2c, lens = recorded()[f"{name}.w2c"], recorded()[f"{name}.K"]
    return Views(w2c, lens[:, (0, 1), (0, 1)], recorded()[f"{name}.labels"])


def part(seen: Views, frames: list[int]) -> Views:
    return Views(seen.w2c[frames], seen.focal[frames], seen.actions[frames])


def worst(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max())


def relative(found: Tensor, expected: Tensor) -> float:
    """Root of the mean squared difference, in parts of what is expected."""
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())


def poses() -> float:
    """Matrices, lenses and labels of typed and of compound paths."""
    apart = 0.0
    paths = {f"path{i}": list(each_latent(parse_path(text))) for i, text in enumerate(PATHS)}
    paths |= {f"compound{seed}": compound_path(seed) for seed in range(12)}
    for name, keys in paths.items():
        found, expected = Views.of(walk(keys)), views(name)
        apart = max(apart, worst(found.w2c, expected.w2c), worst(found.actions, expected.actions))
        if name.startswith("path"):
            apart = max(apart, worst(found.focal, expected.focal))
    return apart


def projections() -> float:
    seen, saved = part(views("compound1"), [4, 5, 6, 7]), recorded()
    lens = saved["projections.intrinsics"][0].double()
    seen = Views(seen.w2c, lens[:, (0, 1), (0, 1)], seen.actions)
    matrices = Projections.of(seen, torch.eye(4, dtype=torch.float64), CPU)
    by = {"q": matrices.query, "k": matrices.key, "v": matrices.key, "o": matrices.result}
    return max(
        worst(project(saved[f"projections.{name}"], each), saved[f"projections.{name}.out"])
        for name, each in by.items()
    )


class Forward:
    """The recorded latents, some of their frames at a time, through the model over a cache."""

    chosen, own = [*range(4), *range(8, 12)], [*range(12, 16)]

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.rope, self.cache = model(dtype), rope(), cache(dtype)
        self.latents = recorded()["forward.latents"][0].transpose(0, 1)
        self.seen = views("compound2")
        with torch.inference_mode():
            self.text = self.model.read(recorded()["forward.text"])

    def context(self, frames: list[int], origin: Tensor | None = None) -> Context:
        """Of blocks that are held as 0, 1 and so on, and of `own` after them."""
        origin = torch.linalg.inv(self.seen.w2c[self.own[0]]) if origin is None else origin
        return Context(
            tuple(range(len(frames) // CHUNK)),
            CHUNK,
            Projections.of(part(self.seen, [*frames, *self.own]), origin, CPU),
            self.rope,
        )

    @torch.inference_mode()
    def run(self, frames: list[int], t: list[float], attention) -> Tensor | None:
        actions = self.seen.actions[frames]
        return self.model(self.latents[frames], torch.tensor(t), actions, self.text, attention)

    def remember(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Fills the cache with the chosen frames; keys and values as they were staged, by layer."""
        context, kept = self.context(self.chosen), {}

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Mixed | None:
            kept[layer] = (k, v)
            self.cache.rewrite(layer, k, v)
            if layer == CONFIG.layers - 1:
                return None
            return context.among_themselves(q, k, v, self.cache.choice)

        assert self.run(self.chosen, [14.0] * 8, attention) is None
        return kept

    def denoise(self, t: list[float], frames: list[int]) -> Tensor:
        """Flow [1, C, F, h, w] of the own frames in sight of `frames`."""
        context = self.context(frames)

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Mixed:
            history = self.cache.layer(layer)
            history.stage(k, v)
            return context.over(history, q)

        flow = self.run(self.own, t, attention)
        assert flow is not None
        return flow.transpose(0, 1)[None]


def forward(dtype: torch.dtype = torch.float32) -> float:
    """Noise levels that differ from frame to frame, and nothing remembered."""
    name = "fp32" if dtype == torch.float32 else "bf16"
    found = Forward(dtype).denoise([14.0, 1000.0, 960.0, 727.2728], [])
    return (worst if name == "fp32" else relative)(found, recorded()[f"forward.{name}.mixed"].float())


def kept_keys() -> float:
    """The original's four tensors, rebuilt from one k and one v."""
    run = Forward()
    kept = run.remember()
    matrices = Projections.of(part(run.seen, run.chosen), torch.eye(4, dtype=torch.float64), CPU)
    apart = 0.0
    for layer in (0, CONFIG.layers - 1):
        k, v = kept[layer]
        keys = torch.cat(rotate_and_project(k, run.rope, 0, matrices.key), -1)
        values = torch.cat([v, project(v, matrices.key)], -1)
        apart = max(apart, worst(keys, recorded()[f"forward.k{layer}"]))
        apart = max(apart, worst(values, recorded()[f"forward.v{layer}"]))
    return apart


def denoised(dtype: torch.dtype = torch.float32) -> float:
    """A block in sight of remembered frames that are not neighbours."""
    name = "fp32" if dtype == torch.float32 else "bf16"
    run = Forward(dtype)
    run.remember()
    found = run.denoise([960.0] * 4, run.chosen)
    return (worst if name == "fp32" else relative)(found, recorded()[f"forward.{name}.denoised"].float())


def overlaps() -> float:
    w2c, sight, saved = recorded()["path6.w2c"], FieldOfView(), recorded()
    found = [float(sight.overlap(w2c[a], w2c[b : b + 1])) for a, b in saved["retrieval.pairs"].tolist()]
    return worst(torch.tensor(found), saved["retrieval.overlaps"])


def choices() -> float:
    """How many of the nine chunks read other frames."""
    w2c, sight = recorded()["path6.w2c"], FieldOfView()
    wrong = 0
    for chunk, expected in enumerate(recorded()["retrieval.chosen"].tolist(), start=4):
        blocks = choose(w2c[: (chunk + 1) * CHUNK], chunk, range(chunk), 4, 1, sight)
        wrong += [block * CHUNK + i for block in blocks for i in range(CHUNK)] != expected
    return float(wrong)


def rollout(
    name: str,
    memory: Memory = UPSTREAM,
    policy: CachePolicy = EVERYTHING,
    codec: CodecConfig = BF16,
) -> tuple[Tensor, Tensor]:
    """Latents [1, C, F, h, w] of a whole video, and the original's."""
    saved, image = recorded(), name != "imagined"
    expected = saved[f"{name}.latents"]
    chunks = expected.shape[2] // CHUNK

    def noise() -> Iterator[Tensor]:
        yield from saved[f"{name}.noise"][0].transpose(0, 1).split(CHUNK)

    sampler = Sampler(
        model(),
        rope(),
        cache(policy=policy, codec=codec),
        saved[f"{name}.text"],
        noise(),
        memory,
        FieldOfView(),
    )
    cameras = walk(each_latent(parse_path(PATHS[5])))
    made = []
    for chunk in range(chunks):
        first = saved[f"{name}.first"][0, :, 0] if image and chunk == 0 else None
        made.append(sampler.generate(Views.of(cameras[chunk * CHUNK : (chunk + 1) * CHUNK]), first))
    return torch.cat(made).transpose(0, 1)[None], expected


def whole_rollout() -> float:
    return worst(*rollout("rollout"))
