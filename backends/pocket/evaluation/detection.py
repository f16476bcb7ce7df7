"""Detection of objects in a picture of Pocket World: their colours, kinds and bearings.

Every pixel is classified by the nearest color that the renderer could have drawn there, of an object under
some light and haze or of the ground and the sky; patches of one colour are classified by their outline.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backends.pocket import vocabulary
from backends.pocket.scene import COLOURS, HORIZONTAL_FOV, look_table

HAZE = (0.0, 0.06, 0.15, 0.3)
LEAST = 40  # pixels in a patch that counts


@dataclass(frozen=True, slots=True)
class Sighting:
    """A patch of a colour with the outline of a kind, `bearing` radians right of the picture's middle."""

    colour: int
    kind: int
    bearing: float


def palette(look: int) -> tuple[Tensor, Tensor]:
    """Returns (fp32 [N, 3], int64 [N]): a look's colours; their vocabulary.COLOURS, -1 for ground and sky."""
    row = look_table("cpu")[look]
    top, horizon, light, dark, hill = row[:15].view(5, 3)
    sun, strength, ambient = row[15:18], row[18], row[19]
    colours, labels = [], []
    lights = torch.linspace(float(ambient) * 0.9, float(ambient + strength) * 1.05 + 0.08, 9)
    for index, colour in enumerate(COLOURS):
        for brightness in lights:
            for haze in HAZE:
                colours.append((torch.tensor(colour) * brightness).clamp(0, 1) * (1 - haze) + horizon * haze)
                labels.append(index)
    level = float((ambient + strength * sun[1]).clamp(0.55, 1.0))
    ground = [
        (dark + (light - dark) * mix) * level * shade * (1 - haze) + horizon * haze
        for mix in (0, 0.33, 0.67, 1) for shade in (1.0, 0.8, 0.6, 0.4) for haze in (*HAZE, 0.5, 0.7, 0.9)
    ]  # fmt: skip
    sky = [horizon + (top - horizon) * rise for rise in torch.linspace(0, 1, 9)]
    glow = [(colour + float(strength) * g).clamp(0, 1) for colour in sky for g in (0.1, 0.3, 0.6, 1.0)]
    background = [*ground, *sky, *glow, hill + (horizon - hill) * 0.25]
    return torch.stack([*colours, *background]), torch.tensor([*labels, *[-1] * len(background)])


def look_at(pictures: Tensor, look: int) -> list[list[Sighting]]:
    """Returns the objects in each of `pictures` [F, 3, H, W] in 0..1, all of one look."""
    colours, labels = (part.to(pictures.device) for part in palette(look))
    pixels = pictures.movedim(1, -1)
    label = torch.stack([labels[torch.cdist(p.flatten(0, 1), colours).argmin(1)] for p in pixels])
    label = label.view(pixels.shape[:3])
    patches = _patches(label).cpu().numpy()
    return [[*_sightings(names, patch)] for names, patch in zip(label.cpu().numpy(), patches, strict=True)]


def _patches(label: Tensor) -> Tensor:
    """Returns int64 [F, H, W]: a number for every pixel, the same for all that are connected."""
    frames, height, width = label.shape
    number = torch.arange(height * width, device=label.device).view(1, height, width).repeat(frames, 1, 1)
    for _ in range(height):
        before = number
        for dim in (1, 2):
            same = label.narrow(dim, 0, label.shape[dim] - 1) == label.narrow(dim, 1, label.shape[dim] - 1)
            first, second = number.narrow(dim, 0, same.shape[dim]), number.narrow(dim, 1, same.shape[dim])
            most = torch.where(same, torch.maximum(first, second), first)
            back = torch.where(same, torch.maximum(first, second), second)
            number = number.clone()
            number.narrow(dim, 0, same.shape[dim]).copy_(most)
            tail = number.narrow(dim, 1, same.shape[dim])
            tail.copy_(torch.maximum(tail, back))
        if torch.equal(number, before):
            break
    return number


def _sightings(label: np.ndarray, patch: np.ndarray) -> list[Sighting]:
    height, width = label.shape
    found = []
    numbers, counts = np.unique(patch[label >= 0], return_counts=True)
    for number in numbers[counts >= LEAST]:
        rows, columns = np.nonzero(patch == number)
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        if left == 0 or right == width or bottom == height:
            continue  # cut off by the edge, so its outline is unknown
        shape = patch[top:bottom, left:right] == number
        kind = _outline(shape)
        if kind is None:
            continue
        middle = ((left + right) / width - 1) * math.tan(HORIZONTAL_FOV / 2)
        found.append(Sighting(int(label[rows[0], columns[0]]), kind, math.atan(middle)))
    return found


def _outline(shape: np.ndarray) -> int | None:
    """Returns the index into vocabulary.KINDS of a patch [h, w] in its bounding box; None if ragged."""
    h, w = shape.shape
    if h < 5 or w < 3:
        return None
    y, x = (np.arange(h)[:, None] + 0.5) / h, (np.arange(w)[None] + 0.5) / w
    ellipse = (2 * y - 1) ** 2 + (2 * x - 1) ** 2 <= 1
    triangle = np.abs(2 * x - 1) <= y
    likeness = {
        "ball": _overlap(shape, ellipse) if 0.75 < h / w < 1.35 else 0.0,
        "cone": _overlap(shape, triangle),
        "box": shape.mean(),
    }
    if likeness["ball"] > 0.88:
        return vocabulary.KINDS.index("ball")
    if likeness["cone"] > 0.74:
        return vocabulary.KINDS.index("cone")
    if likeness["box"] < 0.7:
        return None
    return vocabulary.KINDS.index("pillar" if h / w > 1.9 else "box")


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))
