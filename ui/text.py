"""Every word the page shows, and how numbers are written."""

from __future__ import annotations

TITLE = "QVG Studio"
TAGLINE = "Long video from a 2-bit memory"
DEVICE_UNKNOWN = "looking at this machine"

MODEL = "Model"
READY = "Ready"
NOT_HERE = "Not here yet"

PROMPT = "Prompt"
PROMPT_HINT = "What is there to see?"
VOCABULARY = "Words this model knows"
PICTURE = "Start from a picture (optional)"
PICTURE_ALT = "The picture the video starts from"

PATH = "Camera path"
PATH_HINT = "w-8, right-4, still-2"
PATH_EMPTY = "The camera stands still. Add moves with the pad, or type them: key-duration, split by commas."
DURATION = "Latents"
UNDO = "Undo"
CLEAR = "Clear"

MEMORY = "KV cache"
BF16_CHOICE = "BF16"
MODE = "What is remembered"
SEED = "Seed"
RANDOMIZE = "New seed each run"
LENGTH = "Length in blocks"
AS_PATH = "As long as the path"

ADVANCED = "Advanced: codec and cache policy"
PRESET = "Quantised preset"
CLUSTERS = "Clusters"
CLUSTERS_INFO = "centroids a stage, 1 to 256"
GROUP = "Group"
GROUP_INFO = "channels sharing a scale"
STAGES = "Stages"
STAGES_INFO = "residual codebooks"
ITERATIONS = "Iterations"
ITERATIONS_INFO = "k-means rounds"
EVERY = "Encode every"
EVERY_INFO = "blocks"
SINK = "Sink"
SINK_INFO = "first blocks, kept BF16"
RECENT = "Recent"
RECENT_INFO = "newest blocks, kept BF16"
WINDOW = "Window"
WINDOW_INFO = "blocks seen; 0 = all"

GENERATE = "Generate"
STOP = "Stop"

EMPTY_SCREEN = "Your video appears here, block by block"
WAITING_SCREEN = "The first block is on its way"
DOWNLOAD = "Download mp4"

IDLE = "Ready. Describe a scene and press Generate."
SENT = "Handed to the generator."
CLOSED = "The generator takes no more videos: restart the program."
NO_FILE = "The blocks can be played here, but no file could be made of them; the log says why."
UNEXPECTED = "Something went wrong on this page's side, and the log says where. What was made so far is kept."


def size(count: float) -> str:
    """`840 KiB`, `63.2 MiB`, `23.60 GiB`."""
    if count < 1 << 20:
        return f"{count / (1 << 10):.0f} KiB"
    if count < 1 << 30:
        return f"{count / (1 << 20):.1f} MiB"
    return f"{count / (1 << 30):.2f} GiB"


def times(ratio: float) -> str:
    """`6.2×`"""
    return f"{ratio:.1f}×"


def length(blocks: int, frames: int, fps: int) -> str:
    return f"{plural(blocks, 'block')}, {plural(frames, 'frame')}, {frames / fps:.1f} s at {fps} fps"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def path_length(moves: int, latents: int) -> str:
    return f"{plural(moves, 'move')}, {plural(latents, 'latent frame')}."


def ends_at(kv_bytes: int, bf16_bytes: int) -> str:
    if kv_bytes >= bf16_bytes:
        return f"The cache ends at {size(kv_bytes)}, in BF16."
    return f"The cache ends at {size(kv_bytes)} instead of {size(bf16_bytes)} in BF16."


def picture_taken(width: int, height: int) -> str:
    return f"{width} x {height} pixels. The video starts from it."


def device(name: str, memory_bytes: int) -> str:
    return f"{name}, {size(memory_bytes)}"


def spoken_gauge(stored: int, bf16: int, ratio: float, smaller: str) -> str:
    return f"{size(stored)} held; BF16 would hold {size(bf16)}; {times(ratio)} {smaller}"


def queued(place: int) -> str:
    if place <= 1:
        return "Waiting for the device: you are next."
    return f"Waiting for the device: number {place} in the queue."


def progress(block: int, blocks: int, step: int, steps: int) -> str:
    return f"Block {block + 1} of {blocks}, step {step + 1} of {steps}"


def done(frames: int, fps: int, seconds: float, peak_bytes: int, ratio: float) -> str:
    made = f"Done: {plural(frames, 'frame')}, {frames / fps:.1f} s of video, made in {seconds:.1f} s."
    smaller = f" KV cache {times(ratio)} smaller than BF16." if ratio > 1.05 else ""
    peak = f" Peak memory {size(peak_bytes)}." if peak_bytes else ""
    return made + smaller + peak


def stopped(frames: int, fps: int) -> str:
    if not frames:
        return "Stopped before the first block was finished."
    return f"Stopped: {plural(frames, 'frame')}, {frames / fps:.1f} s of video, kept."


def not_saved(reason: str) -> str:
    return f"The video could not be saved ({reason}). Play or download it before you leave this page."


def no_room() -> str:
    return "the disk is full"
