"""What a checkpoint carries beside its weights, and that it is refused unless it is what was written."""

import json
import struct

import numpy as np
import pytest
import torch

from d2st.adapter.nets import adapter_params
from d2st.adapter.train import checkpoint
from d2st.adapter.train.checkpoint import build_detector, load_detector, load_weights, save_checkpoint
from d2st.cache.errors import RunError

META = {
    "adapter": "meanpool_mlp",
    "adapter_params": adapter_params("meanpool_mlp", {}).model_dump(),
    "layers": ["block_1"],
    "channels": 6,
    "grid": [2, 2],
}
STATS = {name: (np.zeros(6, np.float32), np.ones(6, np.float32)) for name in ("block_1", "block_1/cls")}
READERS = [load_detector, lambda path: load_weights(build_detector(META, STATS), path)]


def test_a_calibration_comes_back_and_disturbs_nothing(tmp_path):
    detector = build_detector(META, STATS)
    rng = np.random.default_rng(0)
    calibration = {f"block_{i}": tuple(rng.normal(size=(2, 6)).astype(np.float32)) for i in (1, 10)}
    save_checkpoint(tmp_path / "with", detector, meta=META, stats=STATS, calibration=calibration)
    save_checkpoint(tmp_path / "without", detector, meta=META, stats=STATS)
    with_it, meta = load_detector(tmp_path / "with")
    without, plain = load_detector(tmp_path / "without")
    assert plain["calibration"] == {}
    assert meta["calibration"].keys() == calibration.keys()
    for layer, pair in calibration.items():
        for found, given in zip(meta["calibration"][layer], pair, strict=True):
            np.testing.assert_array_equal(found.numpy(), given)
    assert {**meta, "calibration": {}} == plain
    for name, value in with_it.state_dict().items():
        assert torch.equal(value, without.state_dict()[name])
    assert "calibration" not in load_weights(build_detector(META, STATS), tmp_path / "with")


@pytest.mark.parametrize("read", READERS)
def test_another_format_is_named_before_any_weight_is_looked_at(tmp_path, monkeypatch, read):
    with monkeypatch.context() as older:
        older.setattr(checkpoint, "FORMAT", checkpoint.FORMAT - 1)
        save_checkpoint(tmp_path / "old", build_detector(META, STATS), meta=META, stats=STATS)
    with pytest.raises(RunError, match=f"format {checkpoint.FORMAT - 1}, this d2st reads {checkpoint.FORMAT}"):
        read(tmp_path / "old")


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, build_detector(META, STATS), meta=META, stats=STATS)
    return path


def _changed(path, change):
    """The file again, with `change(header, data)` applied to its JSON header and its bytes."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header, data = json.loads(raw[8 : 8 + size]), bytearray(raw[8 + size :])
    change(header, data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(data))


def _flip_a_bit(header, data):
    data[header["model.head.linear.weight"]["data_offsets"][0]] ^= 1


def _swap_names(header, data):
    one, other = "stats.block_1.mean", "stats.block_1.std"
    header[one], header[other] = header[other], header[one]


def _describe_otherwise(header, data):
    header["__metadata__"]["d2st"] = header["__metadata__"]["d2st"].replace("block_1", "block_2")


def _strip_digests(header, data):
    meta = json.loads(header["__metadata__"]["d2st"])
    del meta["digests"]
    header["__metadata__"]["d2st"] = json.dumps(meta)


def _add(header, data):
    header["model.more"] = {"dtype": "U8", "shape": [1], "data_offsets": [len(data), len(data) + 1]}
    data.append(0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_flip_a_bit, r"was changed or damaged.*does not match its digest in model\.head\.linear\.weight"),
        (_swap_names, r"does not match its digest in stats\.block_1\.mean, stats\.block_1\.std"),
        (_add, r"has more than was written: model\.more"),
        (_describe_otherwise, "its description does not match its digest"),
        (_strip_digests, "has no digests"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("read", READERS)
def test_what_was_changed_after_writing_is_refused_by_name(written, change, named, read):
    _changed(written, change)
    with pytest.raises(RunError, match=named) as caught:
        read(written)
    assert caught.value.fix


def test_a_checkpoint_cut_at_any_place_is_refused(written):
    whole = written.read_bytes()
    for size in (0, 3, 8, 100, len(whole) // 2, len(whole) - 1):
        written.write_bytes(whole[:size])
        with pytest.raises(RunError, match="can't be read as a d2st checkpoint"):
            load_detector(written)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_name(tmp_path, value):
    detector = build_detector(META, STATS)
    detector.head.linear.bias.data.fill_(value)
    save_checkpoint(tmp_path / "nan", detector, meta=META, stats=STATS)
    for read in READERS:
        with pytest.raises(RunError, match=r"holds NaN or infinity in model\.head\.linear\.bias"):
            read(tmp_path / "nan")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_unopened(tmp_path, zipped):
    class Harm:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was opened",))

    path = tmp_path / "model.pt"
    torch.save({"state": Harm()}, path, _use_new_zipfile_serialization=zipped)
    for read in (*READERS, checkpoint.read_meta):
        with pytest.raises(RunError, match=r"is a pickle.*can run any code"):
            read(path)


def test_a_header_whose_length_looks_like_a_pickle_is_none(tmp_path):
    detector = build_detector(META, STATS)
    for padding in range(0, 512, 8):  # headers are padded to eight bytes
        save_checkpoint(tmp_path / "best", detector, meta={**META, "metric": "x" * padding}, stats=STATS)
        if (tmp_path / "best").read_bytes()[:1] == b"\x80":
            break
    assert (tmp_path / "best").read_bytes()[:1] == b"\x80"
    load_detector(tmp_path / "best")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("head.linear.bias"), r"they lack head\.linear\.bias"),
        (lambda state: state.update(more=torch.zeros(1)), "they have too many: more"),
        (
            lambda state: state.update({"head.linear.weight": torch.zeros(1, 3)}),
            r"shapes differ: head\.linear\.weight \(1, 3\) instead of \(1, 256\)",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, change, named):
    detector = build_detector(META, STATS)
    state = detector.state_dict()
    change(state)
    detector.state_dict = lambda: state
    save_checkpoint(tmp_path / "other", detector, meta=META, stats=STATS)
    for read in READERS:
        with pytest.raises(RunError, match=f"do not fit this adapter: {named}"):
            read(tmp_path / "other")


def test_a_description_without_an_adapter_is_refused(tmp_path):
    meta = {name: value for name, value in META.items() if name != "channels"}
    save_checkpoint(tmp_path / "bare", build_detector(META, STATS), meta=meta, stats=STATS)
    with pytest.raises(RunError, match="does not describe a detector: KeyError: 'channels'"):
        load_detector(tmp_path / "bare")
