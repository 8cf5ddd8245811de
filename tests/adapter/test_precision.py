"""Which precision a run gets, and that it is the one its products have."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from d2st.adapter import precision
from d2st.adapter.precision import autocast, product_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("native", "chosen"), [(True, torch.bfloat16), (False, None)])
def test_auto_takes_bfloat16_only_where_it_is_native(monkeypatch: pytest.MonkeyPatch, native: bool, chosen: object) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert product_dtype("auto", CPU) is chosen
    assert product_dtype("auto", CUDA) is torch.bfloat16
    assert product_dtype("auto", torch.device("meta")) is None


def test_a_torch_without_the_question_gets_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    assert product_dtype("auto", CPU) is None


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_what_is_asked_for_is_given_whatever_the_machine(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    monkeypatch.setattr(precision, "_cpu_multiplies_bfloat16", lambda: pytest.fail("asked the processor"))
    assert product_dtype("float32", device) is None
    assert product_dtype("bfloat16", device) is torch.bfloat16


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="float16"):
        product_dtype("float16", CPU)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_products_have_the_dtype(dtype: torch.dtype | None) -> None:
    x = torch.ones(2, 2)
    with autocast(CPU, dtype):
        assert F.linear(x, x).dtype == (dtype or torch.float32)
    assert F.linear(x, x).dtype == torch.float32


def test_float32_leaves_an_outer_autocast_alone() -> None:
    assert isinstance(autocast(CPU, None), nullcontext)
