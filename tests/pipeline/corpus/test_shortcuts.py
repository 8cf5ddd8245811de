"""Nothing simple and global tells a fake from a real: brightness, colour, contrast, motion, length, size of the file."""

import functools
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from d2st.pipeline.corpus import SEEN_METHODS, UNSEEN_METHODS, Sample, render_sample
from d2st.pipeline.corpus.plan import plan_corpus

SEED = 3


@pytest.fixture(scope="module")
def statistics() -> dict[str, dict[str, list[float]]]:
    """method -> statistic -> one value a picture, over stills of 24 people (the same takes for every method)."""
    table: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for identity in range(24):
        for method in ("real", *SEEN_METHODS, *UNSEEN_METHODS):
            donor = (identity + 1) % 24 if method == "swap" else None
            frame = render_sample(Sample("test", method, "image", identity, 4, donor), seed=SEED)[0][0]
            jpeg = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
            red, green, blue = (float(v) for v in frame.mean((0, 1)))
            values = {
                "brightness": red + green + blue,
                "red": red - green,
                "blue": blue - green,
                "contrast": float(frame.std()),
                "bytes": float(len(jpeg)),
            }
            for name, value in values.items():
                table[method][name].append(value)
    return table


@pytest.mark.parametrize("method", SEEN_METHODS + UNSEEN_METHODS)
def test_global_statistics_of_pictures_say_nothing(statistics: dict[str, dict[str, list[float]]], method: str) -> None:
    for name, real in statistics["real"].items():
        fake = statistics[method][name]
        assert 0.4 <= roc_auc_score([0] * len(real) + [1] * len(fake), real + fake) <= 0.6, name


def test_length_and_encoder_settings_are_those_of_the_real_takes() -> None:
    for kind in ("video", "image"):
        fakes = [s for s in plan_corpus(SEED, 6) if s.kind == kind and s.method != "real"][::7]
        for fake in fakes:
            real = Sample(fake.split, "real", kind, fake.identity, fake.take)
            (frames, _, camera), (own_frames, _, own_camera) = render_sample(real, seed=SEED), render_sample(fake, seed=SEED)
            assert (len(frames), camera) == (len(own_frames), own_camera)


def test_files_of_fakes_are_as_large_as_files_of_reals(tmp_path: Path) -> None:
    """H.264 size, one clip a method of each of a few takes: within a tenth of its sibling's on average."""
    from d2st.pipeline.media.encode import write_h264

    @functools.cache
    def size(sample: Sample) -> int:
        frames, _, camera = render_sample(sample, seed=SEED)
        write_h264(tmp_path / "clip.mp4", frames, fps=25, crf=camera.crf)
        return (tmp_path / "clip.mp4").stat().st_size

    for method in SEEN_METHODS + UNSEEN_METHODS:
        ratios = []
        for identity in range(3):
            donor = identity + 1 if method == "swap" else None
            ratios.append(
                size(Sample("test", method, "video", identity, 0, donor)) / size(Sample("test", "real", "video", identity, 0))
            )
        assert 0.88 < np.mean(ratios) < 1.12, method
