"""Clips of many files through CLIP together, since its micro-batch has a fixed size and what a clip does not fill of it is wasted.

The one decision: a batch waits for more only while that costs nobody anything. It goes as soon as its micro-batches are nearly full;
or, when a thread of the encoder has nothing to do, if no file is on its way or the oldest clip has waited for a second.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import monotonic

import numpy as np

from d2st.pipeline.build.clip_faces import InFlight
from d2st.pipeline.build.clips import ClipEvent, EncodedClip, FileEnd
from d2st.pipeline.build.flow import Clock, Flow, Pipe
from d2st.pipeline.build.threads import encode_threads, take_threads
from d2st.pipeline.clip import Encoder, Tokens
from d2st.pipeline.media import default_workers

__all__ = ["Batch", "batch_clips", "pass_clips"]

MAX_WAIT_S = 1.0
POLL_S = 0.1  # while clips wait
MAX_PADDING_RATIO = 1 / 8
GPU_FRAMES = 64  # at least, in a full batch on a GPU
MAX_STEPS = 8  # micro-batches in a batch that never gets full


@dataclass(frozen=True, eq=False)
class Batch:
    """Events in order, and what will be the token maps of their clips' frames, one behind the other (None if there are none)."""

    events: list[ClipEvent | FileEnd]
    tokens: "Future[Tokens] | None" = None

    def finished(self) -> list[ClipEvent | FileEnd]:
        """The events with their token maps; to be asked when `tokens` is done."""
        if self.tokens is None:
            return self.events
        tokens, start, events = self.tokens.result(), 0, []
        for event in self.events:
            if isinstance(event, ClipEvent) and isinstance(event.clip, EncodedClip):
                rows = slice(start, start + len(event.clip.crops))
                part = Tokens({name: values[rows] for name, values in tokens.arrays.items()}, tokens.clamped)
                event, start = replace(event, clip=replace(event.clip, tokens=part)), rows.stop
            events.append(event)
        return events


def pass_clips(source: "Pipe[ClipEvent | FileEnd]", out: "Pipe[Batch]") -> None:
    """In place of `batch_clips` where nothing is to be encoded."""
    for item in source:
        out.put(Batch([item]))
        del item
    out.close()


def batch_clips(
    flow: Flow, source: "Pipe[ClipEvent | FileEnd]", out: "Pipe[Batch]", encoder: Encoder, *, flight: InFlight, clock: Clock
) -> None:
    """Have clips encoded, several at once, and put what will come of them into `out`; its capacity bounds how many are under way."""
    count, torch_threads = encode_threads(encoder.backbone.device)
    busy: list[Future[Tokens]] = []

    def encode(crops: list[np.ndarray], torch_threads: int) -> Tokens:
        flow.check()
        take_threads(torch_threads)
        with clock.running():
            return encoder.encode(np.concatenate(crops))

    def is_free() -> bool:
        busy[:] = [future for future in busy if not future.done()]  # what is done holds its token maps
        return len(busy) < count

    def is_overdue() -> bool:
        return (flight.idle or monotonic() - waiting.since_s >= MAX_WAIT_S) and is_free()

    waiting = _Waiting(encoder)
    with ThreadPoolExecutor(count, "d2st-encode") as threads:

        def send() -> None:
            events, crops = waiting.take()
            is_free()
            # all cores for a batch that will stay alone, such as that of a single file
            alone = max(torch_threads, default_workers()) if flight.idle and not busy else torch_threads
            future = threads.submit(encode, crops, alone) if crops else None
            if future is not None:
                busy.append(future)
                future.add_done_callback(lambda _: flow.wake())
            out.put(Batch(events, future))

        items = iter(source)
        while True:
            if waiting.frames:
                flow.wait(lambda: source.ready or is_overdue(), timeout_s=POLL_S)
                if is_overdue():
                    send()
                    continue
                if not source.ready:
                    continue
            item = next(items, None)
            if item is None:
                break
            flight.ended += isinstance(item, FileEnd)
            waiting.add(item)
            del item
            if not waiting.frames or waiting.is_full:
                send()
        if waiting.events:
            send()
        out.close()


class _Waiting:
    """What the next batch will be of."""

    def __init__(self, encoder: Encoder) -> None:
        self.events: list[ClipEvent | FileEnd] = []
        self.frames = 0
        self.since_s = 0.0
        self._step = encoder.micro_batch
        self._least = GPU_FRAMES if encoder.backbone.device.startswith("cuda") else 1

    def add(self, event: ClipEvent | FileEnd) -> None:
        """Append an event."""
        self.events.append(event)
        if isinstance(event, ClipEvent) and isinstance(event.clip, EncodedClip):
            self.since_s = self.since_s if self.frames else monotonic()
            self.frames += len(event.clip.crops)

    @property
    def is_full(self) -> bool:
        """Whether its micro-batches are nearly full, or it is large."""
        padding = -self.frames % self._step
        few = padding <= MAX_PADDING_RATIO * self.frames
        return (few and self.frames >= self._least) or self.frames >= MAX_STEPS * self._step

    def take(self) -> tuple[list[ClipEvent | FileEnd], list[np.ndarray]]:
        """All events, and the crops (T,S,S,3) of those that are clips; none are left."""
        events, self.events, self.frames = self.events, [], 0
        return events, [e.clip.crops for e in events if isinstance(e, ClipEvent) and isinstance(e.clip, EncodedClip)]
