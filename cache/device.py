"""Which torch device to compute on.

It lives in `cache` because the encoder (pipeline) and the trainer (adapter) both ask, and neither may import the other.
A device is a plain string everywhere; torch is imported inside, so that importing this module stays cheap.
"""

import re

from d2st.cache.errors import ConfigError, UsageError

__all__ = ["pick_device"]

_FORM = re.compile(r"cuda(?::(\d+))?")


def pick_device(wanted: str = "auto") -> str:
    """Turn "auto", "cpu", "cuda" or "cuda:N" into "cpu" or "cuda:N".

    "auto" takes the current CUDA device when there is a usable one, else the CPU.
    Raises UsageError for any other text, and ConfigError when CUDA is asked for by name and is not there: a silent fall-back would cost the
    user days.
    """
    if wanted == "cpu":
        return "cpu"
    match = _FORM.fullmatch(wanted)
    if match is None and wanted != "auto":
        raise UsageError(f"{wanted!r} is not a device", fix="Use auto, cpu, cuda or cuda:N")
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        if wanted == "auto":
            return "cpu"
        raise ConfigError(
            f"device {wanted!r} was asked for, but torch {torch.__version__} sees no usable CUDA GPU",
            fix="Use auto or cpu, or mend the driver (nvidia-smi must list the GPU)",
        )
    if match is None or match[1] is None:
        return f"cuda:{torch.cuda.current_device()}"
    index = int(match[1])
    if index >= count:
        raise ConfigError(
            f"device {wanted!r} was asked for, but there are only {count} GPUs", fix=f"Use cuda:0 to cuda:{count - 1}"
        )
    return f"cuda:{index}"
