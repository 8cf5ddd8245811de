"""Where the time of `d2st predict` goes, and whether its memory is flat: python tests/bench/predict.py RUN MANIFEST [--long-s 30]

Photos, short clips, and one long video at 1, 2 and 4 times its length (clips of the manifest, one after the other), all in one run. Each is
scored in a process of its own that has scored a file before, so that the peak of its memory is its own:

    decode, faces, CLIP, adapter    shares of the seconds that these four work; they work at the same time
    CPU s                           processor seconds of the process and its decoding children
    peak MiB                        largest resident memory (VmHWM, so on Linux alone): of the process, and of its largest decoding child

The last lines say how much of the peak comes with length. A checkpoint that doesn't know the length of its clips needs --window.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import polars as pl

from d2st.cache.errors import D2stError
from d2st.detection import Detector
from d2st.pipeline.manifest import manifest_root, read_manifest
from d2st.pipeline.media.container import open_video, packets
from d2st.pipeline.media.encode import write_h264
from d2st.pipeline.media.probe import probe_video

LENGTHS = (1, 2, 4)
PARTS = ("decode", "faces", "clip", "adapter")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--files", type=int, default=24, help="photos, and clips")
    parser.add_argument("--long-s", type=float, default=30.0, help="seconds of the shortest long video")
    parser.add_argument(
        "--window", type=float, default=None, help="seconds; of the training clips where the checkpoint knows them"
    )
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--pretrained", default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--all-faces", action="store_true")
    options = parser.parse_args()
    rows, root = read_manifest(options.manifest).sort("sample_id"), manifest_root(options.manifest)
    photos, clips = ([str(root / path) for path in of_kind(rows, kind)] for kind in ("image", "video"))
    with tempfile.TemporaryDirectory() as folder:
        jobs = {"photos": photos[: options.files], "clips": clips[: options.files]}
        for times in LENGTHS:
            jobs[f"long x{times}"] = [write_long(Path(folder) / f"long{times}.mp4", clips, times * options.long_s)]
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as alone:
            found = {name: alone.submit(measure, options, files).result() for name, files in jobs.items() if files}
    show(found)


def of_kind(rows: pl.DataFrame, kind: str) -> list[str]:
    return rows.filter(pl.col("kind") == kind)["path"].to_list()


def write_long(path: Path, clips: list[str], seconds: float) -> str:
    """Write clips, again and again, into one H.264 video of this length; those of another size than the first are left out."""
    first = probe_video(clips[0])
    fps = first.fps or 25.0
    alike = [clip for clip in clips if (probe := probe_video(clip)).width == first.width and probe.height == first.height]

    def frames() -> Iterator[np.ndarray]:
        left = round(seconds * fps)
        while left > 0:
            for clip in alike:
                for picture in read_all(clip):
                    yield picture
                    left -= 1
                    if left == 0:
                        return

    write_h264(path, frames(), fps=fps)
    return str(path)


def read_all(path: str) -> Iterator[np.ndarray]:
    with open_video(path) as (container, stream):
        for packet in packets(container, stream):
            yield from (frame.to_ndarray(format="rgb24") for frame in packet.decode())
        yield from (frame.to_ndarray(format="rgb24") for frame in stream.decode())


def measure(options: argparse.Namespace, files: list[str]) -> dict[str, Any]:
    """Score `files` in this process; seconds, numbers and MiB as plain values."""
    detector = Detector.load(options.run, pretrained=options.pretrained, device=options.device)
    window = {} if options.window is None else {"window_s": options.window}
    asked = {**window, "all_faces": options.all_faces, "workers": options.workers}
    list(detector.predict_files(files[:1] if len(files) > 1 else [], **asked))  # warm
    clocks: dict[str, Any] = {}
    begin, cpu_s, children_s = perf_counter(), process_time(), child_seconds()
    first_s, good, frames, windows, video_s = None, 0, 0, 0, 0.0

    def seen(path: str, window: object) -> None:
        nonlocal first_s
        first_s = first_s or perf_counter() - begin

    with peak_of_children() as children:
        for found in detector.predict_files(files, **asked, clocks=clocks, on_window=seen):
            if isinstance(found, D2stError):
                continue
            good += 1
            frames += sum(len(face.timestamps_s) for face in found.faces)
            windows += sum(len(face.windows) for face in found.faces)
            video_s += found.duration_s or 0.0
    return {
        "files": good,
        "windows": windows,
        "frames": frames,
        "video_s": video_s,
        "wall_s": perf_counter() - begin,
        "first_s": first_s,
        "busy": {part: clocks[part].busy_s for part in PARTS},
        "cpu_s": process_time() - cpu_s + child_seconds() - children_s,
        "peak_mib": status(os.getpid(), "VmHWM") / 1024,
        "child_mib": max(children, default=0) / 1024,
    }


def child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def status(process: int, key: str) -> int:
    """A number of /proc/PROCESS/status: kiB, or an id."""
    text = Path(f"/proc/{process}/status").read_text()
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{key}:")), 0)


@contextmanager
def peak_of_children() -> Iterator[list[int]]:
    """Look at the children ten times a second; the list holds the largest peak so far, in kiB.

    Not by their rusage: what that calls their peak begins with the size of the parent that started them.
    """
    peak, over, me = [0], threading.Event(), os.getpid()

    def look() -> None:
        while not over.wait(0.1):
            for entry in Path("/proc").iterdir():
                try:
                    if entry.name.isdigit() and status(int(entry.name), "PPid") == me:
                        peak[0] = max(peak[0], status(int(entry.name), "VmHWM"))
                except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
                    continue

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def show(found: dict[str, dict[str, Any]]) -> None:
    print(
        f"{'':8} {'files':>5} {'clips':>5} {'frames':>6} {'video s':>7} {'wall s':>6} {'first s':>7} {'files/s':>7} {'frames/s':>8} "
        f"{'x time':>6}  {'decode':>6} {'faces':>6} {'CLIP':>6} {'adapter':>7} {'CPU s':>6} {'peak MiB':>8} {'child':>5}"
    )
    for name, job in found.items():
        wall_s, busy = job["wall_s"], sum(job["busy"].values())
        shares = [f"{seconds / busy:6.0%}" for seconds in job["busy"].values()]
        times = f"{job['video_s'] / wall_s:6.1f}" if job["video_s"] else " " * 6
        print(
            f"{name:8} {job['files']:5} {job['windows']:5} {job['frames']:6} {job['video_s']:7.1f} {wall_s:6.1f} "
            f"{job['first_s'] or 0:7.2f} {job['files'] / wall_s:7.2f} {job['frames'] / wall_s:8.1f} {times}  "
            f"{' '.join(shares):>27} {job['cpu_s']:7.1f} {job['peak_mib']:8.0f} {job['child_mib']:5.0f}"
        )
    long = [job for name, job in found.items() if name.startswith("long")]
    for key, whose in (("peak_mib", "the process"), ("child_mib", "its largest child")):
        first, last = long[0][key], long[-1][key]
        print(f"peak of {whose}, {LENGTHS[-1]} times the length: {first:.0f} -> {last:.0f} MiB ({last / first - 1:+.1%})")


if __name__ == "__main__":
    main()
