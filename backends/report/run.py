"""The report generator: every pair of prompt and codec that is missing, then the pages."""

from __future__ import annotations

import datetime
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backends.base import Backend, BackendSpec
from backends.bench import Case
from backends.memory_plan import cache_after, plan
from backends.report import page, plots, quality, sheet, video_file
from backends.report.folder import Folder, part_of, whole
from backends.report.measured_video import DID_NOT_FIT, WHOLE, described, make, not_made, warm
from backends.report.tasks import Length, Task, request
from backends.runtime import hardware
from backends.sizes import memory_size
from qvg import BF16
from qvg.bench.measure import describe

Row = dict[str, Any]
SCHEMA = 1
PACKAGES = ("torch", "triton", "diffusers", "transformers", "gradio", "av")


@dataclass(frozen=True, slots=True)
class Work:
    """The contents of a report: what to generate, and how."""

    spec: BackendSpec
    cases: Mapping[str, Case]  # by preset, BF16 first
    tasks: tuple[Task, ...]
    length: Length
    device: torch.device
    weights: str


def settings(work: Work) -> Row:
    """Returns the settings that must be equal for a report to be resumed."""
    about = describe(work.device, None)
    return {
        "kind": "qvg-studio report",
        "backend": work.spec.id,
        "weights": work.weights,
        "codecs": list(work.cases),
        "policy": {name: asdict(case.policy) for name, case in work.cases.items()},
        "mode": work.length.mode,
        "options": dict(work.length.options),
        "blocks": work.length.blocks,
        "tasks": [task.described() for task in work.tasks],
        "device": about["card"],
        "torch": about["torch"],
        "program": about["commit"],
    }


class Report:
    """A report being generated in `folder`."""

    def __init__(
        self,
        work: Work,
        backend: Backend,
        folder: Folder,
        arguments: Sequence[str],
        on_status: Callable[[str], None],
    ) -> None:
        self._work, self._backend, self._folder, self._on_status = work, backend, folder, on_status
        self._command = shlex.join(["python", "-m", "backends.report", *arguments])
        self._started = datetime.datetime.now().isoformat(timespec="seconds")
        self._perceptual, self._no_lpips = quality.find_lpips(work.device)
        self._settings = settings(work)
        self._warmed: set[str] = set()

    def make(self) -> None:
        """Generates what is missing. Raises OSError if it cannot be written, ValueError for a bad request."""
        for note in (self._no_lpips, *self._nothing_encoded()):
            if note:
                self._on_status(note)
        for task in range(len(self._work.tasks)):
            self._make_task(task)
            self.write()

    def _make_task(self, task: int) -> None:
        work, folder = self._work, self._folder
        missing = [codec for codec in work.cases if folder.finished(task, codec) is None]
        first = next(iter(work.cases))
        reference = folder.pair(task, first, "frames")
        if missing and not reference.exists() and first not in missing and self._row(task, first)["frames"]:
            missing.insert(0, first)  # the other codecs are compared with its frames
        for codec in missing:
            row = self._make_pair(task, codec, reference)
            self._on_status(f"Prompt {task + 1} of {len(work.tasks)}, {codec}: {described(row)}")
        videos = self._sides(task)
        names = work.spec.fps, self._settings | {"prompt": task + 1}
        if len(videos) > 1 and (
            missing or not (folder.path / folder.names[task] / "side-by-side.mp4").exists()
        ):
            place = folder.path / folder.names[task]
            whole(place / "side-by-side.mp4", lambda part: sheet.side_by_side(videos, part, *names))
        if videos:
            place = folder.path / folder.names[task]
            frames = max(row["frames"] for row in self._rows(task))
            whole(
                place / "contact-sheet.jpg", lambda part: sheet.contact_sheet(videos, part, frames, names[0])
            )
        reference.unlink(missing_ok=True)

    def _make_pair(self, task: int, codec: str, reference: Path) -> Row:
        """Generates and measures a video; its JSON is written last."""
        work, folder = self._work, self._folder
        case, spec = work.cases[codec], work.spec
        wanted = request(work.tasks[task], spec, work.length)
        raw = folder.pair(task, codec, "frames")
        part = part_of(raw)
        if codec not in self._warmed:
            warm(self._backend, case, work.device)
            self._warmed.add(codec)
        size = (0, 0)
        try:
            with part.open("wb") as sink:

                def keep(frames: np.ndarray) -> None:
                    nonlocal size
                    size = frames.shape[1:3]
                    sink.write(np.ascontiguousarray(frames).data)

                row = self._too_large(case) or make(self._backend, case, wanted, work.device, keep)
            row = {"task": task, "codec": codec, "fps": spec.fps, "video": None, "quality": None, **row}
            if row["frames"]:
                row["height"], row["width"] = size
                frames = _frames(part, row)
                video = folder.pair(task, codec, "mp4")
                kept = self._settings | {"task": task, "codec": codec, "command": self._command}
                whole(video, lambda name: video_file.write(name, frames, spec.fps, kept))
                row["video"] = str(video.relative_to(folder.path))
                if raw != reference and reference.exists():
                    row["quality"] = self._compare(frames, row, task, reference)
                del frames
            if raw == reference:
                part.replace(raw)
        finally:
            part.unlink(missing_ok=True)
        folder.write_json(str(folder.pair(task, codec, "json").relative_to(folder.path)), row)
        return row

    def _compare(self, frames: np.ndarray, row: Row, task: int, reference: Path) -> Any:
        exact = self._row(task, next(iter(self._work.cases)))
        if not exact["frames"] or (exact["height"], exact["width"]) != (row["height"], row["width"]):
            return None
        theirs = _frames(reference, exact)
        return quality.compare(frames, theirs, row["frames_by_block"], row["fps"], self._perceptual)

    def _too_large(self, case: Case) -> Row | None:
        """Returns the row of a run too large for this machine: without a GPU, it would be killed."""
        if self._work.device.type != "cpu":
            return None
        spec, blocks = self._work.spec, self._work.length.blocks
        planned = plan(spec, case.codec, case.policy, blocks, hardware.inspect(self._work.device))
        return None if planned.fits else not_made(planned.sentence, self._work.device)

    def _nothing_encoded(self) -> Iterator[str]:
        """Yields a note on each codec for which these videos are too short."""
        spec, blocks = self._work.spec, self._work.length.blocks
        for name, case in self._work.cases.items():
            stored, dense = cache_after(spec, case.codec, case.policy, blocks)
            if case.codec != BF16 and stored >= dense:
                needed = case.policy.sink + case.policy.every + case.policy.recent
                yield (
                    f"{name} encodes nothing in {blocks} blocks, so these videos are BF16's: it begins after "
                    f"{needed}. Make them longer with --blocks."
                )

    def _row(self, task: int, codec: str) -> Row:
        return self._folder.finished(task, codec) or {"frames": 0}

    def _rows(self, task: int) -> list[Row]:
        return [row for codec in self._work.cases if (row := self._folder.finished(task, codec)) is not None]

    def _sides(self, task: int) -> list[sheet.Side]:
        sides = []
        for row in self._rows(task):
            if row["video"] is None:
                continue
            notes = [f"KV cache {memory_size(row['kv_bytes'][-1])}"]
            notes += [f"{row['ratio']:.1f}x smaller"] if row["ratio"] > 1.005 else []
            if row["state"] != WHOLE:
                notes.append(f"ends at frame {row['frames']}: {row['state']}")
            sides.append(sheet.Side(self._folder.path / row["video"], row["codec"], ", ".join(notes)))
        return sides

    def write(self) -> None:
        """Writes report.json, the plots and report.html from the finished pairs."""
        pairs = [row for task in range(len(self._work.tasks)) for row in self._rows(task)]
        no_plots = plots.draw(self._folder.path, pairs, list(self._work.cases)) if pairs else ""
        value = {
            "schema": SCHEMA,
            "complete": len(pairs) == len(self._work.tasks) * len(self._work.cases),
            "settings": self._settings,
            "title": self._work.spec.title,
            "folders": list(self._folder.names),
            "made": {
                "command": self._command,
                "started": self._started,
                "machine": about_machine(self._work.device),
                "versions": versions(),
            },
            "windows": dict(quality.WINDOWS),
            "lpips": self._no_lpips or None,
            "plots": no_plots or None,
            "notes": list(self._nothing_encoded()),
            "codecs": [
                summary([row for row in pairs if row["codec"] == codec], codec) for codec in self._work.cases
            ],
            "pairs": pairs,
        }
        self._folder.write_json("report.json", value)
        html = page.render(value, self._folder.path)
        whole(self._folder.path / "report.html", lambda part: part.write_text(html, encoding="utf-8"))


def summary(rows: Sequence[Row], codec: str) -> Row:
    """Returns a codec's row over all prompts."""
    made = [row for row in rows if row["frames"]]
    compared = [row for row in made if row["quality"]]
    names = dict.fromkeys(name for row in made for name in row["ms"])
    last = max(made, key=lambda row: row["kv_bytes"][-1], default=None)
    seconds = sum(row["ms"]["block"] * row["blocks"] for row in made) / 1e3
    windows = {}
    for name in quality.WINDOWS:
        parts = []
        for row in compared:
            parts.append(
                (row["quality"], quality.spans(row["quality"], row["frames_by_block"], row["fps"])[name])
            )
        windows[name] = quality.figures(parts)
    return {
        "codec": codec,
        "pairs": len(rows),
        "fits": all(row["state"] != DID_NOT_FIT for row in rows),
        "kv_bytes": last["kv_bytes"][-1] if last else None,
        "bf16_bytes": last["bf16_bytes"][-1] if last else None,
        "ratio": last["ratio"] if last else None,
        "peak_device_bytes": max((row["peak_device_bytes"] or 0 for row in made), default=0) or None,
        "peak_process_bytes": max((row["peak_process_bytes"] for row in made), default=0) or None,
        "ms": {name: round(float(np.mean([row["ms"].get(name, 0.0) for row in made])), 1) for name in names},
        "frames_per_second": round(sum(row["frames"] for row in made) / seconds, 2) if seconds else None,
        "quality": windows if compared else None,
    }


def about_machine(device: torch.device) -> Row:
    """Returns the device, its driver, and what was chosen for it."""
    return {**asdict(hardware.inspect(device)), "driver": _driver() if device.type == "cuda" else None}


def versions() -> Row:
    """Returns the versions of the libraries that compute and draw; None if not installed."""
    found: Row = {}
    for name in PACKAGES:
        found[name] = None
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found | ({"CUDA": torch.version.cuda} if torch.version.cuda else {})


def _driver() -> str | None:
    """Returns the NVIDIA driver's version, which torch does not expose."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        lines = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split(
            "\n"
        )
        return lines[0].strip() or None
    return None


def _frames(path: Path, row: Row) -> np.ndarray:
    """Returns the frames in a file, uint8 [T, H, W, 3], memory-mapped."""
    return np.memmap(path, np.uint8, "r", shape=(row["frames"], row["height"], row["width"], 3))
