"""Explanations against what can be written down: a linear detector, finite differences, and the network's own forward pass."""

import numpy as np
import pytest
import torch

from d2st.adapter.explain import evidence_document, explain, relevance
from d2st.adapter.explain.features import clip_values, run
from d2st.adapter.explain.looks import body_points, looks
from d2st.adapter.nets import adapter_names
from d2st.adapter.nets.d2st_body import D2STBody
from d2st.cache.errors import ConfigError

MAPPED = [name for name in adapter_names() if name != "linear_probe"]


def logit_of(detector, tokens, cls) -> float:
    frames = len(next(iter(cls.values())))
    batch = [{layer: value[None] for layer, value in group.items()} for group in (tokens, cls)]
    with torch.inference_mode():
        return float(detector(*batch, torch.ones(1, frames, dtype=torch.bool)).clip_logit)


@pytest.mark.parametrize("frames", [1, 3])
def test_attributions_of_a_linear_detector_are_its_terms_whatever_the_noise(linear, clip, frames):
    tokens, cls = clip(frames)
    found = relevance(linear, tokens, cls)
    adapter = linear.adapter
    for layer, values in tokens.items():
        terms = (values - adapter.means[layer]) @ adapter.weights[layer] / frames
        np.testing.assert_allclose(found.maps[layer], terms, rtol=1e-4, atol=1e-5)
        at_cls = (cls[layer] - adapter.means[f"{layer}/cls"]) @ adapter.weights[f"{layer}/cls"] / frames
        np.testing.assert_allclose(found.cls[layer], at_cls, rtol=1e-4, atol=1e-5)


def test_a_layer_adds_what_a_linear_detector_loses_without_it(linear, clip):
    evidence = explain(linear, *clip(2))
    for share in evidence.layers:
        assert share.ablation == pytest.approx(share.gradient + share.cls, rel=1e-4)
    assert evidence.attention is None
    assert evidence.points == ()


@pytest.mark.parametrize("name", MAPPED)
@pytest.mark.parametrize("frames", [1, 4])
def test_every_adapter_with_maps_is_explained_by_its_own_forward_pass(make, clip, name, frames):
    detector, (tokens, cls) = make(name), clip(frames)
    before = logit_of(detector, tokens, cls)
    evidence = explain(detector, tokens, cls)
    assert evidence.logit == before == logit_of(detector, tokens, cls)  # hooks and silenced layers left nothing behind
    assert evidence.frame_logits.shape == (frames,)
    assert evidence.relevance.total.shape == (frames, 5, 4)
    assert np.isfinite(evidence.relevance.total).all()
    assert [share.layer for share in evidence.layers] == list(evidence.relevance.maps)
    assert (evidence.attention is None) == (name == "meanpool_mlp")
    assert bool(evidence.points) == (name == "d2st")
    assert all(parameter.grad is None for parameter in detector.parameters())
    evidence_document(evidence)


def test_half_precision_features_are_explained_as_they_are_scored(make, clip):
    detector = make("d2st")
    tokens, cls = ({layer: value.half() for layer, value in group.items()} for group in clip(4))
    assert explain(detector, tokens, cls).logit == pytest.approx(logit_of(detector, tokens, cls), abs=1e-5)


def test_the_same_seed_gives_the_same_map(make, clip):
    detector, features = make("st_adapter"), clip(3)
    first, second, other = (relevance(detector, *features, seed=seed).total for seed in (0, 0, 1))
    assert (first == second).all()
    assert (first != other).any()


def test_noise_does_not_move(make, clip):
    """A clip that stands still keeps still under it: all its frames get the same attribution."""
    detector = make("attentive_probe")
    still = [{layer: value.expand(4, *value.shape[1:]) for layer, value in group.items()} for group in clip(1)]
    total = relevance(detector, *still).total
    np.testing.assert_allclose(total, np.broadcast_to(total[:1], total.shape), rtol=1e-4, atol=1e-7)


def test_attention_is_shared_out_completely(make, clip):
    found = looks(make("attentive_probe"), *clip(3)).attention
    np.testing.assert_allclose(found.tokens.sum((2, 3)) + found.cls, 1, rtol=1e-5)
    assert found.frames.sum() == pytest.approx(1, rel=1e-5)
    assert found.total.sum() == pytest.approx(float((found.frames * (1 - found.cls.mean(0))).sum()), rel=1e-5)


@pytest.mark.parametrize("frames", [1, 5])
def test_sampled_places_come_from_the_body_that_ran(make, clip, frames):
    """The body is computed again from what it was given: to the same bits, or what is shown is not what was computed."""
    detector = make("d2st")
    values = clip_values(detector, *clip(frames))
    seen = []
    hooks = [
        body.register_forward_hook(lambda module, given, made: seen.append((module, given, made)))
        for body in detector.modules()
        if isinstance(body, D2STBody)
    ]
    with torch.no_grad():
        run(detector, values)
    for hook in hooks:
        hook.remove()
    for body, (x, grid), made in seen:
        points, out = body_points(body, x, grid, torch.ones_like(made), layer="any", number=0)
        assert torch.equal(out, made)
        for found in points:
            np.testing.assert_allclose(found.weight.sum(0), 1, rtol=1e-5)
            assert found.places.shape == (*found.weight.shape, 3)
            assert ((found.inside >= 0) & (found.inside <= 1 + 1e-6)).all()


def test_the_effect_of_places_is_the_slope_of_the_logit_in_their_values(make, clip, monkeypatch):
    """Scaling all values of the temporal pathways by 1 + e moves the logit by e times the sum of the effects."""
    detector, (tokens, cls) = make("d2st").double(), clip(4)
    tokens, cls = ({layer: value.double() for layer, value in group.items()} for group in (tokens, cls))
    total = sum(float(found.effect.sum()) for found in looks(detector, tokens, cls).points if found.pathway == "temporal")

    def scaled(by: float) -> float:
        for body in (module for module in detector.modules() if isinstance(module, D2STBody)):

            def look(samples, inside, pathway=body.temporal):
                key, value = type(pathway).look(pathway, samples, inside)
                return key, value * by

            monkeypatch.setattr(body.temporal, "look", look)
        return logit_of(detector, tokens, cls)

    assert (scaled(1.001) - scaled(0.999)) / 0.002 == pytest.approx(total, rel=1e-3)


def test_frames_that_are_scored_alone_are_explained_alone(make, clip):
    detector, (tokens, cls) = make("d2st"), clip(3)
    whole = explain(detector, tokens, cls, frames_alone=True)
    alone = [explain(detector, *({n: v[k : k + 1] for n, v in group.items()} for group in (tokens, cls))) for k in range(3)]
    assert whole.logit == pytest.approx(np.mean([part.logit for part in alone]))
    np.testing.assert_allclose(whole.frame_logits, [part.logit for part in alone], rtol=1e-6)
    for layer, values in whole.relevance.maps.items():
        np.testing.assert_allclose(values, np.concatenate([part.relevance.maps[layer] for part in alone]) / 3, rtol=1e-6)
    assert whole.attention.total.sum() == pytest.approx(np.mean([part.attention.total.sum() for part in alone]), rel=1e-6)
    for place, found in enumerate(whole.points):
        np.testing.assert_allclose(found.weight.sum(0), 1, rtol=1e-5)
        last = alone[2].points[place]
        np.testing.assert_allclose(found.places[-len(last.places) :, :, 0], last.places[..., 0] + 2)


def test_a_detector_of_cls_alone_has_no_place_to_point_at(make, clip):
    with pytest.raises(ConfigError, match="CLS tokens alone"):
        explain(make("linear_probe"), *clip(2))
