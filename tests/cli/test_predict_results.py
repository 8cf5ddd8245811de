"""The table of results survives kills, goes on where it was, and never mixes detectors."""

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest

from d2st.cache.errors import ConfigError, MediaError, StoreError, UsageError
from d2st.cli.predict_results import Results
from d2st.cli.predict_rows import COLUMNS
from d2st.cli.predict_run import Output, score_files
from d2st.cli.predict_timeline import write_timeline
from d2st.detection import Detector
from d2st.pipeline.media.annotate import Annotated
from d2st.pipeline.media.failure import media_error
from d2st.prediction import Doubt, Face, Prediction, Window

SETTINGS = {"checkpoint": "abc", "all_faces": False, "window_s": 1.5, "fpr": None}


def prediction(path, logit=1.0):
    window = Window(0.0, 1.0, logit, 0.75, 4)
    doubts = (Doubt("near_threshold", 'close, "very"'),)
    return Prediction(
        str(path), "video", 0.7, logit, 0.75, 0.5, True, (0.7,) * 4, (0.0,) * 4, (window,), (), doubts, 1.0, (), {}
    )


@pytest.fixture
def files(tmp_path):
    made = [tmp_path / f"{name}.mp4" for name in "abc"]
    for path in made:
        path.write_text(path.name)
    return made


def kill(results):
    """What kill -9 leaves: the journal as it is, no table."""
    results._journal.close()


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_the_next_run_goes_on(tmp_path, files, ending):
    out = tmp_path / "new" / f"scores.{ending}"
    with Results(out, SETTINGS) as results:
        assert not results.has(files[0])
        results.add(files[0], prediction(files[0]))
        results.add(files[1], MediaError("no_face", "nobody\nthere"))
        results.add(tmp_path / "gone.mp4", MediaError("missing", "not there"))
    assert os.listdir(out.parent) == [out.name]
    with Results(out, SETTINGS) as results:
        assert [results.has(path) for path in (*files, tmp_path / "gone.mp4")] == [True, True, False, False]
        files[0].write_text("longer than before")
        assert not results.has(files[0])
        results.add(files[0], prediction(files[0], logit=2.0))
    read = pl.read_parquet(out) if ending == "parquet" else pl.read_csv(out)
    assert read.columns == list(COLUMNS)
    assert read["logit"].drop_nulls().to_list() == [2.0]
    assert sorted(read["reason"].drop_nulls()) == ["missing", "no_face"]
    assert read["words"].to_list().count('close, "very"') == 1


def test_a_killed_run_loses_at_most_its_last_line(tmp_path, files):
    out = tmp_path / "scores.parquet"
    results = Results(out, SETTINGS)
    for path in files:
        results.add(path, prediction(path))
    kill(results)
    journal = tmp_path / "scores.parquet.journal"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-30])
    with Results(out, SETTINGS) as results:
        assert [results.has(path) for path in files] == [True, True, False]
        results.add(files[2], prediction(files[2]))
    assert pl.read_parquet(out)["path"].to_list() == [str(path) for path in files]
    assert not journal.exists()


def test_a_name_with_bytes_that_are_no_text_gets_its_row(tmp_path):
    path, out = tmp_path / os.fsdecode(b"\xff.mp4"), tmp_path / "scores.parquet"
    with Results(out, SETTINGS) as results:
        results.add(path, media_error("not_media", path))
    row = pl.read_parquet(out).row(0, named=True)
    assert row["path"] == f"{tmp_path}/\\xff.mp4"
    assert row["words"].startswith(f"{row['path']}: ")


def test_a_run_that_is_stopped_writes_the_table(tmp_path, files):
    out = tmp_path / "scores.parquet"

    def stopped():
        with Results(out, SETTINGS) as results:
            results.add(files[0], prediction(files[0]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert len(pl.read_parquet(out)) == 1


@pytest.mark.parametrize("change", [{"checkpoint": "other"}, {"window_s": 2.0}, {"fpr": 0.01}, {"all_faces": True}])
def test_other_settings_are_refused_by_name(tmp_path, files, change):
    out = tmp_path / "scores.csv"
    with Results(out, SETTINGS) as results:
        results.add(files[0], prediction(files[0]))
    before = out.read_bytes()
    with pytest.raises(ConfigError, match=next(iter(change))):
        Results(out, SETTINGS | change)
    assert (out.read_bytes(), os.listdir(tmp_path).count("scores.csv.journal")) == (before, 0)
    with Results(out, SETTINGS | change, fresh=True) as results:
        assert not results.has(files[0])


def test_what_is_no_table_of_ours_is_refused(tmp_path):
    with pytest.raises(UsageError, match="endings"):
        Results(tmp_path / "scores.json", SETTINGS)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    for name in ("other.csv", "other.parquet"):
        with pytest.raises(StoreError, match="no table that this command wrote"):
            Results(tmp_path / name, SETTINGS)
    journal = tmp_path / "old.csv.journal"
    journal.write_text(json.dumps({"path": "a"}) + "\n")
    with pytest.raises(StoreError, match="another version"):
        Results(tmp_path / "old.csv", SETTINGS)


def test_two_runs_do_not_write_one_table(tmp_path):
    pytest.importorskip("fcntl")
    with Results(tmp_path / "scores.csv", SETTINGS), pytest.raises(StoreError, match="another run"):
        Results(tmp_path / "scores.csv", SETTINGS)
    assert (tmp_path / "scores.csv").exists()


@pytest.mark.parametrize("name", [b"non\xffutf.mp4", rb"$\frac$.mp4"])
def test_a_timeline_is_drawn_whatever_the_name(tmp_path, name):
    found = prediction(os.fsdecode(name))
    face = Face(1, 1.0, 0.7, 0.75, found.windows, (0.7,), (0.5,), ((0.0, 0.0, 9.0, 9.0),))
    detector = Detector(SimpleNamespace(meta={}))
    write_timeline(replace(found, faces=(face,)), tmp_path / "made", detector=detector, annotate=False)
    assert sorted(os.listdir(tmp_path)) == ["made.csv", "made.png"]


def test_an_annotated_video_that_lost_its_sound_is_told(tmp_path, files, monkeypatch, capsys):
    detector = SimpleNamespace(
        opened=SimpleNamespace(digest="abc"), predict_files=lambda paths, **options: iter([prediction(path) for path in paths])
    )
    monkeypatch.setattr("d2st.cli.predict_timeline.write_timeline", lambda *found, **options: Annotated(20, "left out"))
    output = Output(None, fresh=False, timeline=tmp_path / "out", annotate=True, per_frame=False, as_json=True)
    assert score_files(detector, files[:1], output, options={"fpr": None}, workers=1)
    assert "a.mp4 is silent: MP4 does not take the video's sound as it is" in capsys.readouterr().err


def test_a_video_without_its_timeline_is_not_done_and_no_other_one_takes_its_name(tmp_path, files, monkeypatch):
    """Stopped while the third one's is drawn, as drawing a long video takes minutes."""
    twin = tmp_path / "other" / "b.mp4"
    twin.parent.mkdir()
    twin.write_text("another b")
    paths = [*files[:2], twin, files[2]]
    detector = SimpleNamespace(
        opened=SimpleNamespace(digest="abc"), predict_files=lambda paths, **options: iter([prediction(path) for path in paths])
    )
    drawn = []

    def write(found, target, **options):
        drawn.append(target.name)
        if len(drawn) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("d2st.cli.predict_timeline.write_timeline", write)
    output = Output(tmp_path / "scores.csv", fresh=False, timeline=tmp_path, annotate=False, per_frame=False, as_json=True)
    options = {name: value for name, value in SETTINGS.items() if name != "checkpoint"}
    with pytest.raises(KeyboardInterrupt):
        score_files(detector, paths, output, options=options, workers=1)
    assert score_files(detector, paths, output, options=options, workers=1)
    assert drawn == ["a", "b", "b-2", "b-2", "c"]
