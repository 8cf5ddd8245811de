"""Whether maps tell the truth about a detector, over many clips whose manipulated region is known.

Every map meets four opponents on the same clips: random maps, the network's own attention, a map of another clip, and a bump in the middle.
Beating the random one is little: faces are aligned and forgeries sit in their middle, so the others say how much a map knows of this clip.

The decision that shaped it: all comparisons are paired, clip by clip, and intervals come from resampling whole videos.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from d2st.adapter.evaluate.bootstrap import central
from d2st.adapter.explain.curves import Score, deletion_insertion, random_map
from d2st.adapter.explain.pointing import pointing

__all__ = ["MEASURES", "OWN", "RANDOM", "centre_map", "check_clip", "summarise"]

OWN, RANDOM = "relevance", "random"
SEEDS = 2
RESAMPLES = 1000
MEASURES = ("deletion", "insertion", "hit", "energy")
FALLS = "deletion"  # the measure that is small where a map is good


def centre_map(shape: tuple[int, int, int]) -> np.ndarray:
    """A bump in the middle of each frame, (T,H,W), as wide as the inner part of a face."""
    frames, height, width = shape
    y, x = (np.linspace(-1, 1, cells) for cells in (height, width))
    bump = np.exp(-(y[:, None] ** 2 + x[None] ** 2) / (2 * 0.4**2))
    return np.broadcast_to(bump, (frames, height, width)).astype(np.float32)


def check_clip(
    crops: np.ndarray,
    base: np.ndarray,
    masks: np.ndarray,
    maps: Mapping[str, np.ndarray],
    score: Score,
    *,
    seed: int,
) -> list[dict[str, Any]]:
    """One row a map, of `maps` and of random ones: `map`, the `MEASURES` (deletion and insertion as areas), chance and area (`Pointing`),
    and deletion_curve and insertion_curve, P(fake) at each step.

    Args:
        crops, base: (T,S,S,3) uint8, see `deletion_insertion`.
        masks: (T,S,S) in 0..1, where the crops were manipulated.
        maps: name -> (T,H,W).
        seed: of the random maps, whose row is their mean. Another for each clip, or all of them would point at the same few places.
    """
    shape = next(iter(maps.values())).shape
    tried = [*maps.items(), *((RANDOM, random_map(shape, seed=SEEDS * seed + k)) for k in range(SEEDS))]
    found: dict[str, list[dict[str, Any]]] = {}
    every = deletion_insertion(crops, base, [value for _, value in tried], score)
    for (name, value), curves in zip(tried, every, strict=True):
        game = pointing(value, masks)
        measures = {
            "deletion": curves.deletion_area,
            "insertion": curves.insertion_area,
            "hit": game.hit,
            "energy": game.energy,
        }
        lines = {"deletion_curve": curves.deletion, "insertion_curve": curves.insertion}
        found.setdefault(name, []).append({**measures, "chance": game.chance, "area": game.area, **lines})
    return [
        {"map": name, **{key: np.mean([row[key] for row in rows], axis=0).tolist() for key in rows[0]}}
        for name, rows in found.items()
    ]


def summarise(rows: pl.DataFrame, *, seed: int = 0) -> dict[str, Any]:
    """Means and paired differences, as JSON values: scope -> {clips, chance, area, maps: name -> measures and curves}.

    A measure is {"value", "gain", "interval"}: its mean, by how much it is better than the random maps' (deletion: smaller is better),
    and the central 95 % of that over resamples of videos.

    Args:
        rows: as of `check_clip`, with columns sample_id, video_id, kind and method. Scopes are "all", each kind, and each method of a kind.
    """
    scopes = {"all": rows}
    for (kind,), part in rows.group_by("kind", maintain_order=True):
        scopes[f"{kind}s"] = part
    for (kind, method), part in rows.sort("kind", "method").group_by("kind", "method", maintain_order=True):
        scopes[f"{kind}s: {method}"] = part
    return {name: _scope(part, seed=seed) for name, part in scopes.items()}


def _scope(rows: pl.DataFrame, *, seed: int) -> dict[str, Any]:
    tables = {name: part.sort("sample_id") for (name,), part in rows.group_by("map", maintain_order=True)}
    own, random = tables[OWN], tables[RANDOM]
    _, video = np.unique(own["video_id"].to_numpy(), return_inverse=True)
    count = int(video.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)[:, video]  # (R, N)
    maps: dict[str, Any] = {}
    for name, table in tables.items():
        maps[name] = {}
        for measure in MEASURES:
            gain = (table[measure] - random[measure]).to_numpy() * (-1 if measure == FALLS else 1)  # (N,)
            resampled = (drawn @ gain) / drawn.sum(axis=1)
            interval = central(resampled) if count > 1 else (float("nan"), float("nan"))
            value = float(table[measure].mean())
            maps[name][measure] = {"value": value, "gain": float(gain.mean()), "interval": list(interval)}
        for curve in ("deletion_curve", "insertion_curve"):
            maps[name][curve] = np.mean(table[curve].to_list(), axis=0).tolist()
    return {"clips": len(own), **{key: float(own[key].mean()) for key in ("chance", "area")}, "maps": maps}
