"""Past runs as their folders describe them: to show, to repeat, to submit again."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from backends import registry
from backends.base import BackendSpec
from backends.runtime.hardware import DeviceInfo
from backends.validation import MAX_SEED
from qvg.config import PRESETS
from ui import safe_json, text
from ui.form.run_spec import RunSpec, parse
from ui.form.values import Form, FormError
from ui.runs import compare_view, mp4, panels, player_view, status_view
from ui.runs.folder import CLIP, PICTURE, THUMBNAIL
from ui.runs.presenter import View
from ui.runs.side import Figures

# Keys of run.json that identify a run and its owner on this machine.
_OWN = ("id", "owner", "order", "state")
_COUNTS = ("blocks", "frames", "fps", "peak_bytes")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Past:
    """A past run: its folder and the contents of its run.json."""

    folder: Path
    settings: Mapping[str, Any]

    @property
    def id(self) -> str:
        return str(self.settings.get("id", ""))

    @property
    def owner(self) -> str:
        return str(self.settings.get("owner", ""))

    @property
    def state(self) -> str:
        return str(self.settings.get("state", ""))

    @property
    def order(self) -> float:
        order = self.settings.get("order")
        return float(order) if isinstance(order, (int, float)) else 0.0

    @property
    def made(self) -> Mapping[str, Any]:
        """Returns the results in run.json, without numbers of the wrong type."""
        made = self.settings.get("made")
        if not isinstance(made, dict):
            return {}
        counts = {name: safe_json.whole(made.get(name)) for name in _COUNTS if name in made}
        seconds = {"seconds": 0.0} if not safe_json.fits(made.get("seconds"), float) else {}
        return {**made, **counts, **seconds}

    @property
    def videos(self) -> list[Path]:
        """Returns the videos, one for each side, in their order."""
        found = [file for file in self.folder.glob("*.mp4") if not file.name.startswith((".", "segment-"))]
        # The metadata of a video names its side.
        return sorted(found, key=_side_of) if len(found) > 1 else found

    @property
    def thumbnail(self) -> Path | None:
        file = self.folder / THUMBNAIL
        return file if file.exists() else None

    @property
    def sides(self) -> list[Figures]:
        """Returns the measurements of all sides; empty if run.json lacks any of them."""
        sides, known = self.made.get("sides"), _figures()
        if not isinstance(sides, list) or not sides:
            return []
        whole = all(
            isinstance(side, dict)
            and all(name in side and safe_json.fits(side[name], hint) for name, hint in known.items())
            and side["codec"] in PRESETS
            for side in sides
        )
        return sides if whole else []

    def run_spec(self) -> RunSpec:
        """Returns the run, to repeat it. Raises FormError, PictureError or ClipError where that is
        impossible."""
        picture, clip = (
            str(file) if file.exists() else None for file in (self.folder / PICTURE, self.folder / CLIP)
        )
        return recalled(self.settings, picture, clip)

    def view(self, device: DeviceInfo | None) -> View:
        """Returns the values that show the run on the page."""
        spec, sides, fps = spec_of(self.settings), self.sides, int(self.made.get("fps") or 1)
        name = spec.title if spec else ""
        failed = str(self.made.get("failed") or "")
        summary = text.from_the_past(
            str(self.settings.get("created", "")), int(self.made.get("frames") or 0), fps
        )
        line = status_view.line(
            failed or summary, "error" if failed else "done", 1.0, (summary,) if failed else ()
        )
        screen = player_view.nothing(*((spec.width, spec.height) if spec else (16, 9)))
        screen["run"], screen["fps"], screen["ended"] = f"past-{self.id}-{len(self.videos)}", fps, True
        for number, file in enumerate(self.videos):
            stamp = int(file.stat().st_mtime)
            track = _track(sides, number, spec, file) if number < len(sides) else None
            track = track or player_view.track(name, "", "", 0.0, file.stem)
            track["ended"], track["final"] = True, f"{player_view.address(file)}?v={stamp}"
            screen["tracks"].append(track)
        return View(line, screen, self._panels(device))

    def _panels(self, device: DeviceInfo | None) -> dict[str, Mapping[str, Any]]:
        sides, made = self.sides, self.made
        run = panels.Measured(None, sides, int(made.get("fps") or 1), device, ended=True)
        if sides:
            try:
                pace = float(made["frames"]) * len(sides) / max(float(made["seconds"]), 1e-6)
                peak = int(made["peak_bytes"])
                return panels.values(run._replace(run_spec=self.run_spec(), pace=pace, peak_bytes=peak))
            except (LookupError, TypeError, ValueError):
                _log.info("%s has figures of another version", self.folder, exc_info=True)
        return panels.values(run)


@cache
def _figures() -> dict[str, Any]:
    """Returns the types of a side's measurements, by name."""
    return get_type_hints(Figures)


def _track(sides: list[Figures], number: int, spec: BackendSpec | None, file: Path) -> player_view.Track:
    side = sides[number]
    fate = text.fate(side["drops_from"], side["ends_after"], spec.video_frames) if spec else ""
    note = compare_view.caption(side, fate, len(sides) > 1)
    seconds = side["frames"] / spec.fps if spec else 0.0
    return player_view.track(side["codec"], note, compare_view.headline(side), seconds, file.stem)


def for_others(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings in run.json without those that identify the run and its owner, for files that may
    be shared."""
    return {name: value for name, value in settings.items() if name not in _OWN}


def spec_of(settings: Mapping[str, Any]) -> BackendSpec | None:
    """Returns the model that a file's settings name; None for an unknown one."""
    try:
        return registry.find(str(settings.get("model")))
    except registry.UnknownBackend:
        return None


def form_of(
    settings: Mapping[str, Any], picture: str | None = None, clip: str | None = None
) -> tuple[BackendSpec, Form]:
    """Returns the model and the form that a file's settings describe. Raises FormError without both."""
    spec, values = spec_of(settings), settings.get("form")
    if spec is None or not isinstance(values, dict):
        raise FormError(text.NO_SETTINGS)
    form = Form.recalled(values, spec, picture, clip)
    walked = settings.get("walked")
    if settings.get("steered") and isinstance(walked, str):
        form = replace(form, path=walked, as_path=False)
    return spec, form


def recalled(settings: Mapping[str, Any], picture: str | None = None, clip: str | None = None) -> RunSpec:
    """Returns the run that a file's settings describe, with the noise of its retakes.

    Raises FormError, PictureError or ClipError.
    """
    spec, form = form_of(settings, picture, clip)
    run_spec = parse(form, spec)
    reseeds = settings.get("reseeds")
    if not isinstance(reseeds, list):
        return run_spec
    if not all(
        safe_json.fits(each, list[int]) and len(each) == 2 and 0 <= each[1] <= MAX_SEED for each in reseeds
    ):
        raise FormError(text.NO_SETTINGS)
    pairs = tuple((block, seed) for block, seed in reseeds)
    return replace(run_spec, request=replace(run_spec.request, reseeds=pairs))


def _side_of(video: Path) -> int:
    """Returns the number of the side that a video's metadata names; 0 if it names none."""
    with contextlib.suppress(OSError, ValueError):
        side = mp4.read_settings(video).get("side")
        return side if isinstance(side, int) else 0
    return 0


def read_settings(file: Path) -> dict[str, Any]:
    """Returns the settings stored in a dropped file, a video or a JSON of this program. Raises FormError with
    a sentence."""
    try:
        found = safe_json.read(file) if file.suffix.lower() == ".json" else mp4.read_settings(file)
    except safe_json.TooLong:
        raise FormError(text.SETTINGS_TOO_LONG) from None
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("form"), dict):
        raise FormError(text.NO_SETTINGS)
    return found
