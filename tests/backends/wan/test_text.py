"""The text encoder: names of both layouts, zeros after the prompt, embeddings kept on disk."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from backends.base import BackendUnavailable
from backends.wan import checkpoint, text
from tests.backends.wan.samples import LENGTH, UMT5, UMT5_PUBLISHED, WORDS, save_tokenizer

transformers = pytest.importorskip("transformers")


def original_names(state):
    """Wan's names for transformers' tensors, written out as the published file has them."""
    leaves = {
        "layer.0.layer_norm": "norm1",
        "layer.0.SelfAttention.q": "attn.q",
        "layer.0.SelfAttention.k": "attn.k",
        "layer.0.SelfAttention.v": "attn.v",
        "layer.0.SelfAttention.o": "attn.o",
        "layer.0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
        "layer.1.layer_norm": "norm2",
        "layer.1.DenseReluDense.wi_0": "ffn.gate.0",
        "layer.1.DenseReluDense.wi_1": "ffn.fc1",
        "layer.1.DenseReluDense.wo": "ffn.fc2",
    }
    renamed = {
        "token_embedding.weight": state["shared.weight"],
        "norm.weight": state["encoder.final_layer_norm.weight"],
    }
    for name, tensor in state.items():
        if name.startswith("encoder.block."):
            _, _, index, leaf = name.removesuffix(".weight").split(".", 3)
            renamed[f"blocks.{index}.{leaves[leaf]}.weight"] = tensor
    return renamed


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return transformers.UMT5EncoderModel(transformers.UMT5Config(**UMT5)).eval()


@pytest.fixture
def folder(tmp_path, model):
    """Weights in both layouts and a tokenizer."""
    state = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    ours = tmp_path / "transformers"
    ours.mkdir()
    model.config.to_json_file(ours / "config.json")
    shards = sorted(set(state) - {"encoder.embed_tokens.weight"})
    save_file({name: state[name] for name in shards[::2]}, ours / "model-00001-of-00002.safetensors")
    save_file({name: state[name] for name in shards[1::2]}, ours / "model-00002-of-00002.safetensors")
    save_tokenizer(tmp_path / "tokenizer")
    return tmp_path


def test_the_published_file_has_242_tensors_and_fills_the_encoder():
    config = transformers.UMT5Config(**text.XXL)
    model = text.build(config)
    tensors = original_names(model.state_dict())
    assert len(tensors) == 242
    assert sum(tensor.numel() for tensor in tensors.values()) == 5_680_910_336
    checkpoint.fill(model, text.with_transformers_names(tensors), "meta", torch.bfloat16)


def test_both_layouts_give_transformers_own_embedding(folder, model):
    prompt = f"  {WORDS[0]}   {WORDS[1]} "
    loaded = text.load(folder / "transformers", folder / "tokenizer", "cpu", torch.float32, LENGTH)
    embedding = loaded.encode(prompt)
    assert embedding.shape == (3, UMT5["d_model"])  # two words and the end mark
    ids = torch.tensor([[4, 5, 1] + [0] * (LENGTH - 3)])
    mask = (torch.arange(LENGTH) < 3).long()[None]
    with torch.inference_mode():
        expected = model(ids, attention_mask=mask).last_hidden_state[0, :3]
    assert torch.equal(embedding, expected)

    original = text.build(transformers.UMT5Config(**UMT5))
    names = text.with_transformers_names(original_names(model.state_dict()))
    checkpoint.fill(original, names, "cpu", torch.float32)
    again = text.TextEncoder(original, loaded._tokenizer, LENGTH).encode(prompt)
    assert torch.equal(again, embedding)


def test_the_published_description_is_read_as_transformers_reads_it(folder, model):
    described = folder / "transformers" / "config.json"
    described.write_text(json.dumps({**UMT5_PUBLISHED, **UMT5, "num_decoder_layers": 2, "new_in_2027": 3}))
    config = text.read_config(described)
    assert {name: getattr(config, name) for name in UMT5} == UMT5
    loaded = text.load(folder / "transformers", folder / "tokenizer", "cpu", torch.float32, LENGTH)
    assert loaded.encode(WORDS[0]).shape[1] == UMT5["d_model"]
    described.write_text(json.dumps({"model_type": "umt5"}))
    assert text.read_config(described).d_model == transformers.UMT5Config().d_model


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"model_type": "t5", "d_model": 48}', "describes a t5, not UMT5"),
        ('{"model_type": "umt5", "d_model": "wide"}', "describes no UMT5"),
        ('{"model_type": "umt5", "feed_forward_proj": 3}', "describes no UMT5"),
        ("<html>", "a web page"),
        ('{"model_type": "umt5"}', "UMT5EncoderModel"),  # another size
    ],
)
def test_the_description_of_something_else_is_refused(folder, content, words):
    (folder / "transformers" / "config.json").write_text(content)
    with pytest.raises(BackendUnavailable, match=words):
        text.load(folder / "transformers", folder / "tokenizer", "cpu", torch.float32, LENGTH)


@pytest.mark.parametrize("content", [b"", b"<html>", b"version https://git-lfs.github.com/spec/v1"])
def test_a_tokenizer_that_is_none_is_named(folder, content):
    (folder / "tokenizer" / "tokenizer.json").write_bytes(content)
    with pytest.raises(BackendUnavailable, match=r"tokenizer\.json cannot be read"):
        text.load(folder / "transformers", folder / "tokenizer", "cpu", torch.float32, LENGTH)


def test_what_comfyui_and_whole_models_hold_beside_the_encoder_is_left_out(model):
    state = model.state_dict()
    more = {"spiece_model": 1, "decoder.final_layer_norm.weight": 2, "lm_head.weight": 3}
    assert text.with_transformers_names({**state, **more}).keys() == state.keys()


def test_an_embedding_that_is_cut_off_is_made_again(folder):
    opened = []

    def open_encoder():
        opened.append(1)
        return text.load(folder / "transformers", folder / "tokenizer", "cpu", torch.float32, LENGTH)

    prompts = text.Prompts(folder / "kept", "id", open_encoder, LENGTH)
    made = prompts.embed(WORDS[0])
    (kept,) = (folder / "kept").iterdir()
    kept.write_bytes(kept.read_bytes()[:-7])
    assert not prompts.known(WORDS[0])
    assert torch.equal(prompts.embed(WORDS[0]), made)
    assert len(opened) == 2


def test_a_long_prompt_is_cut(folder):
    loaded = text.load(folder / "transformers", folder / "tokenizer", "cpu", torch.float32, LENGTH)
    assert len(loaded.encode(" ".join(WORDS[:2] * LENGTH))) == LENGTH


@pytest.mark.parametrize(
    ("prompt", "cleaned"),
    [
        ("  a  red\n box ", "a red box"),
        ("fish &amp;amp; chips", "fish & chips"),
        ("the library&#39;s fa\u00c3\u00a7ade", "the library's fa\u00e7ade"),
    ],
)
def test_prompts_are_cleaned(prompt, cleaned):
    assert text.clean(prompt) == cleaned


def test_an_embedding_is_made_once_and_padded_with_zeros(folder):
    opened = []

    def open_encoder():
        opened.append(1)
        return text.load(folder / "transformers", folder / "tokenizer", "cpu", torch.float32, LENGTH)

    prompts = text.Prompts(folder / "prompts", "tiny", open_encoder, LENGTH)
    assert not prompts.known(WORDS[0])
    first = prompts.embed(WORDS[0])
    assert prompts.known(f" {WORDS[0]}  ")
    assert first.shape == (1, LENGTH, UMT5["d_model"])
    assert first[0, :2].abs().sum() > 0
    assert not first[0, 2:].any()
    assert torch.equal(prompts.embed(WORDS[0]), first)
    assert len(opened) == 1
    prompts.embed(WORDS[1])
    assert len(opened) == 2
    assert not text.Prompts(folder / "prompts", "another", open_encoder, LENGTH).known(WORDS[0])


def test_a_file_of_something_else_is_refused(folder, model):
    with pytest.raises(BackendUnavailable, match=r"blocks\.0\.oddity\.weight, which UMT5 does not have"):
        text.with_transformers_names(
            {"token_embedding.weight": torch.zeros(1), "blocks.0.oddity.weight": torch.zeros(1)}
        )
    with pytest.raises(BackendUnavailable, match="holds no embedding"):
        text.with_transformers_names({"norm.weight": torch.zeros(1)})
    state = dict(model.state_dict())
    state.pop("encoder.final_layer_norm.weight")
    with pytest.raises(BackendUnavailable, match=r"they lack encoder\.final_layer_norm\.weight"):
        checkpoint.fill(text.build(model.config), state, "cpu", torch.float32)
    wrong = {**model.state_dict(), "encoder.final_layer_norm.weight": torch.zeros(3)}
    with pytest.raises(BackendUnavailable, match=r"is \(3,\), but UMT5EncoderModel takes"):
        checkpoint.fill(text.build(model.config), wrong, "cpu", torch.float32)


def test_files_that_cannot_be_read_say_so(tmp_path):
    for name in ("absent.safetensors", "absent.pth"):
        with pytest.raises(BackendUnavailable, match="download it again"):
            checkpoint.read(tmp_path / name)
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(BackendUnavailable, match="download it again"):
        checkpoint.read(tmp_path / "cut.safetensors")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BackendUnavailable, match="holds no safetensors"):
        checkpoint.read(tmp_path / "empty")


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    torch.save({"x": torch.zeros(1), "y": Path("harm")}, tmp_path / "x.pt")
    with pytest.raises(BackendUnavailable, match="cannot be read"):
        checkpoint.read(tmp_path / "x.pt")


def test_a_pytorch_file_of_either_format_is_read(tmp_path):
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.pt"
        torch.save({"generator_ema": {"x": torch.ones(2)}}, path, _use_new_zipfile_serialization=zipped)
        assert torch.equal(checkpoint.read(path)["x"], torch.ones(2))


def test_a_written_file_is_whole_or_not_there(tmp_path, monkeypatch):
    target = tmp_path / "sub" / "x.safetensors"
    checkpoint.write(target, {"a": torch.ones(2).t()})
    assert torch.equal(checkpoint.read(target)["a"], torch.ones(2))

    def fail(*args):
        raise RuntimeError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        checkpoint.write(target, {"a": torch.zeros(2)})
    assert torch.equal(checkpoint.read(target)["a"], torch.ones(2))

    def fill_the_disk(*args):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", fill_the_disk)
    with pytest.raises(
        BackendUnavailable, match=r"x\.safetensors cannot be written .*No space left.*make room"
    ):
        checkpoint.write(target, {"a": torch.zeros(2)})
    assert [path.name for path in target.parent.iterdir()] == ["x.safetensors"]
