"""Under ZeRO-3 no gathered parameter stays alive beside its layer."""

import jax
import optax
import pytest

from autoshard import models

HIDDEN = 256


def layer_bytes(spec) -> int:
    """Weights of one block."""
    shapes = spec.param_shapes()
    block = shapes["h_0"] if "h_0" in shapes else shapes["h"]
    layers = 1 if "h_0" in shapes else spec.config.layers
    return sum(4 * leaf.size for leaf in jax.tree.leaves(block)) // layers


def temporary_bytes(compile_plan, layers: int, scan: bool, **options):
    spec = models.get(
        "gpt-tiny",
        layers=layers,
        scan_layers=scan,
        hidden=HIDDEN,
        heads=8,
        remat=options.pop("remat", "none"),
    )
    create, step = models.make_training(spec, optax.adamw(1e-3))
    # One short example per device: activations are small beside the weights.
    args = jax.eval_shape(create, jax.random.key(0)), spec.example_batch(8, 8)
    planned = compile_plan(step, args, "zero3", "x=8", **options)
    return planned.temporary_bytes, layer_bytes(spec)


@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
def test_temporaries_do_not_grow_with_the_number_of_layers(compile_plan, scan):
    few, layer = temporary_bytes(compile_plan, 2, scan)
    many, _ = temporary_bytes(compile_plan, 6, scan)
    # A loop stacks the activations of its iterations, a tenth of a layer's weights each.
    assert many - few < (0.1 * 4 if scan else 0.1) * layer
    assert many < 2 * layer  # one layer's weights and gradients, whole


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("scan", [False, True], ids=["unrolled", "scanned"])
def test_donated_only_shards_are_added_per_layer(compile_plan, scan, remat):
    """Gradients then have no result to be written to: a shard of them per layer is temporary.

    A scan's update is one array for all layers, another shard per layer.
    """
    few, layer = temporary_bytes(compile_plan, 2, scan, donate=True, remat=remat)
    many, _ = temporary_bytes(compile_plan, 6, scan, donate=True, remat=remat)
    shards = (2 if scan else 1) * layer / 8
    assert many - few < 4 * (shards + 0.1 * layer)
