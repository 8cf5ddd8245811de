"""The build: what it caches is what the media show; stopped anywhere it goes on, and ends in the same bytes; bad samples become rows."""

import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from rich.console import Console

from d2st.cache import Request, Store, TokenLoader
from d2st.cache import arrays as cache_arrays
from d2st.cache.errors import FingerprintError, ManifestError, StoreError
from d2st.cache.gc import collect
from d2st.cache.reader import ArrayReader
from d2st.cache.verify import verify
from d2st.cli.cache.work import show_work
from d2st.pipeline.build.crop import CropSettings
from d2st.pipeline.build.crops_writer import CropsWriter
from d2st.pipeline.build.run import build
from d2st.pipeline.clip import Encoder, load_backbone
from d2st.pipeline.manifest import SCHEMA
from d2st.pipeline.media import read_media


@pytest.fixture
def run(media, detector, encoder, settings):
    root, manifest = media

    def run_build(store, *, rows=manifest, root=root, settings=settings, encoder=encoder, **more):
        return build(rows, store, root=root, detector=detector, settings=settings, encoder=encoder, workers=1, **more)

    return run_build


@pytest.fixture(scope="module")
def built(tmp_path_factory, media, detector, settings, encoder):
    """(store, report) of a build of everything, to be read alone."""
    store = tmp_path_factory.mktemp("built") / "s"
    return store, build(media[1], store, root=media[0], detector=detector, settings=settings, encoder=encoder, workers=1)


@pytest.fixture
def store(built, tmp_path):
    """A copy of that store."""
    return Path(shutil.copytree(built[0], tmp_path / "s"))


@pytest.fixture
def small_shards(monkeypatch, shrink_shards):
    shrink_shards(monkeypatch)


def tree(store: Path) -> dict[str, bytes]:
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*")) if p.is_file()}


def test_tokens_are_those_of_the_media(built, media, encoder):
    (path, report), (root, manifest) = built, media
    assert (report.samples, report.frames, report.padded, report.rejected) == (12, 5 * 4 + 2 + 6, 1, {})
    store = Store.open(path)
    samples = store.samples()
    assert samples["sample_id"].to_list() == sorted(manifest["sample_id"])
    loader = TokenLoader(store)
    for row in samples.iter_rows(named=True):
        frames = read_media(str(root / row["path"]), row["kind"], frames=4, sampling="even")
        crops = ArrayReader(store.crops.path / "frames")
        cropped = np.empty((row["frames_cached"], 32, 32, 3), np.uint8)
        crops.read(range(row["start"], row["start"] + row["frames_cached"]), cropped)
        assert len(frames.images) == row["frames_cached"]
        expected = encoder.encode(cropped).arrays
        batch = next(loader.stream([Request(np.arange(row["frames_cached"])[None] + row["start"])]))
        for layer in encoder.layers:
            np.testing.assert_array_equal(batch.tokens[layer][0].numpy(), expected[f"{layer}/maps"])
            np.testing.assert_array_equal(batch.cls[layer][0].numpy(), expected[f"{layer}/cls"])


def test_statistics_are_those_of_the_training_split_alone(built):
    store = Store.open(built[0])
    rows = np.concatenate(
        [np.arange(s, s + n) for s, n in store.samples().filter(split="train").select("start", "frames_cached").rows()]
    )
    batch = next(TokenLoader(store).stream([Request(rows[None])]))
    for layer in store.tokens.layers:
        for name, values in ((layer, batch.tokens[layer]), (f"{layer}/cls", batch.cls[layer])):
            flat = values.numpy().astype(np.float64).reshape(-1, 64)
            mean, std = store.tokens.stats[name]
            np.testing.assert_allclose(mean, flat.mean(0), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(std, flat.std(0), rtol=1e-4, atol=1e-6)


def test_a_second_build_touches_nothing(store, run):
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*.parquet") if "ledger" in p.parts}
    report = run(store)
    assert (report.built_crops, report.built_tokens) == (0, 0)
    assert before == {p: p.stat().st_mtime_ns for p in before}


class Stop(BaseException):
    """Stands for a kill: nothing in the build may catch it."""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, media, detector, encoder, settings, shrink_shards):
    """The bytes of a build with small shards that nothing stopped."""
    store = tmp_path_factory.mktemp("unbroken") / "s"
    with pytest.MonkeyPatch.context() as patch:
        shrink_shards(patch)
        build(media[1], store, root=media[0], detector=detector, settings=settings, encoder=encoder, workers=1)
    return tree(store)


@pytest.mark.parametrize("stop_at", [5, 13])
def test_stopped_anywhere_it_goes_on_and_ends_in_the_same_bytes(tmp_path, run, small_shards, unbroken, stop_at):
    steps = 0

    def stop(phase, done, total):
        nonlocal steps
        steps += 1
        if steps > stop_at:
            raise Stop

    broken = tmp_path / "broken"
    with pytest.raises(Stop):
        run(broken, on_progress=stop)
    run(broken)
    assert tree(broken) == unbroken


def test_new_rows_append_and_old_shards_stay(tmp_path, run, media, small_shards):
    _, manifest = media
    store = tmp_path / "s"
    run(store, rows=manifest[:8])
    before = tree(store)
    report = run(store)
    assert report.samples == 12
    after = tree(store)
    for name, data in before.items():
        if "/c/" in name or "ledger" in name or "moments" in name or name.startswith("plan"):
            assert after[name] == data, name
    assert Store.open(store).samples().height == 12


def test_a_moved_store_and_moved_media_change_nothing(tmp_path, store, built, run, media):
    root, _ = media
    shutil.copytree(root, tmp_path / "elsewhere")
    shutil.move(store, tmp_path / "moved")
    report = run(tmp_path / "moved", root=tmp_path / "elsewhere")
    assert (report.built_crops, report.samples) == (0, 12)
    for name, data in tree(tmp_path / "moved").items():
        assert str(tmp_path).encode() not in data, name
        assert str(root).encode() not in data, name
        assert str(built[0]).encode() not in data, name


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (CropSettings(5, "even", 32), "frames"),
        (CropSettings(4, "clip", 32), "sampling"),
        (CropSettings(4, "even", 40), "size"),
        (CropSettings(4, "even", 32, 1.5), "margin_ratio"),
    ],
)
def test_other_settings_are_refused_before_any_work(store, run, other, field):
    before = tree(store)
    with pytest.raises(FingerprintError) as caught:
        run(store, settings=other)
    assert caught.value.fields == [field]
    assert tree(store) == before


def test_bad_files_become_rows_and_the_rest_goes_on(tmp_path, decoding_processes, run, make_media, manifest_row):
    root = tmp_path / "media"
    root.mkdir()
    good = make_media(root, videos=2, images=2)
    (root / "empty.mp4").touch()
    (root / "text.mp4").write_text("not a video\n" * 50)
    (root / "cut.mp4").write_bytes((root / "v1.mp4").read_bytes()[:200])
    (root / "side.png").write_bytes((root / "i0.png").read_bytes())
    (root / "side.png.faces.json").write_text('{"face": []}')
    (root / "nameß ü 1.png").write_bytes((root / "i1.png").read_bytes())
    header = Image.new("L", (1, 1))
    header.save(root / "huge.png")
    data = bytearray((root / "huge.png").read_bytes())
    data[16:24] = (50_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")  # of the IHDR chunk
    (root / "huge.png").write_bytes(data)
    duplicate = manifest_row("copy.png", "image", 0, "train", duplicate_of=good["sample_id"][2])
    rows = [
        manifest_row("empty.mp4", "video", 1, "train"),
        manifest_row("text.mp4", "video", 1, "train"),
        manifest_row("cut.mp4", "video", 1, "train"),
        manifest_row("gone.mp4", "video", 1, "train"),
        manifest_row("huge.png", "image", 1, "train"),
        manifest_row("side.png", "image", 1, "train"),
        manifest_row("nameß ü 1.png", "image", 0, "val"),
        duplicate,
    ]
    report = run(tmp_path / "s", rows=pl.concat([good, pl.DataFrame(rows, schema=SCHEMA)]), root=root)
    assert report.samples == 5
    rejected = dict(Store.open(tmp_path / "s").rejected().select("path", "reason").rows())
    assert rejected.pop("cut.mp4") in ("truncated", "not_media", "decode_failed")
    assert rejected == {
        "empty.mp4": "empty",
        "text.mp4": "not_media",
        "gone.mp4": "missing",
        "huge.png": "too_large",
        "side.png": "bad_faces",
        "copy.png": "duplicate",
    }


def test_the_ledger_remembers_how_a_sample_was_made(built):
    store = Store.open(built[0])
    rows = store.crops.rows().join(store.manifest(), on="sample_id")
    info = json.loads(rows.filter(path="v1.mp4")["info"][0])
    assert info["indices"] == [1, 3, 5, 7]
    assert info["timestamps_s"] == pytest.approx([0.04, 0.12, 0.2, 0.28])
    assert info["media"]["codec"] == "h264"


def test_an_empty_manifest_is_an_error(tmp_path, run):
    with pytest.raises(ManifestError, match="no rows"):
        run(tmp_path / "s", rows=SCHEMA.to_frame())


def test_a_build_of_nothing_usable_still_ends(tmp_path, run, manifest_row):
    rows = pl.DataFrame([manifest_row("gone.mp4", "video", 1, "train")], schema=SCHEMA)
    report = run(tmp_path / "s", rows=rows)
    assert (report.samples, report.rejected) == (0, {"missing": 1})
    assert Store.open(tmp_path / "s").samples().is_empty()
    assert os.path.exists(cache_arrays.shard_path(tmp_path / "s" / "crops" / "frames", 0, frame_dims=3)) is False


def test_retry_appends_what_was_left_out_and_touches_nothing_else(tmp_path, run, make_media, small_shards):
    root = tmp_path / "media"
    root.mkdir()
    rows = make_media(root, videos=3, images=5)
    lost = (root / "v1.mp4").read_bytes()
    (root / "v1.mp4").unlink()
    assert run(tmp_path / "s", rows=rows, root=root).rejected == {"missing": 1}
    before = tree(tmp_path / "s")
    assert run(tmp_path / "s", rows=rows, root=root, retry=True).rejected == {"missing": 1}
    assert tree(tmp_path / "s") == before, "a file that is still missing is not worth a new shard"
    (root / "v1.mp4").write_bytes(lost)
    assert run(tmp_path / "s", rows=rows, root=root).rejected == {"missing": 1}
    report = run(tmp_path / "s", rows=rows, root=root, retry=True)
    assert (report.samples, report.rejected, report.built_crops, report.built_tokens) == (8, {}, 1, 1)
    after = tree(tmp_path / "s")
    assert {name for name in before if after.get(name) != before[name]} <= {
        name for name in before if name.endswith("zarr.json")
    }, "arrays grow, nothing else changes"
    run(tmp_path / "whole", rows=rows, root=root)
    assert read_all(tmp_path / "s") == read_all(tmp_path / "whole")


def read_all(store: Path) -> dict[str, dict[str, bytes]]:
    """Every cached sample's crops and token maps."""
    opened = Store.open(store)
    arrays = {"crops": opened.crops.array("frames")}
    arrays |= {
        f"{layer}/{kind}": opened.tokens.array(layer, kind) for layer in opened.tokens.layers for kind in ("maps", "cls")
    }
    readers = {name: ArrayReader(path) for name, path in arrays.items()}
    found = {}
    for row in opened.samples().iter_rows(named=True):
        wanted = np.arange(row["start"], row["start"] + row["frames_cached"])
        found[row["sample_id"]] = {}
        for name, reader in readers.items():
            values = np.empty((len(wanted), *reader.frame_shape), reader.dtype)
            reader.read(wanted, values)
            found[row["sample_id"]][name] = values.tobytes()
    return found


def test_a_copy_that_is_none_any_more_is_taken_without_asking(tmp_path, run, media):
    _, manifest = media
    first, second = manifest["sample_id"][6:8]
    copied = manifest.with_columns(duplicate_of=pl.when(pl.col("sample_id") == second).then(pl.lit(first)))
    assert run(tmp_path / "s", rows=copied).rejected == {"duplicate": 1}
    report = run(tmp_path / "s")
    assert (report.samples, report.rejected, report.built_crops) == (12, {}, 1)


def test_samples_that_come_back_are_taken_without_asking(tmp_path, run, media, small_shards, monkeypatch):
    """Of two that leave the manifest, one is dropped by a gc that is stopped before it comes to the plan; the other one's shard is made
    while it is away. A third is a copy for as long. When all are wanted again, all are there.
    """
    _, manifest = media
    ids = sorted(manifest["sample_id"])
    early, late, copy = ids[0], ids[-1], ids[-2]
    with monkeypatch.context() as patch:
        patch.setattr(
            CropsWriter,
            "_commit",
            lambda self, task, commit=CropsWriter._commit: commit(self, task) if task.shard < 2 else 1 / 0,
        )
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "s")
    fewer = manifest.filter(~pl.col("sample_id").is_in([early, late]))
    fewer = fewer.with_columns(duplicate_of=pl.when(pl.col("sample_id") == copy).then(pl.lit(ids[1])))
    assert run(tmp_path / "s", rows=fewer).rejected == {"duplicate": 1}
    with monkeypatch.context() as patch:
        patch.setattr("d2st.cache.gc._shrink_plan", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            collect(tmp_path / "s")
    report = run(tmp_path / "s")
    assert (report.samples, report.rejected) == (12, {})
    assert run(tmp_path / "s").built_crops == 0
    run(tmp_path / "whole")
    assert read_all(tmp_path / "s") == read_all(tmp_path / "whole")
    assert verify(tmp_path / "s", deep=True).damages == []


def test_samples_that_change_their_split_leave_the_statistics(tmp_path, store, run, media, monkeypatch):
    _, manifest = media
    kind = manifest.schema["split"]
    moved = manifest.with_columns(
        split=pl.when(pl.col("split") == "train").then(pl.lit("test")).otherwise(pl.lit("train")).cast(kind)
    )
    with monkeypatch.context() as patch:
        patch.setattr("d2st.pipeline.clip.Encoder.encode", None)  # no CLIP runs
        report = run(store, rows=moved)
    assert (report.built_crops, report.built_tokens, report.statistics) == (0, 0, 1)
    run(tmp_path / "fresh", rows=moved)
    assert tree(store) == tree(tmp_path / "fresh")


def test_crops_made_anew_alike_keep_their_tokens_and_others_lose_them(tmp_path, run, make_media, small_shards):
    root = tmp_path / "media"
    root.mkdir()
    rows = make_media(root, videos=3, images=2)
    run(tmp_path / "s", rows=rows, root=root)
    before = tree(tmp_path / "s")
    store = Store.open(tmp_path / "s")
    shard = store.plan().join(rows.filter(path="i0.png"), on="sample_id")["shard"][0]
    store.crops.withdraw(shard)
    assert run(tmp_path / "s", rows=rows, root=root).built_tokens == 0
    assert tree(tmp_path / "s") == before
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(root / "i0.png")
    store.crops.withdraw(shard)
    report = run(tmp_path / "s", rows=rows, root=root)
    assert (report.built_crops, report.built_tokens) == (1, 1)
    run(tmp_path / "fresh", rows=rows, root=root)
    assert tree(tmp_path / "s") == tree(tmp_path / "fresh")


def test_another_backbone_is_refused_and_told_where_to_go(store, run):
    other = Encoder(load_backbone("d2st-test", "random:1", device="cpu"), ("block_0",), micro_batch=8)
    with pytest.raises(FingerprintError) as caught:
        run(store, encoder=other)
    assert "weights_digest" in caught.value.fields
    assert "cache encode" in caught.value.fix


def test_a_store_of_format_1_is_not_written_to(store, run):
    (store / "zarr.json").write_bytes(
        json.dumps({"attributes": {"d2st": {"format": 1}}, "zarr_format": 3, "node_type": "group"}).encode()
    )
    with pytest.raises(StoreError, match="format 1"):
        run(store)


def test_values_that_float16_can_not_hold_are_told(tmp_path, run, media, capsys):
    encoder = Encoder(load_backbone("d2st-test", "random:0", device="cpu"), ("block_0", "block_2"), micro_batch=8)
    with torch.no_grad():
        encoder.backbone.model.transformer.resblocks[-1].mlp.c_proj.bias[5] = 1e6
    rows = media[1].filter(pl.col("kind") == "image")
    report = run(tmp_path / "s", rows=rows, encoder=encoder)
    assert report.clamped == 6 * 17  # one channel of every token of the last block
    show_work(report, Console(width=200))
    assert "102 values of the token maps lay beyond ±65,504" in capsys.readouterr().out
    assert run(tmp_path / "s", rows=rows, encoder=encoder).clamped == 0
