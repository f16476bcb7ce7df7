"""Types that all generators share: their specs, requests, segments, and the protocols of a rollout.

No torch here: the page process and the worker's messages use these types, and the page never loads torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from backends.camera import CameraMove
from qvg.config import CacheGeometry
from qvg.policy import CachePolicy

if TYPE_CHECKING:
    from qvg import KVCache

InputKind = Literal["prompt", "image", "camera", "clip", "changes", "preview"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One of several ways to run a generator, with a cache policy of its own."""

    id: str
    title: str
    about: str  # what it does and what it costs, in two sentences
    policy: CachePolicy  # until the user chooses another


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A setting that only one generator has. `values` are the allowed ones, the default first."""

    name: str
    title: str
    values: tuple[str, ...]


class Committed(NamedTuple):
    """The contents of a KV cache: `blocks` blocks of `latents` latent frames each, kept as `policy` says."""

    policy: CachePolicy
    blocks: int
    latents: int


@dataclass(frozen=True, slots=True)
class BlockHistory:
    """A history that grows: every generated block is committed to the cache."""

    grows: ClassVar[bool] = True

    def committed(self, policy: CachePolicy, blocks: int, latents_per_block: int) -> Committed:
        """Returns the contents of a cache after `blocks` blocks."""
        return Committed(policy, blocks, latents_per_block)


@dataclass(frozen=True, slots=True)
class WindowHistory:
    """A history of fixed length.

    Before every block but the first, the last `latents` latent frames are encoded again, as one span. Of a
    policy only `device_bytes` applies.
    """

    latents: int
    grows: ClassVar[bool] = False

    def committed(self, policy: CachePolicy, blocks: int, latents_per_block: int) -> Committed:
        """Returns the contents of a cache after `blocks` blocks."""
        return Committed(
            CachePolicy(every=1, device_bytes=policy.device_bytes), int(blocks > 1), self.latents
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSpec:
    """The description of a generator, available before any of it is loaded."""

    id: str
    title: str
    summary: str  # one sentence for the picker
    needs: str  # one sentence: the hardware and the download it requires
    license: str
    inputs: frozenset[InputKind]
    width: int
    height: int
    fps: int
    latents_per_block: int  # latent frames denoised together; moves last a whole number of latents
    frames_per_block: int  # video frames that a block decodes to
    first_block_frames: int | None = None  # if the first block decodes to fewer (causal video VAEs)
    default_blocks: int
    max_blocks: int
    weights_bytes: int  # on disk, once downloaded
    converted_bytes: int = 0  # on disk, for the copy that the first load writes
    loading_bytes: int = 0  # of CPU memory while it loads to a GPU
    encoder_bytes: int = 0  # of CPU memory, beside those, if the CPU encodes the prompt
    metres_per_latent: float = 0.08  # walked while a walking key is pressed
    degrees_per_latent: float = 3.0  # turned while a turning key is pressed
    resumable: bool = False  # whether its rollouts are Resumable
    working_bytes: int  # memory beside the KV cache while running: weights, activations, decoder
    memory: tuple[tuple[str, int], ...] = ()  # the terms of `working_bytes`, with their names
    prompt_bytes: int = 0  # on a GPU that encodes the prompt itself, before the first block
    geometry: CacheGeometry  # in latent frames
    policy: CachePolicy
    rebuilds_history: bool = False  # from latents, so benchmarks must not pre-fill the cache
    modes: tuple[Mode, ...] = ()  # the first is the default, and its policy is the spec's
    history: BlockHistory | WindowHistory = BlockHistory()
    options: tuple[Option, ...] = ()
    clusters: int = 256  # k-means centroids that pay off at this model's span length
    # (group, words) if prompts have a fixed vocabulary
    vocabulary: tuple[tuple[str, tuple[str, ...]], ...] = ()
    examples: tuple[str, ...] = ()  # prompts that the page offers

    @property
    def licence(self) -> str:
        """Returns `license`, under its former name."""
        return self.license

    def video_frames(self, blocks: int) -> int:
        """Returns the number of frames in a video of `blocks` blocks."""
        first = self.frames_per_block if self.first_block_frames is None else self.first_block_frames
        return first + (blocks - 1) * self.frames_per_block if blocks else 0

    def committed(self, policy: CachePolicy, blocks: int) -> Committed:
        """Returns the contents of a KV cache after `blocks` blocks."""
        return self.history.committed(policy, blocks, self.latents_per_block)

    def clip_blocks(self, frames: int) -> int:
        """Returns how many whole blocks the end of a clip of `frames` frames gives; 0 if it is too short."""
        if not self.history.grows:
            return min(frames, 1)  # a clip of any length: its end is the context window
        first = self.frames_per_block if self.first_block_frames is None else self.first_block_frames
        return max(0, (frames - first) // self.frames_per_block + 1)


@dataclass(frozen=True, slots=True)
class PromptChange:
    """A new prompt from block `block` of the request on, counted from 0. The history stays as it is."""

    block: int
    prompt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A video to generate.

    `image` is uint8 [H, W, 3], any size. `mode` is the id of one of the spec's modes; "" is the first.

    `clip` is uint8 [T, H, W, 3], any size, at the generator's frame rate: a video to continue. Its last whole
    blocks are the beginning of the result, before `blocks` new ones. `options` are names and values of the
    spec's options.

    `reseeds` are (block, seed): from that block on noise is drawn with another seed. Only for generators
    whose rollouts are `Resumable`.
    """

    prompt: str = ""
    image: np.ndarray | None = None
    clip: np.ndarray | None = None
    changes: tuple[PromptChange, ...] = ()  # in the order of their blocks
    preview: bool = False  # decode with the fast, softer decoder if the generator has one
    moves: tuple[CameraMove, ...] = ()
    seed: int = 0
    blocks: int = 12
    mode: str = ""
    options: tuple[tuple[str, str], ...] = ()
    reseeds: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """One decoded block: `frames` is uint8 [T, H, W, 3]; `start` is the video frame it begins at.

    `ms` is its time by stage, if the generator measures it: "denoise" (the model, reading the cache included)
    and "decode" (latents to frames).
    """

    frames: np.ndarray
    index: int
    start: int
    fps: int
    ms: dict[str, float] = field(default_factory=dict)


class Stopped(Exception):
    """Raised by `Tick` out of a rollout when the user asked to stop."""


class Tick(Protocol):
    """Called by a rollout before every denoising step; raises `Stopped` when the run must end."""

    def __call__(self, step: int, steps: int) -> None: ...


class Rollout(Protocol):
    """One video being generated. Stopping is not calling `step` again."""

    notes: tuple[str, ...]  # for the user, e.g. which words of the prompt were understood

    def step(self, move: CameraMove | None = None) -> Segment | None:
        """Generates and returns the next block; None once `request.blocks` are done.

        `move` steers the block away from the request's path.
        """
        ...


@runtime_checkable
class Resumable(Protocol):
    """A rollout that can continue past its request, go back, and draw other noise.

    Rollouts without these methods are generated again from the start.
    """

    def mark(self) -> object:
        """Returns all state that a step changes, apart from the cache."""
        ...

    def rewind(self, mark: object) -> None:
        """Restores the state that `mark` returned."""
        ...

    def extend(self, request: Request) -> None:
        """Continues with `request`, which begins with the blocks generated so far."""
        ...

    def reseed(self, seed: int) -> None:
        """Seeds the noise of all later blocks."""
        ...


class Backend(Protocol):
    """A loaded generator."""

    spec: BackendSpec

    def open(self, request: Request, cache: KVCache, tick: Tick) -> Rollout:
        """Starts a video over `cache`.

        Several rollouts may be open and take steps in turns, to be compared: all state that a video changes
        belongs to its rollout.
        """
        ...


class BackendUnavailable(Exception):
    """The generator cannot be loaded here. The message tells the user why and what to do."""


class NonFiniteLatents(ValueError):
    """Latents contain NaN or infinity, because of an overflow, damaged weights or a damaged history."""

    def __init__(self) -> None:
        super().__init__(
            "This block came out as no picture: its numbers overflowed, or the weights or the KV cache are "
            "damaged. What was made so far is kept; generate it again, or with another codec."
        )
