"""DeepSpeed's ZeRO checkpoints, whose files say how parameters lie in the fragments.

Stages 1 and 2 flatten each group of parameters, pad it, and cut it over the ranks. Stage 3 cuts
each parameter by itself, padded to a multiple of the ranks, and joins what a rank has of all of
them. The order and shapes of parameters are `param_shapes` in the files of model states. From these
a layout is written, in the language of all others, to a tree with the folders `fp32`, `exp_avg`,
`exp_avg_sq`, … of parameters, and `buffers`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from autoshard.checkpoint._tensors import TensorInfo, TensorSource
from autoshard.checkpoint.layouts import _formats
from autoshard.checkpoint.layouts._names import pattern
from autoshard.checkpoint.layouts._spec import Spec, parse
from autoshard.checkpoint.layouts.formats import DirectorySource
from autoshard.errors import ForeignFileError

_OPAQUE = (
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "deepspeed.utils.tensor_fragment.fragment_address",
)

_OPTIMIZER = pattern(
    "{_kind:zero_pp_rank|bf16_zero_pp_rank}_{dp:d}_mp_rank_{mp:02d}_optim_states.pt"
)
_MODEL = pattern("mp_rank_{mp:02d}_model_states.pt")
_MODEL_OF_RANK = pattern("zero_pp_rank_{dp:d}_mp_rank_{mp:02d}_model_states.pt")

Shapes = list[tuple[str, tuple[int, ...]]]
"""Names and shapes of parameters, in the order in which they were flattened."""


@dataclass(frozen=True, slots=True)
class _StepSource:
    """The files' source, with the step that they say they are of."""

    source: TensorSource

    def tensors(self) -> Mapping[str, TensorInfo]:
        return self.source.tensors()

    def values(self) -> Mapping[str, Any]:
        return self.source.values()

    def metadata(self) -> Mapping[str, Any]:
        values = self.source.values()
        steps = [v for name, v in values.items() if name.endswith("_states.pt/global_steps")]
        return {"step": steps[0]} if steps else {}

    def read(self, name: str, index: Any) -> Any:
        return self.source.read(name, index)

    def close(self) -> None:
        self.source.close()


def open_deepspeed(path: Path, options: _formats.OpenOptions) -> tuple[TensorSource, Spec]:
    """Opens a ZeRO checkpoint and works out its layout.

    Args:
        path: The folder of a step, or the one above it with the file `latest`.
        options: How to read the files.

    Raises:
        ForeignFileError: Files are missing, or say something that contradicts them.
    """
    if (latest := path / "latest").is_file():
        path = path / latest.read_text(encoding="utf-8").strip()
    names = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
    optimizer = {m["dp"]: n for n in names if (m := _OPTIMIZER.match(n)) is not None}
    model = [n for n in names if _MODEL.match(n)]
    of_ranks = [n for n in names if _MODEL_OF_RANK.match(n)]
    parallel = {m["mp"] for n in names if (m := _OPTIMIZER.match(n)) is not None}
    if not optimizer or not (model or of_ranks):
        raise ForeignFileError(
            path,
            f"has no {_OPTIMIZER.text} with {_MODEL.text}; there are {', '.join(names[:6])}",
            "name the folder global_stepN of a ZeRO checkpoint",
        )
    if parallel != {0} or sorted(optimizer) != list(range(len(optimizer))):
        raise ForeignFileError(
            path,
            f"has ranks dp={sorted(optimizer)} and mp={sorted(parallel)}",
            "bring the files of all ranks along; with tensor parallelism, ds_to_universal first",
        )
    chosen = [(model or of_ranks)[0], *(optimizer[dp] for dp in sorted(optimizer))]
    options = _formats.OpenOptions(opaque=(*options.opaque, *_OPAQUE), verify=options.verify)
    torch = _formats.by_name("torch")
    source = _StepSource(
        DirectorySource(path, {n: n for n in chosen}, lambda file: torch.open(file, options))
    )
    return source, _layout(path, source, chosen[0], [optimizer[dp] for dp in sorted(optimizer)])


def _layout(path: Path, source: TensorSource, model: str, optimizer: Sequence[str]) -> Spec:
    groups = _param_shapes(path, source.values(), model)
    infos = source.tensors()
    first = f"{optimizer[0]}/optimizer_state_dict/"
    inside = [name.removeprefix(first) for name in infos if name.startswith(first)]
    file = optimizer[0].replace("_rank_0_mp", "_rank_{dp:d}_mp")
    whole = _Writer(groups=groups, infos=infos, files=optimizer, file=file)
    if any(name.startswith("fp32_flat_groups/") for name in inside):
        rules = whole.stage3(inside)
        stage = 3
    else:
        rules = whole.stage2(path, inside)
        stage = 2
    known = {name for group in groups for name, _ in group}
    text = yaml.safe_dump(
        {
            "layout": f"deepspeed_zero{stage}",
            "source": {"format": "torch"},
            "axes": {"dp": len(optimizer)},
            "rules": [*rules, *_model_rules(model, infos, known)],
        },
        sort_keys=False,
    )
    return parse(text, "deepspeed")


def _param_shapes(path: Path, values: Mapping[str, Any], model: str) -> list[Shapes]:
    prefix = f"{model}/param_shapes/"
    told = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
    groups: dict[str, Shapes] = {}
    for key, shape in told.items():
        number, _, name = key.partition("/")
        group, name = (number, name) if name else ("0", key)
        groups.setdefault(group, []).append((name, tuple(shape)))
    if not groups:
        raise ForeignFileError(path / model, "does not tell param_shapes", "save with ZeRO")
    return [groups[number] for number in sorted(groups, key=int)]


def _model_rules(
    model: str, infos: Mapping[str, TensorInfo], parameters: set[str]
) -> list[dict[str, Any]]:
    """Buffers are kept; parameters are there again, in the type they are computed with."""
    rules: list[dict[str, Any]] = []
    for full in infos:
        if not full.startswith(f"{model}/"):
            continue
        name = full.removeprefix(f"{model}/module/")
        if name in parameters:
            reason = "a copy of fp32, rounded to the type of the computation"
            rules.append({"drop": full, "reason": reason})
        elif name != full:
            rules.append({"from": full, "to": f"buffers/{name}"})
        else:
            rules.append({"drop": full, "reason": "no part of the model"})
    return rules


@dataclass(frozen=True, slots=True, kw_only=True)
class _Writer:
    groups: Sequence[Shapes]
    infos: Mapping[str, TensorInfo]
    files: Sequence[str]
    file: str  # pattern of the optimizer files' names

    def _widths(self, name: str) -> list[int]:
        """Sizes of a flat tensor on the ranks."""
        return [self.infos[f"{file}/optimizer_state_dict/{name}"].size for file in self.files]

    def stage2(self, path: Path, inside: Sequence[str]) -> list[dict[str, Any]]:
        """A rule for each group and kind of state."""
        rules: list[dict[str, Any]] = []
        for name in inside:
            head, _, last = name.rpartition("/")
            if head in ("single_partition_of_fp32_groups",):
                number, state = last, "fp32"
            elif head.startswith("base_optimizer_state/state/"):
                number, state = head.rpartition("/")[2], last
            else:
                rules.append(self._drop(name))
                continue
            if self.infos[f"{self.files[0]}/optimizer_state_dict/{name}"].shape == ():
                rules.append(self._scalar(name, f"{state}_of_group_{number}"))
                continue
            group = self.groups[int(number)]
            widths, numel = self._widths(name), sum(math.prod(s) for _, s in group)
            if sum(widths) < numel:
                raise ForeignFileError(
                    path, f"has {sum(widths)} elements of {name}, its parameters have {numel}"
                )
            rules.append(
                {
                    "from": f"{self.file}/optimizer_state_dict/{name}",
                    "to": [f"{state}/{parameter}" for parameter, _ in group],
                    "ops": [
                        {"shard": {"axis": "dp", "dim": 0, "widths": widths}},
                        {"strip": {"dim": 0, "size": numel, "padded": sum(widths)}},
                        *_cut(group, [math.prod(shape) for _, shape in group]),
                    ],
                }
            )
        return rules

    def stage3(self, inside: Sequence[str]) -> list[dict[str, Any]]:
        """A rule for each kind of state: sub-groups, one after another, hold all parameters."""
        params = [item for group in self.groups for item in group]
        ranks = len(self.files)
        parts = [-(-math.prod(shape) // ranks) for _, shape in params]
        states: dict[str, list[str]] = {}
        rules: list[dict[str, Any]] = []
        for name in inside:
            head, _, last = name.rpartition("/")
            if head == "fp32_flat_groups":
                states.setdefault("fp32", []).append(name)
            elif not head.startswith("optimizer_state_dict/state/"):
                rules.append(self._drop(name))
            elif self.infos[f"{self.files[0]}/optimizer_state_dict/{name}"].shape == ():
                number = head.rpartition("/")[2]
                rules.append(self._scalar(name, f"{last}_of_group_{number}"))
            else:
                states.setdefault(last, []).append(name)
        for state, names in states.items():
            widths = [self._widths(name)[0] for name in names]
            joined = [{"fuse": {"dim": 0, "widths": widths}}] if len(names) > 1 else []
            # DeepSpeed never writes to this padding: it is whatever the memory held.
            unchecked = {"dim": 0, "check": "none"}
            strip = {**unchecked, "size": sum(parts), "padded": sum(widths)}
            shapes = [
                [
                    {"strip": {**unchecked, "size": math.prod(shape), "padded": part * ranks}},
                    {"unflatten": {"dim": 0, "sizes": list(shape)}},
                ]
                for (_, shape), part in zip(params, parts, strict=True)
            ]
            rules.append(
                {
                    "from": [f"{self.file}/optimizer_state_dict/{name}" for name in names],
                    "to": [f"{state}/{parameter}" for parameter, _ in params],
                    "ops": [
                        *joined,
                        {"strip": strip},
                        {"fused": {"dim": 0, "widths": parts}},
                        {"shard": {"axis": "dp", "dim": 0}},
                        {"parts": shapes},
                    ],
                }
            )
        return rules

    def _scalar(self, name: str, to: str) -> dict[str, Any]:
        source = f"{self.file}/optimizer_state_dict/{name}"
        return {"from": source, "op": "replicated", "axis": "dp", "to": to}

    def _drop(self, name: str) -> dict[str, Any]:
        source = f"{self.file}/optimizer_state_dict/{name}"
        return {"drop": source, "reason": "no state of a parameter"}


def _cut(group: Shapes, widths: Sequence[int]) -> list[dict[str, Any]]:
    shapes = [[{"unflatten": {"dim": 0, "sizes": list(shape)}}] for _, shape in group]
    return [{"fused": {"dim": 0, "widths": list(widths)}}, {"parts": shapes}]
