"""Shards made again as their level's config says, from where media and weights are now."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2st.cache.claims import Claims
from d2st.cache.errors import StoreError, WeightsError
from d2st.cache.fingerprint import check_same
from d2st.cache.level import Level
from d2st.cache.reader import ArrayReader
from d2st.cache.store import CALIBRATION
from d2st.pipeline.build.calibrate import calibrate_first
from d2st.pipeline.build.crop import CropSettings, declared_crops
from d2st.pipeline.build.crops import Media
from d2st.pipeline.build.encoders import encoder_like
from d2st.pipeline.build.progress import Progress
from d2st.pipeline.build.stages import Clocks, make_shards
from d2st.pipeline.build.threads import crop_threads
from d2st.pipeline.build.tokens import ensure_token_arrays
from d2st.pipeline.build.views import view_of
from d2st.pipeline.build.work import Work
from d2st.pipeline.clip import Encoder
from d2st.pipeline.faces import build_detector
from d2st.pipeline.media import default_workers

__all__ = ["Sources", "encode_again"]


@dataclass(frozen=True)
class Sources:
    """Where what a store was made from is to be found.

    Attributes:
        root: the folder that the manifest's paths are relative to; None if it is not at hand.
        pretrained: a tag or file of CLIP weights, tried before the one that the store remembers.
        detector_weights: for a detector that needs a file.
        workers: decoding processes; one a core by default.
    """

    root: Path | None = None
    pretrained: str | None = None
    detector_weights: Path | None = None
    device: str = "cpu"
    workers: int | None = None

    def media(self, crops: Level) -> Media:
        """How the crops of this level are made. Raises WeightsError or FingerprintError when they would be others."""
        declared = crops.config
        settings = CropSettings(declared["frames"], declared["sampling"], declared["size"], declared["margin_ratio"])
        detector = build_detector(declared["detector"], weights=self.detector_weights, device=self.device)
        fix = "Name the detector's file with --detector-weights, or use the d2st that built the store"
        check_same(declared, declared_crops(settings, detector), where=str(crops.path), fix=fix)
        workers, threads = self.workers or default_workers(), crop_threads(self.device)
        return Media(self.root or Path(), detector, settings, workers, threads, self.device)

    def encoder(self, tokens: Level) -> Encoder:
        """The encoder that made this level. Raises WeightsError when its weights can't be found."""
        layers = ",".join(tokens.config["layers"])
        try:
            return encoder_like(tokens, layers, self.pretrained, self.device)
        except WeightsError:
            if self.pretrained is None:
                raise
            return encoder_like(tokens, layers, None, self.device)  # another set's weights were named


def encode_again(
    crops: Level,
    tokens: Level,
    shards: Collection[int],
    *,
    sources: Sources,
    planned: Sequence[int],
    recalibrate: bool,
    counted: set[str],
    claims: Claims,
    on_progress: Callable[[str, int, int], None],
) -> int:
    """Encode shards of a tokens level from their crops, in place of what is there; returns how many.

    Nothing is withdrawn before the weights are found.

    Args:
        planned: numbers of the planned shards, in order.
        recalibrate: the calibration of an int8 level is lost: it is made again, and all shards with it unless they fit it bit by bit.
        counted: samples of the training split.
    """
    encoder = sources.encoder(tokens)
    shards, committed = set(shards), crops.committed()
    if recalibrate:
        (tokens.path / CALIBRATION).unlink(missing_ok=True)

    def need_crops(first: list[int]) -> int:
        if missing := sorted(set(first) - committed):
            raise StoreError(f"the crops of shard {missing[0]} are needed to calibrate int8", fix="Run `d2st cache build`")
        return 0

    calibrate_first(tokens, encoder, crops, shards=planned, counted=counted, make_crops=need_crops)
    if recalibrate and not _fits(crops, tokens, encoder, without=shards):
        shards |= tokens.committed()
    for shard in shards:
        tokens.withdraw(shard)
    ensure_token_arrays(tokens, encoder, shards=max(planned) + 1)
    work = Work(shards, crops=crops, tokens=tokens, claims=claims, name=tokens.name)
    frames = {shard: int(crops.part(shard).rows["frames"].sum()) for shard in work.waiting}
    progress = Progress(on_progress, samples={}, frames=frames)
    return make_shards(work, encoder=encoder, counted=counted, wait=False, clocks=Clocks(), progress=progress)[1]


def _fits(crops: Level, tokens: Level, encoder: Encoder, *, without: Collection[int]) -> bool:
    """Whether the first micro-batch of some other shard, encoded now, has the bits that the store keeps."""
    for part in (tokens.part(shard) for shard in sorted(tokens.committed() - set(without))):
        cached = part.rows.filter(part.rows["reason"].is_null()).sort("start")
        spans = [np.arange(start, start + count) for start, count in cached.select("start", "frames").iter_rows()]
        rows = np.concatenate([np.zeros(0, np.int64), *spans])[: encoder.micro_batch]
        if not len(rows) or crops.part(part.shard).content != part.source:
            continue
        images, view = _read(crops.array("frames"), rows), view_of(tokens.config)
        if view is not None:
            images = view.apply(images, np.repeat(cached["sample_id"].to_numpy(), cached["frames"].to_numpy())[: len(rows)])
        found = encoder.encode(images).arrays
        return all(np.array_equal(values, _read(tokens.array(name), rows)) for name, values in found.items())
    return False


def _read(array: Path, rows: np.ndarray) -> np.ndarray:
    with ArrayReader(array) as reader:
        values = np.empty((len(rows), *reader.frame_shape), reader.dtype)
        reader.read(rows, values)
        return values
