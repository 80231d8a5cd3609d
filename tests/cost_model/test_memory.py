from typing import Any

import pytest

from autoshard.cost_model import (
    MemoryConstants,
    Parallelism,
    Transformer,
    layer_activation_bytes,
    model,
    stack,
    training_memory,
)

# Korthikanti et al. (arXiv:2205.05198), section 4: bytes of one layer, as closed forms.
S, B, H, A = 2048, 4, 6144, 64
MODEL = model("gpt-22b")
BARE = MemoryConstants(reserve=0.0, buffer_bytes=0.0, activations=1.0, logits=1.0)


def _layer(**settings):
    return layer_activation_bytes(MODEL, Parallelism(microbatch=B, **settings), flash=False)


def test_korthikanti_closed_forms():
    sbh = S * B * H
    assert _layer() == 34 * sbh + 5 * A * S * S * B
    assert _layer(tp=8) == pytest.approx(sbh * (10 + 24 / 8 + 5 * A * S / (H * 8)))
    assert _layer(tp=8, sequence_parallel=True) == pytest.approx(sbh / 8 * (34 + 5 * A * S / H))
    selective = _layer(tp=8, sequence_parallel=True, recompute="selective")
    assert selective == pytest.approx(34 * sbh / 8)
    assert _layer(recompute="full") == 2 * sbh
    assert _layer(tp=8, recompute="save_qkv") == pytest.approx(2 * sbh + 6 * sbh / 8)


@pytest.mark.parametrize(
    ("zero", "weights", "gradients", "optimizer"),
    [(0, 2, 2, 12), (1, 2, 2, 12 / 8), (2, 2, 2 / 8, 12 / 8), (3, 2 / 8, 2 / 8, 12 / 8)],
)
def test_zero_stages(zero, weights, gradients, optimizer):
    found = training_memory(
        MODEL, Parallelism(dp=8, zero=zero), stack("megatron"), microbatches=1, constants=BARE
    )
    p = MODEL.layers * MODEL.layer_parameters + MODEL.vocab * MODEL.hidden
    assert found.parts["weights"] == pytest.approx(weights * p)
    assert found.parts["gradients"] == pytest.approx(gradients * p)
    assert found.parts["optimizer"] == pytest.approx(optimizer * p)


def test_parts_add_up():
    found = training_memory(MODEL, Parallelism(tp=8, pp=4), stack("megatron"), microbatches=8)
    assert sum(found.parts.values()) == pytest.approx(found.bytes)


@pytest.mark.parametrize(
    ("settings", "held"),
    [
        ({"pp": 4, "schedule": "1f1b"}, 4),
        ({"pp": 4, "schedule": "gpipe"}, 16),
        ({"pp": 4, "vpp": 2}, 4 * (1 + 3 / 8)),
        ({"pp": 4, "schedule": "zb-h2"}, 7),
        ({"pp": 1}, 1),
    ],
)
def test_microbatches_in_flight(settings, held):
    plan = Parallelism(recompute="full", **settings)
    found = training_memory(
        MODEL, plan, stack("megatron"), microbatches=16, constants=BARE, stage_only=0
    )
    per_layer = layer_activation_bytes(MODEL, plan, flash=False)
    layers = MODEL.layers / plan.pp
    stem = 2 * S * H
    assert found.parts["activations"] == pytest.approx(held * (layers * per_layer + stem))


def test_the_last_stage_can_be_the_fullest():
    # A vocabulary of 256k costs more than the activations that the first stage holds.
    wide = Transformer(layers=8, hidden=1024, heads=16, vocab=262144, seq=2048)
    found = training_memory(
        wide, Parallelism(pp=4, microbatch=4, recompute="full"), stack("generic"), microbatches=8
    )
    assert found.stage == 3
    assert found.parts["logits"] == 10 * 4 * 2048 * 262144


def test_more_of_anything_never_needs_less():
    def size(**settings):
        base: dict[str, Any] = {"tp": 2, "dp": 4, "microbatch": 2}
        plan = Parallelism(**{**base, **settings})
        return training_memory(MODEL, plan, stack("autoshard"), microbatches=2).bytes

    assert size(microbatch=4) > size()
    sizes = [size(recompute=policy) for policy in ("full", "save_qkv", "selective", "none")]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 4
    assert size(zero=3) < size(zero=2) < size(zero=1) < size()
    assert size(tp=4) < size()


def test_zero3_under_a_pipeline_stays_gathered():
    flat = training_memory(MODEL, Parallelism(dp=8, zero=3), stack("generic"), microbatches=8)
    piped = training_memory(
        MODEL, Parallelism(dp=2, pp=4, zero=3), stack("generic"), microbatches=8
    )
    stage = MODEL.parameters / 4
    assert piped.parts["gathered"] > 5 * stage
    assert flat.parts["gathered"] < 3 * stage
