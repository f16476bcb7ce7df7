"""Writes tests/data/worldplay.safetensors: what the original programs compute, tiny and with random weights.

    python -m tests.backends.worldplay.record worldplay CHECKOUT       Tencent-Hunyuan/HY-WorldPlay at da2d0c2
    python -m tests.backends.worldplay.record quant-videogen CHECKOUT  svg-project/Quant-VideoGen at 0601468

Needs scipy, diffusers and transformers, and no GPU; the tests need none of this. In a copy of the checkout
the number of tokens in a frame, 880 wherever the original counts them, is that of the tiny pictures; what
only a cluster or a video file needs is replaced by nothing.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import sys
import tempfile
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from backends.worldplay.model import ModelConfig
from tests.backends.worldplay.tiny import CHUNK, COLUMNS, CONFIG, PATHS, ROWS, TEXT_TOKENS, compound_path

DATA = Path(__file__).resolve().parents[2] / "data" / "worldplay.safetensors"
TOKENS = ROWS * COLUMNS
CHUNKS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("program", choices=["worldplay", "quant-videogen"])
    parser.add_argument("checkout", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        upstream = Path(folder) / "upstream"
        if options.program == "worldplay":
            prepare(options.checkout, upstream)
            recorded = record_worldplay()
        else:
            sys.path.insert(0, str(options.checkout))
            prepare(options.checkout / "experiments" / "HY-WorldPlay", upstream)
            recorded = record_quant_videogen()
    DATA.parent.mkdir(exist_ok=True)
    kept = load_file(DATA) if DATA.exists() else {}
    save_file({**kept, **{name: tensor.contiguous() for name, tensor in recorded.items()}}, DATA)
    print(f"{DATA}: {DATA.stat().st_size / 1e6:.2f} MB, {len(recorded)} tensors from {options.program}")


def prepare(checkout: Path, to: Path) -> None:
    """Makes the original importable without a GPU, and its frames tiny."""
    for part in ("wan", "hyvideo"):
        shutil.copytree(checkout / part, to / part)
    pipeline = to / "wan" / "inference" / "pipeline_wan_w_mem_relative_rope.py"
    text = pipeline.read_text()
    changed = text.replace("* 880", f"* {TOKENS}").replace("= 880", f"= {TOKENS}")
    assert changed != text and "880" not in changed.replace("880 frames", "").replace("// 880", ""), (
        "880 is left"
    )
    pipeline.write_text(changed)
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    # Before anything is replaced: diffusers asks what is installed.
    import diffusers.models.attention_processor
    import diffusers.pipelines.pipeline_utils  # noqa: F401

    nothing = types.SimpleNamespace
    stub("sageattention", sageattn=lambda q, k, v, **_: F.scaled_dot_product_attention(q, k, v))
    stub("moviepy")
    stub("moviepy.editor", VideoFileClip=None, VideoClip=None)
    stub("loguru", logger=None)
    stub("termcolor", colored=str, cprint=lambda *_, **__: None)
    stub("distributed")
    stub(
        "distributed.parallel_state",
        get_sp_parallel_rank=lambda: 0,
        get_sp_parallel_local_rank=lambda: 0,
        get_sp_world_size=lambda: 1,
    )
    stub(
        "distributed.communication_op",
        all_to_all_sp=lambda x, **_: x,
        sequence_model_parallel_all_gather=lambda x, **_: x,
    )
    stub("hyvideo.pipelines")
    stub("hyvideo.pipelines.worldplay_video_pipeline", HunyuanVideo_1_5_Pipeline=None)
    stub("hyvideo.commons", get_gpu_memory=lambda: 0)
    stub("hyvideo.commons.parallel_states", initialize_parallel_state=lambda **_: nothing())
    stub("hyvideo.commons.infer_state", initialize_infer_state=lambda *_: nothing())
    torch.cuda.synchronize = torch.cuda.set_device = lambda *_: None
    torch.cuda.nvtx.range_push = torch.cuda.nvtx.range_pop = lambda *_: None
    sys.path[:0] = [str(to), str(to / "wan")]


def stub(name: str, **contents: Any) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(contents)
    sys.modules[name] = module


def construct(config: ModelConfig) -> Any:
    from models.dits.arwan_w_action_w_mem_relative_rope import WanTransformer3DModel

    model = WanTransformer3DModel(
        patch_size=(1, config.patch, config.patch),
        num_attention_heads=config.heads,
        attention_head_dim=config.head_dim,
        in_channels=config.channels,
        out_channels=config.channels,
        text_dim=config.text_width,
        freq_dim=config.frequencies,
        ffn_dim=config.ffn_width,
        num_layers=config.layers,
        cross_attn_norm=True,
    )
    model.add_discrete_action_parameters()
    return model


def build_model() -> Any:
    model = construct(CONFIG)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        spread = 0.2 if parameter.ndim < 2 or "table" in name else 1.2 * parameter[0].numel() ** -0.5
        values = torch.randn(parameter.shape, generator=generator) * spread
        if ".norm" in name and name.endswith("weight"):
            values += 1
        # BF16 numbers: the file holds them exactly in half the bytes.
        parameter.data = values.bfloat16().float()
    return model.eval().requires_grad_(False)


class Recorder(dict[str, Tensor]):
    """Tensors by name, and seeded random ones that both programs are given."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def random(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        self[name] = torch.randn(shape, generator=self._generator).to(dtype)
        return self[name]


def record_worldplay() -> Recorder:
    kept = Recorder(1)
    record_poses(kept)
    record_projections(kept)
    model = build_model()
    kept.update({f"weights.{name}": value.bfloat16() for name, value in model.state_dict().items()})
    record_layout(kept)
    record_forward(kept, model)
    record_retrieval(kept)
    record_crop(kept)
    record_rollout(kept, model, "rollout", image=True, context=16)
    record_rollout(kept, model, "imagined", image=False, context=16, chunks=2)
    return kept


def record_quant_videogen() -> Recorder:
    for part in ("compress", "uncompress"):
        stub(f"quant_videogen.{part}", get_quantize_fn=None, compress_kv_cache=None, uncompress_kv_cache=None)
    package = types.ModuleType("quant_videogen")
    package.__path__ = [str(Path(sys.path[2]) / "quant_videogen")]
    sys.modules["quant_videogen"] = package
    kept = Recorder(2)
    record_rollout(
        kept, build_model(), "frozen", image=True, context=48, memory_frames=48, temporal_context_size=44
    )
    return kept


def record_poses(kept: Recorder) -> None:
    from hyvideo.generate import pose_string_to_json, pose_to_input
    from hyvideo.generate_custom_trajectory import generate_camera_trajectory_local

    def keep(name: str, cameras: dict[str, Any]) -> None:
        w2c, intrinsics, labels = pose_to_input(cameras, len(cameras))
        kept[f"{name}.w2c"], kept[f"{name}.K"], kept[f"{name}.labels"] = w2c, intrinsics, labels

    for index, path in enumerate(PATHS):
        keep(f"path{index}", pose_string_to_json(path))
    step, turn = 0.08, np.deg2rad(3)
    pixels = [[700.0, 0, 640.0], [0, 720.0, 352.0], [0, 0, 1]]
    for seed in range(12):
        motions = [
            {
                "forward": step * (("w" in keys) - ("s" in keys)),
                "right": step * (("d" in keys) - ("a" in keys)),
                "yaw": turn * (("right" in keys) - ("left" in keys)),
                "pitch": turn * (("up" in keys) - ("down" in keys)),
            }
            for keys in compound_path(seed)
        ]
        poses = generate_camera_trajectory_local(motions)
        # Written and read back, as a file of a trajectory is.
        cameras = {str(i): {"extrinsic": pose.tolist(), "K": pixels} for i, pose in enumerate(poses)}
        keep(f"compound{seed}", json.loads(json.dumps(cameras)))


def record_projections(kept: Recorder) -> None:
    from hyvideo.prope.camera_rope import prope_qkv

    frames = slice(4, 8)
    w2c, intrinsics = kept["compound1.w2c"][None, frames].float(), kept["compound1.K"][None, frames].float()
    intrinsics = intrinsics.clone()
    intrinsics[:, 2:, 0, 0] *= 1.3  # equal lenses cancel where the camera only walks ahead
    q, k, v, o = (kept.random(f"projections.{name}", 1, 2, 4 * 6, 24) for name in "qkvo")
    q, k, v, back = prope_qkv(q, k, v, viewmats=w2c, Ks=intrinsics)
    kept.update({"projections.intrinsics": intrinsics, "projections.q.out": q, "projections.k.out": k})
    kept.update({"projections.v.out": v, "projections.o.out": back(o)})


def record_layout(kept: Recorder) -> None:
    """Names and shapes of all parameters at full size, as bytes of JSON."""
    with torch.device("meta"):
        model = construct(ModelConfig())
    layout = {
        name.replace("blocks.0.", "blocks.N."): list(value.shape)
        for name, value in model.state_dict().items()
        if not name.startswith("blocks.") or name.startswith("blocks.0.")
    }
    assert len(model.state_dict()) == 889
    text = json.dumps(layout, separators=(",", ":")).encode()
    kept["layout"] = torch.tensor(list(text), dtype=torch.uint8)


def record_forward(kept: Recorder, model: Any) -> None:
    """Mixed noise levels; a cache of frames that are not neighbours; a block denoised over it."""
    shape = (1, CONFIG.channels, 16, 2 * ROWS, 2 * COLUMNS)
    latents = kept.random("forward.latents", *shape)
    text = kept.random("forward.text", 1, TEXT_TOKENS, CONFIG.text_width, dtype=torch.bfloat16).float()
    cameras = {
        "viewmats": kept["compound2.w2c"][None, :16].float(),
        "Ks": kept["compound2.K"][None, :16].float(),
        "action": kept["compound2.labels"][None, :16].float(),
    }
    chosen, own = [0, 1, 2, 3, 8, 9, 10, 11], list(range(12, 16))

    def run(model: Any, frames: list[int], t: list[float], start: int, **more: Any) -> Any:
        return model(
            hidden_states=latents[:, :, frames].to(model.dtype),
            timestep=torch.tensor(t),
            encoder_hidden_states=text.to(model.dtype),
            return_dict=False,
            current_start=start * TOKENS,
            current_end=(start + len(frames)) * TOKENS,
            window_frames=32,
            **{name: value[:, frames] for name, value in cameras.items()},
            **more,
        )

    empty = [{"k": None, "v": None} for _ in range(CONFIG.layers)]
    levels = [14.0, 1000.0, 960.0, 727.2728]
    # A copy is rounded: going back to FP32 would leave BF16 rotary tables behind.
    for name, variant in (("fp32", model), ("bf16", copy.deepcopy(model).bfloat16())):
        kept[f"forward.{name}.mixed"] = run(variant, own, levels, 5, kv_cache=empty)[0]
        cache = run(variant, chosen, [14.0] * 8, 0, kv_cache=empty, is_cache=True)
        if name == "fp32":
            for layer in (0, CONFIG.layers - 1):
                kept[f"forward.k{layer}"], kept[f"forward.v{layer}"] = cache[layer]["k"], cache[layer]["v"]
        kept[f"forward.{name}.denoised"] = run(variant, own, [960.0] * 4, 8, kv_cache=cache)[0]


def record_retrieval(kept: Recorder) -> None:
    from hyvideo.utils.retrieval_context import calculate_fov_overlap_similarity, generate_points_in_sphere
    from models.utils import select_mem_frames_wan

    torch.manual_seed(0)
    points = generate_points_in_sphere(50_000, 8.0)
    kept["retrieval.some_points"] = points[::5000].clone()
    w2c = kept["path6.w2c"].numpy()
    generator = np.random.default_rng(0)
    pairs = generator.integers(0, len(w2c), (48, 2))
    kept["retrieval.pairs"] = torch.from_numpy(pairs)
    kept["retrieval.overlaps"] = torch.tensor(
        [
            calculate_fov_overlap_similarity(
                w2c[a], w2c[b], fov_h_deg=60.0, fov_v_deg=35.0, device="cpu", points_local=points
            )
            for a, b in pairs
        ]
    )
    chosen = [
        select_mem_frames_wan(
            w2c,
            4 * chunk,
            memory_frames=16,
            temporal_context_size=12,
            pred_latent_size=4,
            points_local=points,
            device="cpu",
        )
        for chunk in range(4, 13)
    ]
    kept["retrieval.chosen"] = torch.tensor(chosen)


def record_crop(kept: Recorder) -> None:
    """Pictures wider and taller than what they are made to be."""
    from inference.pipeline_wan_w_mem_relative_rope import WanPipeline
    from PIL import Image

    for width, height in ((70, 40), (34, 61)):
        pixels = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(width)).mul(255).byte()
        with tempfile.NamedTemporaryFile(suffix=".png") as file:
            Image.fromarray(pixels.numpy()).save(file.name)
            kept[f"crop.{width}x{height}.picture"] = pixels
            kept[f"crop.{width}x{height}.cropped"] = WanPipeline.resize_center_crop_to_tensor(
                None, file.name, (48, 32)
            )


class FakeVAE:
    """Stands where the pipeline encodes its picture: gives known latents."""

    dtype = torch.float32

    def __init__(self, latents: Tensor) -> None:
        self.config = types.SimpleNamespace(
            z_dim=CONFIG.channels,
            latents_mean=[0.0] * CONFIG.channels,
            latents_std=[1.0] * CONFIG.channels,
            scale_factor_temporal=4,
            scale_factor_spatial=16,
        )
        self._latents = latents

    def encode(self, picture: Tensor, return_dict: bool) -> tuple[Any]:
        return (types.SimpleNamespace(sample=lambda: self._latents),)


def record_rollout(
    kept: Recorder, model: Any, name: str, image: bool, context: int, chunks: int = CHUNKS, **more: Any
) -> None:
    """Chunk after chunk through the original's own pipeline. The camera turns away and comes back."""
    from hyvideo.generate import pose_string_to_json, pose_to_input
    from inference.pipeline_wan_w_mem_relative_rope import WanPipeline

    class Pipeline(WanPipeline):
        """Without diffusers' bookkeeping of parts that are not there."""

        def __init__(self) -> None:
            self.transformer = model
            self.scheduler = types.SimpleNamespace(sigmas=torch.zeros(1))
            self.vae_scale_factor_temporal, self.vae_scale_factor_spatial = 4, 16
            self.par_vae_encode, self.par_vae_decode, self.parallel_run = False, True, True
            self.text_encoder = self.transformer_2 = self.dist_vae = None
            self.video_processor = None

        __setattr__ = object.__setattr__
        config = types.SimpleNamespace(boundary_ratio=None, expand_timesteps=False)
        device = _execution_device = torch.device("cpu")
        components: dict[str, Any] = {}  # noqa: RUF012
        _print_model_memory_report = _print_memory_usage = init_decode_state = lambda *_: None

        def progress_bar(self, **_: Any) -> Any:
            return MagicMock()

    shape = (1, CONFIG.channels, CHUNKS * CHUNK, 2 * ROWS, 2 * COLUMNS)
    noise = kept.random(f"{name}.noise", *shape)
    text = kept.random(f"{name}.text", 1, TEXT_TOKENS, CONFIG.text_width, dtype=torch.bfloat16).float()
    first = kept.random(f"{name}.first", 1, CONFIG.channels, 1, 2 * ROWS, 2 * COLUMNS)
    w2c, intrinsics, labels = pose_to_input(cameras := pose_string_to_json(PATHS[5]), len(cameras))
    pipeline = Pipeline()
    pipeline.vae = FakeVAE(first)
    torch.manual_seed(0)  # of the points that retrieval counts
    with tempfile.NamedTemporaryFile(suffix=".png") as picture:
        from PIL import Image

        Image.new("RGB", (16 * 2 * COLUMNS, 16 * 2 * ROWS)).save(picture.name)
        for chunk in range(chunks):
            part = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
            pipeline(
                prompt_embeds=text,
                height=16 * 2 * ROWS,
                width=16 * 2 * COLUMNS,
                num_frames=4 * CHUNKS * CHUNK - 3,
                guidance_scale=1.0,
                few_step=True,
                first_chunk_size=CHUNK,
                return_dict=False,
                image_path=picture.name if image else None,
                context_window_length=context,
                latents=noise.clone() if chunk == 0 else None,
                chunk_i=chunk,
                viewmats=w2c[None, part],
                Ks=intrinsics[None, part],
                action=labels[None, part],
                output_type="latent",
                **more,
            )
    kept[f"{name}.latents"] = pipeline.ctx["latents"][:, :, : chunks * CHUNK].clone()


if __name__ == "__main__":
    main()
