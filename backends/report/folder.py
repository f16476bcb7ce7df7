"""The folder of a report: its finished parts, and atomic writing of others.

A file is written under another name and renamed once complete, the JSON of a pair last: after an interruption
every file is either complete or generated again.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

KIND = "qvg-studio report"
SETTINGS = "settings.json"
_PART = ".part"
_OWN_FILES = (SETTINGS, "report.json", "report.html")
PLOTS = "plots"


class Refused(ValueError):
    """Raised if the folder cannot take this report; the message is a sentence."""


class Folder:
    """The folder of a report. `names` are the folders of its prompts."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self.path = path
        self.names = tuple(names)

    def claim(self, settings: Mapping[str, Any], fresh: bool) -> None:
        """Claims the folder for this report. Raises OSError, and Refused if it contains something else."""
        found = self._settings()
        if found is None and self.path.is_dir() and any(self.path.iterdir()):
            raise Refused(f"{self.path} is not empty and holds no report: choose another folder with --out.")
        if found is not None and fresh:
            self._clear(found)
            found = None
        settings = json.loads(json.dumps(settings))  # as it will be read back
        if found is not None and (differ := _differing(found, settings)):
            raise Refused(
                f"{self.path} holds a report with other settings ({', '.join(differ)}): choose another "
                "folder with --out, or make it again with --fresh."
            )
        for name in self.names:
            (self.path / name).mkdir(parents=True, exist_ok=True)
        self.write_json(SETTINGS, {**settings, "folders": list(self.names)})
        for name in self.names:
            for left in (self.path / name).glob(f"*{_PART}"):
                left.unlink()

    def _settings(self) -> dict[str, Any] | None:
        """Returns the settings of the report that is here."""
        found = self.read_json(SETTINGS)
        return found if found is not None and found.get("kind") == KIND else None

    def _clear(self, settings: Mapping[str, Any]) -> None:
        """Deletes the files that reports write, and nothing else."""
        for name in [*settings.get("folders", ()), PLOTS]:
            # Only names that a report gives: a crafted name must not lead out of the folder.
            if re.fullmatch(r"\d\d+(-[a-z0-9]+)*|" + PLOTS, name) and (self.path / name).is_dir():
                shutil.rmtree(self.path / name)
        for name in _OWN_FILES:
            (self.path / name).unlink(missing_ok=True)

    def pair(self, task: int, codec: str, kind: str) -> Path:
        """Returns the path of a file of a prompt and a codec."""
        return self.path / self.names[task] / f"{slug(codec)}.{kind}"

    def finished(self, task: int, codec: str) -> dict[str, Any] | None:
        """Returns the row of a pair; None if it or its video is missing."""
        file = self.pair(task, codec, "json")
        row = self.read_json(str(file.relative_to(self.path)))
        if row is None or (row.get("video") and not (self.path / row["video"]).is_file()):
            return None
        return row

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Returns an object of the folder; None if it is missing or unreadable."""
        with suppress(OSError, ValueError):
            found = json.loads((self.path / name).read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else None
        return None

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        text = json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False)
        whole(self.path / name, lambda part: part.write_text(text + "\n", encoding="utf-8"))


def slug(codec: str) -> str:
    """Returns a codec's name as part of a file name: `qvg-plus-int2`."""
    return codec.lower().replace(" ", "-")


def whole(path: Path, write: Callable[[Path], object]) -> None:
    """Calls `write` with a temporary path, and renames the file once it is complete."""
    part = part_of(path)
    try:
        write(part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def part_of(path: Path) -> Path:
    """Returns the name of an incomplete file."""
    return path.with_name(path.name + _PART)


def _differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    return [name for name in wanted if found.get(name) != wanted[name]]
