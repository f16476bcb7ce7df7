"""Streaming decode against diffusers' own whole-video decode, and the names of published files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from backends.base import BackendUnavailable
from backends.wan import checkpoint, taehv, vae
from backends.worldplay import random_weights as worldplay
from tests.backends.wan.samples import VAE21, VAE22, VAE22_PUBLISHED, randomise

diffusers = pytest.importorskip("diffusers")

NAMES = Path(__file__).resolve().parents[2] / "data" / "wan21_vae_names.txt"


def tiny(config) -> vae.VAE:
    model = vae.build(config, "cpu")
    randomise(model, 0, 1.5)
    return vae.VAE(model)


@pytest.mark.parametrize(("config", "cells"), [(VAE21, 4), (VAE22, 2)], ids=["2.1", "2.2"])
def test_streamed_is_the_whole_video(config, cells):
    whole = tiny(config)
    latents = torch.randn(1, 7, whole.channels, cells, cells, generator=torch.Generator().manual_seed(1))
    mean, std = (
        torch.tensor(whole.model.config[name]).view(-1, 1, 1) for name in ("latents_mean", "latents_std")
    )
    with torch.inference_mode():
        z = (latents * std + mean).transpose(1, 2)
        expected = whole.model.decode(z, return_dict=False)[0].transpose(1, 2)
    stream, other = whole.stream(), whole.stream()
    pieces = []
    for block in latents.split(3, 1):
        pieces.append(stream.decode(block))
        other.decode(block.flip(1))  # a second video between its blocks changes nothing
    assert [piece.shape[1] for piece in pieces] == [9, 12, 4]
    video = torch.cat(pieces, 1)
    assert video.shape == (1, 25, 3, cells * whole.scale, cells * whole.scale)
    assert video.std() > 0.1
    # For 2.2 the library's 1x1 convolution rounds one frame and seven frames differently.
    torch.testing.assert_close(video, expected, rtol=0, atol=0 if config is VAE21 else 1e-5)


@pytest.mark.parametrize("config", [VAE21, VAE22], ids=["2.1", "2.2"])
def test_encoding_gives_scaled_latents_and_leaves_a_stream_alone(config):
    model = tiny(config)
    side = 2 * model.scale
    video = torch.rand(1, 9, 3, side, side, generator=torch.Generator().manual_seed(2)) * 2 - 1
    stream, undisturbed = model.stream(), model.stream()
    latents = model.encode(video)
    assert latents.shape == (1, 3, model.channels, 2, 2)
    stream.decode(latents[:, :1])
    undisturbed.decode(latents[:, :1])
    assert torch.equal(model.encode(video), latents)
    assert torch.equal(stream.decode(latents[:, 1:]), undisturbed.decode(latents[:, 1:]))
    with torch.inference_mode():
        mode = model.model.encode(video.transpose(1, 2), return_dict=False)[0].mode()
    mean, std = (
        torch.tensor(model.model.config[name]).view(1, -1, 1, 1, 1)
        for name in ("latents_mean", "latents_std")
    )
    assert torch.equal(latents.transpose(1, 2), (mode - mean) / std)
    with pytest.raises(ValueError, match="8 frames do not become whole latents"):
        model.encode(video[:, :8])


def test_the_published_file_fills_the_autoencoder():
    rows = [line.split() for line in NAMES.read_text().splitlines()]
    tensors = {name: torch.empty(tuple(map(int, shape)), device="meta") for name, *shape in rows}
    assert len(tensors) == 194
    model = vae.build({})
    checkpoint.fill(model, vae.with_diffusers_names(tensors), "meta", torch.bfloat16)


def test_loads_what_diffusers_saves(tmp_path):
    model = tiny(VAE22).model
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["_class_name"] == "AutoencoderKLWan"
    loaded = vae.load(tmp_path, "cpu", torch.float32)
    latents = torch.randn(1, 2, 4, 2, 2)
    assert torch.equal(loaded.stream().decode(latents), vae.VAE(model).stream().decode(latents))


def test_the_published_description_is_read_as_diffusers_reads_it(tmp_path):
    """It has `clip_output`, which the class does not take."""
    from diffusers import AutoencoderKLWan

    assert "clip_output" in VAE22_PUBLISHED
    config = {**VAE22_PUBLISHED, **worldplay.VAE, "latents_mean": [0.0] * 48, "latents_std": [1.0] * 48}
    built = vae.build(config)
    assert sum(parameter.numel() for parameter in built.parameters()) == 704_688_668
    assert dict(built.config) == dict(AutoencoderKLWan.from_config(config).config)
    # What a file does not say is as in the class.
    assert vae.build({"base_dim": 8}).config.z_dim == 16

    tiny(VAE22).model.save_pretrained(tmp_path)
    described = tmp_path / "config.json"
    saved = json.loads(described.read_text())
    described.write_text(json.dumps({**saved, "clip_output": False, "new_in_2027": {"a": [1]}}))
    assert vae.load(tmp_path, "cpu", torch.float32).channels == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_class_name": "AutoencoderKL"}, "that of AutoencoderKL, not of AutoencoderKLWan"),
        ({"_class_name": ["AutoencoderKLWan"]}, "describes no autoencoder"),
        ({"dim_mult": None}, "describes no autoencoder"),
        ({"base_dim": "wide"}, "describes no autoencoder"),
        ({"base_dim": 16}, "but AutoencoderKLWan takes"),
        ({"z_dim": 8}, "AutoencoderKLWan"),
    ],
)
def test_the_description_of_something_else_is_refused(tmp_path, change, words):
    tiny(VAE22).model.save_pretrained(tmp_path)
    described = tmp_path / "config.json"
    described.write_text(json.dumps({**json.loads(described.read_text()), **change}))
    with pytest.raises(BackendUnavailable, match=words) as caught:
        vae.load(tmp_path, "cpu", torch.float32)
    assert str(tmp_path) in str(caught.value)


def test_pixels_are_rounded_and_clamped():
    video = torch.tensor([-1.0, 0.0, 1.0]).view(1, 3, 1, 1)
    assert vae.to_pixels(video).tolist() == [[[[0, 128, 255]]]]


def published(decoder: taehv.TinyDecoder) -> dict[str, torch.Tensor]:
    """As in the author's file: an encoder too, and time growth of 2 in the first stage."""
    state = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    first = next(name for name in state if name.endswith("7.conv.weight"))
    state[first] = torch.cat([torch.full_like(state[first], 7.0), state[first]])
    return {**state, "encoder.0.weight": torch.zeros(64, 3, 3, 3)}


def test_taehv_loads_its_published_layout(tmp_path):
    decoder = taehv.TinyDecoder()
    randomise(decoder, 3)
    assert sum(parameter.numel() for parameter in decoder.parameters()) > 9_000_000
    tensors = published(decoder)
    save_file(tensors, tmp_path / "taew2_1.safetensors")
    loaded = taehv.load(tmp_path / "taew2_1.safetensors", "cpu", torch.float32)
    for name, tensor in decoder.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    tensors.pop("decoder.22.bias")
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(BackendUnavailable, match=r"is not TAEHV .* lack decoder\.22\.bias"):
        taehv.load(tmp_path / "other.safetensors", "cpu", torch.float32)


def test_taehv_streams_what_it_decodes_at_once():
    decoder = taehv.TinyDecoder((16, 16, 8, 8))
    randomise(decoder, 4)
    latents = torch.randn(2, 7, 16, 4, 4, generator=torch.Generator().manual_seed(5))
    whole = decoder.stream().decode(latents)
    stream = decoder.stream()
    pieces = [stream.decode(block) for block in latents.split(3, 1)]
    assert [piece.shape[1] for piece in pieces] == [9, 12, 4]
    assert torch.cat(pieces, 1).shape == (2, 25, 3, 32, 32)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-5)
    assert (whole[:, 1:] - whole[:, :-1]).abs().max() > 1e-2
