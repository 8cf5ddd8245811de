"""How the stages of a build were used, for the person who decides what to buy."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import process_time

from d2st.pipeline.build.stages import Clocks
from d2st.pipeline.build.threads import encode_threads
from d2st.pipeline.media import default_workers

__all__ = ["ProcessorTime", "Run", "StageUse", "advice"]


@dataclass(frozen=True)
class StageUse:
    """How one stage was used.

    Attributes:
        busy: share of the time that it worked, 0..1, over all its processes or threads.
        alone_per_s: frames a second that it would reach if nothing else ran or limited it.
    """

    stage: str
    busy: float
    alone_per_s: float


@dataclass
class ProcessorTime:
    """Seconds of processor time, of this process and of its children that have ended."""

    own_s: float = 0.0
    children_s: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count what the `with` block takes, in all threads."""
        own, children = process_time(), _children_s()
        try:
            yield
        finally:
            self.own_s += process_time() - own
            self.children_s += _children_s() - children


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@dataclass(frozen=True)
class Run:
    """What a run of the stages took.

    Attributes:
        workers, threads: decoding processes, cropping threads.
        device: of the detector and the encoder.
    """

    workers: int
    threads: int
    device: str
    clocks: Clocks = field(default_factory=Clocks)
    used: ProcessorTime = field(default_factory=ProcessorTime)

    def stages(self) -> list[StageUse]:
        """Busy shares and speeds of the stages.

        Stages that share processor cores slow each other down, so for those the speed alone comes from their processor time.
        """
        return _stage_uses(self.clocks, self.used, workers=self.workers, threads=self.threads, device=self.device)


def _stage_uses(clocks: Clocks, used: ProcessorTime, *, workers: int, threads: int, device: str) -> list[StageUse]:
    cores = default_workers()
    writers = (clocks.write_crops, clocks.write_tokens, clocks.commit)
    encoders = encode_threads(device)[0]
    encode_s = clocks.encode.busy_s / encoders
    if device == "cpu":
        others_s = clocks.crop.cpu_s + sum(clock.cpu_s for clock in writers)
        encode_s = min(encode_s, max(used.own_s - others_s, clocks.encode.cpu_s) / cores)
    crop_s = (clocks.crop.cpu_s if device == "cpu" else clocks.crop.busy_s) / threads
    found = []
    for stage, busy_s, alone_s, frames in (
        ("decode", clocks.decode.busy_s / workers, used.children_s / min(workers, cores), clocks.cropped),
        ("crop", clocks.crop.busy_s / threads, crop_s, clocks.cropped),
        ("encode", clocks.encode.busy_s / encoders, encode_s, clocks.encoded),
        ("write", *[max(clock.busy_s for clock in writers)] * 2, max(clocks.encoded, clocks.cropped)),
    ):
        if frames and alone_s > 0 and clocks.wall_s > 0:
            found.append(StageUse(stage, min(1.0, busy_s / clocks.wall_s), frames / alone_s))
    return found


def advice(stages: list[StageUse], *, device: str) -> str:
    """One sentence on what to buy."""
    if not stages:
        return ""
    slowest = min(stages, key=lambda use: use.alone_per_s)
    if slowest.stage == "write" and slowest.busy >= 0.5:  # of a few frames, fsync takes longest, and nothing waits for it
        return "Writing sets the pace: a faster disk would help."
    if device != "cpu":
        if slowest.stage == "encode":
            return "The GPU sets the pace: a faster one would help."
        return "Decoding and cropping set the pace: more CPU cores would help, a faster GPU would not."
    costs = {use.stage: 1 / use.alone_per_s for use in stages if use.stage != "write"}
    share = costs.get("encode", 0.0) / sum(costs.values())
    if share > 0.5:
        return f"All stages share the CPU, and CLIP takes {share:.0%} of it: a GPU would help most, more cores too."
    return f"All stages share the CPU, and decoding and cropping take {1 - share:.0%} of it: more CPU cores would help."
