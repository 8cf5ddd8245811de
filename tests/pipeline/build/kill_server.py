"""A process that has imported everything once and run nothing, and forks a child for each job that it reads: a script, for `kill_harness`.

A fork is safe here because no thread pool exists yet (one thread of torch, none of OpenBLAS, polars' pool starts in the child). Files are
decoded in the job's own process, since the decoding children of a real build never touch the store; and shards hold 4 frames.
"""

import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from decode_here import DecodeHere
from kill_watch import Watch

SHARD_FRAMES = 4
LAYERS = ("block_0", "block_2")
IMPORTED = (
    "av",
    "rich.console",
    "rich.table",
    "d2st.cli.app",
    "d2st.cli.cache.options",
    "d2st.pipeline.build.report",
    "d2st.pipeline.manifest",
    "av.subtitles.stream",
    "decord",
    "numpy.ma",
    "polars._utils.parquet",
    "zarr.codecs",
    "zarr.storage",
    "d2st.cache.gc",
    "d2st.cache.verify",
    "d2st.pipeline.build.crops",
    "d2st.pipeline.build.reencode",
    "d2st.pipeline.build.repair",
    "d2st.pipeline.build.run",
    "d2st.pipeline.faces.none",
)
TIMEOUT_S = 60.0

_backbones: list[Any] = []


def prepare() -> None:
    """Import everything that a job needs, and run nothing that starts a thread."""
    for name in IMPORTED:
        importlib.import_module(name)
    import PIL.Image
    import torch

    from d2st.pipeline.clip import load_backbone

    PIL.Image.init()  # its formats, which the first picture would load
    torch.set_num_threads(1)
    for name, module in list(sys.modules.items()):
        if name.startswith("d2st.") and hasattr(module, "SHARD_FRAMES"):
            module.SHARD_FRAMES = SHARD_FRAMES
    sys.modules["d2st.pipeline.build.work"].POLL_S = 0.05
    sys.modules["d2st.pipeline.build.crops"].DecodePool = DecodeHere
    _backbones.append(load_backbone("d2st-test", "random:0", device="cpu"))
    _encoder("float16").encode(np.zeros((8, 32, 32, 3), np.uint8))  # its first call is slow
    names = {Path(f"/proc/self/task/{thread}/comm").read_text().strip() for thread in os.listdir("/proc/self/task")}
    # the allocator and the spill cleaner of polars sleep, and are not missed after a fork
    assert all(name.startswith(("python", "jemalloc", "polars-ooc")) for name in names), f"{names}: forking is not safe"
    gc.collect()
    gc.freeze()  # else a child's collections would copy the pages of all that was imported


def _encoder(dtype: str) -> Any:
    from d2st.pipeline.clip import Encoder

    return Encoder(_backbones[0], LAYERS, micro_batch=8, dtype=dtype)


def _build(store: str, manifest: str, root: str, *, dtype: str = "float16", retry: bool = False) -> Any:
    import polars as pl

    from d2st.pipeline.build.crop import CropSettings
    from d2st.pipeline.build.run import build
    from d2st.pipeline.faces import build_detector

    report = build(
        pl.read_parquet(manifest),
        Path(store),
        root=Path(root),
        detector=build_detector("none", weights=None, device="cpu"),
        settings=CropSettings(frames=4, sampling="even", size=32),
        encoder=_encoder(dtype),
        workers=1,
        retry=retry,
    )
    return {name: getattr(report, name) for name in ("built_crops", "built_tokens", "shards", "planned_shards", "samples")}


def _encode(store: str, name: str, *, dtype: str) -> Any:
    from d2st.pipeline.build.reencode import encode_set

    return encode_set(Path(store), name, _encoder(dtype)).built_tokens


def _add_layers(store: str, layers: str) -> Any:
    from d2st.pipeline.build.reencode import add_layers

    return add_layers(Path(store), layers, device="cpu").built_tokens


def _repair(store: str, root: str) -> Any:
    from d2st.pipeline.build.remake import Sources
    from d2st.pipeline.build.repair import repair

    report = repair(Path(store), sources=Sources(root=Path(root), workers=1))
    return {"mended": report.mended, "left": [(damage.file, why) for damage, why in report.left]}


def _verify(store: str) -> Any:
    from d2st.cache.verify import verify

    found = verify(Path(store), deep=True)
    return {"damages": [f"{damage.file}: {damage.kind} {damage.detail}" for damage in found.damages], "notes": found.notes}


def _gc(store: str) -> Any:
    from d2st.cache.gc import collect

    return collect(Path(store)).samples


def _cli(store: str, arguments: list[str], *, file_bytes: int | None = None, as_owner: bool = False) -> Any:
    """The `d2st` command: its exit code, stdout and stderr.

    Args:
        file_bytes: no file may grow beyond this (RLIMIT_FSIZE).
        as_owner: even root keeps to the permissions of files.
    """
    import resource

    from d2st.cli import main

    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    if as_owner:
        _drop_capabilities()
    texts = [io.StringIO(), io.StringIO()]
    sys.argv = ["d2st", *arguments]
    with contextlib.redirect_stdout(texts[0]), contextlib.redirect_stderr(texts[1]):
        try:
            main()
            code: Any = 0
        except SystemExit as error:
            code = error.code or 0
        except BaseException:  # as the interpreter would show it
            code = 1
            traceback.print_exc()
    return {"code": code, "out": texts[0].getvalue(), "err": texts[1].getvalue()}


def _drop_capabilities() -> None:
    """capset(2): root without CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER is an owner like any other."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    for number in (1, 2, 3):
        sets[0] &= ~(1 << number)
    assert libc.capset(header, sets) == 0


JOBS: dict[str, Callable[..., Any]] = {
    "cli": _cli,
    "build": _build,
    "encode": _encode,
    "add_layers": _add_layers,
    "repair": _repair,
    "verify": _verify,
    "gc": _gc,
}


def child(job: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
    """Do one job in a forked process."""
    watch = Watch(job["store"], job.pop("kill", None) or {}, tell)
    if job.pop("watch", True):
        watch.install()
    if (expires_s := job.pop("expires_s", None)) is not None:
        sys.modules["d2st.cache.claims"].Claims.__init__.__kwdefaults__["expires_s"] = expires_s
    try:
        result, error = JOBS[job.pop("job")](**job), None
    except BaseException:
        result, error = None, traceback.format_exc()
    tell({"killed": False, "result": result, "error": error, "operations": watch.operations})


class Running:
    """A forked job."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._begin = time.perf_counter()
        self._after_s = (job.get("kill") or {}).get("after_s", TIMEOUT_S)
        self._reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                child(job, lambda message: _write_all(writing, json.dumps(message).encode()))
            finally:
                os._exit(0)
        os.close(writing)

    def wait(self) -> dict[str, Any]:
        """Say how it ended; it is killed when its time is over."""
        data, late = b"", False
        while True:
            left_s = None if late else max(0.0, self._begin + self._after_s - time.perf_counter())
            ready, _, _ = select.select([self._reading], [], [], left_s)
            if not ready:
                os.kill(self.pid, signal.SIGKILL)
                late = True
            elif block := os.read(self._reading, 1 << 16):
                data += block
            else:
                break
        os.close(self._reading)
        _, status = os.waitpid(self.pid, 0)
        seconds = time.perf_counter() - self._begin
        answer = {"killed": True, "point": "", "result": None, "error": None, "operations": [], "seconds": seconds}
        try:
            return answer | json.loads(data)
        except ValueError:  # nothing, or cut off: a kill from outside
            if late and self._after_s == TIMEOUT_S:
                answer["error"] = f"the job took more than {TIMEOUT_S} s"
            elif not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
                answer["error"] = f"the job ended with status {status}"
            return answer


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def serve() -> None:
    """Answer JSON lines until stdin ends: {"start": job} with a process id, {"wait": process id} with how it ended."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what jobs print must not end among the answers
    prepare()
    running: dict[int, Running] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            begun = Running(request["start"])
            running[begun.pid] = begun
            answer: Any = begun.pid
        else:
            answer = running.pop(request["wait"]).wait()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
