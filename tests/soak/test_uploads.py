"""Files from strangers: what they are by content, how large, and that no name leads out of the folder."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from PIL import Image

from backends import registry
from tests.soak.conftest import FULL, Tell
from tests.ui.fake_worker import FakeWorker
from ui.form import clips, pictures
from ui.form.clips import ClipError
from ui.form.pictures import PictureError
from ui.page import build
from ui.runs import history, mp4

LONGCAT = registry.find("longcat")
NAMES = [
    "../../up.png", "..\\..\\up.png", "/etc/passwd", "C:\\up.png", "a/../../../b.png", "%2e%2e%2fup.png",
    ".png", "-rf.png", "a\x00b.png", "红盒子.png", "صندوق.png", "ящик.png", "😀.png", "e\u0301.png",
    "\u202egnp.exe",
    "a" * 300 + ".png", "con.png", "a b.png", "a\nb.png", "<script>.png", "up.png/..", "...", " ",
    "$(id).png",
]  # fmt: skip


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """Of a claimed size, whatever is in it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


GOOD = saved(Image.new("RGB", (64, 40), "red"), "PNG")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "temporary"))
        page = build(FakeWorker(block_seconds=0.0), folder / "outputs")
        _, address, _ = page.launch(
            prevent_thread_lock=True, quiet=True, server_port=None, max_file_size="1mb"
        )
        yield address, folder
        page.close()


def test_no_name_leads_out_of_the_folder(address, tell: Tell):
    url, folder = address
    tried = 0
    with httpx.Client(base_url=url, timeout=60) as client:
        for name in NAMES:
            answer = client.post("gradio_api/upload", files={"files": (name, GOOD, "image/png")})
            tried += 1
            assert answer.status_code < 500, (name, answer.text)
            if answer.status_code == 200:
                (path,) = answer.json()
                assert (folder / "temporary") in Path(path).resolve().parents, path
                served = client.get(f"gradio_api/file={path}")
                assert served.status_code in (400, 403, 404) or served.content == GOOD
    everything = [path for path in folder.rglob("*") if path.is_file()]
    assert all((folder / "temporary") in path.resolve().parents for path in everything)
    tell("uploads, names", cases=tried, outside=0)


def test_a_file_too_large_is_refused(address):
    url, folder = address
    before = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    answer = httpx.post(f"{url}gradio_api/upload", files={"files": ("a.png", b"\0" * (3 << 20))}, timeout=60)
    assert answer.status_code == 413
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < before + (2 << 20)


def test_only_uploads_are_read_and_only_outputs_are_served(address, tmp_path: Path):
    """Neither by a path in a request, nor through a link, nor by climbing out."""
    url, folder = address
    secret = tmp_path / "secret.png"
    secret.write_bytes(GOOD)
    (folder / "outputs").mkdir(exist_ok=True)
    link = folder / "outputs" / "link.png"
    link.symlink_to(secret)
    with httpx.Client(base_url=url, timeout=60) as client:
        for path in (
            "/etc/passwd", secret, f"{folder}/outputs/../../{tmp_path.name}/secret.png",
            "../../../etc/passwd",
            f"{folder}/temporary/../../../../etc/passwd", "file:///etc/passwd", "app.py", f"{folder}/outputs",
            "//etc/passwd", "%2fetc%2fpasswd", link,
        ):  # fmt: skip
            answer = client.get(f"gradio_api/file={path}")
            assert answer.status_code in (400, 403, 404), (path, answer.status_code)
            # As the picture of a run.
            file = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
            data = ["pocket", "instant", "BF16", 1, 0, "", file]
            called = client.post("gradio_api/call/generate", json={"data": data})
            if called.status_code == 200:
                event = called.json()["event_id"]
                with client.stream("GET", f"gradio_api/call/generate/{event}") as stream:
                    said = "".join(stream.iter_lines())
                assert "event: error" in said, (path, said)
                assert "root:" not in said


BAD_PICTURES: dict[str, tuple[bytes, str]] = {
    "bomb of one colour": (png(20_000, 20_000, zlib.compress(bytes(60_001) * 100, 9)), "megapixels"),
    "a claim of 4 gigapixels": (png(65_535, 65_535), "megapixels"),
    "a claim of nothing": (png(0, 0), "picture"),
    "text": (b"hello", "not a picture"),
    "empty": (b"", "empty"),
    "an mp4": (mp4.encode_segment(np.zeros((1, 32, 32, 3), np.uint8), 8).data, "not a picture"),
    # Pillow would start Ghostscript.
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n", "not a picture"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"/>', "not a picture"),
    "a compressed text of gigabytes": (
        GOOD[:33]
        + struct.pack(">I", 20_000 + 5)
        + b"zTXta\0\0"
        + zlib.compress(bytes(20_000_000), 9)[:20_000].ljust(20_000, b"\0")
        + b"\0" * 6
        + GOOD[33:],
        "",
    ),
}


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_pictures_that_are_none(tmp_path: Path, name: str):
    content, words = BAD_PICTURES[name]
    file = tmp_path / "a.png"
    file.write_bytes(content)
    with pytest.raises(PictureError, match=words):
        pictures.read_picture(file)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation(tmp_path: Path, orientation: int):
    """What is at the top left for the viewer is at the top left for the model."""
    pixels = np.zeros((40, 64, 3), np.uint8)
    pixels[:8, :8] = 255
    turned = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, 1), 7: pixels[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(pixels, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turned)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(pictures.read_picture(tmp_path / "a.png"), pixels)


def test_pictures_with_any_bytes_changed(tmp_path: Path, tell: Tell):
    dice, tried = random.Random(0), 0
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 64, 3), np.uint8))
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        whole = saved(image, kind)
        for _ in range(200 if FULL else 10):
            damaged = bytearray(whole)
            for _ in range(dice.randrange(1, 12)):
                damaged[dice.randrange(len(damaged))] = dice.randrange(256)
            (tmp_path / "a").write_bytes(
                bytes(damaged[: dice.choice([len(whole), dice.randrange(len(whole))])])
            )
            tried += 1
            try:
                pixels = pictures.read_picture(tmp_path / "a")
            except PictureError:
                continue
            assert pixels.ndim == 3 and max(pixels.shape) <= pictures.KEPT_SIDE
    tell("uploads, damaged pictures", cases=tried, tracebacks=0)


def video(file: Path, width: int = 64, height: int = 48, frames: int = 30, codec: str = "libx264") -> Path:
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=15)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.zeros((height, width, 3), np.uint8))
        for _ in range(frames):
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return file


def test_clips_with_any_bytes_changed(tmp_path: Path, tell: Tell):
    dice, tried = random.Random(0), 0
    for suffix, codec in (("mp4", "libx264"), ("webm", "libvpx"), ("mkv", "mpeg4"), ("avi", "mpeg4")):
        whole = video(tmp_path / f"whole.{suffix}", codec=codec).read_bytes()
        for _ in range(100 if FULL else 6):
            damaged = bytearray(whole)
            for _ in range(dice.randrange(1, 30)):
                damaged[dice.randrange(len(damaged))] = dice.randrange(256)
            file = tmp_path / f"a.{suffix}"
            file.write_bytes(bytes(damaged[: dice.choice([len(whole), dice.randrange(len(whole))])]))
            tried += 1
            try:
                assert len(clips.read_clip(file, LONGCAT)) <= clips.KEPT_FRAMES
            except ClipError:
                continue
    tell("uploads, damaged clips", cases=tried, tracebacks=0)


def test_a_playlist_opens_no_other_file(tmp_path: Path):
    """FFmpeg would follow it, whatever the upload is called."""
    other = video(tmp_path / "other.mp4")
    mp4.join(
        [mp4.encode_segment(np.zeros((1, 32, 32, 3), np.uint8), 8).data],
        tmp_path / "own.mp4",
        8,
        {"form": {}},
    )
    lists = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{other.as_uri()}\n#EXT-X-ENDLIST\n",
        "concat": "ffconcat version 1.0\nfile other.mp4\n",
        "dash": f'<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011">{other}</MPD>',
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    }
    for content in lists.values():
        for name in ("a.mp4", "a.m3u8", "a.txt"):
            (tmp_path / name).write_text(content)
            with pytest.raises(ClipError, match="not a video that can be read here"):
                clips.read_clip(tmp_path / name, LONGCAT)
            with pytest.raises(ValueError, match="holds no settings"):
                history.read_settings(tmp_path / name)
    # A name that FFmpeg would take for a pattern of many.
    (tmp_path / "a%03d.png").write_bytes(GOOD)
    with pytest.raises(ClipError):
        clips.read_clip(tmp_path / "a%03d.png", LONGCAT)


def test_a_clip_of_gigantic_frames_is_refused_before_they_are_decoded(tmp_path: Path, monkeypatch):
    file = video(tmp_path / "a.mp4", 256, 128, frames=4)
    monkeypatch.setattr(clips, "_MOST_PIXELS", 128 * 128)
    with pytest.raises(ClipError, match="megapixels a frame: scale it down"):
        clips.read_clip(file, LONGCAT)
    monkeypatch.undo()
    monkeypatch.setattr(clips, "_MOST_IN_ALL", 3 * 256 * 128)
    with pytest.raises(ClipError, match="more than 3 frames of this size"):
        clips.read_clip(file, LONGCAT)
