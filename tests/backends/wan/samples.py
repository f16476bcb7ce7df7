"""Wan's parts at sizes a test can run: configurations, random weights, a tokenizer of a few words."""

from pathlib import Path

import torch

LENGTH = 16
WORDS = ("stone", "bridge", "snow", "fox", "red", "river")
UMT5 = {
    "vocab_size": 16,
    "d_model": 48,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "feed_forward_proj": "gated-gelu",
}
VAE21 = {"base_dim": 8, "num_res_blocks": 1}
VAE22 = {
    "base_dim": 8,
    "decoder_base_dim": 8,
    "num_res_blocks": 1,
    "z_dim": 4,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": [0.1, -0.2, 0.3, 0.0],
    "latents_std": [1.0, 0.5, 2.0, 1.5],
}
# What the published descriptions hold beside sizes: Wan-AI/Wan2.2-TI2V-5B-Diffusers, vae/config.json, and
# google/umt5-xxl, config.json. The libraries' own classes do not take all of it.
VAE22_PUBLISHED = {
    "_class_name": "AutoencoderKLWan",
    "_diffusers_version": "0.35.0.dev0",
    "attn_scales": [],
    "clip_output": False,
    "dim_mult": [1, 2, 4, 4],
    "dropout": 0.0,
    "num_res_blocks": 2,
    "scale_factor_temporal": 4,
    "temperal_downsample": [False, True, True],
}
UMT5_PUBLISHED = {
    "_name_or_path": "google/umt5-xxl",
    "architectures": ["UMT5EncoderModel"],
    "classifier_dropout": 0.0,
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "umt5",
    "num_decoder_layers": 24,
    "output_past": True,
    "pad_token_id": 0,
    "scalable_attention": True,
    "tie_word_embeddings": False,
    "tokenizer_class": "T5Tokenizer",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.48.0.dev0",
    "use_cache": True,
}


def save_tokenizer(folder: Path) -> None:
    """Splits at spaces; pads with 0, ends with 1, as UMT5's does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate(("<pad>", "</s>", "<unk>", "<s>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    wrapped.save_pretrained(folder)


def randomise(module: torch.nn.Module, seed: int, scale: float = 1.0) -> torch.nn.Module:
    """Fills every parameter so that no path is dead: norms near 1, matrices by fan-in."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith(("gamma", "norm.weight")):
                parameter.copy_(1 + 0.1 * noise)
            elif parameter.ndim > 1:
                parameter.copy_(scale * noise * parameter[0].numel() ** -0.5)
            else:
                parameter.copy_(0.1 * noise)
    return module.eval()
