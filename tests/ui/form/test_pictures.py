"""Pictures from strangers."""

import io

import numpy as np
import pytest
from PIL import Image

from ui.form import pictures
from ui.form.pictures import PictureError, read_picture


def saved(path, image: Image.Image, **options) -> str:
    image.save(path, **options)
    return str(path)


def halves(width: int = 64, height: int = 40, mode: str = "RGB") -> Image.Image:
    """Left red, right blue."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = pixels[:, width // 2 :, 2] = 255
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.gif"])
def test_common_formats(tmp_path, name):
    pixels = read_picture(saved(tmp_path / name, halves()))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (40, 64, 3)
    assert np.abs(pixels[20, 10].astype(int) - (255, 0, 0)).max() < 12
    assert np.abs(pixels[20, 54].astype(int) - (0, 0, 255)).max() < 12


def test_the_content_counts_and_not_the_name(tmp_path):
    saved(tmp_path / "a.png", halves())
    (tmp_path / "a.png").rename(tmp_path / "a.txt")
    assert read_picture(tmp_path / "a.txt").shape == (40, 64, 3)


@pytest.mark.parametrize(
    ("mode", "name"),
    [("CMYK", "a.tif"), ("LAB", "a.tif"), ("L", "a.png"), ("P", "a.png"), ("1", "a.png"), ("LA", "a.png")],
)
def test_every_mode_becomes_rgb(tmp_path, mode, name):
    image = halves() if mode != "LA" else halves(mode="L")
    pixels = read_picture(saved(tmp_path / name, image.convert(mode)))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (40, 64, 3)


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    pixels = read_picture(saved(tmp_path / "a.jpg", halves(mode="CMYK"), quality=95))
    assert pixels[20, 10, 0] > 200
    assert pixels[20, 54, 2] > 200


def test_deep_greys_are_scaled_and_not_clipped(tmp_path):
    ramp = np.linspace(0, 65_535, 64 * 40, dtype=np.uint16).reshape(40, 64)
    pixels = read_picture(saved(tmp_path / "a.png", Image.fromarray(ramp)))
    assert pixels.min() < 5
    assert pixels.max() > 250
    assert 110 < np.median(pixels) < 145


def test_transparent_parts_become_white(tmp_path):
    image = halves().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 32, 40))
    pixels = read_picture(saved(tmp_path / "a.png", image))
    assert tuple(pixels[20, 10]) == (255, 255, 255)
    assert tuple(pixels[20, 54]) == (0, 0, 255)


def test_exif_rotation_is_applied(tmp_path):
    image = halves()
    exif = image.getexif()
    exif[274] = 6  # turn a quarter clockwise to see it upright
    pixels = read_picture(saved(tmp_path / "a.jpg", image, exif=exif, quality=95))
    assert pixels.shape == (64, 40, 3)
    assert pixels[10, 20, 0] > 200
    assert pixels[54, 20, 2] > 200


def test_large_pictures_are_scaled_down(tmp_path):
    pixels = read_picture(saved(tmp_path / "a.jpg", Image.new("RGB", (5000, 2500), "red")))
    assert max(pixels.shape) <= pictures.KEPT_SIDE
    assert pixels.shape[1] == 2 * pixels.shape[0]


def test_no_bytes(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(PictureError, match="empty"):
        read_picture(tmp_path / "a.png")


def test_not_a_picture(tmp_path):
    (tmp_path / "a.png").write_text("<html>not a picture</html>" * 20)
    with pytest.raises(PictureError, match="not a picture"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_cut_short(tmp_path, name):
    sink = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(sink, {"a.jpg": "JPEG"}.get(name, name[2:].upper()))
    (tmp_path / name).write_bytes(sink.getvalue()[: len(sink.getvalue()) // 2])
    with pytest.raises(PictureError, match=r"damaged or cut short|not a picture"):
        read_picture(tmp_path / name)


def test_forty_megapixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", Image.new("1", (8000, 5000)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(PictureError, match="40 megapixels; the limit is 25"):
        read_picture(path)


def test_a_decompression_bomb_is_refused(tmp_path):
    with pytest.raises(PictureError, match="megapixels"):
        read_picture(saved(tmp_path / "a.png", Image.new("1", (20_000, 20_000))))


def test_tiny(tmp_path):
    with pytest.raises(PictureError, match="at least 16 a side"):
        read_picture(saved(tmp_path / "a.png", Image.new("RGB", (300, 3))))


def test_a_file_that_is_gone(tmp_path):
    with pytest.raises(PictureError):
        read_picture(tmp_path / "gone.png")


def test_thumbnail_is_a_small_jpeg():
    assert len(pictures.small_jpeg(np.zeros((480, 640, 3), np.uint8))) < 4000
