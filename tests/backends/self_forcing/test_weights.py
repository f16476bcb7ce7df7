"""The checkpoint's names and its one conversion, at full scale without data and tiny with it."""

import pytest
import torch
from safetensors.torch import save_file

from backends.base import BackendUnavailable
from backends.hub import artifacts
from backends.self_forcing import weights
from backends.self_forcing.spec import TRANSFORMER
from backends.self_forcing.transformer import Transformer, WanConfig
from backends.wan import checkpoint
from tests.backends.self_forcing.recorded import CONFIG, model

diffusers = pytest.importorskip("diffusers")


def published_layout() -> dict[str, tuple[int, ...]]:
    """The 825 names and shapes of self_forcing_dmd.pt, written out from its description."""
    c, ffn, text = 1536, 8960, 4096
    shapes = {
        "patch_embedding.weight": (c, 16, 1, 2, 2),
        "patch_embedding.bias": (c,),
        "text_embedding.0.weight": (c, text),
        "text_embedding.0.bias": (c,),
        "text_embedding.2.weight": (c, c),
        "text_embedding.2.bias": (c,),
        "time_embedding.0.weight": (c, 256),
        "time_embedding.0.bias": (c,),
        "time_embedding.2.weight": (c, c),
        "time_embedding.2.bias": (c,),
        "time_projection.1.weight": (6 * c, c),
        "time_projection.1.bias": (6 * c,),
        "head.modulation": (1, 2, c),
        "head.head.weight": (64, c),
        "head.head.bias": (64,),
    }
    for block in range(30):
        inside = {"modulation": (1, 6, c), "norm3.weight": (c,), "norm3.bias": (c,)}
        for attention in ("self_attn", "cross_attn"):
            for leaf in "qkvo":
                inside |= {f"{attention}.{leaf}.weight": (c, c), f"{attention}.{leaf}.bias": (c,)}
            inside |= {f"{attention}.norm_q.weight": (c,), f"{attention}.norm_k.weight": (c,)}
        inside |= {"ffn.0.weight": (ffn, c), "ffn.0.bias": (ffn,)}
        inside |= {"ffn.2.weight": (c, ffn), "ffn.2.bias": (c,)}
        shapes |= {f"blocks.{block}.{name}": shape for name, shape in inside.items()}
    return shapes


def on_meta(shapes, prefix=""):
    return {prefix + name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def fill(tensors):
    with torch.device("meta"):
        transformer = Transformer(WanConfig())
    checkpoint.fill(transformer, weights.with_original_names(tensors), "meta", torch.bfloat16)
    return transformer


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "model.",
        "model._fsdp_wrapped_module.",
        "model._fsdp_wrapped_module._checkpoint_wrapped_module.",
        "_orig_mod.model.",
    ],
)
def test_the_published_checkpoint_fills_the_transformer(prefix):
    shapes = published_layout()
    assert len(shapes) == 825
    transformer = fill(on_meta(shapes, prefix))
    assert sum(parameter.numel() for parameter in transformer.parameters()) == 1_418_996_800


def test_the_same_in_diffusers_layout_fills_it_too():
    with torch.device("meta"):
        theirs = diffusers.WanTransformer3DModel(
            num_attention_heads=12,
            attention_head_dim=128,
            ffn_dim=8960,
            num_layers=30,
            text_dim=4096,
            cross_attn_norm=True,
            qk_norm="rms_norm_across_heads",
        )
    tensors = dict(theirs.state_dict())
    assert len(tensors) == 825
    assert weights.with_original_names(tensors).keys() == published_layout().keys()
    fill(tensors)


@torch.inference_mode()
def test_diffusers_own_model_has_the_same_weights_under_its_names():
    """A renamed weight in a wrong place would have the right shape: the flows say."""
    ours = model()
    theirs = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=128,
        ffn_dim=384,
        num_layers=2,
        text_dim=48,
        freq_dim=64,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
    ).eval()
    generator = torch.Generator().manual_seed(3)
    for parameter in theirs.parameters():
        parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    ours.load_state_dict(weights.with_original_names(theirs.state_dict()))
    x = torch.randn(1, 3, 16, 8, 12, generator=generator)
    prompt = torch.randn(1, 32, 48, generator=generator)
    flow = ours(x, torch.full((1, 3), 625.0), ours.read(prompt), Everything())
    expected = theirs(x.transpose(1, 2), torch.tensor([625.0]), prompt, return_dict=False)[0]
    torch.testing.assert_close(flow.transpose(1, 2), expected, rtol=0, atol=5e-5)


class Everything:
    """No history: attention among the block's own tokens."""

    def stage(self, layer, k, v):
        from tests.backends.self_forcing.test_parity import make_rope

        self.rope, self.staged = make_rope(), (k, v)

    def attend(self, layer, q):
        k, v = self.staged
        return torch.nn.functional.scaled_dot_product_attention(self.rope(q, 0), self.rope(k, 0), v)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors: tensors.pop("head.head.bias"), r"lack head\.head\.bias"),
        (lambda tensors: tensors.update(extra=tensors["head.head.bias"]), "have extra too many"),
        (
            lambda tensors: tensors.update({"head.head.bias": torch.empty(63, device="meta")}),
            r"head\.head\.bias is \(63,\), but Transformer takes \(64,\)",
        ),
    ],
)
def test_another_models_weights_are_refused(change, words):
    tensors = on_meta(published_layout())
    change(tensors)
    with pytest.raises(BackendUnavailable, match=words):
        fill(tensors)


def test_a_name_unknown_to_diffusers_is_refused():
    odd = {"proj_out.weight": torch.zeros(1), "blocks.0.oddity.weight": torch.zeros(1)}
    with pytest.raises(BackendUnavailable, match=r"blocks\.0\.oddity\.weight, which Wan2\.1's"):
        weights.with_original_names(odd)


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_checkpoint_is_converted_once(tmp_path, monkeypatch, wrapped):
    saved = {f"model._fsdp_wrapped_module.{name}": tensor for name, tensor in model().state_dict().items()}
    theirs = {name: torch.zeros_like(tensor) for name, tensor in saved.items()}
    published = tmp_path / "self_forcing_dmd.pt"
    torch.save({"generator": theirs, "generator_ema": saved} if wrapped else saved, published)
    target = tmp_path / "own" / "bf16.safetensors"
    monkeypatch.setattr(artifacts, "locate", lambda artifact: target if target.is_file() else published)
    monkeypatch.setattr(artifacts, "converted_path", lambda artifact: target)
    monkeypatch.setattr(weights, "WanConfig", lambda: CONFIG)
    said = []
    first = weights.load_published("cpu", torch.float32, said.append)
    published.unlink()
    second = weights.load_published("cpu", torch.float32, said.append)
    assert said == ["Converting Self-Forcing to BF16, once", "Loading Self-Forcing", "Loading Self-Forcing"]
    for name, tensor in model().state_dict().items():
        expected = tensor.bfloat16().float()
        assert torch.equal(first.state_dict()[name], expected)
        assert torch.equal(second.state_dict()[name], expected)
    written = checkpoint.read(target)
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_weights_that_are_not_here(monkeypatch):
    monkeypatch.setattr(artifacts, "locate", lambda artifact: None)
    with pytest.raises(BackendUnavailable, match="Self-Forcing transformer is not here: download it first"):
        weights.load_published("cpu", torch.float32, print)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    save_file(model().state_dict(), tmp_path / "x.safetensors")
    (tmp_path / "file").touch()
    with pytest.raises(BackendUnavailable, match=r"cannot be written .* make room, or set HF_HOME"):
        weights.convert(tmp_path / "x.safetensors", tmp_path / "file" / "y.safetensors", CONFIG)


def test_the_conversion_is_half_of_the_published_file():
    shapes = published_layout()
    size = sum(2 * torch.Size(shape).numel() for shape in shapes.values())
    assert TRANSFORMER.converted_size == pytest.approx(size, rel=1e-3)
    assert TRANSFORMER.size == pytest.approx(2 * size, rel=1e-3)
