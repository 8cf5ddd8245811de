import open_clip
import pytest
import torch

from d2st.cache.errors import ConfigError, UnknownNameError
from d2st.pipeline.clip.models import build_visual, image_size_of, model_config, model_names


def test_our_models_and_the_usual_ones_are_offered():
    names = model_names()
    assert {"d2st-demo", "d2st-test", "ViT-B-16", "ViT-B-16-quickgelu", "ViT-L-14", "ViT-L-14-336"} <= set(names)
    assert not {"RN50", "convnext_base", "ViT-B-16-SigLIP"} & set(names)


@pytest.mark.parametrize("spelling", ["ViT-B/16", "vit-b-16", "ViT-B-16"])
def test_usual_spellings_find_the_model(spelling):
    assert model_config(spelling)[0] == "ViT-B-16"


def test_an_unknown_name_lists_close_ones():
    with pytest.raises(UnknownNameError, match="ViT-L-14-336"):
        model_config("ViT-L-14-366")


@pytest.mark.parametrize(("name", "why"), [("RN50", "ResNet"), ("ViT-B-16-SigLIP", "timm"), ("MobileCLIP-S1", "timm")])
def test_towers_that_cannot_be_tapped_are_refused_with_the_reason(name, why):
    with pytest.raises(ConfigError, match=rf"{why}.*Supported are"):
        model_config(name)


@pytest.mark.parametrize("name", ["d2st-demo", "ViT-S-32", "roberta-ViT-B-32", "coca_ViT-B-32"])
def test_the_tower_is_that_of_the_full_model(name):
    """Same tensors and activation as open_clip's own construction, with a text tower that we never build."""
    name, config = model_config(name)
    with torch.device("meta"):
        ours = build_visual(config)
        plain = dict(config["text_cfg"])
        plain = {} if "hf_model_name" in plain else plain
        theirs = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], plain, config.get("quick_gelu", False)).visual
    assert str(ours) == str(theirs)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert not ours.training
    assert not any(parameter.requires_grad for parameter in ours.parameters())


def test_only_sizes_that_work_are_suggested():
    name, config = model_config("d2st-test")
    for wanted, suggested in ((-16, "such as 8;"), (0, "such as 8;"), (33, "such as 32 or 40;")):
        with pytest.raises(ConfigError) as caught:
            image_size_of(name, config, wanted)
        assert suggested in str(caught.value)
