"""What the `pretrained` string means: which weights, and which preprocessing and activation belong to them.

    openai                  a tag of open_clip, downloaded (or taken from its download cache)
    weights.safetensors     a local file (.safetensors, .pt, .pth, .bin)
    openai=weights.pt       a local file that holds the weights of a tag: takes the tag's mean, std and activation check
    random:7                open_clip's random initialisation from seed 7

The one decision: a wrong pair is an error, never a warning. OpenAI's weights (and MetaCLIP's, DFN's and others') were trained
with QuickGELU, and a model with plain GELU reads them without complaint and gives wrong features; open_clip marks such tags
by `quick_gelu` and the models by their configuration, so the two are compared. A file alone can't tell: name its tag.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip

from d2st.cache.errors import ConfigError, UsageError, WeightsError

__all__ = ["Source", "fetch", "parse_pretrained"]

_Triple = tuple[float, float, float]
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Source:
    """Where weights come from. Exactly one of `seed`, `path` and `tag` leads; `path` with `tag` is a tag's local file.

    `label` is what may be stored: it never holds a folder. `mean` and `std` are per RGB channel, for pixels in [0, 1].
    """

    label: str
    mean: _Triple
    std: _Triple
    seed: int | None = None
    path: Path | None = None
    tag: str | None = None


def parse_pretrained(name: str, config: dict[str, Any], pretrained: str) -> Source:
    """Read the `pretrained` string for the model `name` with `config` (both from `models.model_config`).

    Raises ConfigError for an unknown tag, a seed that is no number, weights whose activation is not the model's, or a file
    whose tag must be named; WeightsError when it names a file that does not exist.
    """
    if pretrained.startswith("random:"):
        seed = pretrained.removeprefix("random:")
        if not re.fullmatch(r"[0-9]{1,18}", seed):
            raise UsageError(f"{pretrained!r} has no seed", fix="Use random:SEED with a whole number, such as random:0")
        return Source(f"random:{int(seed)}", *_agreed(name, config)[0], seed=int(seed))
    head, equals, tail = pretrained.partition("=")
    if tag := _known_tag(head if equals else pretrained):
        tag = _matching_tag(name, config, tag)
        entry = open_clip.get_pretrained_cfg(name, tag)
        mean, std = tuple(entry["mean"]), tuple(entry["std"])
        if not equals:
            return Source(tag, mean, std, tag=tag)
        path = _existing(tail)
        return Source(f"{tag}={path.name}", mean, std, path=path, tag=tag)
    if Path(pretrained).is_file() or Path(pretrained).suffix in _SUFFIXES:
        path = _existing(pretrained)
        choices = _agreed(name, config)
        if len(choices) > 1:
            raise ConfigError(
                f"weights of {name} come with different pixel normalisations, and the file {path.name!r} does not tell which",
                fix=f"Say which tag it is, or was trained from: TAG={path.name}",
            )
        return Source(path.name, *choices[0], path=path)
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
    raise ConfigError(
        f"{pretrained!r} is neither a file nor a pretrained tag",
        fix=f"Tags of {name}: {tags}. A local .safetensors or .pt file and random:SEED work too",
    )


def fetch(name: str, source: Source) -> Path:
    """Path of the weights file of a source that is not random; downloads a tag. Raises WeightsError when that fails."""
    if source.path is not None:
        return source.path
    entry = open_clip.get_pretrained_cfg(name, source.tag)
    place = entry.get("url", "")
    if hub := entry.get("hf_hub", ""):  # "owner/repository/" or "owner/repository/file"
        owner, repository, file = hub.split("/", 2)
        place = f"https://huggingface.co/{owner}/{repository} ({file or 'open_clip_model.safetensors or the like'})"
    try:
        path = open_clip.download_pretrained(entry)
    except Exception as error:  # whatever the HTTP client, the hub client or the checksum raises: the user's remedy is the same
        raise WeightsError(
            f"the weights {source.tag!r} of {name} could not be downloaded: {_first_line(error)}",
            fix=f"Download them on a connected machine from {place} and pass {source.tag}=FILE",
        ) from error
    return Path(path)


def _known_tag(text: str) -> str | None:
    """`text` as open_clip spells its tags, when any model has such a tag."""
    tag = text.lower().replace("-", "_")
    return tag if open_clip.list_pretrained_models_by_tag(tag) else None


def _matching_tag(name: str, config: dict[str, Any], tag: str) -> str:
    """Return `tag` when the model has it and was trained with the model's activation, else raise ConfigError."""
    holders = open_clip.list_pretrained_models_by_tag(tag)
    entry = open_clip.get_pretrained_cfg(name, tag)
    quick = bool(config.get("quick_gelu", False))
    if not entry:
        own = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ConfigError(
            f"backbone {name!r} has no weights {tag!r}; they exist for {', '.join(sorted(holders))}", fix=f"Its own: {own}"
        )
    if bool(entry.get("quick_gelu", False)) == quick:
        return tag
    trained, has = ("QuickGELU", "GELU") if not quick else ("GELU", "QuickGELU")
    right = name.removesuffix("-quickgelu") if quick else f"{name}-quickgelu"
    usable = right != name and right in open_clip.list_models()
    fix = f"Use the backbone {right}" if usable else "Choose other weights"
    raise ConfigError(f"the weights {tag!r} were trained with {trained}, but backbone {name!r} computes {has}", fix=fix)


def _agreed(name: str, config: dict[str, Any]) -> list[tuple[_Triple, _Triple]]:
    """The (mean, std) pairs of the model's tags that share its activation; OpenAI's when there is no such tag."""
    quick = bool(config.get("quick_gelu", False))
    entries = [open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)]
    pairs = {(tuple(e["mean"]), tuple(e["std"])) for e in entries if bool(e.get("quick_gelu", False)) == quick}
    return sorted(pairs) or [(open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)]


def _existing(path: str) -> Path:
    if not Path(path).is_file():
        raise WeightsError(f"there is no weights file {path!r}", fix="Check the path")
    return Path(path)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
