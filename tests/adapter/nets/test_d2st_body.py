"""The D2ST body against a plain reference: loops over groups, points and corners in float64, written from the paper's formula."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from d2st.adapter.nets import count_parameters, ends
from d2st.adapter.nets.d2st_body import D2STBody, published_key

SQRT_HALF = 0.5**0.5


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x * SQRT_HALF))


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * gamma + beta


def stretched(cells: int, taps: int) -> list[int]:
    """The cells that the taps of a kernel see first to last: an axis shorter than the kernel is repeated up to its length."""
    return [i * cells // taps for i in range(taps)] if cells < taps else list(range(cells))


def trilinear(rows: tuple[Tensor, ...], extent: tuple[int, ...], place: Tensor) -> Tensor:
    """One point of a volume, given as its T*H*W rows of channels, at place (z, y, x) in [-1, 1]; corners aligned, zero outside."""
    at = (place + 1) / 2 * (torch.tensor(extent) - 1)
    cells = at.detach().floor().long() + torch.tensor(list(itertools.product((0, 1), repeat=3)))  # (8, 3)
    weights, near = (1 - (at - cells).abs()).prod(-1), torch.zeros_like(rows[0])
    for weight, (z, y, x) in zip(weights.unbind(), cells.tolist(), strict=True):
        if 0 <= z < extent[0] and 0 <= y < extent[1] and 0 <= x < extent[2]:
            near = near + weight * rows[(z * extent[1] + y) * extent[2] + x]
    return near


def reference_attention(p: dict[str, Tensor], x: Tensor, grid: tuple[int, int], stride: tuple[int, int, int]) -> Tensor:
    """aDSTA(LN(x)) of one clip (T, 1+H*W, C)."""
    heads, size = 4, x.shape[-1] // 4
    x = layer_norm(x, p["norm.weight"], p["norm.bias"])
    query = x @ p["query.weight"].T + p["query.bias"]
    patches, normal = (t[:, 1:].reshape(len(t), *grid, -1) for t in (query, x))
    kernel = p["offset_conv.weight"][:, 0]  # (C/4, kt, kh, kw)
    seen = [stretched(n, k) for n, k in zip(patches.shape[:3], kernel.shape[1:], strict=True)]
    patches = patches[seen[0]][:, seen[1]][:, :, seen[2]]
    counts = [(n - k) // s + 1 for n, k, s in zip(patches.shape[:3], kernel.shape[1:], stride, strict=True)]
    out = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        rows = normal[..., part].flatten(0, 2).unbind()
        points = []
        for cell in itertools.product(*map(range, counts)):
            window = [slice(i * s, i * s + k) for i, s, k in zip(cell, stride, kernel.shape[1:], strict=True)]
            value = torch.einsum("thwc,cthw->c", patches[window[0], window[1], window[2], part], kernel) + p["offset_conv.bias"]
            value = gelu(layer_norm(value, p["offset_norm.weight"], p["offset_norm.bias"]))
            delta = p["offset_point.weight"].flatten(1) @ value
            centre = torch.tensor([2 * (i + 0.5) / n - 1 for i, n in zip(cell, counts, strict=True)], dtype=torch.float64)
            reach = torch.tensor([min(1.0, 2 / n) for n in counts], dtype=torch.float64)
            points.append(trilinear(rows, normal.shape[:3], centre + delta.tanh() * reach))
        out.append(torch.stack(points))
    sampled = torch.cat(out, dim=-1)  # (n, C)
    key, value = (sampled @ p[f"{name}.weight"].T + p[f"{name}.bias"] for name in ("key", "value"))
    mixed = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        score = (query[..., part] @ key[:, part].T) / math.sqrt(size)
        weight = (score - score.amax(-1, keepdim=True)).exp()
        mixed.append(weight / weight.sum(-1, keepdim=True) @ value[:, part])
    return torch.cat(mixed, dim=-1) @ p["out.weight"].T + p["out.bias"]


def reference_body(p: dict[str, Tensor], x: Tensor, grid: tuple[int, int]) -> Tensor:
    """The body on one clip (T, 1+H*W, C)."""
    z = gelu(x @ p["down.weight"].T + p["down.bias"])
    patches = z[:, 1:].reshape(len(z), *grid, -1)
    around = patches.new_zeros(len(z) + 2, grid[0] + 2, grid[1] + 2, patches.shape[-1])
    around[1:-1, 1:-1, 1:-1] = patches
    placed = patches + p["position.bias"]
    for t, h, w in itertools.product(range(3), repeat=3):
        placed = placed + around[t : t + len(z), h : h + grid[0], w : w + grid[1]] * p["position.weight"][:, 0, t, h, w]
    z = torch.cat([z[:, :1], placed.flatten(1, 2)], dim=1)
    spatial, temporal = ({k.removeprefix(n): v for k, v in p.items() if k.startswith(n)} for n in ("spatial.", "temporal."))
    s = z + reference_attention(spatial, z, grid, (4, 3, 3))
    t = z + reference_attention(temporal, z, grid, (1, 7, 7))
    return x + gelu(gelu((s + t) / 2) @ p["up.weight"].T + p["up.bias"])


def shaken_body(channels: int = 12, bottleneck: int = 8, *, spread: float = 0.4) -> D2STBody:
    """A body with every parameter drawn wide enough that offsets reach outside the clip and softmax is far from flat."""
    torch.manual_seed(5)
    body = D2STBody(channels, bottleneck)
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.add_(torch.randn_like(parameter) * spread)
    return body


GRIDS = [(14, 14), (16, 16), (24, 24), (9, 15)]
CASES = [(t, grid) for t in (1, 3, 4, 8, 12) for grid in GRIDS] + [(2, (14, 14)), (5, (16, 16)), (6, (4, 6)), (1, (1, 2))]


@pytest.mark.parametrize(("frames", "grid"), CASES, ids=str)
def test_value_and_gradients_equal_the_formula(frames: int, grid: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the input and of every parameter; wide tokens are taken in several chunks."""
    monkeypatch.setitem(ends.CHUNK, "cpu", 12 * 150)
    body = shaken_body().double()
    x = torch.randn(2 if frames == 3 else 1, frames, 1 + grid[0] * grid[1], 12, dtype=torch.float64, requires_grad=True)
    pull = torch.randn_like(x)
    named = dict(body.named_parameters())
    out = body(x, grid)
    gradients = torch.autograd.grad(out, [x, *named.values()], pull)
    expected = torch.stack([reference_body(named, clip, grid) for clip in x])
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    wanted = torch.autograd.grad(expected, [x, *named.values()], pull, allow_unused=True)
    for name, ours, theirs in zip(("x", *named), gradients, wanted, strict=True):
        theirs = torch.zeros_like(ours) if theirs is None else theirs
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(
            ours / scale, theirs / scale, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"gradient of {n}: {m}"
        )


@pytest.mark.parametrize(("frames", "grid"), [(1, (5, 6)), (3, (4, 3)), (4, (5, 6))], ids=str)
def test_gradcheck(frames: int, grid: tuple[int, int]) -> None:
    body = shaken_body(4, 4).double()
    names, parameters = zip(*body.named_parameters(), strict=True)
    x = torch.randn(1, frames, 1 + grid[0] * grid[1], 4, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(body, dict(zip(names, values, strict=True)), (x, grid))

    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)


@pytest.mark.parametrize(("channels", "count"), [(768, 606_192), (1024, 1_070_400)])
def test_parameter_count_is_the_published_one(channels: int, count: int) -> None:
    assert count_parameters(D2STBody(channels, channels // 4)) == count


def published_shapes(channels: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published `ViT_D2ST_Adapter`."""
    narrow, size = channels // 4, channels // 16
    shapes = {
        "down": (narrow, channels),
        "pos_embed": (narrow, 1, 3, 3, 3),
        "s_ln": (narrow,),
        "t_ln": (narrow,),
        "up": (channels, narrow),
    }
    for pathway, kernel in (("s", (4, 5, 5)), ("t", (1, 7, 7))):
        shapes |= {f"{pathway}_attn.proj_{n}": (narrow, narrow) for n in ("q", "k", "v", "out")}
        shapes |= {f"{pathway}_attn.conv_offset.0": (size, 1, *kernel), f"{pathway}_attn.conv_offset.1.norm": (size,)}
    named = {f"{name}.weight": shape for name, shape in shapes.items()} | {
        f"{name}.bias": shape[:1] for name, shape in shapes.items()
    }
    return named | {f"{pathway}_attn.conv_offset.3.weight": (3, size, 1, 1, 1) for pathway in "st"}


@pytest.mark.parametrize("channels", [768, 1024])
def test_published_weights_load_by_the_key_map(channels: int) -> None:
    """Every name of theirs is a name of ours, of the same shape, and the other way round; values arrive where they belong."""
    published = {name: torch.randn(shape) for name, shape in published_shapes(channels).items()}
    body = D2STBody(channels, channels // 4)
    body.load_state_dict({published_key(name): value for name, value in published.items()}, strict=True)
    loaded = body.state_dict()
    assert all(torch.equal(loaded[published_key(name)], value) for name, value in published.items())
    assert len({published_key(name) for name in published}) == len(published) == len(loaded)


@pytest.mark.parametrize("frames", [1, 3, 12])
def test_identity_at_the_start_yet_it_learns(frames: int) -> None:
    body = D2STBody(16, 8)
    x = torch.randn(2, frames, 1 + 14 * 14, 16)
    out = body(x, (14, 14))
    assert torch.equal(out, x)
    out.square().sum().backward()
    assert body.up.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("frames", [1, 2, 12])
def test_a_clip_does_not_see_its_neighbours_in_the_batch(frames: int) -> None:
    body = shaken_body()
    x = torch.randn(3, frames, 1 + 14 * 14, 12)
    other = torch.cat([x[:1], torch.full_like(x[1:], 1e3)])
    assert torch.equal(body(x, (14, 14))[0], body(other, (14, 14))[0])
    torch.testing.assert_close(body(x[:1], (14, 14)), body(x, (14, 14))[:1])


@pytest.mark.parametrize("taps", [2, 4])
def test_a_still_chooses_the_places_that_a_still_video_of_it_would(taps: int) -> None:
    """Stage 1 learns on stills what stage 2 uses on clips: offsets of T=1 are those of the frame shown several times."""
    body = shaken_body()
    query = torch.randn(1, 1, 1 + 14 * 14, 8)
    still, shown = (body.spatial.places(q, (14, 14)) for q in (query, query.expand(-1, taps, -1, -1)))
    torch.testing.assert_close(still[..., 1:], shown[..., 1:])


def test_bfloat16_stays_close() -> None:
    body = shaken_body(32, 16)
    x = torch.randn(2, 4, 1 + 14 * 14, 32)
    exact = body(x, (14, 14)) - x
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = body(x, (14, 14)) - x
    pure = body.bfloat16()(x.bfloat16(), (14, 14)).float() - x
    assert (mixed - exact).norm() / exact.norm() < 0.03
    assert (pure - exact).norm() / exact.norm() < 0.06


def test_bfloat16_gradients_stay_close() -> None:
    """Training runs under autocast: x and the parameters stay float32, and so do their gradients."""
    body, x = shaken_body(32, 16, spread=0.1), torch.randn(2, 4, 1 + 14 * 14, 32, requires_grad=True)
    pull, leaves = torch.randn_like(x), [x, *body.parameters()]
    exact = torch.autograd.grad(body(x, (14, 14)), leaves, pull)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = body(x, (14, 14))
    mixed = torch.autograd.grad(out, leaves, pull)
    assert {out.dtype, *(g.dtype for g in mixed)} == {torch.float32}
    pairs = [(m, e) for m, e in zip(mixed, exact, strict=True)]
    assert torch.cat([(m - e).flatten() for m, e in pairs]).norm() < 0.03 * torch.cat([e.flatten() for _, e in pairs]).norm()


@pytest.mark.parametrize("autocast", [False, True])
def test_a_step_repeats_bit_for_bit(autocast: bool) -> None:
    body, x, gradients = shaken_body(32, 16), torch.randn(2, 4, 1 + 14 * 14, 32), []
    for _ in range(2):
        body.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            out = body(x, (14, 14))
        out.square().mean().backward()
        gradients.append([p.grad.clone() for p in body.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_little_is_kept_for_the_backward_pass() -> None:
    """x, and five tensors of the bottleneck's width; the rest is small. Counted once a storage."""
    body, x = D2STBody(64, 32), torch.randn(2, 8, 1 + 14 * 14, 64, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes() if t.dim() > 2 else 0
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = body(x, (14, 14))
    out.sum().backward()
    narrow = x.nbytes // 2
    assert sum(kept.values()) < 1.1 * (x.nbytes + 5 * narrow)


def test_dropout_acts_on_the_update_and_in_training_only() -> None:
    body, x = shaken_body(32, 16), torch.randn(1, 4, 1 + 14 * 14, 32)
    update = body(x, (14, 14)) - x
    body.dropout = 0.5
    torch.testing.assert_close(body.eval()(x, (14, 14)) - x, update)
    dropped = body.train()(x, (14, 14)) - x
    gone = dropped == 0
    assert 0.45 < gone.float().mean() < 0.55
    torch.testing.assert_close(dropped[~gone], 2 * update[~gone], rtol=1e-4, atol=1e-5)


def test_traces_as_one_graph() -> None:
    """`torch.compile` finds nothing to break on."""
    body, x = shaken_body(), torch.randn(1, 4, 1 + 14 * 14, 12)
    compiled = torch.compile(body, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, (14, 14)), body(x, (14, 14)))


def test_heads_must_divide_the_bottleneck() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        D2STBody(16, 10)
