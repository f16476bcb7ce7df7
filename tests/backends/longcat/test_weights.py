"""Weight files, the copy made of them, 8-bit weights and adapters, at a tiny size."""

from __future__ import annotations

import builtins
import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from backends.base import BackendUnavailable, Request
from backends.hub import artifacts
from backends.longcat import load, lora, random_weights, rollout, spec, weights
from backends.longcat.attention import Alone, Place
from backends.longcat.settings import Settings
from backends.longcat.transformer import Transformer
from backends.wan import loading, vae
from qvg import BF16, KVCache
from tests.backends.longcat import samples
from tests.backends.longcat.recorded import recorded, transformer
from tests.backends.longcat.samples import COLUMNS, CONFIG, ROWS
from tests.backends.wan import samples as wan_samples

T = torch.tensor(731.0)
HYPHEN = "___lorahyphen___"


def heard(model: Transformer) -> Tensor:
    model.config = CONFIG  # no file says how long prompts are
    text = model.read(samples.prompt("positive", 9))
    said = model(samples.latents("noise", 6), T, (text,), Alone(Place(CONFIG.rope_pairs, ROWS, COLUMNS), 6))
    assert said is not None
    return said


def off(made: Tensor, expected: Tensor) -> float:
    return float((made - expected).norm() / expected.norm())


def forbid(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    real = builtins.__import__

    def without(name: str, *rest, **more):
        if name.startswith(library):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `dit`: two shards in FP32 and a configuration."""
    folder = tmp_path_factory.mktemp("published") / "dit"
    folder.mkdir()
    tensors = {name: tensor.contiguous() for name, tensor in transformer().state_dict().items()}
    names = sorted(tensors)
    for shard, part in enumerate((names[:40], names[40:]), start=1):
        save_file({name: tensors[name] for name in part}, folder / f"model-{shard}-of-2.safetensors")
    config = {
        "in_channels": CONFIG.channels,
        "hidden_size": CONFIG.width,
        "depth": CONFIG.layers,
        "num_heads": CONFIG.heads,
        "caption_channels": CONFIG.text_width,
        "mlp_ratio": CONFIG.mlp_ratio,
        "adaln_tembed_dim": CONFIG.time_width,
        "frequency_embedding_size": CONFIG.frequencies,
        "patch_size": [1, 2, 2],
        "text_tokens_zero_pad": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class TestAdapter:
    def test_merged_is_upstreams_branch(self) -> None:
        model = deepcopy(transformer())
        deltas = lora.parse(samples.lora())
        lora.check(model, deltas)
        lora.merge(model, deltas)
        torch.testing.assert_close(heard(model), recorded("forward/lora"), atol=2e-5, rtol=2e-5)

    def test_beside_is_upstreams_branch_and_can_be_turned_off(self) -> None:
        model = deepcopy(transformer())
        plain = heard(model)
        switch = lora.put_beside(model, lora.parse(samples.lora()))
        assert torch.equal(heard(model), plain), "off at first"
        switch.turn(True)
        torch.testing.assert_close(heard(model), recorded("forward/lora"), atol=2e-5, rtol=2e-5)
        switch.turn(False)
        assert torch.equal(heard(model), plain)

    def test_what_computes_in_fp32_can_be_adapted_too(self) -> None:
        """As the refinement adapter does; in BF16 its branch comes between two types."""
        model = samples.transformer(dtype=torch.bfloat16)
        name = "blocks.1.adaLN_modulation.1"
        width = 6 * CONFIG.width
        down, up = samples.values("down", (6, 4, CONFIG.time_width)), samples.values("up", (6, width // 6, 4))
        deltas = {name: lora.Delta(down, up, 0.05)}
        merged = deepcopy(model)
        lora.merge(merged, deltas)
        lora.put_beside(model, deltas).turn(True)
        assert 0 < off(heard(model), heard(merged)) < 0.02

    def test_merged_for_good_cannot_be_left_out(self) -> None:
        switch = lora.Switch(for_good=True)
        switch.turn(True)
        with pytest.raises(ValueError, match="merged for good"):
            switch.turn(False)

    def test_the_published_ones_keys_are_all_understood(self) -> None:
        """1,152 keys: seven matrices a block, query, key and value with an up-projection each."""
        keys = {}
        for block in range(48):
            for name, parts in random_weights._TARGETS.items():
                key = f"lora{HYPHEN}blocks{HYPHEN}{block}{HYPHEN}{name.replace('.', HYPHEN)}"
                keys[f"{key}.lora_down.weight"] = torch.zeros(2 * parts, 8)
                for part in range(parts):
                    up = f"{key}.lora_up.blocks.{part}.weight" if parts > 1 else f"{key}.lora_up.weight"
                    keys[up] = torch.zeros(8, 2)
                keys[f"{key}.alpha_scale"] = torch.tensor(0.5)
        assert len(keys) == 1152
        deltas = lora.parse(keys)
        assert len(deltas) == 48 * 7
        assert deltas["blocks.47.attn.qkv"].shape == (24, 8)
        with torch.device("meta"):
            names = dict(Transformer(replace(CONFIG, layers=48)).named_modules())
        assert deltas.keys() <= names.keys()

    def test_one_that_is_not_this_models_is_an_error(self) -> None:
        model = transformer()
        deltas = lora.parse(samples.lora())
        with pytest.raises(BackendUnavailable, match="nothing in it belongs"):
            lora.put_beside(model, {})
        for stranger in ("blocks.9.attn.qkv", "blocks.0.attn", "blocks.0.pre_crs_attn_norm"):
            with pytest.raises(BackendUnavailable, match=f"{stranger} belongs to no linear layer"):
                lora.put_beside(model, {**deltas, stranger: deltas["blocks.0.attn.qkv"]})
        with pytest.raises(
            BackendUnavailable, match=r"is for a matrix \[768, 256\], but the model's is \[256,"
        ):
            lora.check(model, {"blocks.0.attn.proj": deltas["blocks.0.attn.qkv"]})
        with pytest.raises(BackendUnavailable, match="not a key of a LongCat adapter"):
            lora.parse({"transformer.blocks.0.lora_A": torch.zeros(1)})
        for missing in ("lora_down.weight", "lora_up.blocks.1.weight"):
            part = {name: x for name, x in samples.lora().items() if not ("qkv" in name and missing in name)}
            with pytest.raises(BackendUnavailable, match=r"attn\.qkv is incomplete"):
                lora.parse(part)


class TestFiles:
    def test_shards_become_one_file_in_bf16(self, published: Path, tmp_path: Path) -> None:
        copy = tmp_path / "new" / "copy.safetensors"
        weights.convert(published, copy)
        assert weights.read_config(published) == weights.read_config(copy)
        tensors = load_file(copy)
        expected = transformer().state_dict()
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name].bfloat16()) for name in tensors)
        assert [path.name for path in copy.parent.iterdir()] == ["copy.safetensors"]

    def test_loading_either_gives_the_same_model(self, published: Path, tmp_path: Path) -> None:
        copy = tmp_path / "copy.safetensors"
        weights.convert(published, copy)
        config = weights.read_config(copy)
        models = [
            weights.load(weights.checkpoint.read(path), config, ["cpu"], torch.bfloat16)
            for path in (published, copy)
        ]
        first, second = (heard(model) for model in models)
        assert torch.equal(first, second)
        assert torch.equal(first, heard(samples.transformer(dtype=torch.bfloat16)))

    def test_the_adapter_can_be_merged_before_weights_are_rounded(self, published: Path) -> None:
        tensors, deltas = weights.checkpoint.read(published), lora.parse(samples.lora())
        model = weights.load(tensors, weights.read_config(published), ["cpu"], torch.float32, merged=deltas)
        torch.testing.assert_close(heard(model), recorded("forward/lora"), atol=2e-5, rtol=2e-5)
        with pytest.raises(BackendUnavailable, match="not this model's"):
            weights.load(
                tensors,
                CONFIG,
                "cpu",
                torch.float32,
                merged={"blocks.7.attn.qkv": next(iter(deltas.values()))},
            )

    def test_weights_of_something_else_are_refused_before_anything_is_copied(self, published: Path) -> None:
        tensors = weights.checkpoint.read(published)
        for changed, words in [
            ({name: x for name, x in tensors.items() if "blocks.2.attn.qkv" not in name}, "lack blocks.2"),
            ({**tensors, "blocks.4.attn.qkv.weight": tensors["blocks.0.attn.qkv.weight"]}, "1|too many"),
            ({**tensors, "t_embedder.mlp.0.weight": torch.zeros(2, 2)}, r"is \(2, 2\), but"),
        ]:
            with pytest.raises(BackendUnavailable, match=words):
                weights.load(changed, CONFIG, ["nowhere"], torch.float32)

    def test_files_that_cannot_be_read_or_written(self, published: Path, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(BackendUnavailable, match="cannot be written"):
            weights.convert(published, tmp_path / "file" / "copy.safetensors")
        save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
        with pytest.raises(BackendUnavailable, match="does not say which LongCat-Video"):
            weights.read_config(tmp_path / "other.safetensors")
        with pytest.raises(BackendUnavailable, match="does not say which LongCat-Video"):
            weights.read_config(tmp_path)


class TestEightBits:
    def test_large_matrices_only_and_little_is_lost(self, published: Path) -> None:
        pytest.importorskip("torchao")
        tensors = weights.checkpoint.read(published)
        model = weights.load(tensors, CONFIG, ["cpu"], torch.float32, "int8")
        linears = {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
        rounded = {name for name, layer in linears.items() if type(layer.weight) is not torch.nn.Parameter}
        block = ("attn.qkv", "attn.proj", "cross_attn.q_linear", "cross_attn.kv_linear", "cross_attn.proj")
        block += ("ffn.w1", "ffn.w2", "ffn.w3")
        assert rounded == {f"blocks.{index}.{name}" for index in range(4) for name in block}
        assert 1e-4 < off(heard(model), heard(transformer())) < 0.02

    def test_with_an_adapter_beside_and_merged(self, published: Path) -> None:
        pytest.importorskip("torchao")
        tensors, deltas = weights.checkpoint.read(published), lora.parse(samples.lora())
        model = weights.load(tensors, CONFIG, ["cpu"], torch.float32, "int8")
        lora.put_beside(model, deltas).turn(True)
        assert off(heard(model), recorded("forward/lora")) < 0.02
        merged = weights.load(tensors, CONFIG, ["cpu"], torch.float32, "int8", deltas)
        assert off(heard(merged), recorded("forward/lora")) < 0.02
        with pytest.raises(BackendUnavailable, match="is quantised"):
            lora.merge(weights.load(tensors, CONFIG, ["cpu"], torch.float32, "int8"), deltas)

    def test_without_torchao_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        forbid(monkeypatch, "torchao")
        with pytest.raises(BackendUnavailable, match="pip install torchao"):
            weights.build_random(random_weights.TINY, ["cpu"], torch.float32, "int8")

    def test_chosen_where_bf16_leaves_no_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert weights.choose_precision(torch.device("cpu")) == "bf16"
        for gib, expected in ((31, "int8"), (47, "int8"), (79, "bf16"), (139, "bf16")):
            monkeypatch.setattr(
                torch.cuda,
                "get_device_properties",
                lambda device, gib=gib: type("Card", (), {"total_memory": gib << 30}),
            )
            assert weights.choose_precision(torch.device("cuda")) == expected


class TestSeveralCards:
    def test_blocks_are_shared_out_and_connected(self, published: Path) -> None:
        """There is one device here; tensors without data stand for the other."""
        pytest.importorskip("accelerate")
        tensors = weights.checkpoint.read(published)
        homes = {prefix: home for prefix, _, home in weights.parts(transformer(), ["a", "b"])}
        assert [homes[f"blocks.{index}."] for index in range(4)] == ["a", "a", "b", "b"]
        assert {homes[name] for name in ("x_embedder.", "final_layer.")} == {"a"}
        model = weights.load(tensors, CONFIG, ["cpu", "cpu"], torch.float32)
        torch.testing.assert_close(heard(model), heard(transformer()), atol=2e-5, rtol=2e-5)
        split = weights.load(tensors, CONFIG, ["cpu", "meta"], torch.float32)
        text = split.read(samples.prompt("positive", 9))
        assert [words.k.device.type for words in text] == ["cpu", "cpu", "meta", "meta"]
        x = samples.values("tokens", (1, 2 * ROWS * COLUMNS, CONFIG.width))
        seen = []

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            seen.append((layer, k.device.type))
            return v

        time = samples.values("time", (CONFIG.time_width,))
        for layer in (1, 2):
            x = split.blocks[layer](x, time, (text[layer],), layer, attention, True)
        assert seen == [(1, "cpu"), (2, "meta")]
        assert x.device.type == "meta"

    def test_without_accelerate_it_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        forbid(monkeypatch, "accelerate")
        with pytest.raises(BackendUnavailable, match="pip install accelerate"):
            weights.build_random(random_weights.TINY, ["cpu", "cpu"], torch.float32)


class TestLoading:
    """The way from files to frames, with tiny ones in the place of the published."""

    @pytest.fixture
    def files(self, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
        from transformers import UMT5Config

        from backends.wan import text

        umt5 = {**wan_samples.UMT5, "d_model": CONFIG.text_width}
        encoder = text.build(UMT5Config(**umt5)).to_empty(device="cpu")
        wan_samples.randomise(encoder, 0)
        (tmp_path / "umt5").mkdir()
        save_file(
            {name: x.contiguous() for name, x in encoder.state_dict().items() if name != "shared.weight"},
            tmp_path / "umt5" / "model.safetensors",
        )
        (tmp_path / "umt5" / "config.json").write_text(json.dumps(umt5))
        wan_samples.save_tokenizer(tmp_path / "tokenizer")
        (tmp_path / "vae").mkdir()
        autoencoder = vae.build(wan_samples.VAE21, "cpu")
        samples.fill(autoencoder)
        save_file(autoencoder.state_dict(), tmp_path / "vae" / "model.safetensors")
        (tmp_path / "vae" / "config.json").write_text(json.dumps(wan_samples.VAE21))
        save_file(samples.lora(), tmp_path / "lora.safetensors")
        here = {
            spec.TRANSFORMER.id: published,
            spec.ADAPTER.id: tmp_path / "lora.safetensors",
            spec.UMT5.id: tmp_path / "umt5",
            spec.UMT5_TOKENIZER.id: tmp_path / "tokenizer",
            spec.VAE21.id: tmp_path / "vae",
        }
        copy = tmp_path / "kept" / "copy.safetensors"

        def locate(artifact: artifacts.Artifact) -> Path | None:
            if artifact == spec.TRANSFORMER and copy.is_file():
                return copy
            return here.get(artifact.id)

        monkeypatch.setattr(artifacts, "locate", locate)
        monkeypatch.setattr(artifacts, "converted_path", lambda artifact: copy)
        monkeypatch.setattr("backends.hub.downloads.own_folder", lambda: tmp_path / "own")
        monkeypatch.setattr(spec, "missing", lambda: None if here else "Not downloaded.")
        return here

    def test_the_first_time_and_the_second(self, files: dict[str, Path]) -> None:
        said: list[str] = []
        backend = load.load(torch.device("cpu"), said.append)
        assert said == [
            "Converting LongCat-Video to BF16, once",
            "Loading LongCat-Video",
            "Loading the video autoencoder",
        ]
        said.clear()
        again = load.load(torch.device("cpu"), said.append)
        assert said == ["Loading LongCat-Video", "Loading the video autoencoder"]
        assert torch.equal(heard(backend.models.transformer), heard(again.models.transformer))

    def test_a_video_from_files(self, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
        opened = []
        open_encoder = loading.open_encoder
        monkeypatch.setattr(loading, "open_encoder", lambda device: opened.append(1) or open_encoder(device))
        backend = load.load(torch.device("cpu"), lambda words: None)
        settings = Settings(steps=1, window=5, condition_frames=1)
        small = replace(backend.models, sizes=((samples.HEIGHT, samples.WIDTH),))
        described = replace(
            spec.SPEC,
            height=samples.HEIGHT,
            width=samples.WIDTH,
            geometry=replace(spec.SPEC.geometry, layers=4, heads=2, tokens_per_frame=6),
        )
        backend = rollout.LongCatBackend(small, settings, described)
        cache = KVCache(described.geometry, BF16, frames_per_block=1)
        request = Request(prompt="red fox", blocks=2, options=(("distilled", "yes"),))
        video = backend.open(request, cache, lambda step, steps: None)
        assert [len(video.step().frames) for _ in range(2)] == [5, 4]
        assert len(opened) == 1
        guided = replace(request, prompt="stone bridge", options=())
        video = backend.open(guided, cache, lambda step, steps: None)
        assert len(opened) == 2, "once for the prompt and the negative prompt"
        assert video._tokens["stone bridge"].shape == (3, CONFIG.text_width)
        assert video.step() is not None

    def test_a_full_disk_is_no_reason_not_to_load(
        self, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(weights, "_room_for", lambda path: 10)
        said: list[str] = []
        load.load(torch.device("cpu"), said.append)
        assert said[0].startswith("There is no room on the disk")

    def test_without_the_adapter(self, files: dict[str, Path]) -> None:
        del files[spec.ADAPTER.id]
        assert load.load(torch.device("cpu"), lambda words: None).models.adapter is None
        with pytest.raises(BackendUnavailable, match="distillation adapter is not here"):
            load.load_models(torch.device("cpu"), lambda words: None, merge_adapter=True)

    def test_merged_for_good(self, files: dict[str, Path]) -> None:
        models = load.load_models(torch.device("cpu"), lambda words: None, merge_adapter=True)
        assert models.adapter is not None and models.adapter.on
        assert off(heard(models.transformer), recorded("forward/lora")) < 0.02

    def test_nothing_is_here(self, files: dict[str, Path]) -> None:
        files.clear()
        with pytest.raises(BackendUnavailable, match="Not downloaded"):
            load.load(torch.device("cpu"), print)


def test_random_weights_at_a_tiny_size() -> None:
    backend = load.load_random(torch.device("cpu"), lambda words: None, tiny=True)
    described = backend.spec
    cache = KVCache(described.geometry, BF16, frames_per_block=described.latents_per_block)
    video = backend.open(Request(prompt="a fox", blocks=3), cache, lambda step, steps: None)
    made = [video.step().frames for _ in range(3)]
    assert sum(map(len, made)) == described.video_frames(3)
    assert all(frames.std() > 1 for frames in made)
    assert cache.stats().frames == described.history.latents
