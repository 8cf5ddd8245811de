"""What computes: torch and its device, open_clip, the face detector's weights."""

from collections.abc import Iterator
from pathlib import Path

from d2st.cli.checks.check import REINSTALL, Check, attempt
from d2st.cli.show import human_bytes

__all__ = ["checks"]


def checks() -> Iterator[Check]:
    yield attempt("torch", _torch, fix=REINSTALL.format("torch"))
    yield attempt("device", _device, status="warning", fix="d2st runs on the CPU meanwhile; check the driver with nvidia-smi")
    yield attempt("open_clip_torch", _open_clip, fix=REINSTALL.format("open_clip_torch"))
    yield attempt("face detector", _faces, fix="Install the weights again: pip install --force-reinstall 'mtcnn>=1.0,<2'")


def _torch() -> str:
    import torch

    threads = torch.get_num_threads()
    return (
        f"{torch.__version__}, built for {'CUDA ' + torch.version.cuda if torch.version.cuda else 'the CPU'}, {threads} threads"
    )


def _device() -> Check:
    import torch

    if not torch.cuda.is_available():
        driver = Path("/proc/driver/nvidia/version").exists()
        fix = "This torch can't use the NVIDIA driver found: compare nvidia-smi with pytorch.org" if driver else ""
        return Check("device", "warning" if driver else "ok", "cpu (no usable CUDA GPU)", fix)
    cards = []
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        with torch.cuda.device(number):
            bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        a = torch.ones(8, 8, device=f"cuda:{number}")
        if float((a @ a).sum()) != 512.0:
            raise RuntimeError(f"cuda:{number} computes wrongly")
        cards.append(
            f"cuda:{number} {torch.cuda.get_device_name(number)}, {human_bytes(free)} of {human_bytes(total)} free, {bf16}"
        )
    return Check("device", "ok", "; ".join(cards))


def _open_clip() -> str:
    from importlib.metadata import version

    import open_clip

    return f"{version('open_clip_torch')}, {len(open_clip.list_models())} models"


def _faces() -> str:
    from d2st.pipeline.faces.mtcnn_weights import load_mtcnn_weights

    return f"MTCNN weights found, SHA-256 as known ({load_mtcnn_weights().digest[:12]})"
