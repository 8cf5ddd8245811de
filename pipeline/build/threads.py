"""What the threads of a build must agree on, so that they use the machine well and no byte depends on their timing.

torch counts threads per calling thread, but a new thread starts with whatever any thread set last: each one says what it wants.
"""

import torch

from d2st.pipeline.media import default_workers

__all__ = ["crop_threads", "encode_threads", "take_threads"]


def crop_threads(device: str) -> int:
    """How many threads find and cut faces: beside a GPU, which they feed, half of the cores; on a CPU one, since CLIP wants the rest."""
    return max(1, default_workers() // 2) if device.startswith("cuda") else 1


def encode_threads(device: str) -> tuple[int, int]:
    """How many threads run CLIP, and with how many threads of torch each: (1, all) on a GPU; on a CPU up to four that share the cores.

    One that computes with all cores waits for its slowest part before each next step, and beside the other stages one part is always
    slow: on 2 cores a build of the demo reached 56 frames/s so, and 75 with two that never wait. A frame's bits do not depend on it.
    """
    if device.startswith("cuda"):
        return 1, torch.get_num_threads()
    count = min(4, default_workers())
    return count, max(1, default_workers() // count)


def take_threads(count: int, *, stream_on: str | None = None) -> None:
    """Let the calling thread use `count` threads of torch; with `stream_on`, a CUDA device, also a CUDA stream of its own."""
    torch.set_num_threads(count)
    if stream_on is not None and stream_on.startswith("cuda"):
        torch.cuda.set_stream(torch.cuda.Stream(stream_on))
