"""Running mean and variance of every channel, gathered while a shard is written, so that training never pays a pass for them.

Partial results are merged by the pairwise update of Chan, Golub and LeVeque (1983):

    delta = mean_b - mean_a,  mean = mean_a + delta * n_b / n,  M2 = M2_a + M2_b + delta^2 * n_a * n_b / n

Only frames of the training split are counted: conditioning by test statistics would leak.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from d2st.cache.errors import StoreError
from d2st.cache.seal import PLACEHOLDER, check_seal, seal

__all__ = ["Moments", "add_frames", "counted_digest", "merge", "moments_bytes", "moments_name", "moments_of", "read_moments"]


@dataclass(frozen=True)
class Moments:
    """Count, mean (C,) and M2 = sum of squared deviations (C,), float64."""

    count: int
    mean: np.ndarray
    m2: np.ndarray

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation (C,)."""
        return np.sqrt(self.m2 / max(self.count, 1))


def moments_of(values: np.ndarray) -> Moments:
    """Moments over all axes of `values` (..., C) but the last; in float32, summed in float64."""
    block = values.reshape(-1, values.shape[-1]).astype(np.float32)  # (n, C)
    if len(block) == 0:
        return Moments(0, np.zeros(block.shape[1]), np.zeros(block.shape[1]))
    mean = block.mean(axis=0, dtype=np.float64)
    block -= mean.astype(np.float32)
    correction = block.mean(axis=0, dtype=np.float64)  # what rounding the mean to float32 left
    m2 = np.einsum("nc,nc->c", block, block, dtype=np.float64) - len(block) * correction**2
    return Moments(len(block), mean, np.maximum(m2, 0.0))


def add_frames(total: Moments | None, frames: np.ndarray) -> Moments:
    """`total` with `frames` (n, ..., C), merged one by one: the result does not depend on how the frames of a shard are cut into blocks."""
    if total is None:
        total = moments_of(frames[:0])
    for frame in frames:
        total = merge(total, moments_of(frame))
    return total


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of both samples together."""
    n = a.count + b.count
    if n == 0:
        return a
    delta = b.mean - a.mean
    return Moments(n, a.mean + delta * (b.count / n), a.m2 + b.m2 + delta**2 * (a.count * b.count / n))


def counted_digest(sample_ids: Iterable[str]) -> str:
    """Which samples were counted, as 32 hex digits: when splits change, the statistics of a shard are known to be out of date."""
    return hashlib.blake2b("\n".join(sorted(sample_ids)).encode(), digest_size=16).hexdigest()


def moments_name(shard: int) -> str:
    """Where the statistics of a shard lie, relative to their level's folder."""
    return f"moments/{shard:06d}.safetensors"


def moments_bytes(moments: Mapping[str, Moments], *, counted: str) -> bytes:
    """The statistics of a shard as a sealed file.

    Args:
        moments: by name: `layer` for its maps, `layer/cls` for its CLS tokens.
        counted: `counted_digest` of the samples whose frames they hold.
    """
    tensors = {}
    for name, value in moments.items():
        tensors |= {f"{name}.count": np.array([value.count]), f"{name}.mean": value.mean, f"{name}.m2": value.m2}
    # one entry, because safetensors does not keep their order
    return seal(save(tensors, metadata={"d2st": f"counted={counted} {PLACEHOLDER}"}))


def read_moments(path: Path, *, sealed: bool = True) -> tuple[dict[str, Moments], str]:
    """Statistics of one shard by name, and the digest of the samples that were counted ("" in stores of format 1).

    Raises:
        StoreError: the file is missing or damaged.
    """
    fix = "Run `d2st cache build` again, or `d2st cache repair`: they are computed anew from the token maps"
    try:
        data = path.read_bytes()
        if sealed:
            check_seal(data, where=str(path))
        tensors = load(data)
        names = [key.removesuffix(".count") for key in tensors if key.endswith(".count")]
        found = {
            name: Moments(int(tensors[f"{name}.count"][0]), tensors[f"{name}.mean"], tensors[f"{name}.m2"]) for name in names
        }
        counted = re.match(r"counted=(\w+) ", _metadata(data).get("d2st", ""))
        return found, counted[1] if counted else ""
    except StoreError as error:
        raise StoreError(error.message, fix=fix) from error
    except (OSError, SafetensorError, KeyError, IndexError, ValueError) as error:
        raise StoreError(f"{path} is missing or damaged: {error}", fix=fix) from error


def _metadata(data: bytes) -> dict[str, str]:
    """The text metadata in a safetensors file's header."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header.get("__metadata__", {})
