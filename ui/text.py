"""Texts of the page, constants and sentences. Number formats are in `ui.format`; errors of forms, paths and
files have their texts where they are raised."""

from __future__ import annotations

from collections.abc import Callable

from ui.format import clock, decibels, left, plural, size, times

TITLE = "QVG Studio"
TAGLINE = "Long video from a 2-bit memory"
LIGHT, DARK = "Light", "Dark"
DEVICE_UNKNOWN = "looking at this machine"
MACHINE = {
    "title": "About this machine",
    "waiting": "Looking at what works here. This takes some seconds.",
    "bad": "does not work",
}
MACHINE_UNKNOWN = "Nothing is known of it here; python app.py --check looks at it."

MODEL = "Model"
READY = "Ready"
NOT_HERE = "Not here yet"
PARTLY_HERE = "Partly here"
INCLUDED = "included"
MANAGE = "Models on this machine"
MODELS = {
    "files": "Files",
    "downloading": "Downloading",
    "accept": "I have read the licence and accept it",
    "token": "Hugging Face token",
    "download": "Download",
    "stop": "Stop",
    "remove": "Delete",
    "sure": "Really delete?",
    "locked": "On a shared page models are looked after by its owner.",
}
DOWNLOAD_BEGINS = "Looking what is here."
DOWNLOAD_STOPPED = "Stopped. What arrived is kept: Download goes on from there."
DOWNLOAD_FAILED = "The download failed, and the log says where. What arrived is kept."

PROMPT = "Prompt"
PROMPT_HINT = "What is there to see?"
VOCABULARY = "Words this model knows"
PICTURE = "Start from a picture (optional)"
PICTURE_ALT = "The picture the video starts from"

CLIP = "Go on from a clip (optional)"
CHANGES = "Other prompts later (optional)"
CHANGES_HINT = "5: snow begins to fall"
CHANGES_INFO = "one a line: the block it begins at, a colon, the prompt"
PREVIEW = "Decode with the fast, softer preview decoder"
OPTION = "Setting"

PATH = "Camera path"
PATH_HINT = "w-8, right-4, still-2"
# Must fit one line on a phone: a longer note would move the pad from under the finger that clears the path.
PATH_EMPTY = "The camera stands still."
CAMERA = {
    "board": "Camera map: hold W A S D to walk, arrow keys to turn; Backspace takes the last change back",
    "map": "Camera path from above",
    "still": "it stands still",
    "hint": "Draw or click where it goes, drag the ring to turn; or click here and use W A S D and arrows.",
    "play": "Play the path on the map",
    "closer": "Closer",
    "further": "Further away",
    "timeline": "Moves and their durations",
    "move": "Move",
    "latents": "latent frames",
    "duration": "Latents",
    "earlier": "Move earlier",
    "later": "Move later",
    "remove": "Remove",
    "undo": "Undo",
    "redo": "Redo",
    "clear": "Clear",
    "import": "Import",
    "moves": "Export the moves as JSON",
    "trajectory": "Export the camera of every latent frame as JSON",
}
MCP_IS_OPEN = "Gradio's MCP server asks for no login: leave out --mcp, or --auth and whoever is not trusted."
TOO_MANY_LOGINS = "There were too many wrong passwords: wait a minute, then log in again."
NO_SUCH_FILE = "A file that was named is not among those uploaded to this page: upload it again."
REFUSED = 'This page does not know what was asked for: "Use via API" at its foot lists names and inputs.'

HALF_A_CHARACTER = "There is half of a character in these words, perhaps of an emoji: write it again."
NO_MAP = "The map asks with an object that names its model."
NO_LINE = "A drawing is a line of two points or more, each right and ahead in metres."
FILE_TOO_LONG = "This file is too long for a camera path."

MEMORY = "KV cache"
BF16_CHOICE = "BF16"
MODE = "What is remembered"
COMPARE_CHOICE = "Compare"
SIDES = "Compare, the first one the reference"
BUDGET = "Memory budget for the KV cache, MiB"
BUDGET_INFO = "0 is no limit"
BUDGET_SHARE, OF_BF16 = "Memory budget as a part of what BF16 takes", "of BF16"
NO_LIMIT = "no limit"
WHEN_FULL = "When the budget is full"
DROP_CHOICE, STOP_CHOICE = "drop the oldest frames", "stop"
SEED = "Seed"
RANDOMIZE = "New seed each run"
LENGTH = "Length in blocks"
AS_PATH = "As long as the path"

PRESET = "Codec"
CLUSTERS = "Clusters"
CLUSTERS_INFO = "centroids a stage, 1 to 256"
GROUP = "Group"
GROUP_INFO = "channels sharing a scale"
STAGES = "Stages"
STAGES_INFO = "residual codebooks"
ITERATIONS = "Iterations"
ITERATIONS_INFO = "k-means rounds"
EVERY = "Span"
EVERY_INFO = "blocks"
SINK = "Sink"
SINK_INFO = "first blocks, kept BF16"
RECENT = "Recent"
RECENT_INFO = "newest blocks, kept BF16"
WINDOW = "Window"
WINDOW_INFO = "blocks seen; 0 = all"
ON_CARD = "On the card"
ON_CARD_INFO = "MiB, older waits in RAM; 0 = all"
ATTENTION_BITS = "Attention bits"
ATTENTION_BITS_INFO = "16; 8 is faster on H100 or newer"

DROP = "Settings from a file (optional)"
GENERATE = "Generate"
STOP = "Stop"

QUEUE_UP = "Add to queue"

TRY = "One click"
AGAIN = "Same again"
MORE = "Blocks"
EXTEND = "Extend along the path"
UNDO_BLOCK, REDO_BLOCK = "Undo block", "Redo block"
RETAKE = "Retake last block"
EXPORT_VIDEO, EXPORT_GIF, EXPORT_WEBP, EXPORT_JSON = "Export side by side, mp4", "GIF", "WebP", "JSON"

QUEUE = "Waiting"
UP, DOWN, REMOVE = "Earlier", "Later", "Remove from the queue"
HISTORY = "History"
NO_HISTORY = "What you make is listed here, also after a restart."
SHOW, RECALL, DELETE, SURE, MORE_HISTORY = "Show", "To the form", "Delete", "Really delete?", "Show more"

VIEW = "How the sides are shown"
VIEW_BESIDE, VIEW_WIPE, VIEW_DIFFERENCE = "Side by side", "Wipe", "Difference"
AGAINST = "Against"
GAIN = "Gain"
FRAME_BACK, FRAME_ON = "One frame back", "One frame on"
POSITION = "Position"
DIFFERENCE_ALT = "The difference of two sides"

DRIVE = "Drive."
DRIVE_KEYS = "Click here, then hold W A S D to walk and the arrow keys to turn; Esc leaves."

GAUGE_WORDS = {
    "label": "KV cache gauge",
    "would": "BF16 would hold",
    "projection": "BF16, all history",
    "block": "a block:",
}
GAUGE_PLANNED, GAUGE_NOW, GAUGE_ENDED = (
    "KV cache at the end of this run",
    "KV cache now",
    "KV cache at the end",
)
BUDGET_LINE, CARD_LINE = "budget", "room on this device"
SMALLER, FULL_PRECISION = "smaller than BF16", "full precision"
ON_HOST = "of the caches, in the host's memory"

COMPARISON = "How the sides compare"
COLUMN_SIDE, COLUMN_MEMORY, COLUMN_SMALLER = "", "KV cache", "smaller"
COLUMN_FIRST, COLUMN_ALL, COLUMN_SSIM, COLUMN_REVISIT = "first block", "all", "SSIM", "revisit"
CHART_PSNR, CHART_SSIM = "PSNR by block, dB", "SSIM by block"
REVISIT_NOTE = "Revisit: PSNR of the frames seen again from a pose, against those seen first from it."
NONE = "–"

EMPTY_SCREEN = "Your video appears here, block by block"
WAITING_SCREEN = "The first block is on its way"
DOWNLOAD = "Download mp4"

IDLE = "Ready. Describe a scene and press Generate."
SENT = "Handed to the generator."
CLOSED = "The generator takes no more videos: restart the program."
NO_FILE = "The blocks can be played here, but no file could be made of them; the log says why."
GONE = "This run is not here any more."
ONLY_AGAIN = "This run's blocks are not in memory any more: use Same again, or make a longer one."
NOT_ON_DISK = "This run could not be saved, and cannot be exported."
WRITING = "Writing the comparison."
NO_BLOCKS = "Extend by one block or more."
STILL_RUNNING = "This video is still being made: stop it first, or wait."
NO_VISITOR = "Give a visitor: a name of your own, 16 to 64 letters, digits or signs, that nobody can guess."
NOT_SERVED = "This file is not shown on the page."
ANOTHER_PROGRAMS = (
    "This run belongs to another QVG Studio that is open: delete it there, or close that one first."
)
INTERRUPTED = "The program ended before this video did. What was made until then is kept."
NO_SETTINGS = "This file holds no settings of QVG Studio: drop a video it made, or the .json beside one."
SETTINGS_TOO_LONG = "The settings in this file are longer than 1 MiB: drop a file that QVG Studio made."
UNEXPECTED = "Something went wrong on this page's side, and the log says where. What was made so far is kept."


def not_served_as(host: str) -> str:
    named = f"the name {host}" if host else "this name"
    return (
        f"This page is not served under {named}: if it should be, start the program with --allow-host "
        f"{host or 'NAME'}."
    )


def asked_by_another_site(origin: str) -> str:
    named, host = (f" ({origin})", origin.partition("://")[2]) if origin else ("", "NAME")
    return (
        f"Another web site{named} asked for this and was refused: if the page itself is seen there, start "
        f"the program with --allow-host {host}."
    )


def not_a_host(written: str) -> str:
    return f"{written!r} is not a host name: write a name such as studio.example, without a path."


def path_length(moves: int, latents: int) -> str:
    return f"{plural(moves, 'move')}, {plural(latents, 'latent frame')}."


def ends_at(kv_bytes: int, bf16_bytes: int) -> str:
    if kv_bytes >= bf16_bytes:
        return f"The cache ends at {size(kv_bytes)}, in BF16."
    return f"The cache ends at {size(kv_bytes)} instead of {size(bf16_bytes)} in BF16."


def clip_taken(frames: int, fps: int, width: int, height: int) -> str:
    return (
        f"The last {plural(frames, 'frame')} at {fps} fps, {width} x {height}. The video goes on from them."
    )


def no_prompt_change(line: str) -> str:
    return f"Other prompts: {line!r} is not `block: prompt`, such as `5: snow begins to fall`."


def no_such_block(block: int, blocks: int) -> str:
    return f"Other prompts: a prompt can change at blocks 2 to {blocks}, not at {block}."


def picture_taken(width: int, height: int) -> str:
    return f"{width} x {height} pixels. The video starts from it."


def advanced(preset: str) -> str:
    return f"Advanced: {preset} and cache policy"


def device(name: str, memory_bytes: int) -> str:
    return f"{name}, {size(memory_bytes)}"


def spoken_gauge(stored: int, bf16: int, ratio: float, smaller: str) -> str:
    return f"{size(stored)} held; BF16 would hold {size(bf16)}; {times(ratio)} {smaller}"


def video_length(frames: int, fps: int) -> str:
    """Returns frames and duration as `4,321 frames (6:00)`."""
    return f"{plural(frames, 'frame')} ({clock(frames / fps)})"


def here(on_cpu: bool) -> str:
    return "this machine" if on_cpu else "this card"


def seen(frames: int, total: int) -> str:
    """Returns the visible latent frames of history, out of `total`."""
    if frames == total:
        return f"{frames:,} latent frames"
    return f"{frames:,} of {total:,} latent frames"


def fate(drops_from: int | None, ends_after: int | None, frames: Callable[[int], int]) -> str:
    """Returns what a side gives up to stay in its budget; empty for nothing.

    `drops_from` and `ends_after` are blocks; `frames` returns the video frames after so many blocks.
    """
    if drops_from is not None:
        return f"drops frames from frame {frames(drops_from) + 1:,} on"
    if ends_after is not None:
        return f"out of memory at frame {frames(ends_after) + 1:,}"
    return ""


def budget_in_words(mib: int, fates: list[str]) -> str:
    if not fates:
        return f"Every side keeps its whole history in {size(mib << 20)}."
    return f"In {size(mib << 20)}: {'; '.join(fates)}. What is not named keeps its whole history."


def together(needs: int, memory_bytes: int, fits: bool | None) -> str:
    """Returns the memory that all sides need, with the model counted once, and whether it fits; None is
    unknown."""
    if fits is None:
        return f"All sides together need {size(needs)}."
    verdict = "fits" if fits else "does not fit: compare fewer sides, fewer blocks, or set a budget"
    return f"All sides together need {size(needs)} of {size(memory_bytes)}: {verdict}."


def lent(seconds: int) -> str:
    return f"Asks the Space for {seconds} s of GPU time."


def not_exported(reason: str) -> str:
    return f"The comparison could not be written ({reason})."


def budget_too_small(name: str, problem: str) -> str:
    return f"{name} does not fit in this memory budget: {problem}."


def budget_too_small_to_go_on(name: str) -> str:
    return (
        f"{name} cannot keep a longer video in this memory budget the way it began: "
        "raise the budget, or make a new video."
    )


def revisit(psnr: float | str) -> str:
    return f"seen again: {decibels(psnr)}"


def to_reference(psnr: float | str) -> str:
    return "equal to the first" if isinstance(psnr, str) else f"{psnr:.1f} dB to the first"


def column_span(span: tuple[float, float]) -> str:
    return f"{span[0]:g}–{span[1]:g} s"


def against(name: str, drops_from: int | None) -> str:
    """Returns the caption of a comparison. `drops_from` is the first block, from 0, of which the reference
    itself misses history; None for none."""
    sentence = f"PSNR and SSIM against {name}, of the blocks both made."
    if drops_from is not None:
        sentence += (
            f" {name} drops frames from block {drops_from + 1} on: PSNR then also tells what it forgot."
        )
    return f"{sentence} {REVISIT_NOTE}"


def taken_back(blocks: int) -> str:
    return f"The last block is taken back: {plural(blocks, 'block')} left. Redo puts it back."


def put_back(blocks: int) -> str:
    return f"The block is back: {plural(blocks, 'block')}."


def remaking(block: int, blocks: int) -> str:
    return f"Making the beginning again to go on from it: block {block + 1} of {blocks}"


def kept(count: int) -> str:
    waits = f"{size(count)} wait in memory for Extend, the cache and its working space"
    return f"{waits}, until the next run or for ten minutes."


def queued(place: int) -> str:
    if place <= 1:
        return "Waiting for the device: you are next."
    return f"Waiting for the device: number {place} in the queue."


def progress(block: int, blocks: int, step: int, steps: int, side: str, left_s: float | None) -> str:
    sentence = f"Block {block + 1} of {blocks}, step {step + 1} of {steps}"
    if side:
        sentence += f", {side}"
    return sentence if left_s is None else f"{sentence}, {left(left_s)}"


def part_of(some: str, all_of_it: str) -> str:
    return f"{some} of {all_of_it}"


def part(title: str, repo: str, size: str, purpose: str) -> str:
    return f"{title}: {repo}, {size}. {purpose}"


def checking(file: str) -> str:
    return f"checking {file}"


def freed(size: str) -> str:
    return f"{size} freed."


def done(frames: int, fps: int, seconds: float, peak_bytes: int, ratio: float) -> str:
    sentence = f"Done: {plural(frames, 'frame')}, {frames / fps:.1f} s of video, made in {seconds:.1f} s."
    smaller = f" KV cache {times(ratio)} smaller than BF16." if ratio > 1.05 else ""
    peak = f" Peak memory {size(peak_bytes)}." if peak_bytes else ""
    return sentence + smaller + peak


def stopped(frames: int, fps: int, freed_bytes: int, memory_bytes: int) -> str:
    freed = f" {size(freed_bytes)} of cache freed" if freed_bytes else ""
    if freed and memory_bytes:
        freed += f"; {size(memory_bytes)} in use now"
    freed += "." if freed else ""
    if not frames:
        return f"Stopped before the first block was finished.{freed}"
    return f"Stopped: {plural(frames, 'frame')}, {frames / fps:.1f} s of video, kept.{freed}"


def side_in_short(name: str, ratio: float, psnr: float | str | None, revisit_psnr: float | str | None) -> str:
    parts = [name]
    if ratio > 1.05:
        parts.append(times(ratio))
    if psnr is not None:
        parts.append(decibels(psnr))
    if revisit_psnr is not None:
        parts.append(revisit(revisit_psnr))
    return ", ".join(parts)


def from_the_past(created: str, frames: int, fps: int) -> str:
    when = created.replace("T", ", ")
    return f"Made on {when}: {plural(frames, 'frame')}, {frames / max(fps, 1):.1f} s of video."


def not_deleted(reason: str) -> str:
    return f"This run could not be deleted ({reason})."


def not_saved(reason: str) -> str:
    return f"The video could not be saved ({reason}). Play or download it before you leave this page."


def kept_for(hours: float, gib: float) -> str:
    """Returns how long a public page keeps videos, by age and by total size; 0 is no limit."""
    if not hours:
        return f"The oldest videos are deleted when all of them take more than {gib:g} GiB."
    sooner = f", the oldest sooner when all of them take more than {gib:g} GiB" if gib else ""
    return f"Videos are deleted after {hours:g} hour{'' if hours == 1 else 's'}{sooner}."


def nearly_full(free_bytes: int) -> str:
    return f"Only {size(free_bytes)} are free where videos are kept: delete some before the disk is full."


def enough_runs(most: int) -> str:
    return (
        f"You have {plural(most, 'video')} running or waiting, as many as one visitor may: "
        "wait for one to end, or stop one."
    )


def enough_runs_here(most: int) -> str:
    return (
        f"{plural(most, 'video')} of your network address are running or waiting, as many as may be: "
        "wait for one to end, or stop one."
    )


def queue_is_full(count: int) -> str:
    return f"The queue is full: {plural(count, 'video')} are running or waiting. Try again in a few minutes."


def no_room() -> str:
    return "the disk is full"
