"""Videos and measurements from the command line, at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from backends.longcat import bench, cli
from backends.longcat.cli import FragmentedVideoWriter, read_clip, read_picture

TINY = ("--random-weights", "--tiny", "--device", "cpu")


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def gradient(frames: int, offset: int = 0) -> np.ndarray:
    """uint8 [T, 32, 48, 3]; every frame a little brighter."""
    across = np.linspace(0, 90, 48)[None, None, :, None]
    brighter = (offset + np.arange(frames))[:, None, None, None] * 3
    return (across + brighter).astype(np.uint8) + np.zeros((frames, 32, 48, 3), np.uint8)


def test_prompts_become_a_film_with_other_takes_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fox.mp4"
    cli.main(
        ["a red fox", "a bear", *TINY, "--blocks", "2", "--takes", "2", "--guidance", "1", "--out", str(out)]
    )
    film, other = decode(out), decode(tmp_path / "fox-take2.mp4")
    assert film.shape == (17, 64, 96, 3)
    assert other.shape == (4, 64, 96, 3)
    assert np.abs(film[-4:].astype(int) - other).mean() > 5
    said = capsys.readouterr().out
    assert "block 1 of 2: 13 frames (condition 0.0 s, denoise" in said
    assert "fox-take2.mp4: the last block with seed 1" in said
    assert "fox.mp4: KV cache 0.2 MiB" in said


def test_a_clip_is_gone_on_from(tmp_path: Path) -> None:
    with FragmentedVideoWriter(tmp_path / "clip.mp4") as film:
        film.add(gradient(12))
    files = [f"--clip={tmp_path / 'clip.mp4'}", f"--out={tmp_path / 'longer.mp4'}"]
    cli.main(["a fox", *TINY, "--distilled", "--steps", "2", "--codec", "BF16", "--blocks", "1", *files])
    assert len(decode(tmp_path / "longer.mp4")) == 13
    assert decode(tmp_path / "longer.mp4")[:9].mean() < decode(tmp_path / "longer.mp4")[9:].mean()


def test_what_was_made_is_kept_however_it_ends(tmp_path: Path) -> None:
    film = FragmentedVideoWriter(tmp_path / "film.mp4")
    film.add(gradient(5))
    film.add(gradient(4, offset=5))
    made = decode(tmp_path / "film.mp4")
    film.__exit__(None, None, None)
    assert len(made) == 8
    assert np.abs(made.astype(int) - gradient(8)).mean() < 3
    assert len(decode(tmp_path / "film.mp4")) == 9


def test_clips_are_taken_at_fifteen_frames_a_second(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "fast.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for pixels in gradient(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    clip = read_clip(tmp_path / "fast.mp4", 6)
    assert clip.shape == (6, 32, 48, 3)
    assert np.abs(clip.astype(int) - gradient(20)[8::2]).mean() < 4


def test_files_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no picture")
    with pytest.raises(ValueError, match="cannot be read as a picture"):
        read_picture(tmp_path / "text")
    with pytest.raises(ValueError, match="cannot be read as a video"):
        read_clip(tmp_path / "text", 9)
    with pytest.raises(ValueError, match="cannot be written"):
        FragmentedVideoWriter(tmp_path / "absent" / "film.mp4")
    Image.new("RGBA", (20, 10)).save(tmp_path / "picture.png")
    assert read_picture(tmp_path / "picture.png").shape == (10, 20, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--condition-frames", "72"], "not whole latents"),
        (["--blocks", "0"], "both are at least 1"),
        (["--image", "nowhere.png"], "cannot be read as a picture"),
    ],
)
def test_what_cannot_be_made_ends_with_a_sentence(options: list[str], words: str) -> None:
    with pytest.raises(SystemExit, match=words):
        cli.main(["a fox", *TINY, *options])


def test_every_stage_is_measured(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    target = tmp_path / "bench.json"
    bench.main(
        [
            *TINY,
            "--weights",
            "bf16",
            "--codec",
            "QVG INT2",
            "--clip-steps",
            "1",
            "--steps",
            "2",
            "--json",
            str(target),
        ]
    )
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == json.loads(target.read_text())
    load, clip, continued, autoencoder = result["rows"]
    assert load["load_ms"] > 0 and clip["clip_step_ms"] > 0
    assert min(autoencoder["vae_encode_ms"], autoencoder["vae_decode_ms"]) > 0
    assert continued["codec"] == "QVG INT2"
    assert 0 < continued["encode_ms"] < continued["history_ms"]
    assert 0 < continued["read_ms"] < continued["step_ms"]
    # Three latents of 24 tokens, two layers of two heads: 72 centroids of 128 numbers and so on.
    assert continued["kv_mib"] == pytest.approx(0.16, abs=5e-4)
    assert continued["kv_mib_a_layer"] == pytest.approx(continued["kv_mib"] / 2, abs=1e-3)


def test_memory_that_runs_out_is_told_and_the_rest_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        backend = type("B", (), {"models": type("M", (), {"team": bench.parallel.ALONE})})

        def clip(self, steps: int) -> dict:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB.\nmore")

        def continuation(self, codec: str, steps: int) -> dict:
            return {"codec": codec}

    options = bench.parser().parse_args(["--no-autoencoder", "--codec", "BF16"])
    rows: list[dict] = []
    bench.measure(Full(), options, rows.append)
    assert rows == [
        {"out_of_memory": "CUDA out of memory. Tried to allocate 20.00 GiB."},
        {"codec": "BF16"},
    ]
