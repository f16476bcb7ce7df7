"""Quality of Pocket World on scenes it never saw: `python -m backends.pocket.evaluation.evaluate`.

recall    40 rendered frames of a 100 degree pan are the history; the pan back is generated and compared
          with the renderer, which is fair because all of it has been seen.
revisit   the model's own rollout turns 120 degrees away, walks to and fro for 60, 120 or 240 frames, and
          turns back; returning frames are compared with the outgoing ones at the same poses: BF16, INT2
          codecs, and BF16 with a window of as many bytes as QVG INT2 takes.
picture   a rendered picture is the first frame and the only conditioning; each time the camera, having
          turned 120 degrees away and back, is at its first pose, its view is compared with the picture.
prompts   held-out prompts, a full turn each: how many of the requested objects are visible (`prompts.py`).
steady    300 frames of walking and turning from layouts alone: the first and the last 50 against the renderer
          on the same path, and how many videos keep brightness, contrast and edges within the range of
          rendered pictures.
codec     one rollout, same seed, with QVG INT2 against BF16. --codecs  instead of these, every selected codec
against BF16 in one table: videos with a first frame
          given and from a prompt alone, and the errors of keys, values and attention behind them.

PSNR is of the mean squared error over a video's frames, then the mean over scenes; 100 dB means identical.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from backends.pocket.evaluation.codecs import CodecComparison, cases
from backends.pocket.evaluation.prompts import followed
from backends.pocket.evaluation.rollouts import SEED, HeldOut, poses_along, psnr, rendered
from backends.pocket.load import load_models
from backends.pocket.render import render
from backends.pocket.sampler import LEVELS, OPENING
from backends.pocket.scene import hide_obstacles, sample_scenes, sample_trajectories
from backends.pocket.spec import BLOCK_FRAMES, HEIGHT, SPEC, WEIGHTS, WIDTH
from qvg import BF16, PRESETS, QVG, CachePolicy
from qvg.bench.measure import common_arguments, describe, finish, start
from qvg.bench.settings import parse_policy
from qvg.bench.table import markdown
from qvg.config import CodecConfig, with_clusters
from qvg.stats import CacheStats

PAN = 40  # frames
AWAY = 48  # frames of a turn of 120 degrees
REVISITING = {name: PRESETS[name] for name in ("QVG INT2", "QVG-Plus INT2", "QVG-Max")}
WINDOW = CachePolicy(every=3, window=3)  # 12 frames


class Evaluation(HeldOut):
    """Measurements of one model on held-out scenes, a method for each part."""

    def autoencoder(self) -> float:
        poses = poses_along("right-35, left-20, w-8", 64)[::8]
        real = rendered(self.scenes, poses)
        back = self.models.decode(self.models.encode(real.flatten(0, 1))).unflatten(0, real.shape[:2])
        return psnr(real, back)

    def recall(self, policy: CachePolicy = SPEC.policy, codec: CodecConfig = BF16) -> float:
        out = torch.zeros(PAN, 4)
        out[:, 2] = torch.linspace(0, np.deg2rad(100), PAN)
        poses = torch.cat([out, out.flip(0)])
        real = rendered(self.scenes, poses)
        made, _ = self.roll(poses, codec, policy, history=real[:, :PAN])
        return psnr(made, real[:, PAN:])

    def revisit(
        self, away: int, codec: CodecConfig = BF16, policy: CachePolicy = SPEC.policy
    ) -> tuple[float, CacheStats]:
        """Returns dB of the way back's end against the way out's beginning, `away` frames between them."""
        there = away // 2
        path = f"right-{AWAY}, w-{there}, s-{away - there}, left-{AWAY}"
        last = 2 * AWAY + away
        frames = -(-(last + 1) // BLOCK_FRAMES) * BLOCK_FRAMES
        made, cache = self.roll(poses_along(path, frames), codec, policy)
        half = AWAY // 2
        return psnr(made[:, last - half : last + 1].flip(1), made[:, : half + 1]), cache.stats()

    def revisits(self) -> dict[str, float]:
        """Returns rows by codec and frames away; the window has at most QVG INT2's bytes at that length."""
        result = {}
        for away in (60, 120, 240):
            result[f"BF16 {away}"], whole = self.revisit(away)
            held = {}
            for name, codec in REVISITING.items():
                made = self.revisit(away, with_clusters(codec, SPEC.clusters))
                result[f"{name} {away}"], held[name] = made
            block = BLOCK_FRAMES * whole.bf16_bytes / whole.frames
            blocks = max(3, int(held["QVG INT2"].stored_bytes / block))
            window = CachePolicy(every=min(3, blocks), window=blocks)
            result[f"BF16 window of {blocks * BLOCK_FRAMES} frames {away}"] = self.revisit(
                away, policy=window
            )[0]
        return result

    def picture(self) -> dict[str, float]:
        """Returns dB against the picture, by the frame at which the camera is at the picture's pose."""
        laps, away = 3, 12
        path = ", ".join([f"right-{AWAY}, w-{away // 2}, s-{away // 2}, left-{AWAY}"] * laps)
        lap = 2 * AWAY + away
        poses = poses_along(path, -(-(laps * lap + 1) // BLOCK_FRAMES) * BLOCK_FRAMES)
        real = rendered(self.scenes, poses[:1])
        left_out, nothing = torch.full_like(self.layout.place, -1), torch.zeros_like(self.layout.things)
        layout = replace(self.layout, place=left_out, time=left_out, things=nothing, backdrop=left_out > 0)
        made, _ = self.roll(poses, first=real[:, 0], layout=layout)
        return {f"frame {n}": psnr(made[:, n : n + 1], real) for n in range(0, laps * lap + 1, lap)}

    def steady(self, frames: int = 300) -> dict[str, float]:
        poses = poses_along("right-36, w-20, left-60, s-20, right-50, a-16, left-40, d-16, right-60", frames)
        made, _ = self.roll(poses)
        last, real = made[:, -50:], rendered(self.scenes, poses[-50:])
        start = psnr(made[:, :50], rendered(self.scenes, poses[:50]))
        made_stats, real_stats = (torch.stack(_statistics(video)) for video in (last, real))
        generator = torch.Generator(self.models.device).manual_seed(SEED + 1)
        walks = sample_trajectories(512, 64, generator)
        scenes = hide_obstacles(sample_scenes(512, generator), walks)
        usual = torch.stack(_statistics(render(scenes, walks[:, -1], HEIGHT, WIDTH).unsqueeze(1)))
        low, high = usual.quantile(0.01, dim=1, keepdim=True), usual.quantile(0.99, dim=1, keepdim=True)
        inside = ((made_stats >= low) & (made_stats <= high)).float().mean(dim=1)
        ratios = (made_stats / real_stats).median(dim=1).values
        names = ("brightness", "contrast", "edges")
        return {
            "dB at first": start,
            "dB at last": psnr(last, real),
            **{f"{name} ratio": ratio for name, ratio in zip(names, ratios.tolist(), strict=True)},
            **{f"{name} inside %": 100 * share for name, share in zip(names, inside.tolist(), strict=True)},
        }

    def codec(self, codec: CodecConfig, frames: int = 96) -> dict[str, float]:
        poses = poses_along("right-16, w-12, left-24, w-12, right-32", frames)
        exact, _ = self.roll(poses)
        made, cache = self.roll(poses, codec)
        return {
            "psnr_first_chunk": psnr(made[:, :BLOCK_FRAMES], exact[:, :BLOCK_FRAMES]),
            "psnr_first_32_frames": psnr(made[:, :32], exact[:, :32]),
            "psnr_frames_24_32": psnr(made[:, 24:32], exact[:, 24:32]),
            "psnr_all": psnr(made, exact),
            "ratio": cache.stats().ratio,
        }

    def contact_sheet(self, scenes: int = 5) -> Image.Image:
        """Returns four rows per scene: renderer, first frame given, with a 12-frame window, prompt alone."""
        poses = poses_along("right-20, left-20, w-12, s-12, left-16, right-16", 96)
        columns = [0, 8, 16, 24, 32, 40, 48, 58, 72, 88]
        real = rendered(self.scenes, poses)
        rows = [
            real,
            self.roll(poses, first=real[:, 0])[0],
            self.roll(poses, policy=WINDOW, first=real[:, 0])[0],
            self.roll(poses)[0],
        ]
        sheet = torch.stack([row[:scenes, columns] for row in rows], 1)  # [scenes, 4, columns, 3, H, W]
        sheet = sheet.permute(0, 1, 4, 2, 5, 3).reshape(scenes * 4 * HEIGHT, len(columns) * WIDTH, 3)
        return Image.fromarray((sheet.cpu().numpy() * 255).round().astype(np.uint8))


def compare_codecs(
    evaluation: Evaluation, presets: list[str], policies: list[CachePolicy], frames: int
) -> dict:
    """Returns the table of codecs; prints each as it is done."""
    comparison = CodecComparison(evaluation, frames)
    rows = []
    for case in cases({name: PRESETS[name] for name in presets}, policies):
        began = time.perf_counter()
        rows.append(comparison.row(case))
        print(f"{rows[-1]} ({time.perf_counter() - began:.0f} s)", flush=True)
    return {"frames": frames, "rows": rows}


def _statistics(video: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns brightness, contrast and strength of edges, each [B], of video [B, F, 3, H, W]."""
    grey = video.mean(dim=2)
    edges = grey.diff(dim=-1).abs().mean(dim=(1, 2, 3)) + grey.diff(dim=-2).abs().mean(dim=(1, 2, 3))
    return grey.mean(dim=(1, 2, 3)), grey.std(dim=(2, 3)).mean(dim=1), edges


def parts(evaluation: Evaluation, names: list[str] | None, sheet: Path) -> dict:
    """Returns the selected measurements apart from codecs; prints each as it is done."""
    int2 = replace(QVG, clusters=SPEC.clusters)
    known = {
        "autoencoder": lambda: {"psnr": evaluation.autoencoder()},
        "recall": lambda: {"full": evaluation.recall(), "window": evaluation.recall(WINDOW),
                           "qvg_int2": evaluation.recall(codec=int2)},
        "revisit": evaluation.revisits,
        "picture": evaluation.picture,
        "prompts": lambda: followed(evaluation),
        "steady": evaluation.steady,
        "codec": lambda: evaluation.codec(int2),
        "sheet": lambda: evaluation.contact_sheet().save(sheet) or {},
    }  # fmt: skip
    result = {}
    for name in names or known:
        began = time.perf_counter()
        result[name] = {key: round(value, 2) for key, value in known[name]().items()}
        print(f"{name}: {result[name]} ({time.perf_counter() - began:.0f} s)", flush=True)
    return result


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=20)
    common_arguments(parser)
    parser.add_argument(
        "--only",
        choices=["autoencoder", "recall", "revisit", "picture", "prompts", "steady", "codec", "sheet"],
        nargs="*",
    )
    parser.add_argument(
        "--codecs", nargs="+", choices=["all", *PRESETS], metavar="PRESET", help="all, or names of presets"
    )
    parser.add_argument(
        "--policy",
        nargs="+",
        default=[""],
        metavar="every=N,sink=N",
        help="each with every codec; or attention_bits=8",
    )
    parser.add_argument("--frames", type=int, default=96, help="of the videos of --codecs (%(default)s)")
    parser.add_argument("--plain-opening", action="store_true", help="no extra steps for the first block")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the weights to comparison")
    parser.add_argument("--sheet", type=Path, default=WEIGHTS / "contact_sheet.png")
    options = parser.parse_args(arguments)
    if options.frames < BLOCK_FRAMES or options.frames % BLOCK_FRAMES:
        raise SystemExit(f"--frames {options.frames} must be whole blocks of {BLOCK_FRAMES}")
    policies = [parse_policy(text, SPEC.policy) for text in options.policy]
    device = start(options)
    opening = LEVELS if options.plain_opening else OPENING
    models = load_models(device, options.weights)
    evaluation = Evaluation(models, options.scenes, opening)
    result: dict = {
        "kind": "end to end",
        **describe(device, options.commit),
        "scenes": options.scenes,
    }
    if options.codecs is None:
        result |= {"kind": "pocket", **parts(evaluation, options.only, options.sheet)}
    else:
        presets = list(PRESETS) if "all" in options.codecs else options.codecs
        result |= compare_codecs(evaluation, presets, policies, options.frames)
        print(f"\n{markdown(result)}")
    finish(result, options.json)


if __name__ == "__main__":
    main()
