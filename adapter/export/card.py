"""The model card (Mitchell et al., 2019): what a detector is, what it was trained on, how well it does, and what it is not for. Markdown.

The decision that shaped it: the card says only what the run's own files say. A part that nobody measured is named as missing, with the
command that makes it, in place of being left out.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from d2st.adapter.evaluate.operating import Operating
from d2st.adapter.export.card_run import data_section, results_section, stages_section
from d2st.adapter.export.markdown import bullets, cell, table
from d2st.adapter.report.gather import Record, gather
from d2st.cache.errors import RunError

__all__ = ["header", "model_card", "run_record"]

TAGS = ("deepfake-detection", "face-forgery-detection", "clip", "d2st")
USE = (
    "Research on face manipulation, and triage of images and short videos that show one clear face: the score ranks what a person looks at"
    " first. Scores mean something for media like those that the detector was trained and validated on.",
)
LIMITS = (
    "A score is no proof. The rates above are those of the data above; on media unlike it (other generators, cameras, codecs, platforms)"
    " false positives and false negatives grow.",
    "It must not be the only ground of a decision about a person, an account or a court case.",
    "Measured on what the sections above name, and on nothing else: not on audio, not on manipulations outside of faces, not on fully"
    " generated scenes unless they are listed. No fairness across skin tones, ages or genders was measured.",
    "It sees faces alone, at the size, margin and frame rate of its training. Dark, small, covered or turned faces lower its accuracy;"
    " `d2st predict` says so beside each score.",
    "Whoever knows the detector can make media that it takes for real.",
)


def model_card(
    meta: Mapping[str, Any], *, name: str, record: Record | None, checkpoint: str, about: Mapping[str, Any], loading: str
) -> str:
    """The card as Markdown.

    Args:
        meta: the checkpoint's.
        record: its run, if it lies in one (`run_record`).
        checkpoint: its `checkpoint_digest`.
        about: what the exported file says of itself (`about.describe`), with its parity; or {"versions"} alone.
        loading: Markdown that says how to use the file.
    """
    sections = [
        f"# {name}",
        _what(meta),
        "## How to use it",
        loading,
        "## Intended use",
        *USE,
        "## Data",
        data_section(record),
        "## Training",
        stages_section(record, meta),
        "## Results",
        results_section(record, checkpoint),
        "## Operating points",
        _operating(meta),
        "## Limits",
        bullets(LIMITS),
        "## The file",
        _file(meta, checkpoint, about),
    ]
    return "\n\n".join(sections) + "\n"


def header(meta: Mapping[str, Any]) -> str:
    """The YAML in front of a hub's card. The licence of weights is their owner's to choose: it stands as "other"."""
    lines = [
        "library_name: d2st",
        "license: other",
        "license_name: choose-one",
        f"pipeline_tag: {'image' if meta['clip_frames'] == 1 else 'video'}-classification",
        "tags:",
        *(f"- {tag}" for tag in dict.fromkeys((*TAGS, meta["adapter"].replace("_", "-")))),
    ]
    return "\n".join(("---", *lines, "---", ""))


def run_record(checkpoint: Path) -> Record | None:
    """The run that a checkpoint lies in, or None; its evaluations are those of the test split."""
    try:
        return gather(checkpoint.parent, split="test")
    except RunError:
        if (checkpoint.parent / "recipe.toml").is_file():  # it is a run, and damaged
            raise
        return None


def _what(meta: Mapping[str, Any]) -> str:
    config = meta["config"]
    crops = config["crops"]
    frames = "single frames" if meta["clip_frames"] == 1 else f"clips of up to {meta['clip_frames']} frames"
    return (
        f"Tells whether a face in an image or a video was manipulated: P(fake) of the clip and of each frame. A frozen CLIP image tower"
        f" (`{config['backbone']}`, {config['image_size']} px) reads face crops; the adapter `{meta['adapter']}` reads"
        f" {len(meta['layers'])} of its layers ({', '.join(f'`{layer}`' for layer in meta['layers'])}) and scores {frames}."
        f" Faces are found by `{crops['detector']}` and cut out at {crops['size']} px with a margin of {crops['margin_ratio']:g}."
    )


def _operating(meta: Mapping[str, Any]) -> str:
    operating = Operating(meta.get("operating") or {})
    known = [kind for kind in ("image", "video") if operating.known(kind)]
    if not known:
        return (
            "The checkpoint keeps none: it was trained without a validation split of both classes, or by an older d2st."
            " Raw scores above 0.5 count as fake."
        )
    rows = []
    for kind in known:
        for label, fpr in (("equal errors (stored default)", None), ("FPR at most 5 %", 0.05), ("FPR at most 1 %", 0.01)):
            cut = operating.threshold(kind, fpr)
            probability = operating.probability(kind, cut.logit)
            shown = [f"{value:.3g}" for value in (cut.logit, probability, cut.fpr, cut.tpr)]
            rows.append([kind, label, *shown, f"{cut.n_real} + {cut.n_fake}", cut.note or ""])
    heads = ["kind", "chosen by", "logit above", "= P(fake) above", "FPR", "TPR", "real + fake", "note"]
    temperatures = ", ".join(f"{kind} {operating.temperature(kind):.3g}" for kind in ("image", "video"))
    return (
        "Chosen on the run's own validation split alone, whose rates these are.\n\n"
        + table(heads, rows)
        + f"\n\nP(fake) = sigmoid(logit / temperature), temperatures: {temperatures}."
    )


def _file(meta: Mapping[str, Any], checkpoint: str, about: Mapping[str, Any]) -> str:
    facts: list[tuple[str, object]] = [
        ("checkpoint, BLAKE2b", f"`{checkpoint}`"),
        ("cache fingerprint", f"`{meta.get('fingerprint')}`"),
        ("backbone weights", f"`{meta['config']['weights_digest']}`, from `{(meta.get('notes') or {}).get('pretrained')}`"),
        ("face detector weights", f"`{meta['config']['crops']['detector_digest']}`"),
        ("token maps", f"{meta['config']['dtype']}, encoded in {meta['config']['precision']}"),
    ]
    if parity := about.get("parity"):
        text = f"logits differ by at most {parity['max_abs_logit']:.2g} on {parity['clips']} clips ({parity['of']})"
        facts.append(("parity with the checkpoint", f"{text}, run by {parity['runtime']}"))
    if "frames" in about:
        free = f"batch {_range(about['batch'])}, frames {_range(about['frames'])}"
        facts.append(("input", f"{about['eats']}, {free}" + (f"; ONNX opset {about['opset']}" if about["opset"] else "")))
    facts.append(("versions", ", ".join(f"{package} {version}" for package, version in about["versions"].items())))
    return bullets(f"{what}: {cell(value)}" for what, value in facts)


def _range(ends: Sequence[int]) -> str:
    return f"{ends[0]} to {ends[1]}"
