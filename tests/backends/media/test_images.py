"""Pictures are read as a viewer shows them, whatever wrote them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from backends.media import images
from backends.media.images import PictureError

WIDTH, HEIGHT = 64, 40


def read(path: Path) -> np.ndarray:
    return images.read_picture(path, min_side=16)


def pixel(path: Path, x: int = 10, y: int = 10) -> tuple[int, ...]:
    return tuple(int(value) for value in read(path)[y, x])


def halves() -> Image.Image:
    """Left red, right blue."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:, : WIDTH // 2, 0] = pixels[:, WIDTH // 2 :, 2] = 255
    return Image.fromarray(pixels)


def png(depth: int, kind: int, row: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress((b"\0" + row) * HEIGHT))
    return (
        b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*each) for each in chunks) + body + chunk(b"IEND", b"")
    )


def tiff(data: bytes, bits: int, *others: tuple[int, int, int, bytes], white_is_zero: bool = False) -> bytes:
    """Uncompressed gray, with other entries as (tag, type, count, four bytes)."""

    def number(value: int) -> bytes:
        return struct.pack("<I", value)

    entries = [
        (256, 4, 1, number(WIDTH)), (257, 4, 1, number(HEIGHT)), (258, 3, 1, number(bits)),
        (259, 3, 1, number(1)), (262, 3, 1, number(0 if white_is_zero else 1)), (273, 4, 1, b"data"),
        (277, 3, 1, number(1)), (278, 4, 1, number(HEIGHT)), (279, 4, 1, number(len(data))), *others,
    ]  # fmt: skip
    start = 8 + 2 + 12 * len(entries) + 4
    body = b"".join(
        struct.pack("<HHI", tag, kind, count) + (number(start) if value == b"data" else value)
        for tag, kind, count, value in sorted(entries)
    )
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4) + data


ALL = WIDTH * HEIGHT
SIGNED = (339, 3, 1, struct.pack("<I", 2))
DEEP = {
    "png of 16 bits": (png(16, 0, struct.pack(">H", 30_000) * WIDTH), 117),
    "png of 16 bits with alpha": (png(16, 4, struct.pack(">HH", 30_000, 65_535) * WIDTH), 117),
    "png of 16 bits in color": (png(16, 2, struct.pack(">3H", 0x7500, 0x7500, 0x7500) * WIDTH), 117),
    "png of 1 bit": (png(1, 0, b"\xff" * (WIDTH // 8)), 255),
    "png of 2 bits": (png(2, 0, b"\xaa" * (WIDTH // 4)), 170),
    "tiff of 8 bits, white is zero": (tiff(bytes([50]) * ALL, 8, white_is_zero=True), 205),
    "tiff of 12 bits": (tiff(b"\x80\x08\x00" * (ALL // 2), 12), 128),
    "tiff of 16 bits": (tiff(struct.pack("<H", 30_000) * ALL, 16), 117),
    "tiff of 16 bits, white is zero": (tiff(struct.pack("<H", 30_000) * ALL, 16, white_is_zero=True), 138),
    "tiff of 16 bits, signed": (tiff(struct.pack("<h", 16_384) * ALL, 16, SIGNED), 128),
    "tiff of 32 bits": (tiff(struct.pack("<I", 3 << 30) * ALL, 32), 191),
    "tiff of 32 bits, signed": (tiff(struct.pack("<i", 1 << 30) * ALL, 32, SIGNED), 128),
}


@pytest.mark.parametrize("name", DEEP)
def test_depth_is_that_of_the_format(tmp_path, name):
    content, value = DEEP[name]
    (tmp_path / "a").write_bytes(content)
    assert pixel(tmp_path / "a") == (value,) * 3


def test_floating_point_runs_from_zero_to_one_or_as_its_tags_say(tmp_path):
    grays = np.full((HEIGHT, WIDTH), 0.25, np.float32)
    grays[0, :3] = np.nan, 7, -1
    Image.fromarray(grays).save(tmp_path / "a.tif")
    assert read(tmp_path / "a.tif")[[0, 0, 0, 9], [0, 1, 2, 9], 0].tolist() == [0, 255, 0, 64]
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype |= {340: 11, 341: 11}
    tags[340], tags[341] = 0.0, 100.0
    Image.fromarray(grays * 200).save(tmp_path / "a.tif", tiffinfo=tags)
    assert pixel(tmp_path / "a.tif") == (128, 128, 128)


def test_colors_that_stand_for_transparency(tmp_path):
    key = struct.pack(">3H", 0x8000, 0x1234, 0xFFFF)
    for name, content in {
        "16 bits": png(16, 2, key * 32 + bytes(6) * 32, (b"tRNS", key)),
        "16 bits, gray": png(
            16, 0, struct.pack(">H", 999) * 32 + bytes(64), (b"tRNS", struct.pack(">H", 999))
        ),
        "8 bits, gray": png(8, 0, b"\x50" * 32 + bytes(32), (b"tRNS", b"\0\x50")),
        "a palette": png(8, 3, bytes(32) + b"\1" * 32, (b"PLTE", b"\xff\0\0\0\0\0"), (b"tRNS", b"\0\xff")),
    }.items():
        (tmp_path / "a").write_bytes(content)
        assert (pixel(tmp_path / "a"), pixel(tmp_path / "a", 54)) == ((255,) * 3, (0,) * 3), name


def exchanged() -> bytes:
    """The profile of an sRGB whose red and blue have changed places."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack_from(">I", profile, 128)[0]
    at = {bytes(profile[132 + 12 * n : 136 + 12 * n]): 132 + 12 * n for n in range(count)}
    red, blue = at[b"rXYZ"], at[b"bXYZ"]
    profile[red + 4 : red + 12], profile[blue + 4 : blue + 12] = (
        profile[blue + 4 : blue + 12],
        profile[red + 4 : red + 12],
    )
    return bytes(profile)


def test_color_profiles_are_followed(tmp_path):
    profile = exchanged()
    for mode, name in (
        ("RGB", "a.png"),
        ("RGBA", "a.png"),
        ("P", "a.png"),
        ("RGB", "a.jpg"),
        ("RGB", "a.tif"),
        ("RGB", "a.webp"),
    ):
        options: dict[str, Any] = {"lossless": True} if name == "a.webp" else {}
        halves().convert(mode).save(tmp_path / name, icc_profile=profile, **options)
        assert np.abs(np.subtract(pixel(tmp_path / name), (0, 0, 255))).max() < 8, (mode, name)


# Named here: the date in a profile is when it was made.
@pytest.mark.parametrize(
    "profile",
    [b"junk", exchanged()[:100], exchanged()[:400], bytes(4000)],
    ids=["junk", "cut short", "half", "zeros"],
)
def test_broken_profiles_and_those_of_other_colors_are_not(tmp_path, profile):
    halves().save(tmp_path / "a.png", icc_profile=profile)
    assert pixel(tmp_path / "a.png") == (255, 0, 0)
    halves().convert("CMYK").save(tmp_path / "a.jpg", icc_profile=exchanged(), quality=95)
    assert pixel(tmp_path / "a.jpg")[0] > 240


def odd_exif() -> list[bytes]:
    """EXIF data that says a quarter turn, and something that cannot be written again or read at all."""
    made = []
    for tag, kind, count, value in (
        (0x102, 4, 1, struct.pack("<I", 1 << 31)), (0x131, 12, 1, struct.pack("<I", 38)),
        (0x131, 99, 1, bytes(4)), (0x8769, 4, 1, struct.pack("<I", 1 << 31)), (700, 4, 1, bytes(4)),
        (0x11A, 5, 1 << 30, bytes(4)),
    ):  # fmt: skip
        entries = sorted([(0x112, 3, 1, struct.pack("<HH", 6, 0)), (tag, kind, count, value)])
        body = b"".join(struct.pack("<HHI", *each[:3]) + each[3] for each in entries)
        made.append(b"Exif\0\0II*\0\x08\0\0\0\x02\0" + body + bytes(4) + struct.pack("<d", 1e300))
    return made


def test_odd_exif_is_read_for_the_orientation_only(tmp_path):
    for exif in odd_exif():
        for name in ("a.jpg", "a.png", "a.webp"):
            halves().save(tmp_path / name, exif=exif)
            assert read(tmp_path / name).shape == (WIDTH, HEIGHT, 3), (name, exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_every_orientation_of_a_tiff(tmp_path, orientation, compression):
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:8, :8] = 255
    stored = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, 1), 7: pixels[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(pixels, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.tif", exif=exif, compression=compression)
    assert np.array_equal(read(tmp_path / "a.tif"), pixels)


def test_odd_tags_of_a_turned_tiff(tmp_path):
    turned = (274, 3, 1, struct.pack("<I", 6))
    for other in ((700, 4, 1, bytes(4)), (305, 12, 1, bytes(4)), (0x8769, 4, 1, b"\xff\xff\xff\x7f")):
        (tmp_path / "a.tif").write_bytes(tiff(bytes(range(WIDTH)) * HEIGHT, 8, turned, other))
        picture = read(tmp_path / "a.tif")
        assert picture.shape == (WIDTH, HEIGHT, 3)
        assert picture[:, 5, 0].tolist() == list(range(WIDTH))


def test_long_metadata_is_no_damage(tmp_path):
    text, itext = PngImagePlugin.PngInfo(), PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * (9 << 20), zip=True)
    itext.add_itxt("workflow", "é" * (5 << 20), zip=True)
    for options in ({"pnginfo": text}, {"pnginfo": itext}, {"icc_profile": exchanged() + bytes(3 << 20)}):
        halves().save(tmp_path / "a.png", **options)
        assert read(tmp_path / "a.png").shape == (HEIGHT, WIDTH, 3)


def test_metadata_far_larger_than_its_file_is_not_unpacked(tmp_path):
    pack = zlib.compressobj(9)
    packed = b"".join(pack.compress(bytes(1 << 20)) for _ in range(60)) + pack.flush()
    assert len(packed) < 1 << 20
    (tmp_path / "a.png").write_bytes(png(8, 0, bytes(WIDTH), (b"zTXt", b"a\0\0" + packed)))
    with pytest.raises(PictureError):
        read(tmp_path / "a.png")


class Undecoded(Exception):
    """Raised instead of decoding."""


def claims(path: Path, width: int, height: int) -> Path:
    """A JPEG that says it is larger than it is."""
    sink = io.BytesIO()
    Image.new("RGB", (64, 64)).save(sink, "JPEG")
    data = sink.getvalue()
    path.write_bytes(data.replace(struct.pack(">HH", 64, 64), struct.pack(">HH", height, width), 1))
    return path


def test_photos_of_phones_are_decoded_small(tmp_path, monkeypatch):
    def load(self: Image.Image) -> None:
        assert self.width * self.height <= images.MAX_PIXELS
        assert max(self.size) >= images.KEPT_SIDE
        raise Undecoded

    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", load)
    for size in ((8064, 6048), (12_000, 9000), (3000, 12_000), (60_000, 1600)):
        with pytest.raises(PictureError) as caught:
            read(claims(tmp_path / "a.jpg", *size))
        assert isinstance(caught.value.__cause__, Undecoded), size
    for size in ((12_000, 12_000), (65_000, 65_000)):
        with pytest.raises(PictureError, match="megapixels") as caught:
            read(claims(tmp_path / "a.jpg", *size))


def test_a_photo_of_48_megapixels(tmp_path):
    Image.new("RGB", (8064, 6048), (200, 40, 60)).save(tmp_path / "a.jpg")
    picture = read(tmp_path / "a.jpg")
    assert picture.shape == (1536, 2048, 3)
    assert np.abs(picture[700, 900].astype(int) - (200, 40, 60)).max() < 4


@pytest.mark.parametrize(
    "error", [struct.error, AttributeError, KeyError, SyntaxError, MemoryError, RecursionError]
)
def test_whatever_a_decoder_raises_is_a_sentence(tmp_path, monkeypatch, error):
    halves().save(tmp_path / "a.png")

    def fail(self: Image.Image) -> None:
        raise error("inside")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(PictureError, match="damaged or cut short"):
        read(tmp_path / "a.png")


def test_too_many_bytes(tmp_path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(PictureError, match="65 MiB; the limit is 64"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize(("name", "options"), [("a.gif", {}), ("a.png", {}), ("a.webp", {"lossless": True}),
                                               ("a.tif", {}), ("a.mpo", {"quality": 95})])  # fmt: skip
def test_of_several_frames_the_first_is_taken(tmp_path, name, options):
    halves().save(
        tmp_path / name, save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))], **options
    )
    assert np.abs(np.subtract(pixel(tmp_path / name), (255, 0, 0))).max() < 4
