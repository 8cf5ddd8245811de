import open_clip
import pytest

from d2st.cache.errors import ConfigError, WeightsError
from d2st.pipeline.clip.models import model_config, model_names
from d2st.pipeline.clip.pretrained import fetch, parse_pretrained


def parse(name, pretrained):
    return parse_pretrained(*model_config(name), pretrained)


def test_a_tag_brings_its_own_normalisation():
    assert parse("ViT-L-14", "laion2b_s32b_b82k").mean == (0.5, 0.5, 0.5)
    assert parse("ViT-L-14-quickgelu", "openai").mean == tuple(open_clip.OPENAI_DATASET_MEAN)
    assert parse("ViT-L-14-CLIPA", "datacomp1b").std == tuple(open_clip.constants.IMAGENET_STD)


@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-32", "ViT-L-14", "ViT-L-14-336"])
def test_openai_weights_need_the_quickgelu_model(name):
    with pytest.raises(ConfigError, match=f"Use the backbone {name}-quickgelu"):
        parse(name, "openai")
    assert parse(f"{name}-quickgelu", "openai").tag == "openai"


def test_no_pair_with_the_wrong_activation_gets_through():
    """Every model and tag of open_clip: accepted exactly when the two agree."""
    for name in model_names():
        quick = bool(open_clip.get_model_config(name).get("quick_gelu", False))
        for tag in open_clip.list_pretrained_tags_by_model(name):
            agree = bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)) == quick
            if agree:
                assert parse(name, tag).tag == tag
            else:
                with pytest.raises(ConfigError, match="GELU"):
                    parse(name, tag)


def test_a_quickgelu_model_with_weights_of_the_plain_one_names_their_holder():
    with pytest.raises(ConfigError, match="ViT-B-16,"):
        parse("ViT-B-16-quickgelu", "laion2b_s34b_b88k")


def test_unknown_tags_list_the_known_ones():
    with pytest.raises(ConfigError, match=r"neither a file nor a pretrained tag.*openai, dfn2b"):
        parse("ViT-B-16-quickgelu", "opneai")


@pytest.mark.parametrize("text", ["random:", "random:x", "random:-1", "random:1.5", "random:٣"])
def test_a_random_start_needs_a_seed(text):
    with pytest.raises(ConfigError, match="random:0"):
        parse("d2st-test", text)


def test_files_are_named_without_their_folder(tmp_path):
    file = tmp_path / "w.safetensors"
    file.touch()
    assert parse("d2st-test", str(file)).label == "w.safetensors"
    source = parse("ViT-B-16-quickgelu", f"openai={file}")
    assert (source.label, source.path, source.tag) == ("openai=w.safetensors", file, "openai")
    with pytest.raises(ConfigError, match="quickgelu"):
        parse("ViT-B-16", f"openai={file}")


def test_a_file_whose_normalisation_is_open_must_name_its_tag(tmp_path):
    file = tmp_path / "w.safetensors"
    file.touch()
    with pytest.raises(ConfigError, match=r"TAG=w\.safetensors"):
        parse("ViT-L-14", str(file))
    assert parse("ViT-L-14", f"laion2b_s32b_b82k={file}").mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("text", ["gone.safetensors", "openai=gone.pt"])
def test_a_missing_file_is_said_to_be_missing(text):
    with pytest.raises(WeightsError, match="there is no weights file"):
        parse("ViT-B-16-quickgelu", text)


def test_a_failed_download_says_where_to_get_the_file(monkeypatch):
    def offline(entry):
        raise FileNotFoundError("no route\nto host")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)
    source = parse("ViT-B-16-quickgelu", "openai")
    with pytest.raises(
        WeightsError, match=r"no route\. Download .*huggingface\.co/timm/vit_base_patch16_clip_224\.openai .* openai=FILE"
    ):
        fetch("ViT-B-16-quickgelu", source)
