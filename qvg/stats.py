"""Statistics of a cache, as a picklable value without torch: the page draws its gauge from them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStats:
    """Keys and values of all layers. Bytes count tensors, not what an allocator rounds them to.

    `stored_bytes` is what history takes: encoded spans and full-precision blocks. `host_bytes` of them are in
    the host's memory, the others on the device. `bf16_bytes` is what the same visible frames would take in
    BF16. `scratch_bytes` is held beside them on the device: the block being denoised, the unused part of
    preallocated buffers, and what spans are decoded and copied to. `parts` splits `stored_bytes` by name:
    "sink" and "recent" (full precision), and the parts of the codec's payloads ("values" of BF16; "codes",
    "scales", "labels", "centroids", "powers", "channels" of QVG; "codes", "scales", "zeros" of RTN, KIVI and
    QuaRot).
    """

    stored_bytes: int
    bf16_bytes: int
    scratch_bytes: int
    parts: dict[str, int]
    frames: int  # latent frames visible now
    total_frames: int  # latent frames ever committed; more than `frames` once some were evicted
    tokens: int  # of the visible frames, per layer and batch item
    spans: int  # encoded and still held, per layer
    encode_ms: float  # spent encoding since the start
    read_ms: float  # spent in attention since the start: decoding, rotating, attending
    host_bytes: int = 0

    @property
    def device_bytes(self) -> int:
        """Of `stored_bytes`, those on the device."""
        return self.stored_bytes - self.host_bytes

    @property
    def ratio(self) -> float:
        """How many times smaller the history is than in BF16; 1 while there is none."""
        return self.bf16_bytes / self.stored_bytes if self.stored_bytes else 1.0
