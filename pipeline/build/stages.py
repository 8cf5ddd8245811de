"""The stages of a build, put together: each is a thread, and the pipes between them bound what is in memory.

    decode (child processes) -> crop (threads) -> write crops -> encode -> write token maps -> commit

At most 128 frames of crops wait for their shard, four chunks for the encoder, two encoded ones for the disk, and one whole shard for its
commit.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import torch

from d2st.pipeline.build.crops import Media, Sample, crop_media
from d2st.pipeline.build.crops_writer import Chunk, CropsWriter, End
from d2st.pipeline.build.encode_chunks import Encoded, Running, encode_chunks, hand_on
from d2st.pipeline.build.flow import Clock, Flow, Pipe
from d2st.pipeline.build.progress import Progress
from d2st.pipeline.build.rows import Rows
from d2st.pipeline.build.stagings import Stagings
from d2st.pipeline.build.threads import encode_threads
from d2st.pipeline.build.tokens import TokensWriter
from d2st.pipeline.build.work import Task, Work, hand_out
from d2st.pipeline.clip import Encoder
from d2st.pipeline.clip.taps import steady_arithmetic

__all__ = ["Clocks", "make_shards"]

CROPS_WAITING, CHUNKS_WAITING, ENCODED_WAITING = 128, 4, 2
GPU_CHUNK = 64  # frames; on a CPU a chunk is one micro-batch, so that the stages alternate finely and Ctrl-C is answered soon


@dataclass
class Clocks:
    """How long each stage worked, in all passes of a build, and what came through.

    Attributes:
        wall_s: from the start of the first stage to the end of the last.
        cropped, encoded: frames.
        clamped: values of token maps that were set to float16's limit.
    """

    decode: Clock = field(default_factory=Clock)
    crop: Clock = field(default_factory=Clock)
    write_crops: Clock = field(default_factory=Clock)
    encode: Clock = field(default_factory=Clock)
    write_tokens: Clock = field(default_factory=Clock)
    commit: Clock = field(default_factory=Clock)
    wall_s: float = 0.0
    cropped: int = 0
    encoded: int = 0
    clamped: int = 0


def make_shards(
    work: Work,
    *,
    rows: Rows | None = None,
    media: Media | None = None,
    encoder: Encoder | None,
    counted: set[str],
    wait: bool,
    clocks: Clocks,
    progress: Progress,
) -> tuple[int, int]:
    """Make every shard that `work` hands out: its crops if they are missing, then its token maps.

    Args:
        rows: the samples of each shard.
        media: how crops are made; None, and no rows, when all shards have theirs.
        encoder: None to make crops alone; for int8 its calibration is set.
        counted: samples whose frames enter the channel statistics.
        wait: go on until others have finished the shards that they hold.
        clocks: get what the stages took.

    Returns:
        How many shards of crops, and of token maps, were committed.

    Raises:
        Whatever a stage raised, as it was raised there. No thread, child process or half-written file is left then.
    """
    step = encoder.micro_batch if encoder is not None else GPU_CHUNK
    if encoder is not None and encoder.backbone.device.startswith("cuda"):
        torch.cuda.synchronize(
            encoder.backbone.device
        )  # weights may still be on their way; the threads have streams of their own
        step = -(-GPU_CHUNK // step) * step
    begin = perf_counter()
    with steady_arithmetic(), work.letting_go(), Stagings() as stagings, Flow() as flow:
        cropped = Pipe[Sample | Task](flow, CROPS_WAITING)
        chunks = Pipe[Chunk | End](flow, CHUNKS_WAITING) if encoder is not None else None
        crops_writer = CropsWriter(
            flow,
            cropped,
            chunks,
            work=work,
            stagings=stagings,
            counted=counted,
            step=step,
            clock=clocks.write_crops,
            progress=progress,
        )
        stages: dict[str, Callable[[], None]] = {
            "crop": lambda: (
                hand_out(flow, cropped, work, wait=wait)
                if rows is None or media is None
                else crop_media(flow, cropped, work, rows, media, wait=wait, decoding=clocks.decode, cropping=clocks.crop)
            ),
            "write-crops": crops_writer.run,
        }
        writer = None
        if encoder is not None:
            encoded = Pipe[Encoded | End](flow, ENCODED_WAITING)
            calibration = {layer: tuple(v.cpu() for v in pair) for layer, pair in encoder.calibration.items()}
            writer = TokensWriter(
                flow,
                encoded,
                work=work,
                stagings=stagings,
                layers=encoder.layers,
                calibration=calibration,
                counted=counted,
                clock=clocks.write_tokens,
                commit_clock=clocks.commit,
                progress=progress,
            )
            running = Pipe[Running](flow, encode_threads(encoder.backbone.device)[0])
            stages["encode"] = lambda: encode_chunks(flow, chunks, running, encoder, clock=clocks.encode)
            stages["hand-on"] = lambda: hand_on(flow, running, encoded)
            stages["write-tokens"] = writer.run
            stages["commit"] = writer.commit
        for name, stage in stages.items():
            flow.run(name, stage)
    clocks.wall_s += perf_counter() - begin
    clocks.cropped += crops_writer.frames
    if writer is not None:
        clocks.encoded += writer.frames
        clocks.clamped += writer.clamped
    return crops_writer.built, writer.built if writer is not None else 0
