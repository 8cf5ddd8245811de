"""Token maps to scores: adapters, the head, and the detector made of both."""

from d2st.adapter.nets.detector import Detector, Head, Output
from d2st.adapter.nets.registry import adapter_names, adapter_params, adapter_summary, build_adapter
from d2st.adapter.nets.size import clip_flops, count_parameters

__all__ = [
    "Detector",
    "Head",
    "Output",
    "adapter_names",
    "adapter_params",
    "adapter_summary",
    "build_adapter",
    "clip_flops",
    "count_parameters",
]
