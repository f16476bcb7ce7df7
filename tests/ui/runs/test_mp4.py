"""Segments and the file made of them."""

import io
import time

import av
import numpy as np
import pytest

from tests.ui.fake_worker import counter, painted
from ui.runs import mp4

FPS = 12


def segment(start: int, count: int = 4, height: int = 128, width: int = 224) -> bytes:
    frames = np.stack([painted(start + index, height, width) for index in range(count)])
    return mp4.encode_segment(frames, FPS).data


def test_the_mime_type_is_what_the_stream_says():
    encoded = mp4.encode_segment(np.zeros((4, 128, 224, 3), np.uint8), FPS)
    assert encoded.mime.startswith('video/mp4; codecs="avc1.64')  # High profile
    with av.open(io.BytesIO(encoded.data)) as container:
        context = container.streams.video[0].codec_context
        assert (context.width, context.height, context.pix_fmt) == (224, 128, "yuv420p")


@pytest.mark.parametrize("count", [1, 3, 4, 20])
def test_a_segment_lasts_as_long_as_its_frames(count):
    data = segment(0, count)
    with av.open(io.BytesIO(data)) as container:
        video = container.streams.video[0]
        packets = [packet for packet in container.demux(video) if packet.size]
        assert sum(packet.duration * packet.time_base for packet in packets) == pytest.approx(count / FPS)
        assert packets[0].is_keyframe
    assert len(list(mp4.decode(data))) == count


def test_colours_survive():
    frame = np.zeros((128, 224, 3), np.uint8)
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)]
    for index, colour in enumerate(colours):
        frame[:, index * 56 : (index + 1) * 56] = colour
    (decoded,) = mp4.decode(mp4.encode_segment(frame[None], FPS).data)
    for index, colour in enumerate(colours):
        assert np.abs(decoded[64, index * 56 + 28].astype(int) - colour).max() <= 4


def test_headers_are_equal_whatever_the_content_and_length():
    noise = np.random.default_rng(0).integers(0, 255, (4, 128, 224, 3), dtype=np.uint8)
    several = [segment(0), segment(4, 1), segment(9, 20), mp4.encode_segment(noise, FPS).data]
    headers = set()
    for data in several:
        with av.open(io.BytesIO(data)) as container:
            headers.add(bytes(container.streams.video[0].codec_context.extradata))
    assert len(headers) == 1


@pytest.mark.parametrize("lengths", [(4,), (4, 4, 4), (1, 4, 20, 3)])
def test_joining_keeps_every_frame_in_order(tmp_path, lengths):
    starts = np.cumsum((0, *lengths[:-1]))
    segments = [segment(int(start), count) for start, count in zip(starts, lengths, strict=True)]
    target = tmp_path / "video.mp4"
    assert mp4.join(segments, target, FPS, {}) == sum(lengths)
    assert [counter(frame) for frame in mp4.decode(target)] == list(range(sum(lengths)))
    with av.open(str(target)) as container:
        assert container.duration / av.time_base == pytest.approx(sum(lengths) / FPS, abs=0.01)
        assert container.streams.video[0].average_rate == FPS


def test_joining_copies_packets(tmp_path):
    segments = [segment(0), segment(4)]
    mp4.join(segments, tmp_path / "video.mp4", FPS, {})

    def packets(source: str | io.BytesIO) -> list[bytes]:
        with av.open(source) as container:
            return [bytes(packet) for packet in container.demux(video=0) if packet.size]

    apart = [packet for data in segments for packet in packets(io.BytesIO(data))]
    assert packets(str(tmp_path / "video.mp4")) == apart


def test_index_comes_first_in_a_file(tmp_path):
    mp4.join([segment(0)], tmp_path / "video.mp4", FPS, {})
    data = (tmp_path / "video.mp4").read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")


def test_settings_are_kept_and_read_back(tmp_path):
    settings = {"prompt": 'a "red" box; 雪 é\n', "seed": 7, "policy": {"every": 6, "window": None}}
    mp4.join([segment(0)], tmp_path / "video.mp4", FPS, settings)
    assert mp4.read_settings(tmp_path / "video.mp4") == settings


def test_file_without_settings_has_none(tmp_path):
    (tmp_path / "segment.mp4").write_bytes(segment(0))
    assert mp4.read_settings(tmp_path / "segment.mp4") == {}


def test_joining_in_memory():
    sink = io.BytesIO()
    assert mp4.join([segment(0), segment(4)], sink, FPS, {"seed": 1}) == 8
    assert len(list(mp4.decode(sink.getvalue()))) == 8


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (np.zeros((0, 128, 224, 3), np.uint8), "T > 0"),
        (np.zeros((4, 128, 224), np.uint8), "uint8"),
        (np.zeros((4, 128, 224, 3), np.float32), "float32"),
        (np.zeros((4, 127, 224, 3), np.uint8), "even sides, not 224x127"),
    ],
)
def test_what_is_no_segment_is_refused(frames, words):
    with pytest.raises(ValueError, match=words):
        mp4.encode_segment(frames, FPS)


def test_joining_nothing_is_refused():
    with pytest.raises(ValueError, match="no segment"):
        mp4.join([], io.BytesIO(), FPS, {})


def test_a_small_segment_encodes_in_milliseconds():
    frames = np.stack([painted(index, 128, 224) for index in range(4)])
    took = []
    for _ in range(12):
        started = time.perf_counter()
        mp4.encode_segment(frames, FPS)
        took.append(time.perf_counter() - started)
    assert min(took) < 0.05  # 8 ms on two slow cores; a block of video lasts 333 ms
