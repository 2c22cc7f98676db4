"""Weights in a quarter of their size or half of it: int8 with a scale a row or bfloat16, in xz.

Matrices are rounded, everything else is kept bit for bit. The result is safetensors in an .xz
stream.

    int8    q = round(w / s), s = max |row| / 127: |w - s q| <= s / 2; tensors NAME and scale/NAME
    bf16    the nearest bfloat16

Files may be hostile: unpacking stops at the size that was announced, and an announced size has to
be one that weights can have.
"""

from __future__ import annotations

import lzma
from collections.abc import Mapping

import torch
from safetensors.torch import save
from torch import Tensor

from ulmfit_fast.errors import InputError
from ulmfit_fast.training.tensor_file import parse_tensors

PACKINGS = ("int8", "bf16")
LEVELS = 127
SCALE = "scale/"  # before a tensor's name; no module's name has a slash
#: Trained weights pack 1 : 1.2. More than this is no model, or one that was never trained.
MOST_RATIO = 100
FREE_BYTES = 2**20  # of which nobody asks how they were packed
# int8 values have no structure but their distribution: contexts of position, and dictionaries of
# more than a MiB, gain nothing.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**20, "lc": 0, "lp": 0, "pb": 0}]
MOST_MEMORY = 2**26  # of the decompressor; a file may ask for any dictionary


def pack(tensors: Mapping[str, Tensor], packing: str) -> tuple[bytes, int]:
    """Return an .xz stream of tensors, the same one for the same tensors, and its unpacked size.

    Args:
        tensors: state dict without shared tensors; floating-point ones in float32.
        packing: "int8" or "bf16".

    Raises:
        InputError: no such packing, weights that are not finite or not float32, or all alike.
    """
    check_packing(packing)
    packed: dict[str, Tensor] = {}
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        if not tensor.is_floating_point():
            packed[name] = tensor
            continue
        if tensor.dtype != torch.float32:
            raise InputError(f"cannot pack {name}: it is {tensor.dtype}; pack float32 weights")
        if not tensor.isfinite().all():
            raise InputError(f"cannot pack {name}: it has values that are not finite; train again")
        if tensor.ndim != 2:
            packed[name] = tensor
        elif packing == "bf16":
            packed[name] = tensor.to(torch.bfloat16)
        else:
            packed[name], packed[SCALE + name] = quantize(tensor)
    content = save(packed)
    stream = lzma.compress(content, filters=FILTERS)
    if len(content) > most_unpacked(len(stream)):
        raise InputError("cannot pack the model: its weights are nearly all alike; train it first")
    return stream, len(content)


def unpack(stream: bytes, packing: str, n_bytes: int, where: object) -> dict[str, Tensor]:
    """Return the tensors of an .xz stream in float32; others as they were.

    Args:
        stream: of pack.
        packing: of pack.
        n_bytes: unpacked size, of pack.
        where: the file, for messages.

    Raises:
        InputError: the stream is damaged, of another size, or asks for more memory than weights do.
    """
    content = _decompress(stream, n_bytes, where)
    packed = parse_tensors(content, where)
    del content
    if packing == "bf16":
        return {name: t.float() if t.is_floating_point() else t for name, t in packed.items()}
    tensors: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        if name.startswith(SCALE):
            continue
        scale = packed.get(SCALE + name)
        if scale is None:
            tensors[name] = tensor.clone()
        elif tensor.ndim != 2 or scale.shape != tensor.shape[:1] or tensor.dtype != torch.int8:
            raise InputError(f"{where}: {name} and its scales do not fit; train again")
        else:
            tensors[name] = dequantize(tensor, scale)
    return tensors


def quantize(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row to whole multiples of a scale of its own.

    Args:
        weights: finite; shape [R, C], float32.

    Returns:
        values: from -127 to 127; shape [R, C], int8.
        scales: 0 for rows of zeros, else such that |weights - scales values| <= scales / 2, but for
            the rounding of float32; shape [R], float32.
    """
    R, C = weights.shape
    largest = weights.double().abs().amax(dim=1) if C else torch.zeros(R, dtype=torch.float64)
    scales = (largest / LEVELS).float()
    # At the ends of float32's range a rounded scale would leave a level too few, or overflow.
    is_short = (largest > 0) & (scales.double() * (LEVELS + 0.5) <= largest)
    scales = torch.where(is_short, scales.nextafter(torch.tensor(torch.inf)), scales)
    overflows = (scales * LEVELS).isinf()
    scales = torch.where(overflows, scales.nextafter(torch.tensor(0.0)), scales)
    divisor = torch.where(scales > 0, scales, torch.ones_like(scales)).double()
    return (weights.double() / divisor.unsqueeze(1)).round().to(torch.int8), scales


def dequantize(values: Tensor, scales: Tensor) -> Tensor:
    """Return values times the scale of their row; shape [R, C], float32."""
    return values.float() * scales.unsqueeze(1)


def check_packing(packing: object) -> None:
    """Raise InputError unless packing is the name of one."""
    if packing not in PACKINGS:
        raise InputError(f"no packing {packing!r:.40}: choose one of {', '.join(PACKINGS)}")


def most_unpacked(n_packed: int) -> int:
    """Return how many bytes a stream of so many may become."""
    return FREE_BYTES + MOST_RATIO * n_packed


def _decompress(stream: bytes, n_bytes: int, where: object) -> bytes:
    """Return n_bytes of a stream that has just as many."""
    damaged = "restore it or train again"
    if not 0 < n_bytes <= most_unpacked(len(stream)):
        raise InputError(
            f"{where}: config.json says that {len(stream):,} bytes unpack to {n_bytes:,}, which "
            f"weights do not; {damaged}"
        )
    reader = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_MEMORY)
    try:
        content = reader.decompress(stream, max_length=n_bytes + 1)
    except lzma.LZMAError as error:
        raise InputError(f"{where}: cannot be unpacked ({error}); {damaged}") from error
    if len(content) != n_bytes or not reader.eof or reader.unused_data:
        raise InputError(
            f"{where}: does not unpack to the {n_bytes:,} bytes that config.json says; {damaged}"
        )
    return content
