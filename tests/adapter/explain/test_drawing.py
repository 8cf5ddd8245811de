"""Drawings: there for every adapter and clip length, the same for the same evidence, and coloured by what they show."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from d2st.adapter.explain import Caption, SampledPoints, evidence_document, evidence_film, evidence_png, explain
from d2st.adapter.explain.panels import points_panel, relevance_panel

SIDE = 24


def caption(frames: int) -> Caption:
    return Caption("clip.mp4: P(fake) 0.9", "0.0-1.0 s", [0.9] * frames, 0.5, [0.1 * k for k in range(frames)])


def crops(frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, SIDE, SIDE, 3), np.uint8)


@pytest.mark.parametrize(("name", "frames"), [("d2st", 1), ("meanpool_mlp", 2), ("attentive_probe", 14)])
def test_figure_and_film_of_a_clip(make, clip, name, frames):
    evidence = explain(make(name), *clip(frames))
    drawn = evidence_png(crops(frames), evidence, caption(frames))
    assert frames > 1 or drawn == evidence_png(crops(frames), evidence, caption(frames))
    width, height = Image.open(io.BytesIO(drawn)).size
    assert 300 < height < width < 2400
    film = list(evidence_film(crops(frames), evidence, caption(frames)))
    assert len(film) == frames
    assert {picture.shape for picture in film} == {film[0].shape}
    assert not any(side % 2 for side in film[0].shape[:2])
    assert all(picture.dtype == np.uint8 for picture in film)
    assert frames == 1 or (film[0] != film[1]).any()


def test_a_name_is_no_formula(make, clip):
    named = replace(caption(1), title=r"$\frac$.mp4")
    assert evidence_png(crops(1), explain(make("d2st"), *clip(1)), named)


def test_evidence_for_fake_is_warm_and_for_real_is_cold_and_none_is_grey():
    towards = np.zeros((4, 4), np.float32)
    towards[0, 0], towards[3, 3] = 2, -2
    drawn = relevance_panel(np.full((SIDE, SIDE, 3), 128, np.uint8), towards, full=1, side=64).astype(int)
    red, _, blue = np.moveaxis(drawn, -1, 0)
    assert red[4, 4] > blue[4, 4] + 100
    assert blue[60, 60] > red[60, 60] + 100
    assert red[4, 60] == blue[4, 60]


def test_a_place_is_drawn_where_and_when_it_lies():
    def one(frame: float, row: float, column: float, inside: float = 1.0) -> SampledPoints:
        value = np.ones((1, 1), np.float32)
        return SampledPoints("any", 0, "spatial", np.array([[[frame, row, column]]], np.float32), value, value, value * inside)

    def drawn(points: SampledPoints, frame: int) -> np.ndarray:
        how = {"frames": 3, "grid": (4, 4), "full_weight": 1.0, "full_effect": 1.0, "side": 64}
        panel = points_panel(np.full((SIDE, SIDE, 3), 128, np.uint8), [points], frame=frame, **how)
        return np.argwhere(np.ptp(panel.astype(int), axis=2) > 60)  # coloured pixels: (row, column)

    # row 0 and column 3 of 4 cells of 16 px: centre at 8, 56
    assert np.abs(drawn(one(1.2, 0, 3), 1).mean(0) - (7.5, 55.5)).max() < 1
    assert not len(drawn(one(1.2, 0, 3), 0))
    assert not len(drawn(one(-0.8, 0, 3), 0))  # before the clip
    assert not len(drawn(one(1.2, 0, 3, inside=0.2), 1))


def test_the_document_holds_every_number_as_json(make, clip):
    evidence = explain(make("d2st"), *clip(3))
    document = json.loads(json.dumps(evidence_document(evidence)))
    np.testing.assert_allclose(document["relevance_total"], evidence.relevance.total, rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(document["attention"]["tokens"], evidence.attention.tokens, rtol=1e-4)
    assert set(document["relevance"]) == {share["layer"] for share in document["layers"]}
    for body, found in zip(document["points"], evidence.points, strict=True):
        assert len(body["places"]) == len(body["weight"]) == len(body["group"]) == found.weight.size
        at = body["group"].index(1)
        assert body["effect"][at] == pytest.approx(found.effect[0, 1], rel=1e-4)
