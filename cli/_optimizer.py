"""The optimizer that `train` uses, and that `plan` plans for: a plan has to fit what is trained."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optax

# AdamW as usual for small transformers: a warm-up, then a cosine down to a tenth. A run too short
# for thirty steps of it warms up for half its length: with fewer, the loss is unstable enough to
# turn rounding into visible differences between meshes.
_WARMUP_SHARE = 0.1
_MIN_WARMUP_STEPS = 30
_FINAL_SHARE = 0.1


def make_optimizer(*, peak: float = 2e-3, steps: int = 300) -> "optax.GradientTransformation":
    """AdamW with a warm-up and a cosine.

    Args:
        peak: Highest learning rate.
        steps: Steps of the run.
    """
    import optax

    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=peak,
        warmup_steps=max(round(_WARMUP_SHARE * steps), min(_MIN_WARMUP_STEPS, steps // 2)),
        decay_steps=max(2, steps),
        end_value=_FINAL_SHARE * peak,
    )
    return optax.adamw(schedule)
