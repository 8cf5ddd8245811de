"""Every option is in one list or the other: what changes stored bytes is in the fingerprint, and nothing else is."""

import inspect
from dataclasses import fields, replace

import pytest

from d2st.cache.fingerprint import fingerprint
from d2st.cli.cache.build import build as build_command
from d2st.cli.cache.encode import encode as encode_command
from d2st.pipeline.build.crop import CropSettings, declared_crops
from d2st.pipeline.build.run import build, declared_tokens
from d2st.pipeline.clip import Encoder, load_backbone
from d2st.pipeline.faces import build_detector

CHANGES = {  # option of `cache build` -> another value than that of BASE
    "backbone": "d2st-demo",
    "pretrained": "random:1",
    "image_size": 48,
    "layers": ("block_1",),
    "frames": 5,
    "sampling": "clip",
    "crop_size": 40,
    "margin": 1.5,
    "detector": "mtcnn",
    "micro_batch": 4,
    "precision": "bf16",
    "dtype": "bfloat16",
}
BASE = {
    "backbone": "d2st-test",
    "pretrained": "random:0",
    "image_size": None,  # the model's own, 32 px
    "layers": ("block_0", "block_2"),
    "frames": 4,
    "sampling": "even",
    "crop_size": 32,
    "margin": 1.3,
    "detector": "none",
    "micro_batch": 8,
    "precision": "fp32",
    "dtype": "float16",
}
# which samples, where they and the store are, on what machine, by how many, and what is shown: none of it changes a sample's bytes
CHANGES_NOTHING = {"manifest", "cache", "root", "device", "workers", "shard", "retry", "as_json"}
WITNESSED = {"detector_weights"}  # by their digest, like `pretrained`: the file's name does not matter, its content does


def config(*, device: str = "cpu", **options) -> dict:
    chosen = {**BASE, **options}
    settings = CropSettings(chosen["frames"], chosen["sampling"], chosen["crop_size"], chosen["margin"])
    backbone = load_backbone(
        *(chosen["backbone"], chosen["pretrained"]),
        device=device,
        precision=chosen["precision"],
        image_size=chosen["image_size"],
    )
    encoder = Encoder(backbone, chosen["layers"], micro_batch=chosen["micro_batch"], dtype=chosen["dtype"])
    return declared_tokens(encoder, settings, build_detector(chosen["detector"], device=device))


def test_every_option_of_the_commands_is_in_one_list():
    assert set(CHANGES) == set(BASE)
    assert set(inspect.signature(build_command).parameters) == set(CHANGES) | CHANGES_NOTHING | WITNESSED
    crops_alone = {"frames", "sampling", "crop_size", "margin", "detector"}
    of_the_set = {"name", "view"}  # one says where, as `cache` does; a view is declared with the set, see test_views.py
    assert set(inspect.signature(encode_command).parameters) <= set(CHANGES) - crops_alone | CHANGES_NOTHING | of_the_set


def test_every_argument_of_build_is_in_one_list():
    pieces = {"detector", "settings", "encoder"}  # declare themselves: see below
    others = {"manifest", "store_path", "root", "workers", "part", "retry", "on_progress"}
    assert set(inspect.signature(build).parameters) == pieces | others


@pytest.mark.parametrize("option", CHANGES)
def test_each_of_the_first_list_changes_the_fingerprint(option):
    assert fingerprint(config(**{option: CHANGES[option]})) != fingerprint(config())


def test_the_same_options_give_the_same_fingerprint():
    assert fingerprint(config()) == fingerprint(config())
    assert fingerprint(config(dtype="int8")) not in {fingerprint(config()), fingerprint(config(dtype="bfloat16"))}


def test_other_detector_weights_change_the_fingerprint():
    detector = build_detector("none")
    other = type("Other", (), {"name": detector.name, "digest": "0123", "detect": detector.detect})()
    settings = CropSettings()
    assert fingerprint(declared_crops(settings, other)) != fingerprint(declared_crops(settings, detector))


@pytest.mark.parametrize("field", fields(CropSettings), ids=lambda field: field.name)
def test_every_crop_setting_is_declared(field):
    settings, detector = CropSettings(), build_detector("none")
    value = getattr(settings, field.name)
    other = {"sampling": "clip"}.get(field.name, value * 2 if not isinstance(value, str) else None)
    changed = declared_crops(replace(settings, **{field.name: other}), detector)
    assert fingerprint(changed) != fingerprint(declared_crops(settings, detector))


def test_every_declared_value_counts():
    """Each leaf of the config, changed by itself, gives another fingerprint."""
    base = config()

    def leaves(value, path=()):
        if isinstance(value, dict):
            for key in value:
                yield from leaves(value[key], (*path, key))
        else:
            yield path

    for path in leaves(base):
        changed = config()
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = "another value"
        assert fingerprint(changed) != fingerprint(base), path
