"""Forward + backward of D2ST bodies against a literal transcription of their formula in eager PyTorch, in one run.

    python tests/bench/adapter.py [--device cuda] [--batch 2] [--bodies 4] [--repeats 5] [--precision bfloat16 float32]

bfloat16 is autocast over float32 parameters, as in training. Shapes: "published" is the body on CLIP's channels (C to C/4 and back),
"side" the body on the side network's state (C/4 to C/4). The bodies stand in a chain, as behind so many tapped layers. Each variant runs
in processes of its own. Time is the median of the repeats: on the CPU processor time of one thread, which other programs on the machine
hardly change. Memory is what one forward + backward adds at its peak, in a run of its own: of allocated tensors on CUDA, of resident
memory on the CPU. Prints one row a shape and precision; exits with 1 if results differ.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from d2st.adapter.nets.d2st_body import D2STBody

SHAPES = {  # channels, bottleneck, grid
    "B/16 published": (768, 192, (14, 14)),
    "L/14 published": (1024, 256, (16, 16)),
    "B/16 side": (192, 192, (14, 14)),
    "L/14 side": (256, 256, (16, 16)),
}
FRAMES = 12
RETURN_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc gives freed tensors back, so that resident memory is memory in use
TOLERANCE = {"bfloat16": 0.02, "float32": 1e-4}  # relative, of the summed output and of the summed gradients


def literal_attention(p: dict[str, Tensor], x: Tensor, grid: tuple[int, int], stride: tuple[int, int, int]) -> Tensor:
    """aDSTA as printed: channel-first volumes, `grid_sample`, softmax over an explicit matrix. x is normalised, (B, T, N, C)."""
    batch, frames, tokens, channels = x.shape
    heads, size = 4, channels // 4

    def volume(t: Tensor) -> Tensor:  # (B * heads, C/heads, T, H, W)
        patches = t[:, :, 1:].reshape(batch, frames, *grid, heads, size)
        return patches.permute(0, 4, 5, 1, 2, 3).reshape(batch * heads, size, frames, *grid)

    query = F.linear(x, p["query.weight"], p["query.bias"])
    offset = F.conv3d(volume(query), p["offset_conv.weight"], p["offset_conv.bias"], stride, groups=size)
    offset = F.layer_norm(offset.permute(0, 2, 3, 4, 1), (size,), p["offset_norm.weight"], p["offset_norm.bias"])
    offset = F.conv3d(F.gelu(offset).permute(0, 4, 1, 2, 3), p["offset_point.weight"])  # (B * heads, 3, T', H', W')
    cells = offset.shape[2:]
    reach = torch.tensor([min(1.0, 2 / n) for n in cells], device=x.device).view(1, 3, 1, 1, 1)
    axes = [torch.linspace(0.5, n - 0.5, n, device=x.device) / n * 2 - 1 for n in cells]
    centres = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    place = (offset.tanh() * reach + centres).permute(0, 2, 3, 4, 1)  # (B * heads, T', H', W', 3)
    sampled = F.grid_sample(volume(x), place[..., (2, 1, 0)].to(x.dtype), align_corners=True)
    sampled = sampled.reshape(batch, heads, size, -1).permute(0, 3, 1, 2).reshape(batch, -1, channels)  # (B, n, C)

    def split(t: Tensor) -> Tensor:  # (B, heads, tokens or points, C/heads)
        return t.reshape(batch, -1, heads, size).permute(0, 2, 1, 3)

    key = split(F.linear(sampled, p["key.weight"], p["key.bias"]))
    value = split(F.linear(sampled, p["value.weight"], p["value.bias"]))
    weights = F.softmax(torch.einsum("bhmc,bhnc->bhmn", split(query), key) * size**-0.5, dim=-1)
    mixed = torch.einsum("bhmn,bhnc->bhmc", weights, value).permute(0, 2, 1, 3).reshape(batch, frames, tokens, channels)
    return F.linear(mixed, p["out.weight"], p["out.bias"])


def literal_body(p: dict[str, Tensor], x: Tensor, grid: tuple[int, int]) -> Tensor:
    """The body as printed: both pathways formed, then their mean."""

    def pathway(name: str, stride: tuple[int, int, int]) -> Tensor:
        own = {key.removeprefix(name + "."): t for key, t in p.items() if key.startswith(name + ".")}
        normal = F.layer_norm(z, z.shape[-1:], own["norm.weight"], own["norm.bias"])
        return z + literal_attention(own, normal, grid, stride)

    z = F.gelu(F.linear(x, p["down.weight"], p["down.bias"]))
    volume = z[:, :, 1:].unflatten(2, grid).permute(0, 4, 1, 2, 3)  # (B, C', T, H, W)
    volume = volume + F.conv3d(volume, p["position.weight"], p["position.bias"], padding=1, groups=volume.shape[1])
    z = torch.cat([z[:, :, :1], volume.permute(0, 2, 3, 4, 1).flatten(2, 3)], dim=2)
    y = F.gelu((pathway("spatial", (4, 3, 3)) + pathway("temporal", (1, 7, 7))) / 2)
    return x + F.gelu(F.linear(y, p["up.weight"], p["up.bias"]))


def measure(
    variant: str, shape: str, precision: str, *, device: str, batch: int, bodies: int, repeats: int
) -> dict[str, float]:
    """Median seconds, peak bytes, and a checksum of output and gradients of one variant."""
    channels, bottleneck, grid = SHAPES[shape]
    clock = time.perf_counter if device == "cuda" else time.process_time
    torch.set_num_threads(1)
    torch.manual_seed(0)
    chain = torch.nn.ModuleList(D2STBody(channels, bottleneck) for _ in range(bodies)).to(device)
    for body in chain:
        torch.nn.init.normal_(body.up.weight, std=0.02)
    named = [dict(body.named_parameters()) for body in chain]

    def step(x: Tensor) -> float:
        chain.zero_grad()
        out = x
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            for body, parameters in zip(chain, named, strict=True):
                out = body(out, grid) if variant == "ours" else literal_body(parameters, out, grid)
        out.backward(x.detach())
        return float((out.detach() * x.detach()).mean())

    step(torch.randn(1, 4, 1 + grid[0] * grid[1], channels, device=device))  # load libraries, fill pools
    x = torch.randn(batch, FRAMES, 1 + grid[0] * grid[1], channels, device=device, requires_grad=True)
    before = resident(device)
    check = step(x)
    peak = resident(device, peak=True) - before
    times = []
    for _ in range(repeats):
        x.grad = None
        start = clock()
        step(x)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    grad = sum(float(t.grad.double().abs().sum()) for t in (x, *chain.parameters()))
    return {"seconds": statistics.median(times or [0.0]), "peak_bytes": peak, "output": check, "gradient": grad}


def resident(device: str, *, peak: bool = False) -> int:
    """Bytes in use now, or (`peak`) the most since the last call without `peak`."""
    if device == "cuda":
        if peak:
            return torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    if not peak:
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    field = "VmHWM" if peak else "VmRSS"
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def run(*arguments: str, **environment: str) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=os.environ | environment).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=2, help="clips")
    parser.add_argument("--bodies", type=int, default=4, help="in a chain")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", nargs="+", default=list(TOLERANCE), choices=list(TOLERANCE))
    parser.add_argument("--one", nargs=3, metavar=("VARIANT", "SHAPE", "PRECISION"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        keys = ("device", "batch", "bodies", "repeats")
        print(json.dumps(measure(*args.one, **{key: getattr(args, key) for key in keys})))
        return 0
    print(f"{args.bodies} bodies, T={FRAMES}, batch {args.batch}, {args.device}, torch {torch.__version__}")
    print(
        f"{'precision':9} {'shape':15} {'ours ms':>9} {'literal ms':>11} {'faster':>7} "
        f"{'ours MiB':>9} {'literal MiB':>12} {'smaller':>8} {'differ':>9}"
    )
    wrong = False
    for precision, shape in itertools.product(args.precision, SHAPES):
        results = {}
        for variant in ("ours", "literal"):
            timed = run("--one", variant, shape, precision)
            sized = run("--repeats", "0", "--one", variant, shape, precision, **RETURN_AT_ONCE)
            results[variant] = timed | {"peak_bytes": sized["peak_bytes"]}
        ours, literal = results["ours"], results["literal"]
        difference = max(abs(ours[k] - literal[k]) / abs(literal[k]) for k in ("output", "gradient"))
        wrong |= difference > TOLERANCE[precision]
        print(
            f"{precision:9} {shape:15} {ours['seconds'] * 1e3:9.1f} {literal['seconds'] * 1e3:11.1f} "
            f"{literal['seconds'] / ours['seconds']:6.2f}x {ours['peak_bytes'] / 2**20:9.0f} {literal['peak_bytes'] / 2**20:12.0f} "
            f"{literal['peak_bytes'] / ours['peak_bytes']:7.2f}x {difference:9.1e}",
            flush=True,
        )
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
