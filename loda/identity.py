"""What identifies weights: a hash of every byte, and samples of them that outlast a cast or a quantisation.

A sample is eight evenly spaced entries of a parameter. Two samples a and b are of one parameter if the median of
|a - b| is within the rounding of their dtypes, where rms is the root mean square of a:

    one dtype, not quantised     0
    two dtypes                   eps (rms + tiny) of the coarser
    quantised, one or both       rms / 2

Another model of the same shapes differs by about the rms. A fine-tuned copy may differ by less than the rounding, most
easily over quantised weights; then it passes for the same model.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from loda.errors import LodaError

PLACES = 8
QUANTISED = 0.5
"""Of the rms. 4-bit rounding errors are about a tenth of it, several times that in blocks with outliers."""


@dataclass(frozen=True)
class Sample:
    """Shape, dtype and sampled entries of a parameter; of a quantised one, entries of what it stands for."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    values: Tensor

    def casts_to(self, other: "Sample") -> bool:
        """Whether `other` is this parameter as it is, moved, or cast once."""
        if self.shape != other.shape or self._unknown(other):
            return self.shape == other.shape
        return torch.allclose(self.values.to(other.values.dtype), other.values, rtol=0, atol=0, equal_nan=True)

    def resembles(self, other: "Sample") -> bool:
        """Whether both are of one parameter, up to the rounding of their dtypes."""
        if self.shape != other.shape or self._unknown(other):
            return self.shape == other.shape
        a, b = self.values.double(), other.values.double()
        rms = a.square().mean().sqrt()
        if self.dtype == other.dtype and self.dtype.is_floating_point:
            tolerance = torch.zeros(())
        elif self.dtype.is_floating_point and other.dtype.is_floating_point:
            coarser = max((torch.finfo(self.dtype), torch.finfo(other.dtype)), key=lambda kind: kind.eps)
            tolerance = coarser.eps * (rms + coarser.tiny)
        else:
            tolerance = QUANTISED * rms
        return bool((a - b).abs().median() <= tolerance)

    def __str__(self) -> str:
        """One line, which `read_sample` reads: `[64,32] float32 0.1 -0.25 ...`."""
        digits = 17 if self.dtype == torch.float64 else 9  # as many as give the same number again
        values = " ".join(f"{value:.{digits}g}" for value in self.values.double().tolist())
        return f"{json.dumps(self.shape, separators=(',', ':'))} {name_of(self.dtype)} {values}".strip()

    def _unknown(self, other: "Sample") -> bool:
        return self.values.is_meta or other.values.is_meta or not self.values.numel()


def sample(parameter: Tensor, owner: nn.Module | None = None) -> Sample:
    """Take the sample of a parameter; of a quantised one, `owner`, its module, says what it stands for."""
    dense = parameter if owner is None or parameter.is_meta else _dequantised(parameter, owner)
    entries, last = whole(dense.detach()), dense.numel() - 1
    places = [last * place // (PLACES - 1) for place in range(PLACES)] if last >= 0 else []
    # Not of a flattened tensor: that of a transposed view would be a copy.
    values = entries if entries.is_meta else entries[torch.unravel_index(torch.tensor(places), entries.shape)].cpu()
    return Sample(tuple(dense.shape), parameter.dtype, values)


def read_sample(text: str) -> Sample:
    """Read what `str(sample)` gave.

    Raises:
        LodaError: a text of another form.
    """
    try:
        shape, dtype, *values = text.split()
        found = getattr(torch, dtype)
        numbers = torch.tensor([float(value) for value in values], dtype=torch.float64)
        if not isinstance(found, torch.dtype) or len(values) not in (0, PLACES):
            raise ValueError
        values_dtype = found if found.is_floating_point else torch.float32
        return Sample(tuple(int(n) for n in json.loads(shape)), found, numbers.to(values_dtype))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise LodaError(f"{text[:80]!r} is not the sample of a parameter; restore the folder from a copy") from error


def dtypes(samples: Mapping[str, Sample]) -> str:
    """Say the dtypes of a model's parameters: "float32", or "float32 and uint8 (quantised)"."""
    kinds = {s.dtype for s in samples.values()}
    return " and ".join(sorted(name_of(k) + ("" if k.is_floating_point else " (quantised)") for k in kinds)) or "none"


def name_of(dtype: torch.dtype) -> str:
    """Return "float32" for `torch.float32`."""
    return str(dtype).removeprefix("torch.")


def is_same_model(one: Mapping[str, Sample], other: Mapping[str, Sample]) -> bool:
    """Whether the samples are of one model in two dtypes, or quantised in two ways."""
    alike = {n: s.dtype for n, s in one.items()} == {n: s.dtype for n, s in other.items()}
    if one.keys() != other.keys() or (alike and all(s.dtype.is_floating_point for s in one.values())):
        return False
    return all(one[name].resembles(other[name]) for name in one)


@torch.no_grad()
def fingerprint_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 over name, shape, dtype and bytes of `tensors`, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        if not tensor.is_meta:
            data = whole(tensor.detach()).cpu().contiguous().flatten()
            digest.update(data.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def whole(tensor: Tensor) -> Tensor:
    """Return the whole of a tensor that FSDP has distributed; every process must call it."""
    gathered: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return gathered


def owners(model: nn.Module) -> Iterator[tuple[nn.Parameter, nn.Module]]:
    """Return every parameter of `model` with the module that holds it."""
    return ((parameter, module) for module in model.modules() for parameter in module.parameters(recurse=False))


def _dequantised(parameter: Tensor, owner: nn.Module) -> Tensor:
    """Return what a parameter of bitsandbytes stands for, and any other as it is."""
    if parameter.is_floating_point():
        return parameter
    # Here, because it imports bitsandbytes, which other bases do not need.
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    dense: Tensor = dequantize_bnb_weight(cast(nn.Parameter, parameter), getattr(owner, "state", None))
    # bitsandbytes holds the weight of a `Conv1D` transposed.
    return dense.T if getattr(owner, "source_cls", None) is Conv1D else dense
