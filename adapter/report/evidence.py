"""Sections of single samples: the worst mistakes and the least certain as pictures, all of them as a table, and what was dropped."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from d2st.adapter.evaluate.groups import with_two_kinds
from d2st.adapter.evaluate.metrics import THRESHOLD
from d2st.adapter.report.charts import timeline
from d2st.adapter.report.gather import Evaluation
from d2st.adapter.report.markup import Html, details, join, note, number, table, tag
from d2st.adapter.report.sources import Sources
from d2st.adapter.report.thumbs import THUMB_PX, thumbnails

__all__ = ["CARDS_MAX", "ROWS_MAX", "dropped", "gallery", "samples"]

CARDS_MAX = 30  # of each sort
ROWS_MAX = 2000  # of the table: about half a megabyte
LISTED_MAX = 200  # dropped samples
FILTERS = {"label": "label", "method": "manipulation", "dataset": "data set", "kind": "kind", "outcome": "outcome"}


def gallery(evaluation: Evaluation, sources: Sources) -> Html:
    """Worst mistakes and least certain samples: the frame that speaks loudest, and the scores of all frames."""
    rows = _rows(evaluation, sources)
    worst = rows.filter(pl.col("outcome") != "correct").sort("wrong", "sample_id", descending=[True, False]).head(CARDS_MAX)
    unsure = rows.sort("doubt", "sample_id").head(CARDS_MAX)
    wanted = {
        row["sample_id"]: (_loudest(row), len(row["frame_scores"])) for row in pl.concat([worst, unsure]).iter_rows(named=True)
    }
    pictures: dict[str, str] = {}
    lacking = list(sources.lacking)
    for store in sources.stores:
        found, why = thumbnails(store, {name: value for name, value in wanted.items() if name not in pictures})
        pictures |= found
        lacking += [why] if why else []
    made = []
    if len(pictures) < len(wanted):
        why = "; ".join(lacking) or "they are in no cache of this run"
        made.append(
            note(
                f"{len(wanted) - len(pictures)} of {len(wanted)} samples have no picture: {why}. ",
                tag("code", "d2st report RUN --cache STORE"),
            )
        )
    for title, part in (("Worst mistakes", worst), ("Least certain", unsure)):
        cards = [_card(row, pictures.get(row["sample_id"])) for row in part.iter_rows(named=True)]
        made.append(tag("h3", title))
        made.append(
            tag("ul", *cards, class_="cards") if cards else note("None: every sample is on its right side of the threshold.")
        )
    return join(made)


def samples(evaluation: Evaluation, sources: Sources) -> Html:
    """All samples, or the most telling `ROWS_MAX`, with a form that filters them."""
    rows = _rows(evaluation, sources)
    kept = rows.sort(
        pl.col("outcome") == "correct",
        pl.when(pl.col("outcome") == "correct").then("doubt").otherwise(1 - pl.col("wrong")),
        "sample_id",
    )
    kept = kept.head(ROWS_MAX)
    columns = ["sample", "data set", "kind", "manipulation", "label", "outcome", "score", "frames"]
    heads = [tag("th", name, scope="col", class_="n" if name in ("score", "frames") else None) for name in columns]
    body = [_row(row) for row in kept.iter_rows(named=True)]
    caption = tag("caption", "Samples, mistakes first")
    whole = tag("table", caption, tag("thead", tag("tr", *heads)), tag("tbody", *body), id="samples-table", data_sortable=True)
    made = [_form(kept), tag("p", f"{len(kept)} samples", id="samples-count", role="status")]
    if len(kept) < len(rows):
        made.append(
            note(
                f"These are {len(kept)} of {len(rows)} samples: mistakes, then the least certain. "
                f"All are in {evaluation.name}/predictions.parquet."
            )
        )
    return join([*made, tag("div", whole, class_="scroll tall", tabindex="0", role="region", aria_label="Samples")])


def dropped(evaluation: Evaluation, sources: Sources, *, reasons: Mapping[str, str], split: str) -> Html:
    """What was not or not fully scored, why, and which samples these were."""
    counts = evaluation.summary["samples"]
    rows = [["scored", counts["scored"], ""]]
    rows.append(["of these padded", counts["padded"], f"fewer than {counts['clip_frames']} frames; the rest is masked"])
    rows.append(["of these seen in training", counts["trained_on"], "their scores are too good"])
    rows += [[f"left out: {reason}", count, reasons.get(reason, "")] for reason, count in counts["dropped_by_reason"].items()]
    rows += [] if counts["dropped_by_reason"] else [["left out", 0, ""]]
    made = [table(f"The {split} split", ["samples", "count", "why"], rows, right=(1,))]
    if others := sources.rejected.group_by("split", "reason").len().sort("split", "reason").rows():
        shown = [[split, reason, count, reasons.get(reason, "")] for split, reason, count in others]
        made.append(table("What could not be cached, all splits", ["split", "reason", "count", "meaning"], shown, right=(2,)))
        rows = sources.rejected.sort("split", "reason", "sample_id").head(LISTED_MAX)
        listed = [
            [row["path"] or row["sample_id"], row["split"], row["reason"], row["detail"]] for row in rows.iter_rows(named=True)
        ]
        more = f" (the first {LISTED_MAX} of {len(sources.rejected)})" if len(sources.rejected) > LISTED_MAX else ""
        made.append(details(f"Which ones{more}", table("Dropped samples", ["sample", "split", "reason", "detail"], listed)))
    elif not sources.stores:
        made.append(note(f"Which samples these were is in the cache: {'; '.join(sources.lacking)}."))
    return join(made)


def _rows(evaluation: Evaluation, sources: Sources) -> pl.DataFrame:
    """Predictions with `path`, `outcome`, how wrong (0 to 1) and how far from the threshold."""
    paths = sources.manifest.select("sample_id", "path")
    called = pl.col("score") > THRESHOLD
    right = called == (pl.col("label") == 1)
    outcome = pl.when(right).then(pl.lit("correct")).when(called).then(pl.lit("false alarm")).otherwise(pl.lit("missed fake"))
    return (
        with_two_kinds(evaluation.predictions)
        .join(paths, on="sample_id", how="left")
        .with_columns(
            outcome=outcome, wrong=(pl.col("score") - pl.col("label")).abs(), doubt=(pl.col("score") - THRESHOLD).abs()
        )
    )


def _loudest(row: Mapping[str, Any]) -> int:
    """The frame whose score is farthest on the side on which the sample was put."""
    values = np.asarray(row["frame_scores"])
    return int(values.argmax() if row["score"] > THRESHOLD else values.argmin())


def _card(row: Mapping[str, Any], picture: str | None) -> Html:
    name, frame, frames = row["path"] or row["sample_id"], _loudest(row), len(row["frame_scores"])
    size = {"width": THUMB_PX, "height": THUMB_PX}
    face = tag("div", "no picture", class_="thumb")
    if picture:
        face = tag("img", src=picture, alt=f"frame {frame + 1} of {frames} of {name}", **size)
    lines = [
        tag("strong", f"{_label(row)}, scored {number(row['score'])}"),
        tag("span", row["outcome"], class_=f"outcome {row['outcome'].replace(' ', '-')}"),
        tag("span", f"{row['dataset']}, {row['method']}, {row['kind']}"),
        tag("span", name, class_="path"),
    ]
    strip = (
        [timeline(row["frame_scores"], shown=frame), tag("span", f"frame {frame + 1} of {frames}")]
        if frames > 1
        else [tag("span", "one frame")]
    )
    return tag("li", face, tag("div", *lines, *strip, class_="about"), class_="card")


def _row(row: Mapping[str, Any]) -> Html:
    label = _label(row)
    data = {f"data_{key}": row[key] for key in ("method", "dataset", "kind", "outcome")} | {
        "data_label": label,
        "data_score": number(row["score"], 6),
    }
    cells = [row["dataset"], row["kind"], row["method"], label]
    outcome = tag("td", tag("span", row["outcome"], class_=f"outcome {row['outcome'].replace(' ', '-')}"))
    numbers = [
        tag("td", number(row["score"]), class_="n", data_v=number(row["score"], 9)),
        tag("td", len(row["frame_scores"]), class_="n"),
    ]
    head = tag("th", row["path"] or row["sample_id"], scope="row", title=row["sample_id"])
    return tag("tr", head, *(tag("td", cell) for cell in cells), outcome, *numbers, **data)


def _form(rows: pl.DataFrame) -> Html:
    """Shown by JavaScript, without which it could do nothing."""
    shown = rows.with_columns(label=pl.when(pl.col("label") == 1).then(pl.lit("fake")).otherwise(pl.lit("real")))
    made = []
    for key, words in FILTERS.items():
        values: Sequence[str] = sorted(shown[key].unique().to_list())
        extra = [tag("option", "every mistake", value="mistake")] if key == "outcome" else []
        options = [tag("option", "all", value=""), *extra, *(tag("option", value, value=value) for value in values)]
        made.append(tag("label", words, tag("select", *options, name=key)))
    for key, words, value in (("low", "score from", 0), ("high", "score to", 1)):
        made.append(tag("label", words, tag("input", type="number", name=key, min=0, max=1, step="any", value=value)))
    made.append(tag("label", "name holds", tag("input", type="search", name="words")))
    return tag("form", *made, tag("button", "Clear", type="reset"), id="filters", hidden=True, aria_label="Filter the samples")


def _label(row: Mapping[str, Any]) -> str:
    return "fake" if row["label"] == 1 else "real"
