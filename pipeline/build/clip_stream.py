"""Media files to clips with token maps, as a stream: decoding, faces and CLIP at once, in the order of the files.

What `FrontEnd.encode_clips` runs. Nothing but a few windows is ever held, so that memory depends neither on how long a video is nor on
how many files there are; a consumer that is slow slows all stages down.
"""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from d2st.pipeline.build.clip_batches import Batch, batch_clips, pass_clips
from d2st.pipeline.build.clip_faces import Cutting, InFlight, Source, cut_windows, number_faces, read_source
from d2st.pipeline.build.clips import ClipClocks, ClipEvent, FileEnd
from d2st.pipeline.build.crop import CropSettings
from d2st.pipeline.build.flow import Flow, Pipe, Stopped
from d2st.pipeline.build.threads import crop_threads, encode_threads, take_threads
from d2st.pipeline.clip import Encoder
from d2st.pipeline.clip.taps import steady_arithmetic
from d2st.pipeline.faces import FaceDetector
from d2st.pipeline.media import WINDOWS_READER, DecodePool

__all__ = ["stream_clips"]

CROPS_WAITING = 128  # frames of crops that wait for the encoder


def stream_clips(
    files: Iterable[tuple[str, str]],
    detector: FaceDetector,
    settings: CropSettings,
    encoder: Encoder | None,
    *,
    device: str,
    window_s: float | None,
    all_faces: bool,
    workers: int | None,
    clocks: ClipClocks,
) -> Iterator[ClipEvent | FileEnd]:
    """See `FrontEnd.encode_clips`. `device` is where the face detector computes."""
    flight = InFlight()
    face_threads = crop_threads(device)
    encoders = encode_threads(encoder.backbone.device)[0] if encoder is not None else 1
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)  # weights may still be on their way; the threads have streams of their own
    with (
        steady_arithmetic(),
        ThreadPoolExecutor(face_threads, "d2st-faces", lambda: take_threads(1, stream_on=device)) as threads,
        DecodePool(workers, reader=WINDOWS_READER) as pool,
        Flow() as flow,
    ):
        sources = Pipe[Source](flow, 2 * pool.workers)
        cutting = Pipe[Cutting | ClipEvent | FileEnd](flow, face_threads)
        events = Pipe[ClipEvent | FileEnd](flow, CROPS_WAITING)
        batches = Pipe[Batch](flow, encoders)
        flow.run(
            "cut",
            lambda: cut_windows(
                flow, sources, cutting, threads, detector, settings, count=face_threads, all_faces=all_faces, clock=clocks.faces
            ),
        )
        flow.run("number", lambda: number_faces(flow, cutting, events, frames=settings.frames))
        if encoder is None:
            flow.run("pass", lambda: pass_clips(events, batches))
        else:
            flow.run("batch", lambda: batch_clips(flow, events, batches, encoder, flight=flight, clock=clocks.clip))
        threading.Thread(
            target=lambda: read_source(flow, sources, files, pool, settings, window_s=window_s, flight=flight),
            name="d2st-files",
            daemon=True,
        ).start()
        try:
            for batch in batches:
                if batch.tokens is not None:
                    flow.wait(batch.tokens.done)
                clocks.decode.busy_s = pool.busy_s
                yield from batch.finished()
                del batch
        except Stopped:
            pass  # the flow raises what stopped it
    clocks.decode.busy_s = pool.busy_s
