"""An epoch of training from the cache against the same epoch with decoding, face cropping and CLIP online, in one run.

    python tests/bench/epoch.py [--clips 8] [--epochs 5] [--preset base] [--frames 12] [--layers 2,5,8,11] [--height 720] [--device cuda]

Both sides run the project's own code on the same clips from the same weights: the trainer (`run_epoch`, the recipe of stage 2), fed by
`TokenLoader` from a store that is built here, or by the build's own decoder processes, face detector and encoder. Clips are synthetic
faces, 8 s of H.264. Parts are measured alone as well. Online epochs run in two orders: one part after the other, batch by batch; and
overlapped, each part in its own thread or process and ahead of the next. The better one counts. Prints seconds a clip, wall and of the
processor (all cores, child processes too), and exits with 1 if the two sides' losses differ.
"""

import argparse
import copy
import statistics
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import Queue
from threading import Thread
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import polars as pl
import torch

from d2st.adapter.nets import clip_flops, count_parameters
from d2st.adapter.train.loop import run_epoch
from d2st.adapter.train.plan import plan_stage
from d2st.adapter.train.prepare import make_detector, make_trainer
from d2st.adapter.train.recipe_file import load_recipe
from d2st.adapter.train.trainer import BatchSource, Progress, Trainer
from d2st.cache import Batch, Request, Store, TokenLoader
from d2st.cli.cache.options import make_front_end
from d2st.pipeline.build.crop import crop_frames
from d2st.pipeline.build.restore import FrontEnd
from d2st.pipeline.build.run import build
from d2st.pipeline.build.threads import encode_threads, take_threads
from d2st.pipeline.build.use import ProcessorTime
from d2st.pipeline.clip.taps import steady_arithmetic
from d2st.pipeline.corpus import Sample, render_sample
from d2st.pipeline.manifest import scan_folder
from d2st.pipeline.media import DecodePool, Job
from d2st.pipeline.media.encode import write_h264

Frame = dict[str, np.ndarray]  # what `Encoder` makes of one frame
FPS, SECONDS = 25, 8
LOSS_TOLERANCE = 2e-3  # CLIP's bits depend on what shares a micro-batch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="ViT-B-16-quickgelu")
    parser.add_argument(
        "--precision", default=None, help="of CLIP: fp32 or bf16; the build's own choice for the device by default"
    )
    parser.add_argument("--layers", default="2,5,8,11")
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--clips", type=int, default=8, help="in an epoch")
    parser.add_argument("--epochs", type=int, default=5, help="from the cache; their median counts")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--preset", default="base", choices=("tiny", "base", "large"))
    parser.add_argument("--height", type=int, default=720, help="of the videos, 16:9")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dir", type=Path, default=None, help="on the disk that is to be measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        return compare(Path(name), options)


def compare(folder: Path, options: argparse.Namespace) -> int:
    film(folder / "media", options.clips, options.height)
    rows = scan_folder(folder / "media").manifest
    front = make_front_end(
        backbone=options.backbone,
        pretrained="random:0",
        layers=options.layers,
        frames=options.frames,
        sampling="even",
        crop_size=None,
        margin=1.3,
        detector="mtcnn",
        detector_weights=None,
        micro_batch=16,
        precision=options.precision,
        dtype="float16",
        device=options.device,
    )
    build(
        rows, folder / "store", root=folder / "media", detector=front.detector, settings=front.settings, encoder=front.encoder
    )
    store = Store.open(folder / "store")
    sets = ("data.max_samples=0", f"data.frames={options.frames}", f"optim.batch_size={options.batch}", "augment.frame_drop=0")
    recipe = load_recipe(2, [*sets, f"adapter.params.preset={options.preset}"])
    plan = plan_stage(store, recipe, store.samples())
    detector, loader, _ = make_detector(store, plan, device=options.device, init_checkpoint=None)

    def trainer_on(source: BatchSource) -> Trainer:
        return replace(make_trainer(store, plan, detector, loader, device=options.device), source=source)

    side = Bench(options.clips, trainer_on, detector)
    online = Online(front, store.samples(), folder / "media", options.device)
    kept = Kept(loader)
    crops = side.timed("decode and crop faces", lambda: list(online.cropped(online.paths)))
    side.timed("CLIP", lambda: list(online.encoded(crops)))
    side.epochs("epoch from the cache", loader, 1 + options.epochs)
    side.epochs("of it: training step", kept, 1 + options.epochs)
    side.timed("of it: reading", lambda: [None for _ in loader.stream(kept.requests)])
    side.epochs("epoch online, in turn", online, 1)
    online.overlapped = True
    side.epochs("epoch online, overlapped", online, 1)
    loader.close()
    size = {key: plan.meta[key] for key in ("layers", "channels", "grid")}
    print(
        f"{options.clips} clips of {options.frames} frames, {options.height}p; {options.backbone} in {front.encoder.backbone.precision}, "
        f"{len(plan.meta['layers'])} layers; "
        f"{options.preset}: {count_parameters(detector):,} parameters, "
        f"{clip_flops(detector, **size, frames=options.frames) / 1e9:.1f} GFLOP a clip; {options.device}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, products in {side.make(loader).precision}"
    )
    return side.report()


class Bench:
    """Times the parts; every side starts from the weights that `detector` has now."""

    def __init__(self, clips: int, make: Callable[[BatchSource], Trainer], detector: torch.nn.Module) -> None:
        self.clips, self.make, self.detector = clips, make, detector
        self.fresh = copy.deepcopy(detector.state_dict())
        self.used: dict[str, tuple[float, float]] = {}  # seconds a clip, wall and of the processor
        self.losses: dict[str, list[float]] = {}

    def timed(self, part: str, work: Callable[[], Any]) -> Any:
        spent, begin = ProcessorTime(), perf_counter()
        with spent.running():
            made = work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
        self.used[part] = (perf_counter() - begin) / self.clips, (spent.own_s + spent.children_s) / self.clips
        return made

    def epochs(self, part: str, source: BatchSource, count: int) -> None:
        """The same epoch `count` times. The losses of the first time are kept, and the median time of all others, if there are any."""
        self.detector.load_state_dict(self.fresh)
        trainer, times, losses = self.make(source), [], []
        for _ in range(count):
            progress = Progress()
            note = lambda event: losses.append(event["loss"])  # noqa: E731
            self.timed(part, lambda: run_epoch(trainer, progress, on_event=note, after_step=lambda: None))  # noqa: B023
            times.append(self.used[part])
        self.used[part] = tuple(statistics.median(column) for column in zip(*(times[1:] or times), strict=True))
        self.losses[part] = losses[: len(losses) // count]

    def report(self) -> int:
        print(f"{'seconds a clip':26} {'wall':>8} {'processor':>10}")
        for part, (wall, cpu) in self.used.items():
            print(f"{part:26} {wall:8.4f} {cpu:10.4f}")
        cached = self.used["epoch from the cache"]
        orders = [value for part, value in self.used.items() if part.startswith("epoch online")]
        wall, cpu = (min(column) / mine for column, mine in zip(zip(*orders, strict=True), cached, strict=True))
        print(f"from the cache an epoch is {wall:.1f} times as fast as online ({cpu:.1f} times less processor time)")
        sides = list(self.losses.values())
        apart = max(abs(a - b) for side in sides for a, b in zip(side, sides[0], strict=True))
        print(f"losses of the steps: {', '.join(f'{loss:.4f}' for loss in sides[0])}; all sides within {apart:.1e}")
        return int(not apart <= LOSS_TOLERANCE)


class Kept:
    """The batches of an epoch in memory: what training costs when reading costs nothing."""

    def __init__(self, loader: TokenLoader) -> None:
        self.loader, self.requests, self.batches = loader, [], []

    def stream(self, requests: Iterable[Request]) -> Iterator[Batch]:
        if not self.batches:
            self.requests = list(requests)
            self.batches = [copy.deepcopy(batch) for batch in self.loader.stream(self.requests)]
        yield from self.batches

    def close(self) -> None:
        self.batches = []


class Online:
    """Batches straight from the media, behind the interface of `TokenLoader`: nothing is kept from one epoch to the next."""

    def __init__(self, front: FrontEnd, samples: pl.DataFrame, root: Path, device: str) -> None:
        self.front, self.device, self.overlapped = front, device, False
        train = samples.filter(pl.col("split") == "train").sort("start")
        self.starts = train["start"].to_numpy()
        self.paths = [str(root / path) for path in train["path"]]

    def stream(self, requests: Iterable[Request]) -> Iterator[Batch]:
        ahead = prefetch if self.overlapped else iter
        plans = [(request, np.searchsorted(self.starts, request.rows[:, 0], side="right") - 1) for request in requests]
        if self.overlapped:  # decoder processes and each part run ahead, over the batches' ends
            crops = ahead(self.cropped([self.paths[clip] for _, clips in plans for clip in clips]))
            encoded = ahead(self.encoded(crops))
        for request, clips in plans:
            if not self.overlapped:
                encoded = self.encoded(list(self.cropped([self.paths[clip] for clip in clips])))
            yield self._batch(request, clips, [next(encoded) for _ in clips])

    def close(self) -> None:
        pass

    def cropped(self, paths: Sequence[str]) -> Iterator[np.ndarray]:
        """Crops (T, S, S, 3) of each file in order: decoding in processes, one a core, faces in this thread."""
        settings = self.front.settings
        jobs = [Job(str(number), path, "video", settings.frames, settings.sampling) for number, path in enumerate(paths)]
        with DecodePool() as pool:
            for _, frames in pool.map(jobs):
                yield crop_frames(frames, self.front.detector, settings)[0]

    def encoded(self, crops: Iterable[np.ndarray]) -> Iterator[list[Frame]]:
        """Token maps of each clip in order. Micro-batches are filled over the ends of clips, and share the threads that the build has."""
        encoder, lengths = self.front.encoder, deque[int]()
        begun, done = deque[Future[list[Frame]]](), deque[Frame]()

        def encode(images: np.ndarray) -> list[Frame]:
            arrays = encoder.encode(images).arrays
            return [{name: values[at] for name, values in arrays.items()} for at in range(len(images))]

        def clips() -> Iterator[list[Frame]]:
            done.extend(begun.popleft().result())
            while lengths and len(done) >= lengths[0]:
                yield [done.popleft() for _ in range(lengths.popleft())]

        count, each = encode_threads(self.device)
        with steady_arithmetic(), ThreadPoolExecutor(count, initializer=lambda: take_threads(each)) as threads:
            for images in filled(crops, encoder.micro_batch, lengths):
                begun.append(threads.submit(encode, images))
                if len(begun) > 2 * count:
                    yield from clips()
            while begun:
                yield from clips()

    def _batch(self, request: Request, clips: np.ndarray, encoded: list[list[Frame]]) -> Batch:
        frames = request.rows - self.starts[clips][:, None]  # (B, T)

        def gathered(name: str) -> torch.Tensor:
            values = [np.stack([clip[at][name] for at in row]) for clip, row in zip(encoded, frames, strict=True)]
            return torch.from_numpy(np.stack(values)).to(self.device)  # (B, T, ...)

        layers = self.front.encoder.layers
        mask = torch.from_numpy(request.rows >= 0).to(self.device)
        return Batch({k: gathered(f"{k}/maps") for k in layers}, {k: gathered(f"{k}/cls") for k in layers}, mask, request.tag)


def filled(crops: Iterable[np.ndarray], size: int, lengths: deque[int]) -> Iterator[np.ndarray]:
    """The frames of clips (T, S, S, 3), `size` at a time; each clip's T is put into `lengths` first."""
    held: list[np.ndarray] = []
    for images in crops:
        lengths.append(len(images))
        held.extend(images)
        while len(held) >= size:
            yield np.stack(held[:size])
            del held[:size]
    if held:
        yield np.stack(held)


def prefetch(items: Iterable[Any], depth: int = 4) -> Iterator[Any]:
    """Iterate in a thread of its own, up to `depth` items ahead."""
    queue: Queue[Any] = Queue(depth)
    end = object()

    def run() -> None:
        take_threads(1)
        try:
            for item in items:
                queue.put(item)
            queue.put(end)
        except BaseException as error:  # told to the reader
            queue.put(error)

    Thread(target=run, daemon=True).start()
    while (item := queue.get()) is not end:
        if isinstance(item, BaseException):
            raise item
        yield item


def film(root: Path, clips: int, height: int) -> None:
    """`clips` videos to train on and four to validate on, half of them fake: a face of 256 px enlarged to 16:9, played to and fro."""
    width = height * 16 // 9 // 2 * 2
    side = (width - height) // 2
    for number in range(clips + 4):
        split, method = "train" if number < clips else "val", ("real", "swap")[number % 2]
        sample = Sample(split, method, "video", number, 0, number + 500 if method == "swap" else None)
        faces = [cv2.resize(face, (height, height), interpolation=cv2.INTER_CUBIC) for face in render_sample(sample, seed=0)[0]]
        frames = [cv2.copyMakeBorder(face, 0, 0, side, width - height - side, cv2.BORDER_REPLICATE) for face in faces]
        there = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
        path = root / split / ("real" if method == "real" else f"fake/{method}") / f"{number}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_h264(path, (frames[there[i % len(there)]] for i in range(FPS * SECONDS)), fps=FPS)


if __name__ == "__main__":
    sys.exit(main())
