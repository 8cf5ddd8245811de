"""DeepfakeBench's numbers are those that its own rules give, computed here the long way with scikit-learn."""

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from d2st.adapter.evaluate.protocol import deepfakebench, folder_name, nearest_eer
from d2st.adapter.evaluate.summary import summarise

SCORE = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0, 1))
BOTH = st.lists(st.tuples(st.integers(0, 1), SCORE), min_size=2, max_size=60).filter(
    lambda rows: len({label for label, _ in rows}) == 2
)


def by_the_book(names, labels, scores):
    """Frame AUC, EER, AP, accuracy and video AUC of frames whose parent folders are `names`."""
    fpr, tpr, _ = reference.roc_curve(labels, scores, pos_label=1)
    fnr = 1 - tpr
    groups = {}
    for name, label, score in zip(names, labels, scores, strict=True):
        groups.setdefault(name, []).append((label, score))
    video_labels = [int(sum(label for label, _ in rows) / len(rows)) for rows in groups.values()]
    video_scores = [sum(score for _, score in rows) / len(rows) for rows in groups.values()]
    return {
        "auc": reference.auc(fpr, tpr),
        "eer": fpr[np.nanargmin(np.absolute(fnr - fpr))],
        "average_precision": reference.average_precision_score(labels, scores),
        "accuracy": float(np.mean((np.asarray(scores) > 0.5) == np.asarray(labels))),
        "video_auc": reference.roc_auc_score(video_labels, video_scores) if len(set(video_labels)) == 2 else None,
        "groups": len(groups),
    }


@given(BOTH)
def test_eer_is_scikit_learns_nearest_point(rows):
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    fpr, tpr, _ = reference.roc_curve(labels, scores)
    assert nearest_eer(labels, scores) == pytest.approx(fpr[np.nanargmin(np.absolute(1 - tpr - fpr))], abs=1e-12)


def test_eer_of_one_class_or_nothing_is_nan():
    for labels in ([], [0], [1, 1]):
        assert np.isnan(nearest_eer(np.array(labels), np.linspace(0, 1, len(labels))))


@pytest.mark.parametrize(
    ("kind", "path", "name"),
    [
        ("image", "FF/manipulated/Deepfakes/frames/000_003/012.png", "000_003"),
        ("video", "FF/manipulated/Deepfakes/c23/videos/000_003.mp4", "000_003"),
        ("frames", "FF/original/frames/000", "000"),
        ("image", "alone.png", ""),
    ],
)
def test_a_group_is_the_parent_folder_of_the_frames(kind, path, name):
    assert folder_name(kind, path) == name


def measure(table, paths, *, clip_frames):
    named = pl.DataFrame({"sample_id": table["sample_id"], "path": paths})
    made = deepfakebench(table, named, clip_frames=clip_frames, summary=summarise(table, clip_frames=clip_frames, resamples=10))
    json.dumps(made, allow_nan=False)
    return made["datasets"]


@pytest.mark.parametrize("seed", range(5))
def test_frame_models_with_names_that_two_manipulations_share(predictions, seed):
    """Like FaceForensics++: each pair of names appears in every manipulation, and here real videos share some of them too."""
    rng = np.random.default_rng(seed)
    rows, paths = [], []
    for method in ("real", "Deepfakes", "Face2Face"):
        for video in range(8):
            name = f"{video:03d}" if method != "real" or video < 3 else f"r{video}"
            frames = [float(x) for x in rng.uniform(0.01, 0.99, size=rng.integers(1, 5))]
            rows.append(("ff", method, "video", f"{method}-{name}", frames))
            paths.append(f"ff\\{method}\\{name}.mp4" if video == 0 else f"ff/{method}/{name}.mp4")
    table = predictions(rows)
    made = measure(table, paths, clip_frames=1)["ff"]
    names = [path.replace("\\", "/").split("/")[-1][:-4] for path, row in zip(paths, rows, strict=True) for _ in row[4]]
    labels = [int(row[1] != "real") for row in rows for _ in row[4]]
    scores = [score for row in rows for score in row[4]]
    for name, value in by_the_book(names, labels, scores).items():
        assert made[name] == pytest.approx(value, abs=1e-12), name
    assert made["model"] == "frame"
    assert made["groups"] == 13
    assert made["mixed_groups"] == 3
    assert made["fakes_called_real"] == sum(
        len(row[4]) for row, path in zip(rows, paths, strict=True) if row[1] != "real" and path[-7:-4] in ("000", "001", "002")
    )
    (video,) = [row for row in made["rows"] if row["measure"] == "video AUC"]
    assert "3 folder names hold real and fake" in video["why"]
    assert "13 folder names for 24 videos" in video["why"]
    assert video["ours"] != video["deepfakebench"]


def test_clip_models_drop_short_videos_and_do_not_group(predictions):
    rows = [
        ("a", "real", "video", "r1", [0.1, 0.2]),
        ("a", "real", "video", "r2", [0.6, 0.7]),
        ("a", "real", "video", "r3", [0.9]),  # too short
        ("a", "blend", "video", "b1", [0.8, 0.8]),
        ("a", "blend", "video", "b1", [0.3, 0.3]),  # a second clip of the same video
        ("a", "blend", "image", "b2", [0.5]),
    ]
    made = measure(predictions(rows), [f"{i}.mp4" for i in range(6)], clip_frames=2)["a"]
    labels, scores = [0, 0, 1, 1], [0.15, 0.65, 0.8, 0.3]
    assert made["model"] == "clip"
    assert made["n"] == 4
    assert made["auc"] == made["video_auc"] == reference.roc_auc_score(labels, scores)
    assert (made["dropped_videos"], made["dropped_images"], made["groups"]) == (1, 1, None)
    assert "1 videos with fewer than 2 frames dropped" in made["rows"][0]["why"]
    assert made["rows"][0]["ours"] != made["auc"]


def test_each_data_set_alone_and_one_class_is_null(predictions):
    rows = [("a", "real", "video", "r", [0.1]), ("a", "blend", "video", "f", [0.9]), ("b", "blend", "video", "g", [0.4])]
    made = measure(predictions(rows), ["r.mp4", "f.mp4", "g.mp4"], clip_frames=1)
    assert made["a"]["auc"] == made["a"]["video_auc"] == 1.0
    assert made["b"]["auc"] is made["b"]["eer"] is made["b"]["average_precision"] is made["b"]["video_auc"] is None
    assert made["b"]["accuracy"] == 0.0
