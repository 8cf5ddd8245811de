"""A report of what is there: runs without an evaluation, of older versions, still training, without their store; and of damaged files."""

import json
import shutil

import polars as pl
import pytest

from d2st.adapter.report.gather import gather
from d2st.adapter.report.page import write_report
from d2st.cache.errors import RunError


def page_of(run, **options):
    path, record = write_report(run, **options)
    return path.read_text(encoding="utf-8"), record


def edit(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_without_an_evaluation_the_page_says_which_command_makes_one(make_run, tmp_path):
    page, record = page_of(make_run(tmp_path, stages=1, evaluated=(), store=False))
    assert record.evaluation is None
    assert "d2st eval runs/tiny/stage1 --split test" in page
    assert "Loss" in page
    assert 'id="headline"' not in page
    assert 'id="reproduce"' in page


def test_highest_evaluated_stage_is_shown_unless_one_is_named(make_run, tmp_path):
    run = make_run(tmp_path, evaluated=(1, 2))
    page, record = page_of(run)
    assert record.shown.number == 2
    assert "The run goes on to stage 3" in page
    path, record = write_report(run / "stage1" / "recipe.toml")
    assert (record.shown.number, path) == (1, run / "stage1" / "report-test.html")
    assert gather(run / "stage3", split="test").evaluation is None


def test_evaluation_of_an_older_version(make_run, tmp_path):
    run = make_run(tmp_path, stages=1, evaluated=(1,))

    def age(node):
        if isinstance(node, dict):
            for key in ("calibration", "partial_auc", "brier", "ece", "calibrated"):
                node.pop(key, None)
            if "intervals" in node:
                node["intervals"] = {"auc": node["intervals"]["auc"]}
            for value in node.values():
                age(value)

    edit(run / "stage1/eval-test/metrics.json", age)
    page, _ = page_of(run)
    assert "from before calibration was measured" in page
    assert "Brier</th>" not in page
    assert 'id="gap"' not in page


def test_store_that_is_gone(make_run, tmp_path):
    run = make_run(tmp_path)
    shutil.rmtree(tmp_path / "faces.d2st")
    page, _ = page_of(run)
    assert "<img " not in page
    assert "the cache faces.d2st can&#x27;t be read" in page
    assert "d2st report RUN --cache STORE" in page
    assert str(tmp_path) not in page
    assert "test-00001" in page


def test_store_that_moved_can_be_named(make_run, tmp_path):
    run = make_run(tmp_path)
    (tmp_path / "faces.d2st").rename(tmp_path / "moved.d2st")
    page, _ = page_of(run, caches=[tmp_path / "moved.d2st"])
    assert page.count("<img ") >= 30
    assert str(tmp_path) not in page


def test_damaged_crops_cost_the_pictures_alone(make_run, tmp_path):
    run = make_run(tmp_path)
    (shard,) = [
        path for path in (tmp_path / "faces.d2st/crops/frames").rglob("*") if path.is_file() and path.name != "zarr.json"
    ]
    shard.write_bytes(b"\0" * 64)
    page, _ = page_of(run)
    assert "the crops of faces.d2st can&#x27;t be read" in page
    assert "<img " not in page


def test_run_that_still_trains(make_run, tmp_path):
    run = make_run(tmp_path, stages=2, evaluated=(1,))
    (run / "stage2/result.json").unlink()
    with (run / "stage2/metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "lo')
    page, _ = page_of(run)
    assert "not finished" in page
    page, record = page_of(run / "stage2")
    assert "Stage 2 is not finished." in page
    assert len(record.shown.epochs) == 3


def test_one_class_alone_has_no_curves(make_run, predictions, evaluate_into, tmp_path):
    run = make_run(tmp_path, stages=1, evaluated=())
    evaluate_into(run / "stage1/eval-test", predictions().filter(pl.col("label") == 1))
    page, _ = page_of(run)
    assert "only fake samples" in page
    assert "There is no curve" in page


def test_several_data_sets_and_caches(make_run, predictions, evaluate_into, tmp_path):
    run = make_run(tmp_path, stages=1, evaluated=(1,))
    other = predictions(seed=3).with_columns(
        dataset=pl.lit("other"), sample_id="o" + pl.col("sample_id"), video_id="o" + pl.col("video_id")
    )
    evaluate_into(run / "stage1/eval-test-other", other)
    page, record = page_of(run)
    assert [evaluation.name for evaluation in record.shown.evaluations] == ["eval-test", "eval-test-other"]
    assert "other swap (videos)" in page
    assert "made swap (videos)" in page


def test_what_a_reader_must_know_comes_first(make_run, predictions, evaluate_into, tmp_path):
    run = make_run(tmp_path, stages=1, evaluated=(), result={"shuffled_labels": True})
    (run / "stage1/best.safetensors").write_bytes(b"new")
    evaluate_into(run / "stage1/eval-test", predictions(), trained_on=["test-00000", "test-00002"])
    edit(run / "stage1/eval-test/metrics.json", lambda document: document["about"].update(checkpoint="old"))
    page, _ = page_of(run)
    head = page[: page.index("<nav")]
    assert "2 of the 40 samples were seen in training" in head
    assert "2 samples of the split were not scored" in head
    assert "is not the checkpoint that was evaluated" in head
    assert "trained on shuffled labels" in head


def test_protocols_stand_beside_ours(make_run, tmp_path):
    run = make_run(tmp_path, stages=1, evaluated=(1,))
    row = {"measure": "clip AUC", "deepfakebench": 0.75, "ours": None, "why": "<b>folders</b>"}
    protocols = {"deepfakebench": {"datasets": {"made": {"rows": [row]}}}}
    edit(run / "stage1/eval-test/metrics.json", lambda document: document.update(protocols=protocols))
    page, _ = page_of(run)
    assert "clip AUC" in page
    assert "0.750" in page
    assert "&lt;b&gt;folders&lt;/b&gt;" in page


def test_without_a_robustness_study_the_page_says_which_command_makes_one(make_run, tmp_path):
    page, _ = page_of(make_run(tmp_path, stages=1, evaluated=(1,), perturbed=False))
    section = page[page.index('id="robustness"') :]
    assert "d2st eval runs/tiny/stage1 --split test --perturb all" in section[: section.index("</section>")]


def test_robustness_of_another_checkpoint_is_not_shown(make_run, tmp_path):
    run = make_run(tmp_path, stages=1, evaluated=(1,))
    edit(run / "stage1/eval-test/robustness.json", lambda document: document["about"].update(checkpoint="old"))
    page, _ = page_of(run)
    assert "are of another checkpoint or cache" in page
    assert "Robustness: jpeg" not in page


def test_robustness_json_of_another_kind_is_an_error(make_run, tmp_path):
    run = make_run(tmp_path, stages=1, evaluated=(1,))
    edit(run / "stage1/eval-test/robustness.json", lambda document: document.pop("clean"))
    with pytest.raises(RunError, match=r"robustness\.json lacks clean"):
        write_report(run)


def test_more_samples_than_the_table_takes(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr("d2st.adapter.report.evidence.ROWS_MAX", 10)
    page, _ = page_of(make_run(tmp_path, stages=1, evaluated=(1,)))
    assert "These are 10 of 40 samples" in page
    assert page.count("<tr data-method") == 10


def test_no_run(tmp_path):
    with pytest.raises(RunError, match="holds no stage"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "stage1").mkdir()
    with pytest.raises(RunError, match="holds no stage"):
        write_report(tmp_path / "stage2")


EVALUATION = ("metrics.json", "predictions.parquet", "robustness.json")


@pytest.mark.parametrize(
    "name", [*(f"eval-test/{name}" for name in EVALUATION), "metrics.jsonl", "samples.parquet", "result.json"]
)
def test_damaged_files_are_errors_that_name_them(make_run, tmp_path, name):
    run = make_run(tmp_path, stages=1, evaluated=(1,))
    (run / "stage1" / name).write_bytes(b"{broken\n")
    with pytest.raises(RunError, match=name.split("/")[-1]):
        write_report(run)


def test_same_run_gives_the_same_page(make_run, tmp_path):
    run = make_run(tmp_path)
    assert page_of(run)[0] == page_of(run, out=tmp_path / "again.html")[0]
