"""Frozen CLIP: face crops in, token maps of the tapped blocks out."""

from d2st.pipeline.clip.backbone import Backbone, default_precision, load_backbone
from d2st.pipeline.clip.encode import Encoder, Tokens
from d2st.pipeline.clip.layers import resolve_layers

__all__ = ["Backbone", "Encoder", "Tokens", "default_precision", "load_backbone", "resolve_layers"]
