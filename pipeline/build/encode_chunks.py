"""The encoding stage of a build: chunks of crops to token maps, by one thread on a GPU and by several on a CPU, in order."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from d2st.pipeline.build.crops_writer import Chunk, End
from d2st.pipeline.build.flow import Clock, Flow, Pipe
from d2st.pipeline.build.threads import encode_threads, take_threads
from d2st.pipeline.build.work import Task
from d2st.pipeline.clip import Encoder

__all__ = ["Encoded", "Running", "encode_chunks", "hand_on"]


@dataclass(frozen=True, eq=False)
class Encoded:
    """The stored arrays of a chunk, by "<layer>/<kind>", n frames each; `slots` and `counted` as in `Chunk`, `clamped` as in `Tokens`."""

    task: Task
    arrays: dict[str, np.ndarray]
    slots: np.ndarray
    counted: np.ndarray
    clamped: int


Running = Future[Encoded] | End


def encode_chunks(flow: Flow, source: "Pipe[Chunk | End]", running: "Pipe[Running]", encoder: Encoder, *, clock: Clock) -> None:
    """Have chunks encoded, and put what will come of them into `running`, whose capacity says how many are under way; pass ends on."""
    count, torch_threads = encode_threads(encoder.backbone.device)

    def encode(chunk: Chunk) -> Encoded:
        flow.check()
        with clock.running():
            tokens = encoder.encode(chunk.images)
            return Encoded(chunk.task, tokens.arrays, chunk.slots, chunk.counted, tokens.clamped)

    with ThreadPoolExecutor(count, "d2st-encode", lambda: take_threads(torch_threads)) as threads:
        for item in source:
            if isinstance(item, Chunk):
                item = threads.submit(encode, item)
                item.add_done_callback(lambda _: flow.wake())
            running.put(item)
            del item
        running.close()


def hand_on(flow: Flow, running: "Pipe[Running]", out: "Pipe[Encoded | End]") -> None:
    """Wait for each in turn. A stage of its own, so that a shard's end never waits for the next chunk."""
    for item in running:
        if isinstance(item, Future):
            flow.wait(item.done)
            item = item.result()
        out.put(item)
        del item
    out.close()
