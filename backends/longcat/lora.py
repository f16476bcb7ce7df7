"""Low-rank adapters in LongCat's layout: merged into plain weights, or beside weights of any dtype.

A key is the module's path with `___lorahyphen___` for dots. Fused matrices (query, key and value together)
have one `up` for each part and a `down` whose rows are divided among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backends.base import BackendUnavailable
from backends.wan import checkpoint

_HYPHEN = "___lorahyphen___"
_PREFIX = f"lora{_HYPHEN}"
ALPHA_SCALE = 0.5  # alpha 64 of rank 128, if a file does not contain it


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """An adapter's addition to one weight [N, M]: scale * up @ down, for each of P parts of the rows."""

    down: Tensor  # [P, r, M]
    up: Tensor  # [P, N / P, r]
    scale: float

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0] * self.up.shape[1], self.down.shape[2]

    def weight(self, device: torch.device) -> Tensor:
        """Returns the product as fp32 [N, M] on `device`."""
        up, down = (x.to(device).float() for x in (self.up, self.down))
        return self.scale * (up @ down).flatten(0, 1)


def parse(tensors: Mapping[str, Tensor]) -> dict[str, Delta]:
    """Returns deltas by module.

    Raises BackendUnavailable for a key of another layout or an incomplete set.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        module, _, rest = key.partition(".")
        if not module.startswith(_PREFIX) or not rest:
            raise BackendUnavailable(f"{key} is not a key of a LongCat adapter: {_PREFIX}... was expected.")
        parts.setdefault(module.removeprefix(_PREFIX).replace(_HYPHEN, "."), {})[rest] = tensor
    return {module: _delta(module, found) for module, found in parts.items()}


def merge(part: nn.Module, deltas: Mapping[str, Delta]) -> None:
    """Adds the deltas to plain weights, in FP32. Call `check` first."""
    for name, delta in deltas.items():
        weight = part.get_submodule(name).weight
        if type(weight) not in (Tensor, nn.Parameter):
            raise BackendUnavailable(f"{name} is quantised: merge the adapter before, or put it beside.")
        with torch.no_grad():
            weight.copy_(weight.float() + delta.weight(weight.device))


class Beside(nn.Module):
    """A linear layer with an adapter that is added while its switch is on."""

    def __init__(self, linear: nn.Linear, delta: Delta, switch: Switch) -> None:
        super().__init__()
        self.linear, self._switch, self._scale = linear, switch, delta.scale
        # A quantized weight's `dtype` is the one it computes in.
        device, dtype = linear.weight.device, linear.weight.dtype
        self.down = nn.Parameter(delta.down.flatten(0, 1).to(device, dtype), requires_grad=False)
        self.up = nn.Parameter(delta.up.to(device, dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.linear(x)
        if not self._switch.on:
            return out
        inner = F.linear(x.to(self.down.dtype), self.down).unflatten(-1, (len(self.up), -1))  # [..., P, r]
        added = torch.einsum("...pr,pnr->...pn", inner, self.up).flatten(-2)
        return out + self._scale * added.to(out.dtype)


class Switch:
    """An on/off switch that several adapters share; a permanently merged adapter cannot be switched off."""

    def __init__(self, for_good: bool = False) -> None:
        self.for_good = for_good
        self.on = for_good

    def turn(self, on: bool) -> None:
        """Switches the adapters. Raises ValueError for switching off a merged adapter."""
        if self.for_good and not on:
            raise ValueError("This is the distilled model, its adapter merged for good: sample distilled.")
        self.on = on


def put_beside(model: nn.Module, deltas: Mapping[str, Delta]) -> Switch:
    """Adds the deltas as branches, off at first. Raises BackendUnavailable if one has no matching layer."""
    switch = Switch()
    check(model, deltas)
    for name in deltas:
        linear = model.get_submodule(name)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, Beside(linear, deltas[name], switch))
    return switch


def check(model: nn.Module, deltas: Mapping[str, Delta]) -> None:
    """Raises BackendUnavailable unless there are deltas and each has a linear layer of its shape."""
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    strangers = deltas.keys() - linears.keys()
    if strangers or not deltas:
        found = checkpoint.names(strangers) if strangers else "nothing in it"
        raise BackendUnavailable(f"the adapter is not this model's: {found} belongs to no linear layer.")
    for name, delta in deltas.items():
        expected = (linears[name].out_features, linears[name].in_features)
        if delta.shape != expected:
            raise BackendUnavailable(
                f"the adapter of {name} is for a matrix {list(delta.shape)}, but the model's is "
                f"{list(expected)}."
            )


def _delta(module: str, found: dict[str, Tensor]) -> Delta:
    scale = found.pop("alpha_scale", torch.tensor(ALPHA_SCALE))
    down = found.pop("lora_down.weight", None)
    count = len(found)
    names = [f"lora_up.blocks.{part}.weight" for part in range(count)]
    if "lora_up.weight" in found:
        names = ["lora_up.weight"]
    if down is None or not count or set(names) != found.keys() or len(down) % count:
        raise BackendUnavailable(f"the adapter of {module} is incomplete: it has {checkpoint.names(found)}.")
    return Delta(down.unflatten(0, (count, -1)), torch.stack([found[name] for name in names]), float(scale))
