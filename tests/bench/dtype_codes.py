"""Ways to store token maps that `dtypes.py` compares: those that ship, and those that were tried and left."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from d2st.cache.codec import dequantise, quantise

__all__ = ["CODES", "Code", "Facts", "through"]

Parts = tuple[Tensor, ...]


@dataclass(frozen=True)
class Code:
    """A way to store maps (n,H,W,C) float32: as tensors whose bytes count, and back, into memory that is there."""

    encode: Callable[[Tensor], Parts]
    decode: Callable[[Parts, Tensor], Tensor]


@dataclass(frozen=True)
class Facts:
    """What a code may know of a layer: mean and std (C,), and the correlation of its channels, (C,C) = U diag(variances) U^T."""

    mean: Tensor
    std: Tensor
    variances: Tensor
    directions: Tensor

    @classmethod
    def of(cls, maps: Tensor) -> "Facts":
        tokens = maps.flatten(0, -2).double()
        mean, std = tokens.mean(dim=0), tokens.std(dim=0)
        standard = (tokens - mean) / std
        variances, directions = torch.linalg.eigh(standard.T @ standard / len(tokens))  # rising
        return cls(mean.float(), std.float(), variances.clamp(min=1e-8), directions)

    def whitening(self, floor: float) -> tuple[Tensor, Tensor]:
        """(C,C) to the whitened maps, and back; weaker directions than `floor` of the mean one stay weak."""
        gain = self.variances.clamp(min=floor).rsqrt()
        there = (self.directions * gain) @ self.directions.T / self.std.double()[:, None]
        return there.float(), torch.linalg.inv(there).float()


def cast(dtype: torch.dtype) -> Code:
    return Code(lambda x: (x.to(dtype),), lambda parts, out: out.copy_(parts[0]))


def int8(mean: Tensor, std: Tensor) -> Code:
    return Code(lambda x: quantise(x, mean, std), lambda parts, out: dequantise(*parts, mean, std, out=out))


def int4(mean: Tensor, std: Tensor) -> Code:
    """Two values a byte, -7..7."""

    def encode(x: Tensor) -> Parts:
        z = (x - mean) / std
        scales = (z.abs().amax(dim=-1) / 7).half()
        q = (z / scales.float().unsqueeze(-1)).round().clamp(-7, 7).to(torch.int16) + 8
        return (q[..., ::2] * 16 + q[..., 1::2]).to(torch.uint8), scales

    def decode(parts: Parts, out: Tensor) -> Tensor:
        out[..., ::2], out[..., 1::2] = parts[0] >> 4, parts[0] & 15
        return torch.addcmul(mean, out.sub_(8).mul_(parts[1].float().unsqueeze(-1)), std, out=out)

    return Code(encode, decode)


def turned(inner: Callable[[Tensor, Tensor], Code], facts: Facts, floor: float) -> Code:
    """`inner` on whitened maps."""
    there, back = facts.whitening(floor)
    code = inner(torch.zeros_like(facts.mean), torch.ones_like(facts.mean))
    return Code(
        lambda x: code.encode((x - facts.mean) @ there),
        lambda parts, out: out.copy_(code.decode(parts, out) @ back).add_(facts.mean),
    )


def low_rank(facts: Facts) -> Code:
    """float16 coefficients of the stronger half of the directions: as many bytes as int8."""
    kept = facts.directions[:, len(facts.mean) // 2 :].float()
    return Code(
        lambda x: (((x - facts.mean) / facts.std @ kept).half(),),
        lambda parts, out: torch.addcmul(facts.mean, parts[0].float() @ kept.T, facts.std, out=out),
    )


CODES: dict[str, Callable[[Facts], Code]] = {
    "float16": lambda facts: cast(torch.float16),
    "bfloat16": lambda facts: cast(torch.bfloat16),
    "int8-token": lambda facts: int8(torch.zeros_like(facts.mean), torch.ones_like(facts.mean)),
    "int8": lambda facts: int8(facts.mean, facts.std),
    "int8-whitened": lambda facts: turned(int8, facts, 1e-3),
    "int4": lambda facts: int4(facts.mean, facts.std),
    "int4-whitened": lambda facts: turned(int4, facts, 1e-3),
    "low-rank": low_rank,
}


def through(code: Code, maps: Tensor) -> Tensor:
    made = torch.empty_like(maps)
    for part, out in zip(maps.split(64), made.split(64), strict=True):
        code.decode(code.encode(part), out)
    return made
