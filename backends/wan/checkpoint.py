"""Weight files, read and written: safetensors, alone or in shards, and pickles that contain only tensors.

A tensor stays in its file until it is copied to its device, a piece at a time: a checkpoint is never in
memory as a whole, and no file is mapped as a whole. Systems refuse private mappings larger than memory and
swap together, and a folder may be read-only.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from backends.base import BackendUnavailable
from backends.hub import files
from backends.runtime.errors import is_out_of_memory
from backends.sizes import file_size

SHARD_BYTES = 5_000_000_000  # of our copy: a larger one is split into several files
# Dictionaries of a training checkpoint, in order of preference.
PARTS = ("generator_ema", "generator", "model", "state_dict", "module")

_SHOWN = 4  # names in an error before "and n more"
_PIECE = 1 << 24  # numbers copied at once: 64 MB in FP32
_DEEPEST = 4  # nested dictionaries around the tensors
_SAVE_AGAIN = "save it again with torch.save, or as safetensors"
_PICKLE = b"\x80"  # first byte of pickles
# Prefixes of names from data parallelism, compilation and other programs, and from trainers inside them.
_PREFIXES = ("module.", "model.", "diffusion_model.", "generator.", "generator_ema.")
_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_USABLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A tensor in a file, not read yet. `stride`, in numbers, is None if it is contiguous."""

    path: Path
    offset: int  # bytes from the beginning of the file
    shape: torch.Size
    dtype: torch.dtype
    stride: tuple[int, ...] | None = None

    def numel(self) -> int:
        return self.shape.numel()

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Tensor:
        """Returns a copy on `device`. On the CPU and in the file's dtype it is mapped copy-on-write.

        Raises OSError.
        """
        device, dtype = torch.device(device), dtype or self.dtype
        if device.type == "cpu" and dtype == self.dtype and self.numel():
            return self._mapped()
        made = torch.empty(self.shape, device=device, dtype=dtype)
        if device.type == "meta":
            return made
        start = 0
        for piece in self.pieces():
            made.view(-1)[start : start + len(piece)].copy_(piece)
            start += len(piece)
        return made

    def pieces(self) -> Iterator[Tensor]:
        """Yields all numbers in order, in one-dimensional tensors on the CPU. Raises OSError."""
        if self.stride is not None:
            yield self._mapped().flatten()
            return
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for start in range(0, self.numel(), _PIECE):
                piece = torch.empty(min(_PIECE, self.numel() - start), dtype=self.dtype)
                if file.readinto(piece.view(torch.uint8).numpy()) != piece.nbytes:
                    raise OSError(errno.EIO, "it became shorter while it was read")
                yield piece

    def _mapped(self) -> Tensor:
        before = self.offset % mmap.ALLOCATIONGRANULARITY
        with self.path.open("rb") as file:
            memory = mmap.mmap(
                file.fileno(), before + self.extent, access=mmap.ACCESS_COPY, offset=self.offset - before
            )
        count = self.extent // self.dtype.itemsize
        flat = torch.frombuffer(memory, dtype=self.dtype, count=count, offset=before)
        return flat.view(self.shape) if self.stride is None else flat.as_strided(self.shape, self.stride)

    @property
    def extent(self) -> int:
        """Returns the bytes of the file from the first number to the last."""
        if self.stride is None or not self.numel():
            return self.numel() * self.dtype.itemsize
        last = sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))
        return (last + 1) * self.dtype.itemsize


Weights = Mapping[str, Tensor | Stored]


def scan(path: Path, parts: Sequence[str] = PARTS) -> dict[str, Tensor | Stored]:
    """Returns tensors by name, to be read when they are copied.

    `path` is a safetensors file, a folder or a list (index) of several, or a PyTorch file (.pt, .pth). In the
    latter, `parts` name the dictionaries of tensors; the first that exists and is not empty is used. Raises
    BackendUnavailable if it is missing, truncated, something else, or contains anything but tensors.
    """
    if not path.exists() and files.index_of(path).is_file():
        path = files.index_of(path)
    if path.is_dir() or path.name.endswith(files.INDEX):
        return _scan_shards(files.shards(path) if path.is_dir() else files.indexed(path))
    found = files.check(path)
    try:
        if found.kind == "safetensors":
            return _scan_safetensors(path)
        if found.kind == "unknown" and path.suffix == ".safetensors":
            raise files.damaged(path, "it is no safetensors file")
        return _inner(path, _unpickled(path, found.kind == "pytorch"), parts)
    except (OSError, RuntimeError, MemoryError) as error:
        raise _unreadable(path, error) from error


def read(path: Path) -> dict[str, Tensor]:
    """Returns tensors on the CPU by name, in the file's dtypes. See `scan`. Raises BackendUnavailable."""
    weights = scan(path)
    try:
        return {name: tensor.to("cpu") for name, tensor in weights.items()}
    except (OSError, RuntimeError, MemoryError) as error:
        raise _unreadable(path, error) from error


def bare(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the same by names without the prefixes of trainers and other programs.

    Raises BackendUnavailable if two names become one.
    """
    named: dict[str, Any] = {}
    for name, tensor in weights.items():
        own = _bare(name)
        if own in named:
            raise BackendUnavailable(f"{_origin(weights)}the weights hold {own} twice, once as {name}.")
        named[own] = tensor
    return named


def write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file that is complete from the moment it has its name.

    Raises BackendUnavailable if it cannot be written.
    """
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, name, metadata)
        os.replace(name, path)
    except (OSError, SafetensorError) as error:
        raise _unwritable(path, error) from error
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


def convert(
    weights: Weights, target: Path, metadata: dict[str, str] | None = None, most: int | None = None
) -> Path:
    """Writes `weights` in BF16 and returns the path to open: `target`, or the list of shards beside it.

    No more than a piece of a tensor is in memory. Shards have at most `most` bytes, SHARD_BYTES if None.
    Raises BackendUnavailable if a file cannot be read or written, or has numbers that are not finite.
    """
    shards = _cut(weights, SHARD_BYTES if most is None else most)
    stem = target.name.removesuffix(".safetensors")
    paths = [target]
    if len(shards) > 1:
        names = (f"{stem}-{number:05}-of-{len(shards):05}" for number in range(1, len(shards) + 1))
        paths = [target.with_name(f"{name}.safetensors") for name in names]
    written: list[Path] = []
    try:
        for path, names in zip(paths, shards, strict=True):
            _write_shard(path, {name: weights[name] for name in names}, metadata or {}, written)
        index = files.index_of(target)
        if len(shards) > 1:
            listed = {name: path.name for path, names in zip(paths, shards, strict=True) for name in names}
            fresh = _temporary(index, written)
            fresh.write_text(json.dumps({"metadata": metadata or {}, "weight_map": listed}))
        for fresh, path in zip(written, [*paths, index], strict=False):
            os.replace(fresh, path)
        if len(shards) == 1:
            return target
        target.unlink(missing_ok=True)  # an incomplete file of an earlier version, which wrote no shards
        return index
    except (OSError, RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        raise _unwritable(target, error) from error
    finally:
        for fresh in written:
            fresh.unlink(missing_ok=True)


def check(module: nn.Module, weights: Weights) -> None:
    """Raises BackendUnavailable unless names and shapes are exactly the module's, and dtypes are usable."""
    expected = module.state_dict()
    absent, extra = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    where = _origin(weights)
    if absent or extra:
        if any("lora_" in name for name in extra):
            raise BackendUnavailable(f"{where}this is an adapter (LoRA), not a model's weights.")
        found = [f"lack {names(absent)}"] if absent else []
        found += [f"have {names(extra)} too many"] if extra else []
        raise BackendUnavailable(
            f"{where}the weights are not those of {type(module).__name__}: they {' and '.join(found)}."
        )
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise BackendUnavailable(
                f"{where}{name} is {tuple(tensor.shape)}, but {type(module).__name__} takes "
                f"{tuple(expected[name].shape)}."
            )
        if tensor.dtype not in _USABLE:
            kind = str(tensor.dtype).removeprefix("torch.")
            if tensor.dtype.is_floating_point:
                kind = f"8-bit floats (FP8, {kind})"
            raise BackendUnavailable(
                f"{where}{name} is stored as {kind}: use the file in BF16, FP16 or FP32."
            )


def fill(module: nn.Module, weights: Weights, device: torch.device | str, dtype: torch.dtype) -> None:
    """Sets the parameters of `module`, built on the meta device, to `weights`, on `device` in `dtype`.

    Raises BackendUnavailable unless names and shapes are exactly the module's and all numbers are finite, and
    if CPU memory is not sufficient.
    """
    check(module, weights)
    placed: dict[int, Tensor] = {}
    state = {}
    for name, tensor in weights.items():
        # Tied parameters share one tensor and stay shared.
        if id(tensor) not in placed:
            try:
                placed[id(tensor)] = tensor.to(device, dtype)
                _check_finite(name, placed[id(tensor)], weights)
            except (OSError, RuntimeError, MemoryError) as error:
                on_host = torch.device(device).type == "cpu" and is_out_of_memory(error)
                if isinstance(error, RuntimeError) and not on_host:
                    raise
                needed = sum(each.numel() for each in weights.values()) * dtype.itemsize
                raise _unreadable(_path_of(tensor), error, needed) from error
        state[name] = placed[id(tensor)]
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False).eval()


def without_memory(what: str, needed: int) -> BackendUnavailable:
    """Returns the error for intact weights that are too large for CPU memory."""
    amount = f": about {file_size(needed)} are needed" if needed else ""
    return BackendUnavailable(
        f"Not enough memory (RAM) to load {what}{amount}. Close other programs, or add swap, and try again; "
        "the files are not at fault."
    )


def fill_randomly(module: nn.Module, device: torch.device | str, dtype: torch.dtype, seed: int) -> None:
    """Fills `module`, built on the meta device, with parameters that keep activations near one in size."""
    generator = torch.Generator(device).manual_seed(seed)
    state = {}
    for name, tensor in module.state_dict().items():
        made = torch.empty(tensor.shape, device=device, dtype=dtype)
        if tensor.ndim > 1 and not name.endswith("gamma"):
            state[name] = made.normal_(0, tensor[0].numel() ** -0.5, generator=generator)
        else:
            state[name] = made.fill_(1.0 if name.endswith(("weight", "gamma")) else 0.0)
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False).eval()


def names(keys: Iterable[str]) -> str:
    """Returns the names as `a, b, c, d and 3 more`."""
    ordered = sorted(map(str, keys))
    shown = ", ".join(ordered[:_SHOWN])
    return shown if len(ordered) <= _SHOWN else f"{shown} and {len(ordered) - _SHOWN} more"


def _scan_shards(shards: Mapping[Path, frozenset[str] | None]) -> dict[str, Tensor | Stored]:
    weights: dict[str, Tensor | Stored] = {}
    for path, wanted in shards.items():
        if files.check(path).kind != "safetensors":
            raise files.damaged(path, "it is no safetensors file")
        try:
            held = _scan_safetensors(path)
        except OSError as error:
            raise files.unreadable(path, error) from error
        if wanted is not None:
            if absent := wanted - held.keys():
                raise files.damaged(path, f"its list says that it holds {names(absent)}, and it does not")
            held = {name: held[name] for name in held if name in wanted}
        for name in held.keys() & weights.keys():
            other = _path_of(weights[name])
            raise BackendUnavailable(
                f"{path.parent} holds {name} in {other.name} and in {path.name}: remove the file that does "
                "not belong there."
            )
        weights |= held
    return weights


def _scan_safetensors(path: Path) -> dict[str, Tensor | Stored]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        described = json.loads(file.read(length))
    weights: dict[str, Tensor | Stored] = {}
    for name, entry in described.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _DTYPES:
            raise files.damaged(path, f"{name} is stored as {entry['dtype']}", "use the file in BF16 or FP32")
        shape, dtype = torch.Size(entry["shape"]), _DTYPES[entry["dtype"]]
        start, stop = entry["data_offsets"]
        if start < 0 or stop - start != shape.numel() * dtype.itemsize:
            raise files.damaged(path, f"its header says two things of the size of {name}")
        weights[name] = Stored(path, 8 + length + start, shape, dtype)
    return weights


def _unpickled(path: Path, zipped: bool) -> object:
    """Returns the content of a PyTorch file, tensors as `Stored`; before format 1.6 they are read at once."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    # Opened as a file: given a name, torch would also draw conclusions from it.
    with path.open("rb") as file:
        pickled = file.read(1) == _PICKLE
        file.seek(0)
        try:
            if not zipped:
                return torch.load(file, map_location="cpu", weights_only=True)
            # Tensors without data that know their position in the file, as torch's notes on serialization
            # describe.
            with FakeTensorMode():
                loaded = torch.load(file, map_location="cpu", weights_only=True)
                return _stored(path, loaded, _records(path), _DEEPEST)
        except pickle.UnpicklingError as error:
            if zipped or pickled or "GLOBAL" in str(error):
                why = "it holds more than tensors, such as a program, which is not run"
                raise files.damaged(path, why, "use a file of tensors only, safetensors best") from error
            raise files.damaged(path, "it is no file of weights, or damaged") from error
        except (EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise files.damaged(path, "it is no file of weights, or damaged") from error


def _records(path: Path) -> dict[int, int]:
    """Returns where the records of a PyTorch file begin, in bytes, and how long each is."""
    found = {}
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for entry in archive.infolist():
            # The lengths of the name and of the extra field, in the record's own header.
            file.seek(entry.header_offset + 26)
            name, extra = struct.unpack("<HH", file.read(4))
            found[entry.header_offset + 30 + name + extra] = entry.file_size
    return found


def _stored(path: Path, saved: object, records: Mapping[int, int], depth: int) -> object:
    if isinstance(saved, Tensor):
        storage: Any = saved.untyped_storage()
        # torch computes where its own writer would put a record, and does not check.
        if storage.nbytes() and records.get(storage._checkpoint_offset) != storage.nbytes():
            raise files.damaged(path, "it was packed again by another program", _SAVE_AGAIN)
        if saved.is_neg() or saved.is_conj():
            raise files.damaged(path, "it holds numbers whose sign is kept apart from them", _SAVE_AGAIN)
        offset = storage._checkpoint_offset + saved.storage_offset() * saved.dtype.itemsize
        stride = None if saved.is_contiguous() else saved.stride()
        stored = Stored(path, offset, saved.shape, saved.dtype, stride)
        if offset + stored.extent > path.stat().st_size:
            raise files.damaged(path, "it is cut off")
        return stored
    if isinstance(saved, Mapping):
        if not depth:
            raise files.damaged(path, f"its tensors are more than {_DEEPEST} dictionaries deep", _SAVE_AGAIN)
        # One tensor under two names stays one.
        made: dict[int, object] = {}
        for value in saved.values():
            if id(value) not in made:
                made[id(value)] = _stored(path, value, records, depth - 1)
        return {name: made[id(value)] for name, value in saved.items()}
    return saved


def _inner(path: Path, saved: object, parts: Sequence[str]) -> dict[str, Tensor | Stored]:
    """Returns the tensors of a training checkpoint, from the first of its `parts` that has any."""
    if isinstance(saved, Mapping):
        for part in parts:
            if isinstance(saved.get(part), Mapping) and saved[part]:
                return _inner(path, saved[part], parts)
        tensors = {str(name): each for name, each in saved.items() if isinstance(each, (Tensor, Stored))}
        if tensors:
            return tensors
    held = (names(saved) or "nothing") if isinstance(saved, Mapping) else type(saved).__name__
    raise BackendUnavailable(f"{path} is no file of a model's weights: it holds no {parts[0]!r}, but {held}.")


def _bare(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    while start := next((prefix for prefix in _PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(start)
    return name


def _cut(weights: Weights, most: int) -> list[list[str]]:
    """Returns names, in order, in shards of at most `most` bytes in BF16 each."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in weights.items():
        size = 2 * tensor.numel()
        if shards[-1] and filled + size > most:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _temporary(path: Path, written: list[Path]) -> Path:
    """Creates a new file beside `path`, adds it to `written` and returns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    written.append(Path(name))
    return written[-1]


def _write_shard(path: Path, weights: Weights, metadata: dict[str, str], written: list[Path]) -> None:
    with _temporary(path, written).open("wb") as file:
        head = _header(weights, metadata)
        file.write(struct.pack("<Q", len(head)) + head)
        for name, tensor in weights.items():
            for piece in _pieces(tensor):
                rounded = piece.to(torch.bfloat16)
                _check_finite(name, rounded, weights)
                file.write(memoryview(rounded.view(torch.uint8).numpy()))


def _pieces(tensor: Tensor | Stored) -> Iterator[Tensor]:
    """Yields one-dimensional pieces.

    Reading errors become BackendUnavailable, naming the file that is read.
    """
    if isinstance(tensor, Tensor):
        yield from tensor.detach().flatten().split(_PIECE)
        return
    try:
        yield from tensor.pieces()
    except (OSError, RuntimeError, MemoryError) as error:
        raise _unreadable(tensor.path, error, 8 * _PIECE) from error


def _header(weights: Weights, metadata: dict[str, str]) -> bytes:
    """Returns the header of a safetensors file of `weights` in BF16, in this order, padded to 8 bytes."""
    described: dict[str, object] = {"__metadata__": metadata}
    start = 0
    for name, tensor in weights.items():
        stop = start + 2 * tensor.numel()
        described[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    head = json.dumps(described).encode()
    return head + b" " * (-len(head) % 8)


def _check_finite(name: str, tensor: Tensor, weights: Weights) -> None:
    if tensor.is_meta or not tensor.numel():
        return
    # A sum is not finite if one of its numbers is not, and needs no memory; but it may also overflow.
    if not tensor.sum(dtype=torch.float32).isfinite() and not tensor.isfinite().all():
        raise BackendUnavailable(
            f"{_origin(weights)}{name} holds numbers that are not finite (NaN or infinity): the file is "
            "damaged, or was saved from a training that failed. Use another one."
        )


def _path_of(tensor: Tensor | Stored) -> Path:
    return tensor.path if isinstance(tensor, Stored) else Path("the weights")


def _origin(weights: Mapping[str, Any]) -> str:
    """Returns `model.pt: `, or nothing for tensors without a file."""
    paths = sorted({tensor.path for tensor in weights.values() if isinstance(tensor, Stored)})
    if not paths:
        return ""
    return f"{paths[0]}: " if len(paths) == 1 else f"{paths[0].parent}: "


def _unreadable(path: Path, error: Exception, needed: int = 0) -> BackendUnavailable:
    if is_out_of_memory(error):
        return without_memory(str(path), needed)
    if isinstance(error, OSError):
        return files.unreadable(path, error)
    return files.damaged(path, "it is no file of weights, or damaged")


def _unwritable(path: Path, error: Exception) -> BackendUnavailable:
    if is_out_of_memory(error):
        return without_memory(str(path), 8 * _PIECE)
    return BackendUnavailable(
        f"{path} cannot be written ({error}): make room, or set HF_HOME to another folder."
    )
