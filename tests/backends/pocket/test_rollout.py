from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from backends.base import BackendUnavailable, Request, Stopped
from backends.camera import CameraMove, parse_path
from backends.pocket import spec, weights
from backends.pocket.autoencoder import Autoencoder
from backends.pocket.conditioning import condition, describe, unseen_by_block
from backends.pocket.models import Models
from backends.pocket.rollout import PocketBackend, fit_picture
from backends.pocket.sampler import LEVELS, OPENING, Sampler, noise_levels
from backends.pocket.scene import sample_scenes, sample_trajectories
from backends.pocket.spec import BLOCK_FRAMES, SPEC
from backends.pocket.training.train import (
    CHUNK_TOKENS,
    FROM_PICTURE,
    ONLY_PICTURE,
    SPAN,
    STAGES,
    Trainer,
    _encoded,
    pick_chunks,
    sample_noise_levels,
    sample_sequences,
    training_mask,
    two_bits,
)
from backends.pocket.transformer import Rotary, Transformer, TransformerConfig, ray_features
from qvg import BF16, QVG, CacheGeometry, CachePolicy, KVCache
from qvg.codecs import build_codec
from qvg.config import with_clusters

TINY = TransformerConfig(width=128, layers=2, heads=1)
GEOMETRY = CacheGeometry(layers=2, heads=1, head_dim=128, tokens_per_frame=SPEC.geometry.tokens_per_frame)


def no_tick(step: int, steps: int) -> None:
    del step, steps


@pytest.fixture(scope="module")
def models() -> Models:
    torch.manual_seed(0)
    transformer = Transformer(TINY)
    for parameter in transformer.parameters():
        if parameter.abs().max() == 0:  # the layers that start at zero would hide everything behind them
            torch.nn.init.normal_(parameter, std=0.05)
    transformer.requires_grad_(False).eval()
    autoencoder = Autoencoder().requires_grad_(False).eval()
    return Models(autoencoder, transformer, Rotary(64), torch.device("cpu"), torch.float32)


def cache(policy: CachePolicy | None = None) -> KVCache:
    return KVCache(
        GEOMETRY, BF16, policy or CachePolicy(every=2), frames_per_block=BLOCK_FRAMES, dtype=torch.float32
    )


def test_generating_with_the_cache_is_what_training_computed(models: Models) -> None:
    """The third block from cached history equals the masked pass over all blocks that training makes."""
    chunks = 3
    generator = torch.Generator().manual_seed(0)
    poses = sample_trajectories(1, chunks * BLOCK_FRAMES, generator)
    latents = torch.randn(1, chunks * BLOCK_FRAMES, 12, 16, 28, generator=generator)
    layout = describe(sample_scenes(1, generator))
    noised = torch.randn(latents.shape, generator=generator)
    rays = ray_features(poses)
    t = torch.cat([torch.zeros(1, chunks * BLOCK_FRAMES), torch.full((1, chunks * BLOCK_FRAMES), 0.9)], 1)
    mask = training_mask(chunks, torch.device("cpu"))

    def masked(_layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        def rotate(x: torch.Tensor) -> torch.Tensor:
            return torch.cat([models.rotary(half, 0) for half in x.chunk(2, 2)], 2)

        return flex_attention(rotate(q), rotate(k), v, block_mask=mask)

    unseen = unseen_by_block(layout, poses, BLOCK_FRAMES)
    assert unseen[:, :BLOCK_FRAMES].any() and (unseen[:, -1] != unseen[:, 0]).any(), (
        "some are unseen, and some no more"
    )
    view = models.transformer.view(rays, condition(layout, poses, unseen))
    expected = models.transformer(
        torch.cat([latents, noised], 1), t, torch.cat([view, view], 1), layout.look(), masked
    )

    sampler = Sampler(models, history := cache(), layout, seed=0)
    for block in range(2):
        part = slice(block * BLOCK_FRAMES, (block + 1) * BLOCK_FRAMES)
        sampler.absorb(latents[:, part], poses[:, part])
    last = slice(2 * BLOCK_FRAMES, 3 * BLOCK_FRAMES)
    with torch.inference_mode():
        made = sampler._predict(
            noised[:, last], torch.full((1, BLOCK_FRAMES), 0.9), sampler.view(poses[:, last])
        )
    assert history.frames == 2 * BLOCK_FRAMES
    torch.testing.assert_close(made, expected[:, chunks * BLOCK_FRAMES :][:, last], rtol=1e-3, atol=1e-3)


def test_the_mask_lets_a_noised_chunk_see_clean_past_and_itself_only() -> None:
    mask = training_mask(2, torch.device("cpu"))
    zero = torch.tensor(0)
    queries = [torch.tensor(chunk * CHUNK_TOKENS + 5) for chunk in range(4)]
    keys = [torch.tensor(chunk * CHUNK_TOKENS + 9) for chunk in range(4)]
    assert [[bool(mask.mask_mod(zero, zero, q, k)) for k in keys] for q in queries] == [
        [True, False, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [True, False, False, True],
    ]


def test_rotation_leaves_relative_scores_alone() -> None:
    rotary = Rotary(40)
    q, k = torch.randn(2, 1, 1, 2 * 112, 128).unbind(0)
    scores = [rotary(q, shift) @ rotary(k, shift).transpose(-1, -2) for shift in (0, 30)]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match="past the rotary table"):
        rotary(q, 39)


def rollout_frames(models: Models, **request: Any) -> list[np.ndarray]:
    rollout = PocketBackend(models).open(Request(**request), cache(), no_tick)
    frames = []
    while (segment := rollout.step()) is not None:
        assert segment.start == len(frames) * BLOCK_FRAMES and segment.frames.dtype == np.uint8
        frames.append(segment.frames)
    return frames


def test_a_seed_is_a_video(models: Models) -> None:
    first = rollout_frames(models, seed=3, blocks=2)
    torch.rand(7)  # the global generator plays no part
    assert len(first) == 2 and first[0].shape == (BLOCK_FRAMES, SPEC.height, SPEC.width, 3)
    assert all((a == b).all() for a, b in zip(first, rollout_frames(models, seed=3, blocks=2), strict=True))
    assert (first[0] != rollout_frames(models, seed=4, blocks=1)[0]).any()


def test_stopping_inside_a_block_commits_nothing(models: Models) -> None:
    calls: list[int] = []

    def tick(step: int, steps: int) -> None:
        calls.append(step)
        if len(calls) == len(OPENING) + 1 + len(LEVELS):
            raise Stopped

    rollout = PocketBackend(models).open(Request(blocks=3), history := cache(), tick)
    assert rollout.step() is not None
    with pytest.raises(Stopped):
        rollout.step()
    assert calls == [*range(len(OPENING) + 1), *range(len(LEVELS))] and history.frames == BLOCK_FRAMES


def test_a_rewound_step_is_told_again(models: Models) -> None:
    rollout = PocketBackend(models).open(Request(prompt="a red box ahead", blocks=2), cache(), no_tick)
    mark = rollout.mark()
    rollout.step()
    ((poses, shown),) = rollout._sampler.sights
    assert poses.shape == (1, BLOCK_FRAMES, 4) and shown.any()
    rollout.rewind(mark)
    assert not rollout._sampler.sights


def test_a_prompt_changes_the_video(models: Models) -> None:
    a, b = (
        rollout_frames(models, prompt=prompt, seed=3, blocks=1)[0]
        for prompt in ("a red box", "two blue balls")
    )
    assert (a != b).any()


def test_the_path_and_steering_move_the_camera(models: Models) -> None:
    moves = parse_path("right-2, w-1")
    rollout = PocketBackend(models).open(Request(blocks=3, moves=moves), cache(), no_tick)
    poses = rollout._next_poses(None)
    assert poses[0, 0].tolist() == [0, 0, 0, 0] and poses[0, 2, 2] > poses[0, 1, 2] > 0 and poses[0, 3, 1] > 0
    steered = rollout._next_poses(CameraMove(("left",)))
    assert steered[0, -1, 2] < poses[0, -1, 2]
    assert (rollout._next_poses(None)[0] == steered[0, -1]).all(), "after its path the camera stands still"


def test_a_picture_is_the_first_frame(models: Models) -> None:
    image = np.zeros((300, 500, 3), np.uint8)
    image[:, 250:] = 255
    rollout = PocketBackend(models).open(Request(blocks=1, image=image), cache(), no_tick)
    expected = models.decode(models.encode(fit_picture(image)))[0]
    segment = rollout.step()
    assert segment is not None and "first frame" in rollout.notes[0]
    shown = torch.from_numpy(segment.frames[0]).permute(2, 0, 1) / 255
    torch.testing.assert_close(shown, expected, atol=1 / 255, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1), (1000, 10), (10, 1000), (128, 224), (77, 991)])
def test_any_picture_fits(shape: tuple[int, int]) -> None:
    fitted = fit_picture(np.full((*shape, 3), 99, np.uint8))
    assert fitted.shape == (1, 3, SPEC.height, SPEC.width)
    assert torch.allclose(fitted, torch.tensor(99 / 255), atol=1e-4)


def test_noise_levels_are_shifted() -> None:
    assert noise_levels(4, 3.0) == pytest.approx((1.0, 0.9, 0.75, 0.5))
    assert noise_levels(2, 1.0) == pytest.approx((1.0, 0.5))


def test_chosen_chunks_ascend_and_hold_the_one_before_the_tail() -> None:
    generator = torch.Generator().manual_seed(0)
    kept = pick_chunks(sample_trajectories(256, 160, generator), 12, generator)
    assert (kept.diff(dim=1) > 0).all() and kept.min() >= 0 and kept.max() < 40
    assert (kept[:, -4:].diff(dim=1) == 1).all(), "three of the tail and the one before"
    sequences = sample_sequences(64, 6, generator)
    assert (sequences.frames.diff(dim=1) > 0).all() and (sequences.poses[:, 0, :].shape == (64, 4))


def test_sequences_that_begin_with_a_picture_are_not_told_what_it_shows() -> None:
    sequences = sample_sequences(200, 6, torch.Generator().manual_seed(0))
    given, full = ~sequences.layout.backdrop, describe(sequences.scenes)
    assert sequences.from_picture.float().mean() == pytest.approx(FROM_PICTURE, abs=0.1)
    assert sequences.from_picture[given].all(), "all is told of the others"
    assert given.float().mean() == pytest.approx(FROM_PICTURE * ONLY_PICTURE, abs=0.1)
    assert (sequences.layout.place[~given] >= 0).all()
    for kind, hidden in (("place", sequences.layout.place < 0), ("time", sequences.layout.time < 0)):
        assert 0.5 < hidden[given].float().mean() < 0.9, kind
    standing, told = full.things[..., 3] > 0, sequences.layout.things[..., 3] > 0
    left_out = standing & ~told
    assert left_out[given].any(dim=1).float().mean() > 0.5 and not left_out[~given].any()
    a, b = sequences.split(150)
    assert len(a.poses) == len(a.layout.place) == 150 and len(b.unseen) == len(b.scenes) == 50


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Transformer]:
    torch.manual_seed(1)
    transformer = Transformer()
    weights.save(tmp_path, Autoencoder(), transformer)
    return tmp_path, transformer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_picture_can_be_encoded_in_either_arithmetic(
    saved: tuple[Path, Transformer], dtype: torch.dtype
) -> None:
    autoencoder, _ = weights.load(saved[0], torch.device("cpu"), dtype)
    picture = torch.zeros(1, 3, 32, 32, dtype=dtype).contiguous(memory_format=torch.channels_last)
    latents = autoencoder.encode(picture)
    assert latents.dtype == dtype and latents.isfinite().all()


def test_weights_come_back_within_int8_and_fit_their_budget(saved: tuple[Path, Transformer]) -> None:
    folder, original = saved
    sizes = [(folder / name).stat().st_size for name in spec.FILES]
    assert max(sizes) < 10_000_000 and sum(sizes) < 24_000_000
    _, loaded = weights.load(folder, torch.device("cpu"), torch.float32)
    for (name, a), b in zip(original.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert (a - b).abs().max() <= a.abs().max() / 120 + 1e-6, name


@pytest.mark.parametrize("harm", ["missing", "truncated", "empty", "foreign"])
def test_broken_weights_are_reported_in_words(saved: tuple[Path, Transformer], harm: str) -> None:
    file = saved[0] / spec.TRANSFORMER[1]
    if harm == "missing":
        file.unlink()
    elif harm == "foreign":
        (saved[0] / spec.AUTOENCODER).write_bytes(file.read_bytes())
    else:
        file.write_bytes(file.read_bytes()[: 5000 if harm == "truncated" else 0])
    with pytest.raises(BackendUnavailable, match="Pocket World's"):
        weights.load(saved[0], torch.device("cpu"), torch.float32)


def test_stages_follow_each_other_and_a_checkpoint_goes_on_where_it_was(tmp_path: Path) -> None:
    assert sum(stage.share for stage in STAGES) == pytest.approx(1)
    trainer = Trainer(minutes=1, device=torch.device("cpu"))
    for stage in STAGES:
        assert trainer.stage() == stage
        trainer.spent[stage.name] = 60 * stage.share
    assert trainer.stage() is None
    trainer.spent["own"] -= 1
    torch.save(trainer.state_dict(), tmp_path / "checkpoint.pt")
    resumed = Trainer(minutes=1, device=torch.device("cpu"), seed=5)
    resumed.load_state_dict(torch.load(tmp_path / "checkpoint.pt", weights_only=True))
    stage = resumed.stage()
    assert stage is not None and stage.name == "own"
    for a, b in zip(trainer.average.parameters(), resumed.average.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_goes_on_from_released_weights(saved: tuple[Path, Transformer]) -> None:
    trainer = Trainer(minutes=1, device=torch.device("cpu"))
    trainer.start_from(saved[0])
    stage = trainer.stage()
    assert stage is not None and stage.name == "codec"
    close = (trainer.average.final_condition.bias - saved[1].final_condition.bias).abs().max()
    assert close < 1e-2 and next(trainer.transformer.parameters()).requires_grad


def test_training_remembers_what_two_bits_give_back() -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(1, 2, 40, 128, generator=generator).repeat_interleave(SPAN // 40 + 1, 2)[:, :, :SPAN]
    x = kinds + 0.5 * torch.randn(1, 2, SPAN, 128, generator=generator)
    codec = build_codec(with_clusters(QVG, SPEC.clusters))
    real, trained = codec.decode(codec.encode(x)), two_bits(x.flatten(0, 1)).view_as(x)
    missed, expected = ((y - x).square().mean().item() for y in (trained, real))
    assert missed == pytest.approx(expected, rel=0.1)
    # What is remembered, two spans of it here, is given a share of that error; the gradient knows of none.
    both = torch.cat([x, x, x], 2).requires_grad_()
    given = _encoded(both, torch.tensor([[1.0, 0.25]]), 2 * SPAN)
    first, second, noisy = (given - both).detach().split(SPAN, dim=2)
    torch.testing.assert_close(first, trained - x)
    torch.testing.assert_close(second, 0.25 * (trained - x), atol=1e-6, rtol=1e-4)
    assert not noisy.any()
    given.sum().backward()
    assert (both.grad == 1).all()


def test_noise_levels_of_training() -> None:
    generator = torch.Generator().manual_seed(0)
    from_picture = torch.arange(4000) % 3 == 0
    clean, noisy, counted = sample_noise_levels(from_picture, 2, generator)
    assert clean.shape == noisy.shape == counted.shape == (4000, 2 * BLOCK_FRAMES)
    assert clean.max() <= 0.4 and (clean == 0).float().mean() == pytest.approx(0.5, abs=0.02)
    assert ((counted[:, 0] == 0) == from_picture).all() and (noisy[from_picture, 0] == 0).all()
    assert (counted[:, 1:] == 1).all() and (noisy[:, 1] == noisy[:, 2]).all()
