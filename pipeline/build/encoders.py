"""The encoder that made a token set, built again from the set's config: to add layers, to mend shards, or to encode a view beside it."""

from pathlib import Path
from typing import Any

from d2st.cache.errors import WeightsError
from d2st.cache.fingerprint import check_same
from d2st.cache.level import Level
from d2st.cache.store import Store
from d2st.cache.views import VIEW
from d2st.pipeline.clip import Encoder, load_backbone, resolve_layers

__all__ = ["encoder_like", "view_encoder"]


def encoder_like(
    base: Level,
    layers: str,
    pretrained: str | None,
    device: str,
    *,
    image_size: int | None = None,
    precision: str | None = None,
    micro_batch: int | None = None,
    dtype: str | None = None,
) -> Encoder:
    """The encoder that made `base`, for other layers; with another image size, precision, micro-batch or dtype where they are given.

    Args:
        layers: as for `resolve_layers`.
        pretrained: where the weights are, when it is not what the set was made with by name; they must be the same weights.

    Raises:
        WeightsError: the weights can't be found, or are others.
        FingerprintError: this version of d2st would encode otherwise.
    """
    changes = {"image_size": image_size, "precision": precision, "micro_batch": micro_batch, "dtype": dtype}
    config: dict[str, Any] = {**base.config, **{field: value for field, value in changes.items() if value is not None}}
    source = pretrained or base.notes.get("pretrained") or ""
    fix = "Name the weights that the token set was made with, a tag or a file, by --pretrained"
    try:
        backbone = load_backbone(
            config["backbone"], source, device=device, precision=config["precision"], image_size=config["image_size"]
        )
    except WeightsError as error:
        raise WeightsError(f"{error.message} ({error.fix})" if error.fix else error.message, fix=fix) from error
    if backbone.weights_digest != config["weights_digest"]:
        raise WeightsError(f"the weights of {backbone.name} from {source!r} are not those of {base.path}", fix=fix)
    encoder = Encoder(
        backbone, resolve_layers(layers, backbone.depth), micro_batch=config["micro_batch"], dtype=config["dtype"]
    )
    free = {"layers", "crops", VIEW, *(["quantisation"] if dtype is not None else [])}
    there, here = ({name: values[name] for name in values.keys() - free} for values in (config, encoder.declared()))
    check_same(there, here, where=str(base.path), fix="Use the d2st that built it")
    return encoder


def view_encoder(
    store_path: Path, name: str, *, layers: str | None, pretrained: str | None, device: str, **changes: Any
) -> Encoder:
    """The encoder of a view: the one that made the store's main set, so that the two can be mixed; or that made the view, if it is begun.

    Args:
        name: of the view's token set.
        layers: others than it has.
        pretrained, changes: as for `encoder_like`.

    Raises:
        StoreError: there is no main set.
        WeightsError, FingerprintError: as `encoder_like` does.
    """
    store = Store.open(store_path)
    begun = store.token_levels(name)
    base = begun[0] if begun else store.tokens.levels[0]
    present = base.config["layers"] if begun else store.tokens.layers
    return encoder_like(base, layers or ",".join(present), pretrained, device, **changes)
