"""PSNR and SSIM of two sides, and of frames seen again."""

from dataclasses import replace

import numpy as np
import pytest

from backends import registry
from backends.camera import parse_path
from qvg.metrics import ssim
from tests.fake_backend import SPEC as FAKE
from ui.form.values import default_form
from ui.runs import compare_view
from ui.runs.quality import Likeness, likeness, pooled
from ui.runs.revisit import Revisit, Seen, returns, video_frame
from ui.runs.side import SideResult

POCKET = registry.find("pocket")


def noise(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_equal_pictures():
    frames = noise(0, 3, 40, 50, 3)
    assert likeness(frames, frames) == Likeness(float("inf"), pytest.approx(1.0))


def test_ssim_by_hand_for_flat_pictures():
    flat, brighter = np.full((16, 16, 3), 100, np.uint8), np.full((16, 16, 3), 150, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(flat, brighter) == pytest.approx((2 * 100 * 150 + c1) / (100**2 + 150**2 + c1), abs=1e-4)


def test_ssim_is_the_window_by_window_definition():
    """Against the formula of the paper written out for one window."""
    x, y = noise(1, 11, 11, 3), noise(2, 11, 11, 3)
    offsets = np.arange(-5, 6)
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / np.outer(line, line).sum()
    a, b = (picture @ np.array([0.2126, 0.7152, 0.0722]) for picture in (x, y))
    mean_a, mean_b = (window * a).sum(), (window * b).sum()
    var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
    both = (window * (a - mean_a) * (b - mean_b)).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    value = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    value /= (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    assert ssim(x, y) == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("shape", [(10, 40, 3), (40, 10, 3)])
def test_pictures_too_small_for_a_window_are_refused(shape):
    with pytest.raises(ValueError, match="11 pixels a side"):
        ssim(noise(0, *shape), noise(1, *shape))


def test_segments_are_pooled_by_their_errors():
    assert pooled([]) is None
    assert pooled([(Likeness(30.0, 0.9), 4)]) == Likeness(pytest.approx(30.0), pytest.approx(0.9))
    both = pooled([(Likeness(30.0, 1.0), 1), (Likeness(float("inf"), 0.5), 3)])
    assert both == Likeness(pytest.approx(30.0 + 10 * np.log10(4)), pytest.approx(0.625))
    assert pooled([(Likeness(float("inf"), 1.0), 2)]) == Likeness(float("inf"), 1.0)


@pytest.mark.parametrize(
    ("path", "blocks", "found"),
    [
        ("right-6, left-6", 4, {**{6 + n: 6 - n for n in range(1, 7)}, 13: 0, 14: 0, 15: 0}),
        ("w-4, s-4", 2, {5: 3, 6: 2, 7: 1}),
        ("right-144", 37, {144: 0, 145: 0, 146: 0, 147: 0}),  # once round
        ("w-8", 2, {}),
        ("", 3, {}),
        ("up-4, down-4", 2, {}),  # how far up it looked is the generator's own
        ("right-2, left-2, up-4, right-2, left-2", 4, {3: 1, 4: 0}),
    ],
)
def test_frames_that_return(path, blocks, found):
    assert returns(parse_path(path), POCKET, blocks) == found


def test_frames_of_a_generator_that_decodes_several_from_a_latent():
    # Blocks of 5, 8, 8 frames; a latent is one frame, then four.
    assert [video_frame(latent, FAKE) for latent in range(4)] == [0, 4, 8, 12]
    assert returns(parse_path("w-2, s-2"), FAKE, 3)[video_frame(4, FAKE)] == 0


def test_what_a_side_still_knows():
    first = noise(0, 4, 20, 20, 3)
    revisit = Revisit({5: 2, 6: 1})
    assert revisit.take(first, 0) == Seen()
    changed = first[1].copy()
    changed[0, 0, 0] ^= 64
    seen = revisit.take(np.stack([first[3], first[2], changed]), 4)
    assert seen.frames == 2
    assert seen.psnr == pytest.approx(10 * np.log10(255**2 / (64**2 / changed.size / 2)))
    assert Seen().psnr is None
    assert Seen(0.0, 3).psnr == float("inf")


def test_a_reference_that_forgets_is_told():
    sides = ("BF16", "QVG INT2")
    whole, tight = (
        replace(default_form(POCKET), memory="compare", sides=sides, blocks=20, budget=budget)
        for budget in (0, 23)
    )
    notes = []
    for form in (whole, tight):
        figures = [SideResult(side, {}).figures(POCKET.fps) for side in form.named_sides(POCKET)]
        notes.append(compare_view.table(figures, POCKET.fps)["note"])
    assert "drops frames" not in notes[0]
    assert "BF16 drops frames from block 7 on" in notes[1]
