"""What it costs to mix views in a batch, side by side in one run: python tests/bench/views.py [--views 4] [--batches 60]

The same random clips of 12 frames of ViT-B/16 maps (14x14x768, float16) and their CLS tokens in batches of 16, warm page cache: all from
one token set; each from one of several sets, drawn at random; and the same with everything kept in RAM. Rounds are interleaved and the
best one counts; processor time is that of all threads.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from d2st.cache import Request, Store, TokenLoader
from d2st.cache.arrays import SHARD_FRAMES, ensure_array
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import ensure_level
from d2st.cache.plan import extend_plan
from d2st.cache.views import open_views

T, CLIPS, SHARDS, CHANNELS = 12, 16, 2, 768


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        names = ["main", *(f"view{k}" for k in range(1, options.views))]
        store = make_store(Path(folder) / "s.d2st", names)
        measure(store, names, batches=options.batches, rounds=options.rounds)


def make_store(path: Path, names: list[str]) -> Store:
    """A store of random token maps with these sets."""
    store, generator = Store.ensure(path), np.random.default_rng(0)
    frames = generator.standard_normal((SHARD_FRAMES, 14, 14, CHANNELS), np.float32).astype(np.float16)
    extend_plan(path / "plan", pl.DataFrame({"sample_id": [f"s{k}" for k in range(SHARDS)], "slots": [SHARD_FRAMES] * SHARDS}))
    for name in names:
        view = {} if name == "main" else {"view": {"name": name}}
        level = ensure_level(
            path, "tokens" if name == "main" else f"tokens-{name}", {"layers": ["l"], "dtype": "float16", **view}
        )
        for kind, values in (("maps", frames), ("cls", frames[:, 0, 0])):
            ensure_array(level.array(f"l/{kind}"), frame_shape=values.shape[1:], dtype="float16", shards=SHARDS, attributes={})
        for shard in range(SHARDS):
            with level.stage(shard) as staged:
                staged.writer("l/maps", frame_dims=3).append(frames)
                staged.writer("l/cls", frame_dims=1).append(frames[:, 0, 0])
                row = [f"s{shard}", shard * SHARD_FRAMES, SHARD_FRAMES, SHARD_FRAMES, None, "", "{}"]
                staged.commit(pl.DataFrame([row], schema=LEDGER_SCHEMA, orient="row"))
    return store


def measure(store: Store, names: list[str], *, batches: int, rounds: int) -> None:
    """Print rows a second of each way."""
    generator = np.random.default_rng(1)
    clips = generator.integers(0, SHARDS * SHARD_FRAMES // T, (batches, CLIPS))
    rows = clips[:, :, None] * T + np.arange(T)  # (batches, B, T)
    drawn = generator.integers(0, len(names), (batches, CLIPS, 1))
    ways = {}
    for where, in_memory in (("", False), (" in memory", True)):
        for count in (1, len(names)):
            loader = TokenLoader(store, views=open_views(store, names[:count]), in_memory=in_memory)
            ways[f"{count} view{'s' if count > 1 else ''}{where}"] = loader, rows + (drawn % count) * loader.stride
    best = dict.fromkeys(ways, (np.inf, np.inf))
    for number in range(rounds + 1):
        for way, (loader, wanted) in ways.items():
            wall, used = time.perf_counter(), time.process_time()
            for _ in loader.stream(Request(part) for part in wanted):
                pass
            found = time.perf_counter() - wall, time.process_time() - used
            if number:  # the first round verifies, and fills the memory
                best[way] = min(best[way], found, key=lambda pair: pair[1])
    for way, (wall, used) in best.items():
        count = batches * CLIPS * T
        print(f"{way:22} {count / wall:9,.0f} frames/s, {used / count * 1e6:6.1f} us of processor time a frame")


if __name__ == "__main__":
    main()
