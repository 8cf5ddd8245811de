"""The synthetic corpus: plan, files, manipulations, resume. One small corpus is made once for the whole file."""

import hashlib
import json
from collections import defaultdict
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d2st.cache.errors import ConfigError
from d2st.pipeline.corpus import (
    SEEN_METHODS,
    UNSEEN_METHODS,
    Sample,
    files,
    make_corpus,
    plan,
    plan_corpus,
    read_masks,
    render_sample,
    unseen_clips,
)
from d2st.pipeline.corpus.plan import IMAGE_METHODS, VIDEO_METHODS

SEED, IDENTITIES = 5, 6
# samples an identity (see plan._RATES): one fake of each method a split
RATES = {"train": (1, 0.5, 1, 0.5), "val": (1, 0.5, 1, 0.5), "test": (2, 0.5, 1, 0.5)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Sample]]:
    folder = tmp_path_factory.mktemp("corpus")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_RATES", RATES)
        make_corpus(folder, seed=SEED, identities=IDENTITIES, workers=1)
        return folder, plan_corpus(SEED, IDENTITIES)


@pytest.fixture
def root(made: tuple[Path, list[Sample]], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the small corpus; as long as a test uses it, a corpus is planned as small."""
    monkeypatch.setattr(plan, "_RATES", RATES)
    return made[0]


@pytest.fixture
def samples(made: tuple[Path, list[Sample]]) -> list[Sample]:
    return made[1]


def digests(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def decode(path: Path) -> list[np.ndarray]:
    if path.suffix == ".jpg":
        return [cv2.imread(str(path))[..., ::-1]]
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), identities=st.integers(6, 80))
def test_plan_keeps_identities_in_their_split_and_methods_where_they_belong(seed: int, identities: int) -> None:
    samples = plan_corpus(seed, identities)
    splits = defaultdict(set)
    for sample in samples:
        splits[sample.identity].add(sample.split)
        if sample.donor is not None:
            assert sample.donor != sample.identity
            splits[sample.donor].add(sample.split)
        assert (sample.donor is not None) == (sample.method == "swap")
        assert sample.split == "test" or sample.method not in UNSEEN_METHODS
        assert sample.method in ("real", *(VIDEO_METHODS if sample.kind == "video" else IMAGE_METHODS))
    assert all(len(found) == 1 for found in splits.values())
    assert len(splits) == identities
    assert len({sample.path for sample in samples}) == len(samples)
    reals = {(s.identity, s.take, s.kind) for s in samples if s.method == "real"}
    assert {(s.identity, s.take, s.kind) for s in samples} == reals  # every fake has its unmanipulated sibling


def test_default_plan_is_large_enough_for_intervals() -> None:
    samples = plan_corpus(0, 36)
    count = lambda **want: sum(all(getattr(s, k) == v for k, v in want.items()) for s in samples)  # noqa: E731
    assert count(split="test", kind="video", method="real") >= 30
    assert all(count(split="test", kind="video", method=method) >= 12 for method in SEEN_METHODS + UNSEEN_METHODS)
    assert count(split="val", kind="video") >= 24
    assert count(split="val", kind="image") >= 24


def test_too_few_identities_is_an_error() -> None:
    with pytest.raises(ConfigError, match="5 identities"):
        plan_corpus(0, 5)


def test_every_file_decodes_and_a_fake_shares_length_and_size_with_its_sibling(root: Path, samples: list[Sample]) -> None:
    shapes = defaultdict(set)
    for sample in samples:
        frames = decode(root / sample.path)
        assert (24 <= len(frames) <= 30) if sample.kind == "video" else len(frames) == 1
        shapes[sample.identity, sample.take].add((len(frames), frames[0].shape))
    assert all(found == {next(iter(found))} and next(iter(found))[1] == (256, 256, 3) for found in shapes.values())


def test_another_seed_gives_other_faces() -> None:
    first, second = (render_sample(Sample("test", "real", "image", 0, 4), seed=seed)[0][0] for seed in (1, 2))
    assert np.abs(first.astype(int) - second).mean() > 5


@pytest.mark.parametrize("method", SEEN_METHODS + UNSEEN_METHODS)
def test_only_masked_pixels_change_and_the_stored_mask_covers_them(root: Path, samples: list[Sample], method: str) -> None:
    sample = next(s for s in samples if s.method == method and s.kind == "video")
    real, no_masks, camera = render_sample(Sample(sample.split, "real", "video", sample.identity, sample.take), seed=SEED)
    untouched = [frame.copy() for frame in real]
    fake, masks, fake_camera = render_sample(sample, seed=SEED)
    assert no_masks == []
    assert camera == fake_camera  # encoder settings, light and noise level
    assert all(np.array_equal(a, b) for a, b in zip(real, untouched, strict=True))
    stored = read_masks(root, sample)
    assert stored.shape == (len(real), 64, 64)
    assert 0.02 < stored.mean() < 0.4
    for before, after, mask, cells in zip(real, fake, masks, stored, strict=True):
        changed = (before != after).any(axis=2)
        assert changed.mean() > 0.02
        assert not (changed & (mask == 0)).any()
        assert not (changed & (np.kron(cells, np.ones((4, 4))) == 0)).any()


def test_real_samples_have_no_masks(root: Path, samples: list[Sample]) -> None:
    real = next(s for s in samples if s.method == "real")
    assert real.mask_path is None
    with pytest.raises(KeyError, match="is real"):
        read_masks(root, real)


def test_flicker_shakes_in_time_and_other_methods_hold_still(samples: list[Sample]) -> None:
    """Second difference over time of (fake - real): what changes independently from frame to frame."""

    def shake(method: str) -> float:
        sample = next(s for s in samples if s.method == method and s.kind == "video")
        real = render_sample(Sample(sample.split, "real", "video", sample.identity, sample.take), seed=SEED)[0]
        fake = render_sample(sample, seed=SEED)[0]
        level = np.array([(f.astype(float) - r).mean() for f, r in zip(fake, real, strict=True)])
        return float(np.abs(np.diff(level, 2)).mean())

    assert shake("flicker") > 3 * max(shake("swap"), shake("upsample"), shake("smooth"))


def test_an_interrupted_corpus_is_completed_to_the_same_bytes_and_a_complete_one_reused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = digests(root)
    make = files.make_file
    made = []

    def dies_after_ten(folder: Path, sample: Sample, *, seed: int) -> None:
        if len(made) == 10:
            raise KeyboardInterrupt
        made.append(sample)
        make(folder, sample, seed=seed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("d2st.pipeline.corpus.build.make_file", dies_after_ten)
        with pytest.raises(KeyboardInterrupt):
            make_corpus(tmp_path, seed=SEED, identities=IDENTITIES, workers=1)
    assert json.loads((tmp_path / "corpus.json").read_text())["finished"] is False

    seen = []
    second = make_corpus(
        tmp_path, seed=SEED, identities=IDENTITIES, workers=2, on_progress=lambda done, total: seen.append((done, total))
    )
    assert (second.reused, second.was_complete) == (10, False)
    assert seen[0] == (10, second.files)
    assert seen[-1] == (second.files, second.files)
    assert digests(tmp_path) == whole  # partly other processes, in another order

    monkeypatch.setattr("d2st.pipeline.corpus.build.make_file", lambda *a, **k: pytest.fail("made again"))
    third = make_corpus(tmp_path, seed=SEED, identities=IDENTITIES)
    assert third.was_complete
    assert (third.videos, third.images) == (second.videos, second.images)


def test_a_lost_mask_is_made_again(root: Path, samples: list[Sample]) -> None:
    fake = next(s for s in samples if s.mask_path)
    before = digests(root)
    (root / fake.mask_path).unlink()
    summary = make_corpus(root, seed=SEED, identities=IDENTITIES, workers=1)
    assert summary.files - summary.reused == 1
    assert digests(root) == before


def test_a_folder_with_something_else_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seed 5"):
        make_corpus(root, seed=6, identities=IDENTITIES)
    (tmp_path / "train").mkdir()
    with pytest.raises(ConfigError, match="already holds train"):
        make_corpus(tmp_path, seed=SEED, identities=IDENTITIES)
    assert list(tmp_path.iterdir()) == [tmp_path / "train"]
    (tmp_path / "corpus.json").write_text("[")
    with pytest.raises(ConfigError, match="can't be read"):
        make_corpus(tmp_path, seed=SEED, identities=IDENTITIES)


def test_no_partial_files_stay_behind(root: Path) -> None:
    assert {path.suffix for path in root.rglob("*") if path.is_file()} == {".mp4", ".jpg", ".npz", ".json"}


def test_unseen_clips_are_a_real_one_and_its_swap(tmp_path: Path, samples: list[Sample]) -> None:
    real, swap = unseen_clips(tmp_path / "new", seed=SEED)
    assert (real.name, swap.name) == ("unseen_real.mp4", "unseen_swap.mp4")
    first, second = decode(real), decode(swap)
    assert len(first) == len(second)
    assert np.abs(first[0].astype(int) - second[0]).mean() > 0.5
    assert not {900, 901} & {s.identity for s in plan_corpus(0, 80)}


def test_the_default_detector_finds_the_faces() -> None:
    from d2st.pipeline.faces import build_detector

    chosen = [s for s in plan_corpus(SEED, IDENTITIES) if s.kind == "image" or s.take == 0][::2]
    frames = [render_sample(s, seed=SEED)[0][0] for s in chosen]
    found = [len(faces.boxes) for faces in build_detector("mtcnn", weights=None, device="cpu").detect(frames)]
    assert len(frames) >= 20
    assert sum(count > 0 for count in found) >= 0.95 * len(found)
    assert sum(count > 1 for count in found) <= 0.1 * len(found)
