"""Videos of a tiny random-weight Self-Forcing: blocks, frames, prompts, clips, stops and files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from backends.base import BackendUnavailable, PromptChange, Request, Stopped
from backends.hub import artifacts
from backends.memory_plan import codec_for
from backends.self_forcing import load, rollout, spec, weights
from backends.self_forcing.rollout import SelfForcingBackend
from backends.self_forcing.sampler import Sampler
from backends.wan import vae
from qvg import BF16, CachePolicy, KVCache
from tests.backends.self_forcing.recorded import CONFIG
from tests.backends.self_forcing.recorded import model as recorded_model
from tests.backends.wan.samples import UMT5, VAE21, WORDS, randomise, save_tokenizer

diffusers = pytest.importorskip("diffusers")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """At this size threads cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def backend():
    return load.load_random(torch.device("cpu"), lambda text: None, tiny=True)


def make_cache(backend, codec=BF16, policy=None):
    described = backend.spec
    return KVCache(described.geometry, codec, policy or described.policy, frames_per_block=3)


def no_tick(step, steps):
    pass


def segments(backend, request, cache=None):
    video = backend.open(request, cache or make_cache(backend), no_tick)
    return list(iter(video.step, None)), video


def frames(made):
    return np.concatenate([segment.frames for segment in made])


def pieces_of(cache, layer):
    return [(piece.k.clone(), piece.v.clone()) for piece in cache.layer(layer).pieces(torch.float32)]


def test_blocks_arrive_in_order_and_the_last_one_is_not_remembered(backend):
    cache, ticks = make_cache(backend), []
    video = backend.open(Request(prompt="a fox", blocks=3), cache, lambda *step: ticks.append(step))
    made = list(iter(video.step, None))
    assert [(segment.index, segment.start, len(segment.frames)) for segment in made] == [
        (0, 0, 9),
        (1, 9, 12),
        (2, 21, 12),
    ]
    assert all(segment.frames.shape[1:] == (64, 96, 3) for segment in made)
    assert all(segment.frames.dtype == np.uint8 for segment in made)
    assert {segment.fps for segment in made} == {16}
    assert len(frames(made)) == backend.spec.video_frames(3)
    assert frames(made).std() > 5
    assert all(segment.ms["denoise"] > 0 and segment.ms["decode"] > 0 for segment in made)
    assert ticks == [(0, 4), *[(step, 4) for _ in range(3) for step in range(4)]]
    assert cache.frames == 6
    assert video.step() is None


def test_a_seed_is_a_video_and_a_prompt_is_heard(backend):
    first = frames(segments(backend, Request(prompt="a fox", seed=1, blocks=2))[0])
    assert np.array_equal(first, frames(segments(backend, Request(prompt="a fox", seed=1, blocks=2))[0]))
    assert not np.array_equal(first, frames(segments(backend, Request(prompt="a fox", seed=2, blocks=2))[0]))
    assert not np.array_equal(first, frames(segments(backend, Request(prompt="an owl", seed=1, blocks=2))[0]))


def test_a_codec_changes_nothing_before_it_has_encoded(backend):
    """BF16 and 2 bits are given the same noise: what differs is the cache's doing."""
    made = []
    for preset in ("BF16", "QVG INT2"):
        cache = make_cache(backend, codec_for(backend.spec, preset), CachePolicy(every=1))
        made.append(segments(backend, Request(prompt="a fox", blocks=3), cache)[0])
    assert cache.stats().ratio > 1.5
    for index, (exact, coded) in enumerate(zip(*made, strict=True)):
        assert np.array_equal(exact.frames, coded.frames) is (index == 0)
    assert np.abs(frames(made[0]).astype(float) - frames(made[1])).mean() < 5


def test_streamed_frames_are_the_whole_video_decoded_at_once(backend, monkeypatch):
    blocks = []
    start = rollout.Decoding.start

    def note(self, latents):
        blocks.append(latents.clone())
        start(self, latents)

    monkeypatch.setattr(rollout.Decoding, "start", note)
    made = frames(segments(backend, Request(prompt="a fox", blocks=3))[0])
    autoencoder = backend.models.vae
    latents = torch.cat(blocks, 1).float()
    config = autoencoder.model.config
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (config.latents_mean, config.latents_std))
    with torch.inference_mode():
        z = (latents * std + mean).to(autoencoder.dtype).transpose(1, 2)
        whole = autoencoder.model.decode(z, return_dict=False)[0].transpose(1, 2)
    assert np.array_equal(made, vae.to_pixels(whole[0]).numpy())


def test_the_preview_decoder_streams_the_same_video_softer(backend):
    full = frames(segments(backend, Request(prompt="a fox", blocks=2))[0])
    preview, video = segments(backend, Request(prompt="a fox", blocks=2, preview=True))
    assert frames(preview).shape == full.shape
    assert not np.array_equal(frames(preview), full)
    assert video.notes == ()


def test_without_the_preview_decoder_the_full_one_is_used_and_said(backend):
    without = SelfForcingBackend(replace(backend.models, preview=None), backend.spec)
    full = frames(segments(backend, Request(prompt="a fox", blocks=1))[0])
    made, video = segments(without, Request(prompt="a fox", blocks=1, preview=True))
    assert np.array_equal(frames(made), full)
    assert video.notes == ("The preview decoder is not downloaded: frames come from the full one.",)


def test_a_prompt_changes_mid_video_and_the_past_stays(backend):
    plain_cache, changed_cache = make_cache(backend), make_cache(backend)
    plain = segments(backend, Request(prompt="a fox", blocks=4), plain_cache)[0]
    changes = (PromptChange(2, "an owl"),)
    changed = segments(backend, Request(prompt="a fox", blocks=4, changes=changes), changed_cache)[0]
    for index, (before, after) in enumerate(zip(plain, changed, strict=True)):
        assert np.array_equal(before.frames, after.frames) is (index < 2)
    (plain_k, _), (changed_k, _) = (pieces_of(cache, 1)[0] for cache in (plain_cache, changed_cache))
    assert plain_k.shape[2] == 6 * 24  # the first two blocks, one span
    assert torch.equal(plain_k, changed_k)


def test_every_prompt_is_read_before_the_first_block(backend, monkeypatch):
    """So that the text encoder is never needed beside a cache that has grown."""
    read = []
    embed = type(backend.models.prompts).embed

    def note(self, prompt):
        read.append(prompt)
        return embed(self, prompt)

    monkeypatch.setattr(type(backend.models.prompts), "embed", note)
    changes = (PromptChange(1, "an owl"), PromptChange(2, "snow"))
    ticks = []

    def tick(step, steps):
        ticks.append(tuple(read))

    backend.open(Request(prompt="a fox", blocks=3, changes=changes), make_cache(backend), tick).step()
    assert ticks[0] == ()
    assert set(ticks[1]) == {"a fox", "an owl", "snow"}


def test_a_pass_launched_ahead_is_dropped_where_the_prompt_changes(backend):
    models = backend.models
    fox, owl = (models.read(models.prompts.embed(prompt)) for prompt in ("a fox", "an owl"))

    def run(launch):
        noise = torch.Generator().manual_seed(0)
        sampler = Sampler(
            models.transformer,
            models.rope,
            make_cache(backend),
            (3, 16, 8, 12),
            lambda shape: torch.randn(shape, generator=noise),
        )
        sampler.change_text(fox)
        if launch:
            sampler.launch()
        sampler.change_text(owl)
        return sampler.generate(no_tick)

    assert torch.equal(run(True), run(False))


def clip(count, side=(80, 100)):
    """A bright square moving over a gradient."""
    y, x = np.mgrid[: side[0], : side[1]]
    made = np.stack([x * 2, y * 2, x + y], -1)[None].repeat(count, 0) % 256
    for index in range(count):
        made[index, 20:40, index : index + 20] = 255
    return made.astype(np.uint8)


def test_a_clip_is_gone_on_from(backend):
    cache = make_cache(backend)
    made, video = segments(backend, Request(prompt="a fox", blocks=2, clip=clip(25)), cache)
    assert [(segment.start, len(segment.frames)) for segment in made] == [(0, 21 + 12), (33, 12)]
    assert cache.frames == 6 + 3
    assert video.notes == ("The last 21 frames of the clip are the beginning of the video.",)

    autoencoder = backend.models.vae
    latents = autoencoder.encode(vae.from_pixels(clip(25)[4:], 64, 96, "cpu")[None])
    assert latents.shape == (1, 6, 16, 8, 12)
    again = autoencoder.stream().decode(latents)[0]
    assert np.array_equal(made[0].frames[:21], vae.to_pixels(again).numpy())

    # The same through the model's t = 0 passes by hand.
    by_hand = make_cache(backend)
    models = backend.models
    sampler = Sampler(models.transformer, models.rope, by_hand, (3, 16, 8, 12), torch.randn)
    sampler.change_text(models.read(models.prompts.embed("a fox")))
    for block in latents.split(3, 1):
        sampler.absorb(block)
    for layer in range(2):
        assert torch.equal(pieces_of(by_hand, layer)[0][0], pieces_of(cache, layer)[0][0])

    other = segments(backend, Request(prompt="a fox", blocks=2, clip=clip(25)[::-1]))[0]
    assert not np.array_equal(made[1].frames, other[1].frames)


def test_a_picture_of_any_size_fills_the_frame():
    wide, tall = (vae.from_pixels(clip(40, side), 64, 96, "cpu") for side in ((30, 200), (300, 50)))
    assert wide.shape == tall.shape == (40, 3, 64, 96)
    same = vae.from_pixels(clip(3, (64, 96)), 64, 96, "cpu")
    assert np.array_equal(vae.to_pixels(same).numpy(), clip(3, (64, 96)))


def test_stopping_before_any_step_loses_no_finished_block(backend):
    for stop_at in range(12):
        asked = 0

        def tick(step, steps, stop_at=stop_at):
            nonlocal asked
            if asked == stop_at:
                raise Stopped
            asked += 1

        cache, made = make_cache(backend), []

        def run(tick=tick, cache=cache, made=made):
            video = backend.open(Request(prompt="a fox", blocks=4), cache, tick)
            while True:
                made.append(video.step())

        with pytest.raises(Stopped):
            run()
        assert len(made) == max(0, stop_at - 1) // 4
        assert cache.frames == 3 * len(made)


def test_a_block_is_handed_out_though_it_could_not_be_remembered(backend, monkeypatch):
    cache = make_cache(backend)
    video = backend.open(Request(prompt="a fox", blocks=3), cache, no_tick)
    video.step()

    def fail():
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cache, "commit", fail)
    assert len(video.step().frames) == 12
    with pytest.raises(torch.OutOfMemoryError):
        video.step()


def test_two_videos_in_turns_do_not_disturb_each_other(backend):
    requests = [Request(prompt="a fox", seed=seed, blocks=3) for seed in (1, 2)]
    alone = [frames(segments(backend, request)[0]) for request in requests]
    videos = [backend.open(request, make_cache(backend), no_tick) for request in requests]
    turns = [[], []]
    for _ in range(3):
        for made, video in zip(turns, videos, strict=True):
            made.append(video.step())
    assert all(np.array_equal(frames(made), expected) for made, expected in zip(turns, alone, strict=True))


def test_history_filled_beforehand_counts_as_frames(backend):
    """What a benchmark does: positions go on from what the cache holds."""
    cache = make_cache(backend, policy=CachePolicy(every=1))
    shape = (1, 2, 72, 128)
    for _ in range(4):
        for layer in range(2):
            cache.layer(layer).stage(torch.randn(shape), torch.randn(shape))
        cache.commit()
    made, _ = segments(backend, Request(prompt="a fox", blocks=2), cache)
    assert [len(segment.frames) for segment in made] == [9, 12]
    assert cache.frames == 15


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Every file of Self-Forcing at a tiny size, in a cache of its own, as diffusers lays them out."""
    from huggingface_hub import constants
    from transformers import UMT5Config, UMT5EncoderModel

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.delenv(artifacts.FOLDER, raising=False)
    monkeypatch.setattr(weights, "WanConfig", lambda: CONFIG)
    monkeypatch.setattr(spec, "SPEC", spec.TINY)

    def snapshot(source):
        root = tmp_path / "hub" / f"models--{source.repo.replace('/', '--')}" / "snapshots" / source.revision
        root.mkdir(parents=True, exist_ok=True)
        return root

    root = snapshot(spec.TRANSFORMER.source)
    (root / "checkpoints").mkdir()
    named = {f"model.{name}": tensor for name, tensor in recorded_model().state_dict().items()}
    torch.save({"generator_ema": named}, root / "checkpoints" / "self_forcing_dmd.pt")
    root = snapshot(spec.UMT5.others[0])
    torch.manual_seed(0)
    UMT5EncoderModel(UMT5Config(**UMT5)).save_pretrained(root / "text_encoder")
    save_tokenizer(root / "tokenizer")
    # The published encoder has more shards, and the tokenizer a file for another library.
    for file in (*spec.UMT5.others[0].files, *spec.UMT5_TOKENIZER.others[0].files):
        path = root / file.path
        if not path.exists() and path.suffix == ".safetensors":
            save_file({}, path)
        elif not path.exists():
            path.write_text("{}")
    autoencoder = vae.build(VAE21, "cpu")
    randomise(autoencoder, 0)
    autoencoder.save_pretrained(root / "vae")
    return tmp_path


def test_published_files_become_a_video(published):
    assert spec.missing() is None
    said = []
    loaded = load.load(torch.device("cpu"), said.append)
    assert said == [
        "Converting Self-Forcing to BF16, once",
        "Loading Self-Forcing",
        "Loading the video decoder",
    ]
    assert loaded.models.preview is None
    prompt = f"{WORDS[0]} {WORDS[1]}"
    made, _ = segments(loaded, Request(prompt=prompt, blocks=2))
    assert [len(segment.frames) for segment in made] == [9, 12]
    embeddings = list((published / "assets" / "qvg-studio" / "prompts").iterdir())
    assert len(embeddings) == 1
    # The encoder is not needed again for this prompt, nor the published checkpoint for the next start.
    for path in published.glob("hub/*/snapshots/*/text_encoder/model*"):
        path.write_bytes(b"no weights")
    again = frames(segments(load.load(torch.device("cpu"), said.append), Request(prompt=prompt, blocks=2))[0])
    assert np.array_equal(again, frames(made))
    assert "Converting" not in " ".join(said[3:])
    unread = loaded.open(Request(prompt=WORDS[2]), make_cache(loaded), no_tick)
    with pytest.raises(BackendUnavailable, match="download it again"):
        unread.step()


def test_loading_without_files_says_what_to_do(published):
    for path in published.glob("hub/*/snapshots/*/vae/*.safetensors"):
        path.unlink()
    with pytest.raises(
        BackendUnavailable, match=r"lacks Wan 2\.1 video autoencoder .*--download self-forcing"
    ):
        load.load(torch.device("cpu"), print)
