"""Many trials of a sweep together against the same trials one after another with the project's own trainer, in one run.

    python tests/bench/sweep.py [--trials 16] [--clips 32] [--epochs 3] [--mb-per-s 200] [--heavy-trials 4] [--device cuda] [--dir DISK]

Three questions, on a store of ViT-B/16 maps (14x14x768, float16, 12 frames a clip) that is made here:

    slow      small adapters, and a disk that gives --mb-per-s to all threads together, as a network disk does. By the clock.
    cold      the same on this machine's own disk, whose pages the kernel is told to forget before every epoch. By the clock; its limit is
              that of computing, for whether reading dominates is up to the disk.
    compute   d2st base from warm memory. On the CPU by processor time of one thread, on CUDA by the clock. Both ways take turns, twice,
              and the better time of each counts.

On CUDA also: all trials together against one trial alone. Prints a row each with the ratio, the limit aimed at, and the largest
difference of any epoch's training and validation loss between the two ways; exits with 1 if a limit or a tolerance is passed.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from d2st.adapter.sweep.population import run_population
from d2st.adapter.sweep.trial import Trial
from d2st.adapter.train.plan import Plan, plan_stage
from d2st.adapter.train.recipe_file import load_recipe
from d2st.adapter.train.stage import train_stage
from d2st.cache import Store
from d2st.cache.arrays import SHARD_FRAMES, ensure_array
from d2st.cache.ledger import LEDGER_SCHEMA
from d2st.cache.level import ensure_level
from d2st.cache.moments import add_frames, counted_digest, moments_bytes, moments_name
from d2st.cache.plan import extend_plan

LAYERS, GRID, CHANNELS, FRAMES = ("block_5", "block_11"), (14, 14), 768, 12
TOLERANCE = 5e-3  # of a loss: bfloat16 products in another order
SMALL = ('adapter.name="meanpool_mlp"', 'adapter.name="attentive_probe"')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--heavy-trials", type=int, default=4, help="of d2st base, on the CPU")
    parser.add_argument("--clips", type=int, default=32, help="to train on; a quarter of that to validate on")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--mb-per-s", type=float, default=200.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dir", type=Path, default=None, help="on the disk that is to be measured")
    options = parser.parse_args()
    if options.device == "cpu":
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        return compare(Path(name), options)


def compare(folder: Path, options: argparse.Namespace) -> int:
    store = make_store(folder / "store", clips=options.clips)
    cuda = options.device != "cpu"
    clock = time.perf_counter if cuda else time.thread_time
    small = [[SMALL[i % 2], f"optim.lr={1e-3 * 1.1**i}"] for i in range(options.trials)]
    heavy = [[f"optim.lr={1e-4 * 1.1**i}"] for i in range(options.trials if cuda else options.heavy_trials)]
    bench = Bench(store, folder, options.device, epochs=options.epochs)
    bench.together("warm-up", heavy[:2])  # libraries are loaded, the store's pages are in memory
    bench.alone("warm-up", heavy[:1])
    print(f"{options.device}, torch {torch.__version__}, {options.clips} clips, {options.epochs} epochs")
    with throttled(options.mb_per_s):
        bench.row(f"slow: {options.mb_per_s:.0f} MB/s", small, clock=time.perf_counter, limit=0.35)
    bench.row("cold", small, clock=time.perf_counter, limit=1.0, forget=True)
    bench.row("compute: d2st base", heavy, clock=clock, limit=1.0, rounds=2)
    if cuda:
        bench.row("compute, against one", heavy, clock=clock, limit=3.0, against=1, rounds=2)
    return int(bench.failed)


class Bench:
    """Trains the same trials both ways and compares time and losses."""

    def __init__(self, store: Store, folder: Path, device: str, *, epochs: int) -> None:
        self._store, self._folder, self._device = store, folder, device
        self._base = ['start="scratch"', f"optim.epochs={epochs}", "optim.batch_size=8", "optim.patience=0", "optim.rates={}"]
        self._samples = store.samples()
        self.failed = False

    def row(
        self,
        name: str,
        sets: list[list[str]],
        *,
        clock: Callable[[], float],
        limit: float,
        forget: bool = False,
        against: int | None = None,
        rounds: int = 1,
    ) -> None:
        """Measure and print one row; `against`: how many trials are trained alone, all by default."""
        before = lambda: self._forget() if forget else None  # noqa: E731
        took: dict[str, float] = {}
        work: dict[str, float] = {}
        for number in range(rounds):
            for way, trials in ((self.alone, sets[:against]), (self.together, sets)):
                began, worked = clock(), time.process_time()
                way(f"{name} {number}", trials, before_epoch=before)
                took[way.__name__] = min(clock() - began, took.get(way.__name__, math.inf))
                work[way.__name__] = min(time.process_time() - worked, work.get(way.__name__, math.inf))
        ratio, differ = took["together"] / took["alone"], self._difference(f"{name} 0", len(sets[:against]))
        wrong = ratio > limit or differ > TOLERANCE
        self.failed |= wrong
        print(
            f"{name:22} {len(sets):3} trials  alone {took['alone']:7.2f} s  together {took['together']:7.2f} s  ratio {ratio:.3f} "
            f"(limit {limit})  processor {work['alone']:.1f} and {work['together']:.1f} s  losses differ by {differ:.1e}"
            f"{'  <-- FAILED' if wrong else ''}",
            flush=True,
        )

    def alone(self, name: str, sets: list[list[str]], *, before_epoch: Callable[[], None] = lambda: None) -> None:
        for number, plan in enumerate(self._plans(sets)):
            before_epoch()
            train_stage(
                self._store,
                plan.recipe,
                run_dir=self._run(name, "alone", number),
                init_checkpoint=None,
                resume=False,
                device=self._device,
                on_event=lambda event: before_epoch() if event["event"] == "epoch" else None,
            )

    def together(self, name: str, sets: list[list[str]], *, before_epoch: Callable[[], None] = lambda: None) -> None:
        queue = [Trial(i, plan, self._run(name, "together", i)) for i, plan in enumerate(self._plans(sets))]

        def propose(count: int) -> list[Trial]:
            taken, queue[:] = queue[:count], queue[count:]
            return taken

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "lane":
                before_epoch()
            if event["event"] == "note" and "of the time" in event["message"]:
                print(f"    {event['message']}", file=sys.stderr)

        def on_end(trial: Trial, outcome: object) -> None:
            if isinstance(outcome, Exception):
                raise outcome

        before_epoch()
        run_population(
            self._store,
            propose=propose,
            on_epoch=lambda trial, record: True,
            on_end=on_end,
            device=self._device,
            on_event=on_event,
        )

    def _plans(self, sets: list[list[str]]) -> list[Plan]:
        return [plan_stage(self._store, load_recipe(2, [*self._base, *each]), self._samples) for each in sets]

    def _run(self, name: str, way: str, number: int) -> Path:
        return self._folder / name.replace(" ", "-").replace("/", "-") / way / f"{number:04d}" / "stage2"

    def _difference(self, name: str, trials: int) -> float:
        worst = 0.0
        for number in range(trials):
            files = (self._run(name, way, number) / "metrics.jsonl" for way in ("alone", "together"))
            for one, other in zip(*(map(json.loads, file.read_text().splitlines()) for file in files), strict=True):
                pairs = ((one["loss"], other["loss"]), (one["val"]["loss"], other["val"]["loss"]))
                worst = max(worst, *(abs(a - b) for a, b in pairs))
        return worst

    def _forget(self) -> None:
        for path in self._store.path.rglob("c/*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def throttled(mb_per_s: float) -> Iterator[None]:
    """All reads of the cache together give so many bytes a second, and no more: each waits until the bytes before it are paid for."""
    read, lock, paid_until = os.preadv, threading.Lock(), [0.0]

    def slow(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        count = read(descriptor, buffers, offset)
        with lock:
            paid_until[0] = max(paid_until[0], time.perf_counter()) + count / (mb_per_s * 1e6)
            wait = paid_until[0] - time.perf_counter()
        time.sleep(max(0.0, wait))
        return count

    os.preadv = slow
    try:
        yield
    finally:
        os.preadv = read


def make_store(path: Path, *, clips: int) -> Store:
    """Videos of noise with a planted trace, half of them fake, as a build leaves them."""
    count = clips + clips // 4
    rows = [
        (
            f"v{i:04d}",
            "video",
            i % 2,
            "bench",
            "swap" if i % 2 else "real",
            "train" if i < clips else "val",
            f"v{i:04d}",
            [f"v{i:04d}"],
        )
        for i in range(count)
    ]
    schema = {
        "sample_id": pl.String,
        "kind": pl.Enum(["image", "video", "frames"]),
        "label": pl.Int8,
        "dataset": pl.String,
        "method": pl.String,
        "split": pl.Enum(["train", "val", "test"]),
        "video_id": pl.String,
        "identity": pl.List(pl.String),
    }
    manifest = pl.DataFrame(rows, schema=schema, orient="row")
    Store.ensure(path)
    level = ensure_level(path, "tokens", {"layers": list(LAYERS), "dtype": "float16"})
    extend_plan(path / "plan", manifest.select("sample_id", pl.lit(FRAMES, pl.Int32).alias("slots")))
    each = SHARD_FRAMES // FRAMES  # samples of a shard
    shards = -(-count // each)
    rng = np.random.default_rng(0)
    for shard in range(shards):
        part, moments = manifest.slice(shard * each, each), {}
        names, labels = part["sample_id"].to_list(), part["label"].to_numpy()
        with level.stage(shard) as staged:
            for layer in LAYERS:
                maps = rng.standard_normal((len(part) * FRAMES, *GRID, CHANNELS), dtype=np.float32).astype(np.float16)
                maps[:, 3:6, 3:6, :64] += np.repeat(labels, FRAMES)[:, None, None, None].astype(np.float16)
                for kind, array in (("maps", maps), ("cls", maps.mean((1, 2), dtype=np.float32).astype(np.float16))):
                    name = f"{layer}/{kind}"
                    ensure_array(level.array(name), frame_shape=array.shape[1:], dtype="float16", shards=shards, attributes={})
                    staged.writer(name, frame_dims=array.ndim - 1).append(array)
                    moments[layer if kind == "maps" else name] = add_frames(None, array)
            staged.write(moments_name(shard), moments_bytes(moments, counted=counted_digest(part["sample_id"])))
            starts = [(shard * each + i) * FRAMES for i in range(len(part))]
            ledger = [(name, start, FRAMES, FRAMES, None, "", "{}") for name, start in zip(names, starts, strict=True)]
            staged.commit(pl.DataFrame(ledger, schema=LEDGER_SCHEMA, orient="row"))
    store = Store.open(path)
    store.write_manifest(manifest)
    return store


if __name__ == "__main__":
    sys.exit(main())
