"""The plan that needs the least memory, for runs whose report names only the planner.

Alpa's tables name a search space instead of degrees. A run of such a row that ran out of memory
is predicted to do so where no plan of its space fits.
"""

from collections.abc import Iterator
from dataclasses import replace

from .._constants import MemoryConstants
from .._memory import Memory
from .._parallel import Parallelism
from ..errors import CostModelError
from ._rows import Run


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def admissible(run: Run) -> Iterator[Parallelism]:
    """Plans of a planner's space.

    Alpa's "inter_only" puts whole operators on devices: a pipeline, with no axis inside a stage;
    its "auto_sharding" splits operators and has no pipeline. Everything else may do both. State
    that is split over the data-parallel axis comes with splitting operators.
    """
    words = run.planner
    devices, model = run.topology.devices, run.model
    pipeline_only = "inter_only" in words
    stages = [1] if "auto_sharding" in words or "intra_only" in words else _divisors(devices)
    for pp in stages:
        if pp > model.layers or (pipeline_only and pp != min(devices, model.layers)):
            continue
        for tp in _divisors(devices // pp):
            dp = devices // (tp * pp)
            if model.heads % tp or dp > run.global_batch or (pipeline_only and tp > 1):
                continue
            for ep in _divisors(dp) if model.experts and not pipeline_only else [1]:
                if model.experts and model.experts % ep:
                    continue
                zeros = (0,) if pipeline_only else (0, 2, 3) if pp == 1 else (0, 2)
                for zero in zeros:
                    yield Parallelism(
                        tp=tp, pp=pp, dp=dp, ep=ep, zero=zero if dp > 1 else 0, recompute="full"
                    )


def lightest_plan(run: Run, constants: MemoryConstants) -> Memory | None:
    """Memory of the admissible plan that needs least; None where there is no plan.

    Args:
        run: a run without stated degrees.
        constants: what memory holds beyond the closed forms.
    """
    best: Memory | None = None
    for plan in admissible(run):
        try:
            plan.check(run.model, run.topology.devices, run.global_batch)
        except CostModelError:
            continue
        found = replace(run, light=None).predict_memory(constants, plan=plan)
        if best is None or found.bytes < best.bytes:
            best = found
    return best
