"""Files shared by the Wan family of generators, to be downloaded once. Nothing here loads torch.

Sizes and checksums are those Hugging Face lists for the revision.
"""

from __future__ import annotations

from backends.hub.artifacts import Artifact, File, Source

# CPU memory while files are converted and moved to a GPU: Python, torch, the models' libraries and pieces of
# 64 MB of a tensor (0.5 GB, measured without a GPU; LongCat's adapter adds 1.2), and CUDA's libraries (1 GB,
# estimated). All else stays in the files.
LOADING_BYTES = 3_000_000_000

_WAN21 = "Wan-AI/Wan2.1-T2V-1.3B"
_WAN21_REVISION = "37ec512624d61f7aa208f7ea8140a131f93afc9a"
_WAN21_DIFFUSERS = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
_WAN21_DIFFUSERS_REVISION = "0fad780a534b6463e45facd96134c9f345acfa5b"
_TOKENIZER = ("special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer_config.json")

UMT5 = Artifact(
    id="umt5-xxl",
    title="UMT5-XXL text encoder",
    purpose="Reads the prompt before the first block, and leaves the GPU again.",
    license="Apache-2.0",
    source=Source(
        repo=_WAN21,
        revision=_WAN21_REVISION,
        files=(
            File(
                "models_t5_umt5-xxl-enc-bf16.pth",
                11_361_920_418,
                "7cace0da2b446bbbbc57d031ab6cf163a3d59b366da94e5afe36745b746fd81d",
            ),
        ),
        path="models_t5_umt5-xxl-enc-bf16.pth",
    ),
    others=(
        Source(
            repo=_WAN21_DIFFUSERS,
            revision=_WAN21_DIFFUSERS_REVISION,
            files=(
                File("text_encoder/config.json"),
                *(File(f"text_encoder/model-0000{shard}-of-00005.safetensors") for shard in range(1, 6)),
            ),
            path="text_encoder",
        ),
    ),
)

UMT5_TOKENIZER = Artifact(
    id="umt5-tokenizer",
    title="UMT5 tokenizer",
    purpose="Cuts the prompt into the pieces that the text encoder knows.",
    license="Apache-2.0",
    source=Source(
        repo=_WAN21,
        revision=_WAN21_REVISION,
        files=tuple(
            File(f"google/umt5-xxl/{name}", size, sha256)
            for name, size, sha256 in zip(
                _TOKENIZER,
                (6_623, 4_548_313, 16_837_417, 61_728),
                (
                    "",
                    "e3909a67b780650b35cf529ac782ad2b6b26e6d1f849d3fbb6a872905f452458",
                    "6e197b4d3dbd71da14b4eb255f4fa91c9c1f2068b20a2de2472967ca3d22602b",
                    "",
                ),
                strict=True,
            )
        ),
        path="google/umt5-xxl",
    ),
    others=(
        Source(
            repo=_WAN21_DIFFUSERS,
            revision=_WAN21_DIFFUSERS_REVISION,
            files=tuple(File(f"tokenizer/{name}") for name in _TOKENIZER),
            path="tokenizer",
        ),
    ),
)

VAE21 = Artifact(
    id="wan21-vae",
    title="Wan 2.1 video autoencoder",
    purpose="Turns latents into frames, and frames of a clip into latents.",
    license="Apache-2.0",
    source=Source(
        repo=_WAN21,
        revision=_WAN21_REVISION,
        files=(
            File(
                "Wan2.1_VAE.pth",
                507_609_880,
                "38071ab59bd94681c686fa51d75a1968f64e470262043be31f7a094e442fd981",
            ),
        ),
        path="Wan2.1_VAE.pth",
    ),
    others=(
        Source(
            repo=_WAN21_DIFFUSERS,
            revision=_WAN21_DIFFUSERS_REVISION,
            files=(File("vae/config.json"), File("vae/diffusion_pytorch_model.safetensors")),
            path="vae",
        ),
    ),
)

TAEHV21 = Artifact(
    id="taew21",
    title="TAEHV preview decoder",
    purpose="Turns latents into softer frames, 25 times cheaper.",
    license="MIT",
    optional=True,
    source=Source(
        # A copy of github.com/madebyollin/taehv: interrupted downloads from Hugging Face can be resumed.
        repo="lightx2v/Autoencoders",
        revision="main",
        files=(File("taew2_1.pth", 22_678_901),),
        path="taew2_1.pth",
    ),
    others=(
        Source(
            repo="Kijai/WanVideo_comfy",
            revision="main",
            files=(File("taew2_1.safetensors"),),
            path="taew2_1.safetensors",
        ),
        Source(repo="madebyollin/taehv", revision="main", files=(File("taew2_1.pth"),), path="taew2_1.pth"),
        Source(
            repo="madebyollin/taehv",
            revision="main",
            files=(File("safetensors/taew2_1.safetensors"),),
            path="safetensors/taew2_1.safetensors",
        ),
    ),
)
