"""The loop on batches from memory: it works on any source, and a number that is not finite stops it with the samples' names."""

import numpy as np
import pytest
import torch

from d2st.adapter.nets import Detector, Head, build_adapter
from d2st.adapter.train.loop import run_epoch, steps_per_epoch
from d2st.adapter.train.optim import make_optimizer
from d2st.adapter.train.recipe_file import load_recipe
from d2st.adapter.train.select import Rows
from d2st.adapter.train.trainer import Progress, Trainer
from d2st.cache import Batch
from d2st.cache.errors import RunError

GRID, CHANNELS, SAMPLES, FRAMES = (2, 2), 8, 12, 3


class Memory:
    """A `BatchSource` over arrays, which spoils each batch as soon as the next is asked for."""

    def __init__(self, maps):
        self.maps, self.open = maps, 0

    def stream(self, requests):
        self.open += 1
        try:
            for request in requests:
                tokens = self.maps[torch.from_numpy(np.maximum(request.rows, 0))].clone()  # (B, T, H, W, C)
                cls = tokens.mean((2, 3))
                yield Batch({"a": tokens}, {"a": cls}, torch.from_numpy(request.rows >= 0), request.tag)
                tokens.fill_(float("nan"))
                cls.fill_(float("nan"))
        finally:
            self.open -= 1


def make_trainer(stage, maps, **changes):
    torch.manual_seed(0)
    recipe = load_recipe(
        stage,
        [
            f"{key}={value}"
            for key, value in ({"optim.batch_size": 4, "data.frames": FRAMES if stage > 1 else 1} | changes).items()
        ],
    )
    stats = {name: (torch.zeros(CHANNELS), torch.ones(CHANNELS)) for name in ("a", "a/cls")}
    adapter = build_adapter("d2st", layers=("a",), channels=CHANNELS, grid=GRID, stats=stats, width=8)
    detector = Detector(adapter, Head(adapter.embed_dim))
    is_video = np.arange(SAMPLES) % 2 == 0 if stage != 2 else np.ones(SAMPLES, dtype=bool)
    label = (np.arange(SAMPLES) // 2 % 2).astype(np.int64)
    rows = Rows(
        tuple(f"id{i}" for i in range(SAMPLES)), np.arange(SAMPLES) * FRAMES, np.where(is_video, FRAMES, 1), label, is_video
    )
    optimizer = make_optimizer(detector, lr=1e-3, weight_decay=0.0, rates={})
    return Trainer(recipe, detector, optimizer, None, Memory(maps), rows, stats, FRAMES, torch.device("cpu"))


@pytest.fixture
def maps():
    return torch.randn(SAMPLES * FRAMES, *GRID, CHANNELS, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("augment", [0.0, 0.1])
def test_an_epoch_of_each_stage_uses_batches_only_while_they_are_valid(stage, augment, maps):
    trainer = make_trainer(stage, maps, **{"augment.brightness": augment, "augment.contrast": augment})
    before = {name: value.clone() for name, value in trainer.detector.named_parameters()}
    events, progress = [], Progress()
    run_epoch(trainer, progress, on_event=events.append, after_step=lambda: None)
    assert progress.step == len(events) == steps_per_epoch(trainer)
    assert all(np.isfinite(event["loss"]) for event in events)
    assert any(not torch.equal(before[name], value) for name, value in trainer.detector.named_parameters())
    assert trainer.source.open == 0


def test_a_nan_stops_with_the_names_of_its_samples_and_before_the_weights_change(maps):
    maps[4 * FRAMES] = float("nan")
    trainer = make_trainer(1, maps)
    trainer.rows.frames[:] = 1
    with pytest.raises(RunError, match=r"epoch 1, step \d") as caught:
        run_epoch(trainer, Progress(), on_event=lambda event: None, after_step=lambda: None)
    named = caught.value.message.rsplit(": ", 1)[1].split(", ")
    assert "id4" in named
    assert len(named) == 4
    assert all(value.isfinite().all() for value in trainer.detector.parameters())
    assert trainer.source.open == 0


def test_clips_move_towards_others_of_their_label(maps):
    made = []
    for probability in (0, 1):
        trainer = make_trainer(2, maps, **{"augment.interpolate": probability, "augment.jitter": 0, "augment.frame_drop": 0})
        run_epoch(trainer, Progress(), on_event=lambda event: None, after_step=lambda: None)
        made.append(torch.cat([value.detach().flatten() for value in trainer.detector.parameters()]))
    assert made[1].isfinite().all()
    assert not torch.equal(*made)


def test_accumulating_equals_one_large_batch(maps):
    made = []
    for batch, accumulate in ((12, 1), (4, 3)):
        trainer = make_trainer(
            1,
            maps,
            **{"optim.batch_size": batch, "optim.accumulate": accumulate, "augment.brightness": 0, "augment.contrast": 0},
        )
        trainer.rows.frames[:] = 1
        run_epoch(trainer, Progress(), on_event=lambda event: None, after_step=lambda: None)
        made.append(torch.cat([value.detach().flatten() for value in trainer.detector.parameters()]))
    assert torch.allclose(made[0], made[1], atol=2e-5)
