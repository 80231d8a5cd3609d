import pytest

from autoshard.cost_model import estimate_inference, model
from autoshard.cost_model._inference import cache_bytes_per_token
from autoshard.cost_model._memory import BUDGET
from autoshard.cost_model.errors import CostModelError


def test_cache_bytes():
    # Llama-3 8B: 2 x 2 bytes x 32 layers x 8 heads x 128.
    assert cache_bytes_per_token(model("llama3-8b")) == 131072
    # Latent attention keeps 512 + 64 numbers per layer.
    assert cache_bytes_per_token(model("deepseek-v3")) == 2 * 61 * 576


def test_decode_is_bound_by_memory_and_prefill_by_arithmetic():
    one = estimate_inference("llama3-8b", "h100:1", batch=1)
    # 8 B weights of two bytes over 3.35 TB/s: 4.8 ms at the very least.
    assert one.tpot_s > 16e9 / 3.35e12
    assert one.terms["compute"] == 0
    assert one.ttft_s > 2 * 8e9 * 1024 / 989e12
    many = estimate_inference("llama3-8b", "h100:1", batch=64)
    assert many.tokens_per_s > 10 * one.tokens_per_s
    assert many.tpot_s > one.tpot_s


def test_batch_limit_is_where_the_cache_fills_the_memory():
    found = estimate_inference("llama3-70b", "h100:8", batch=1)
    limit = found.batch_limit
    full = estimate_inference("llama3-70b", "h100:8", batch=limit)
    assert full.weight_bytes + full.cache_bytes <= BUDGET * 80e9
    with pytest.raises(CostModelError, match=f"batch={limit + 1}.*1 to {limit}"):
        estimate_inference("llama3-70b", "h100:8", batch=limit + 1)


def test_narrow_weights_and_more_devices_are_faster():
    base = estimate_inference("llama3-70b", "h100:8").tpot_s
    assert estimate_inference("llama3-70b", "h100:8", precision="fp8").tpot_s < base
    assert estimate_inference("llama3-70b", "h100:4").terms["weights"] == pytest.approx(
        2 * estimate_inference("llama3-70b", "h100:8").terms["weights"]
    )


def test_experts_are_read_as_the_batch_meets_them():
    few = estimate_inference("mixtral-8x7b", "h100:4", batch=1)
    many = estimate_inference("mixtral-8x7b", "h100:4", batch=64)
    assert few.terms["weights"] < 0.4 * many.terms["weights"]


def test_price():
    found = estimate_inference("llama3-8b", "h100:1", dollars_per_device_hour=2.0)
    assert found.price == pytest.approx(2.0 / 3600 / found.tokens_per_s * 1e6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tp": 3}, "Set tp=8"),
        ({"batch": 0}, "batch=0"),
        ({"prompt": -5}, "prompt=-5"),
        ({"tp": 2, "pp": 2}, "8 devices"),
    ],
)
def test_bad_input(settings, message):
    with pytest.raises(CostModelError, match=message):
        estimate_inference("llama3-8b", "h100:8", **settings)


def test_weights_that_do_not_fit():
    with pytest.raises(CostModelError, match="fits"):
        estimate_inference("llama3-405b", "h100:8")
