"""The page as a document: sound, whole, safe, and with the numbers of metrics.json."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import polars as pl
import pytest

from d2st.adapter.report.page import write_report

VOID = {"meta", "link", "img", "input", "br", "hr"}
HOSTILE = "<img src=x onerror='window.hacked=1'>\"&.mp4"


class Page(HTMLParser):
    """Tags in order, (name, attributes, text inside), and whether all of them close in order."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.source = [], [], source
        self.feed(source)
        self.close()

    def handle_starttag(self, name, attributes):
        entry = (name, dict(attributes), [])
        self.tags.append(entry)
        if name not in VOID and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(entry)

    handle_startendtag = handle_starttag

    def handle_endtag(self, name):
        assert self.open[-1][0] == name, f"</{name}> closes <{self.open[-1][0]}>"
        self.open.pop()

    def handle_data(self, data):
        for _, _, inside in self.open:
            inside.append(data)

    def all(self, name, **wanted):
        return [tag for tag in self.tags if tag[0] == name and all(tag[1].get(key) == value for key, value in wanted.items())]

    def text(self, tag):
        return "".join(tag[2])

    def section(self, name):
        (found,) = self.all("section", id=name)
        return self.text(found)

    def rows(self, caption):
        """Cells of the table whose caption begins so, a list a row."""
        place = next(i for i, tag in enumerate(self.tags) if tag[0] == "caption" and self.text(tag).startswith(caption))
        rows = []
        for tag in self.tags[place + 1 :]:
            if tag[0] == "table":
                break
            if tag[0] == "tr":
                rows.append([])
            elif tag[0] in ("th", "td"):
                rows[-1].append(self.text(tag))
        return rows


@pytest.fixture(scope="module")
def made(make_run, tmp_path_factory):
    """A full run of three stages, two evaluated, with a store and a gap."""
    measures = {"centroid_real": 1.5, "centroid_fake": 0.5, "probe_accuracy": 0.75, "transfer_image_to_video": 0.6}
    gap = {"before": measures, "after": measures | {"centroid_real": 0.25, "probe_accuracy": 0.9}}
    run = make_run(tmp_path_factory.mktemp("report"), result={"gap": gap})
    path, _ = write_report(run, reasons={"no_face": "no face was found"})
    return run, Page(path.read_text(encoding="utf-8"))


def test_document_is_sound(made):
    _, page = made
    assert page.open == []
    assert page.source.startswith("<!DOCTYPE html>")
    ids = [tag[1]["id"] for tag in page.tags if "id" in tag[1]]
    assert len(set(ids)) == len(ids)
    for _, attributes, _ in page.tags:
        named = attributes.get("aria-labelledby", "").split()
        named += [attributes["href"][1:]] if attributes.get("href", "").startswith("#") else []
        assert set(named) <= set(ids)


def test_landmarks_headings_and_names_for_those_who_listen(made):
    _, page = made
    for name in ("header", "nav", "main", "footer", "h1"):
        assert len(page.all(name)) == 1
    assert page.all("html")[0][1]["lang"] == "en"
    levels = [int(tag[0][1]) for tag in page.tags if re.fullmatch("h[1-6]", tag[0])]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for place, (name, attributes, _) in enumerate(page.tags):
        if name == "svg" and attributes.get("aria-hidden") != "true":
            assert attributes["role"] == "img"
            assert page.tags[place + 1][0] == "title"
            assert page.text(page.tags[place + 1])
        if name == "table":
            assert page.tags[place + 1][0] == "caption"
        if name == "th":
            assert attributes["scope"] in ("row", "col")
        if name == "img":
            assert attributes["alt"]
        if "scroll" in attributes.get("class", "").split():
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]


def test_every_chart_has_its_numbers_as_a_table(made):
    _, page = made
    charts = page.all("figure")
    assert len(charts) >= 10
    assert all("Numbers of this chart" in page.text(chart) for chart in charts)


def test_loads_nothing_and_forbids_itself_everything_else(made):
    _, page = made
    for name, attributes, _ in page.tags:
        assert not any(key.startswith("on") for key in attributes), name
        for key in ("src", "href", "xlink:href", "action", "srcset"):
            assert attributes.get(key, "#").startswith(("#", "data:"))
    assert len(page.all("script")) == 1
    assert "@import" not in page.source
    assert "url(" not in re.sub(r"url\(#hatch\)", "", page.text(page.all("style")[0]))
    (policy,) = (tag[1]["content"] for tag in page.all("meta") if tag[1].get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "script-src 'sha256-" in policy


def test_names_are_text(made):
    _, page = made
    assert HOSTILE in page.section("mistakes")
    assert HOSTILE in page.section("samples")
    assert "lip<sync>" in page.section("manipulations")
    assert "</pre><script>window.hacked=2</script>" in page.section("reproduce")
    assert "nobody <there>" in page.section("dropped")
    assert not page.all("sync")
    assert not [tag for tag in page.all("img") if tag[1].get("src") == "x"]


def test_headline_has_the_numbers_of_metrics_json(made):
    run, page = made
    summary = json.loads((run / "stage3/eval-test/metrics.json").read_text())
    rows = {row[1]: row for row in page.rows("By video_id")[1:]}
    columns = page.rows("By video_id")[0]
    names = {
        "AUC": "auc",
        "EER": "eer",
        "AP": "average_precision",
        "accuracy": "accuracy",
        "F1": "f1",
        "Brier": "brier",
        "ECE": "ece",
    }
    scopes = {**summary["datasets"]["made"]["kinds"], "both": summary["overall"]}
    assert rows.keys() == scopes.keys()
    for kind, scope in scopes.items():
        level = scope["video"]
        assert rows[kind][2:4] == [str(level["n_real"]), str(level["n_fake"])]
        for heading, name in names.items():
            low, high = level["intervals"][name]
            assert rows[kind][columns.index(heading)] == f"{level[name]:.3f}{low:.3f} – {high:.3f}"
        low, high = level["intervals"]["tpr_at_fpr.0.05"]
        assert rows[kind][columns.index("TPR at 5 % FPR")] == f"{level['tpr_at_fpr']['0.05']:.3f}{low:.3f} – {high:.3f}"
    frames = page.rows("By frame")[1]
    assert frames[columns.index("AUC")].startswith(f"{scopes['image']['frame']['auc']:.3f}")


def test_confusion_and_manipulations_have_the_numbers_of_metrics_json(made):
    run, page = made
    summary = json.loads((run / "stage3/eval-test/metrics.json").read_text())
    counts = summary["kinds"]["video"]["video"]["confusion"]
    _, real, fake = page.rows("made, video")
    shown = [cell.split(".")[0] for cell in (real[1], real[2], fake[1], fake[2])]
    shares = [counts[a] / (counts[a] + counts[b]) for a, b in (("tn", "fp"), ("fp", "tn"), ("fn", "tp"), ("tp", "fn"))]
    wanted = [f"{counts[name]}{share:.1%}".split(".")[0] for name, share in zip(("tn", "fp", "fn", "tp"), shares, strict=True)]
    assert shown == wanted
    swap = summary["methods"]["made"]["video"]["swap"]["video"]
    row = next(row for row in page.rows("AUC by manipulation: made, videos") if row[0] == "swap")
    assert row[1:] == [
        f"{swap['auc']:.3f}",
        *(f"{b:.3f}" for b in swap["intervals"]["auc"]),
        f"{swap['n_fake']} fake, {swap['n_real']} real",
    ]


def test_matrix_tells_what_was_trained_on(made):
    run, page = made
    heads, first, third = page.rows("By manipulation: stage")
    assert [first[0], third[0]] == ["stage 1", "stage 3"]
    swap = heads.index("swap (videos)")
    other = heads.index("lip<sync> (videos)")
    assert third[swap].endswith("real, seen")
    assert third[other].endswith("real, unseen")
    summary = json.loads((run / "stage1/eval-test/metrics.json").read_text())
    assert first[swap].startswith(f"{summary['methods']['made']['video']['swap']['video']['auc']:.3f}")
    assert "d2st eval runs/tiny/stage2" in page.section("matrices")


def test_robustness_has_the_numbers_of_robustness_json(made):
    run, page = made
    document = json.loads((run / "stage3/eval-test/robustness.json").read_text())
    rows = page.rows("jpeg, videos")
    assert [row[0] for row in rows[1:]] == ["clean", "90", "70", "50", "30", "10"]
    level = document["perturbations"]["jpeg"]["severities"][4]["kinds"]["video"]
    low, high = level["interval"]
    assert rows[6][1] == f"{level['auc']:.3f}{low:.3f} – {high:.3f}"
    low, high = level["auc_change_interval"]
    assert rows[6][2] == f"{level['auc_change']:+.3f}{low:+.3f} to {high:+.3f}"
    assert rows[6][3:] == [f"{level['score_real']:.3f}", f"{level['score_fake']:.3f}"]
    assert rows[1][2] == "–"
    assert "jpeg: the scale of jpeg" in page.section("robustness")
    assert "sigma <8 bits>" in page.section("robustness")
    looks = [tag[1]["class"] for tag in page.tags if "solid" in tag[1].get("class", "") or "hollow" in tag[1].get("class", "")]
    assert looks.count("mark s1 solid") >= 1  # jpeg at its worst
    assert len(looks) == 24


def test_samples_are_listed_and_mistakes_come_first(made):
    run, page = made
    table = pl.read_parquet(run / "stage3/eval-test/predictions.parquet")
    rows = page.rows("Samples")
    assert len(rows) == len(table) + 1
    outcomes = [row[5] for row in rows[1:]]
    wrong = len(table.filter((pl.col("score") > 0.5) != (pl.col("label") == 1)))
    assert outcomes.count("correct") == len(table) - wrong
    assert "correct" not in outcomes[:wrong]
    row = next(row for row in rows if row[0] == HOSTILE)
    assert row[1:] == ["made", "video", "real", "real", "false alarm", "0.953", "4"]


def test_pictures_come_from_the_crops(made):
    _, page = made
    pictures = page.all("img")
    assert len(pictures) >= 30
    assert all(tag[1]["src"].startswith("data:image/webp;base64,") for tag in pictures)
    assert "no picture" not in page.section("mistakes")
    assert any(page.text(tag).startswith("Frame scores: 0.95, 0.95, 0.95, 0.95") for tag in page.all("title"))


def test_gap_and_dropped_data_are_told(made):
    _, page = made
    rows = page.rows("Modality gap of stage 3")
    assert rows[1][1:] == ["1.500", "0.250", "0", "narrower"]
    assert rows[3][1:] == ["0.750", "0.900", "0.5", "wider"]
    assert rows[5][1:3] == ["–", "–"]
    assert ["left out: no_face", "2", "no face was found"] in page.rows("The test split")
    assert ["b.mp4", "test", "no_face", "nobody <there>"] in page.rows("Dropped samples")


def test_page_of_500_samples_is_small(make_run, tmp_path):
    path, _ = write_report(make_run(tmp_path, count=500, stages=1, evaluated=(1,)))
    assert path.read_text().count("<tr data-method") == 500
    assert path.read_text().count("data:image/webp") == 60
    assert path.stat().st_size < 1_500_000
