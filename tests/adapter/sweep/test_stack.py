"""A stack of networks says what each of them says, and gives each its own gradient. A new adapter is tested as soon as it is registered."""

import copy

import pytest
import torch

from d2st.adapter.nets import Detector, Head, adapter_names, build_adapter, depthwise
from d2st.adapter.sweep.stack import Stack, same_buffers
from d2st.adapter.train.optim import make_optimizer

CHANNELS, GRID, LAYERS = 16, (4, 3), ("a", "b")


def make_detectors(name, count=3):
    torch.manual_seed(0)
    stats = {key: (torch.randn(CHANNELS), torch.rand(CHANNELS) + 0.5) for layer in LAYERS for key in (layer, f"{layer}/cls")}
    adapter = build_adapter(name, layers=LAYERS, channels=CHANNELS, grid=GRID, stats=stats)
    first = Detector(adapter, Head(adapter.embed_dim))
    detectors = [copy.deepcopy(first) for _ in range(count)]
    for detector in detectors:
        for parameter in detector.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return detectors


def clips(frames):
    tokens = {layer: torch.randn(4, frames, *GRID, CHANNELS).half() for layer in LAYERS}
    mask = torch.ones(4, frames, dtype=torch.bool)
    mask[1, 2:] = False  # two lengths, but at T = 1
    return tokens, {layer: value.mean((2, 3)) for layer, value in tokens.items()}, mask


def loss_of(output, weight):
    return weight * (output.clip_logit.square().sum() + output.frame_logits.sum() + output.embedding.square().mean())


@pytest.mark.parametrize("frames", [1, 5])
@pytest.mark.parametrize("name", adapter_names())
def test_outputs_and_gradients_are_those_of_each_network_alone(name, frames):
    detectors = make_detectors(name)
    alone = copy.deepcopy(detectors)
    stack, batch = Stack(detectors), clips(frames)
    assert all(
        torch.equal(a, b)
        for one, two in zip(detectors, alone, strict=True)
        for a, b in zip(one.parameters(), two.parameters(), strict=True)
    )
    for _ in range(2):  # gradients add up, as over the passes of a step
        outputs = stack(*batch)
        stack.backward(sum(loss_of(output, 1 + i) for i, output in enumerate(outputs)))
    for i, (stacked, plain) in enumerate(zip(detectors, alone, strict=True)):
        expected = plain(*batch)
        (2 * loss_of(expected, 1 + i)).backward()
        for one, other in zip(outputs[i], expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
        most = max(float(parameter.grad.abs().max()) for parameter in plain.parameters() if parameter.grad is not None)
        for (key, mine), other in zip(stacked.named_parameters(), plain.parameters(), strict=True):
            if other.grad is not None:
                torch.testing.assert_close(
                    mine.grad, other.grad, atol=1e-5 * most, rtol=1e-3, msg=lambda t, key=key: f"{key}: {t}"
                )
                assert mine.grad.stride() == mine.stride()  # the fused AdamW reads both as they lie


@pytest.mark.parametrize("name", ["d2st", "st_adapter"])
def test_convolutions_side_by_side_in_the_channels_are_those_one_by_one(name, monkeypatch):
    detectors, batch, made = make_detectors(name), clips(5), []
    for one_by_one in (True, False):  # as on a CPU, as on CUDA
        monkeypatch.setattr(depthwise, "_one_by_one", lambda volume, one_by_one=one_by_one: one_by_one)
        copies = copy.deepcopy(detectors)
        stack = Stack(copies)
        stack.backward(sum(loss_of(output, 1.0) for output in stack(*batch)))
        made.append([parameter.grad for each in copies for parameter in each.parameters()])
    most = max(float(grad.abs().max()) for grad in made[0])
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5 * most, rtol=1e-3)


def test_autocast_gives_the_dtypes_of_one_network_alone():
    (one, two), batch = make_detectors("st_adapter", 2), clips(5)
    seen = []
    hook = lambda module, args, output: seen.append(output.dtype)  # noqa: E731
    for module in one.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.LayerNorm) and module is not one.head.linear:
            module.register_forward_hook(hook)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        one(*batch)
        alone, seen[:] = list(seen), []
        Stack([one, two])(*batch)
    assert seen == alone


def test_an_optimiser_and_a_checkpoint_of_one_network_know_nothing_of_the_stack():
    detectors = make_detectors("d2st", 2)
    optimizer = make_optimizer(detectors[0], lr=1e-2, weight_decay=0.0, rates={})
    others = [value.clone() for value in detectors[1].parameters()]
    stack, batch = Stack(detectors), clips(5)
    stack.backward(sum(loss_of(output, 1.0) for output in stack(*batch)))
    optimizer.step()
    assert all(torch.equal(value, before) for value, before in zip(detectors[1].parameters(), others, strict=True))
    torch.testing.assert_close(stack(*batch)[0].clip_logit, detectors[0](*batch).clip_logit, atol=1e-5, rtol=1e-4)
    detectors[0].load_state_dict(detectors[1].state_dict())
    first, second = stack(*batch)
    assert torch.equal(first.clip_logit, second.clip_logit)


def test_memory_that_runs_out_in_the_backward_pass_leaves_the_gradients_as_they_were():
    detectors = make_detectors("meanpool_mlp", 2)
    stack, batch = Stack(detectors), clips(2)
    stack.backward(sum(output.clip_logit.sum() for output in stack(*batch)))
    before = [value.grad.clone() for value in detectors[0].parameters()]

    def fail(gradient):
        raise torch.OutOfMemoryError("no room")

    outputs = stack(*batch)
    outputs[0].embedding.register_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        stack.backward(sum(output.clip_logit.sum() + output.embedding.sum() for output in outputs))
    assert all(torch.equal(value.grad, old) for value, old in zip(detectors[0].parameters(), before, strict=True))


def test_buffers_tell_whether_networks_may_share_a_stack():
    one, two = make_detectors("d2st", 2)
    assert same_buffers(one, two)
    two.adapter.reads[0].whitening[0, 1] = 1.0
    assert not same_buffers(one, two)
