"""Near-duplicates: other encodings of the same footage are found, other footage is not."""

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageEnhance

from d2st.pipeline.manifest import scan_folder
from d2st.pipeline.manifest.near import check_near, hash_frame, near_pairs


def picture(seed, size=(240, 320)):
    """Smooth random shapes, as pictures are; (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (7, 9, 3), dtype=np.uint8))
    return np.asarray(small.resize(size[::-1], Image.Resampling.BICUBIC))


def changed(image, *, quality=30, scale=0.5, brightness=1.3):
    made = Image.fromarray(image)
    made = ImageEnhance.Brightness(made).enhance(brightness).resize((int(made.width * scale), int(made.height * scale)))
    stream = io.BytesIO()
    made.save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def bits(one, other):
    return (hash_frame(one) ^ hash_frame(other)).bit_count()


@pytest.mark.parametrize("seed", range(8))
def test_encoding_size_and_brightness_hardly_change_a_hash_and_another_picture_does(seed):
    image = picture(seed)
    assert bits(image, changed(image, brightness=1.1)) <= 6
    assert bits(image, picture(seed + 100)) > 12


def test_a_frame_that_shows_nothing_has_no_hash():
    assert hash_frame(np.zeros((50, 50, 3), np.uint8)) is None
    assert hash_frame(np.full((50, 50, 3), 255, np.uint8)) is None


def test_pairs_agree_with_a_loop():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, (12, 3), dtype=np.uint64)
    hashes = np.concatenate([base, base ^ np.uint64(0b1011), rng.integers(0, 2**63, (6, 3), dtype=np.uint64)])
    counts = rng.integers(0, 4, len(hashes))
    groups = rng.choice(["train", "val", "test"], len(hashes)).tolist()
    expected = set()
    for i in range(len(hashes)):
        for j in range(i + 1, len(hashes)):
            n = min(counts[i], counts[j])
            if groups[i] != groups[j] and n:
                differ = sum((int(hashes[i, k]) ^ int(hashes[j, k])).bit_count() for k in range(n))
                if differ <= 6 * n:
                    expected.add((i, j))
    assert {tuple(sorted(pair)) for pair in near_pairs(hashes, counts, groups)} == expected
    assert expected


def test_findings_name_the_pair_and_what_could_not_be_compared(tmp_path):
    for split, label, name, image in (
        ("train", "real", "a.png", picture(1)),
        ("test", "real", "b.jpg", changed(picture(1), brightness=1.1)),
        ("test", "fake", "c.png", picture(3)),
        ("train", "fake", "black.png", np.zeros((64, 64, 3), np.uint8)),
    ):
        path = tmp_path / split / label / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    seen = []
    leak, unseen = check_near(scan_folder(tmp_path).manifest, tmp_path, on_done=seen.append)
    assert (leak.severity, leak.code, leak.count) == ("error", "near_duplicate_leak", 1)
    assert "train/real/a.png (train)" in leak.examples[0]
    assert "test/real/b.jpg (test)" in leak.examples[0]
    assert (unseen.severity, unseen.examples) == ("warning", ("train/fake/black.png",))
    assert seen == [1, 2, 3, 4]


def test_copies_are_left_to_the_byte_comparison(tmp_path):
    for split in ("train", "test"):
        path = tmp_path / split / "real" / "a.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(picture(1)).save(path)
    manifest = scan_folder(tmp_path).manifest
    assert manifest["duplicate_of"].drop_nulls().len() == 1
    assert check_near(manifest, tmp_path) == []
    assert isinstance(manifest, pl.DataFrame)
