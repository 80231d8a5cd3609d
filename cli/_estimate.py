"""`autoshard estimate`: what a step would cost on hardware that need not be there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from autoshard.cli._options import option
from autoshard.errors import ExitCode, UsageError

Zero = Literal[0, 1, 2, 3]
Recompute = Literal["none", "selective", "save_qkv", "full"]
Precision = Literal["fp32", "bf16", "fp16", "fp8", "int8", "fp4"]
Schedule = Literal["gpipe", "1f1b", "interleaved", "circular", "zb-h1", "zb-h2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Predict step time, throughput and memory of a transformer; needs no devices.

    Exits with 1 if the configuration does not fit into memory.

    Example: autoshard estimate llama3-8b --hardware v5p:4x4x4 --tp 4 --zero 3

    Attributes:
        model: Preset (llama3-8b, gpt3-175b, mixtral-8x7b, ...), or give --layers, --hidden, ....
        hardware: Devices: h100:4x8 (nodes x GPUs), v5e:16x16, v5p:4x4x8, v5e:16x16*4 (slices).
        batch: Sequences per step, over all devices.
        seq: Tokens per sequence.
        layers: Number of layers.
        hidden: Width of the residual stream.
        heads: Query heads.
        kv_heads: Key-value heads.
        ffn: Feed-forward width.
        vocab: Vocabulary.
        experts: Routed experts per layer.
        top_k: Experts per token.
        tp: Tensor parallel degree.
        pp: Pipeline stages.
        dp: Data parallel degree.
        cp: Context parallel degree.
        ep: Expert parallel degree.
        vpp: Virtual stages per stage.
        zero: What is sharded over dp: 0 nothing, 1 optimizer, 2 and gradients, 3 and weights.
        microbatch: Sequences per microbatch and replica.
        recompute: What the backward pass rebuilds: none, selective (attention cores), save_qkv (all
            but queries, keys and values) or full.
        schedule: Pipeline schedule.
        precision: Arithmetic of the matrix products.
        stack: Software: autoshard, maxtext, megatron, torchtitan, llm-foundry, ....
        profile: Calibration written by `autoshard calibrate`.
        shipped: Ignore the stored calibration of this hardware.
        catalog: JSON file with hardware of your own.
        sync_every: Replicas synchronize every this many steps (DiLoCo).
        offload_optimizer: Share of the optimizer state kept in host memory.
        price: Dollars per device and hour.
        sweep: Price every admissible configuration and rank them.
        inference: Price prefill and decode instead of training.
        prompt: Tokens of a prompt (inference).
        output: Tokens of an answer (inference).
        json: Print one JSON object instead of tables.
        html: Write a self-contained page with charts.
        chart: Write a picture: .html, .svg, or .png (needs matplotlib).
    """

    model: Annotated[Positional[str], arg(metavar="[MODEL]")] = "llama3-8b"
    hardware: Annotated[str, arg(metavar="DEVICE:SHAPE")] = "h100:8"
    batch: Annotated[int | None, option("B", "one microbatch per replica")] = None
    seq: Annotated[int | None, option("S", "the preset's")] = None
    layers: Annotated[int | None, option("L", "the preset's")] = None
    hidden: Annotated[int | None, option("H", "the preset's")] = None
    heads: Annotated[int | None, option("A", "the preset's")] = None
    kv_heads: Annotated[int | None, option("K", "the preset's")] = None
    ffn: Annotated[int | None, option("F", "the preset's")] = None
    vocab: Annotated[int | None, option("V", "the preset's")] = None
    experts: Annotated[int | None, option("E", "the preset's")] = None
    top_k: Annotated[int | None, option("K", "the preset's")] = None
    tp: Annotated[int | None, option("N", "1")] = None
    pp: Annotated[int | None, option("N", "1")] = None
    dp: Annotated[int | None, option("N", "what is left")] = None
    cp: Annotated[int | None, option("N", "1")] = None
    ep: Annotated[int | None, option("N", "1")] = None
    vpp: Annotated[int | None, option("N", "1")] = None
    zero: Annotated[Zero | None, option("STAGE", "0")] = None
    microbatch: Annotated[int | None, option("N", "1")] = None
    recompute: Annotated[Recompute | None, option("POLICY", "none")] = None
    schedule: Annotated[Schedule | None, option("NAME", "1f1b, or interleaved with vpp")] = None
    precision: Precision = "bf16"
    stack: Annotated[str | None, option("NAME", "autoshard; generic on GPUs")] = None
    profile: Annotated[Path | None, option("FILE", "the stored one of this hardware")] = None
    shipped: bool = False
    catalog: Annotated[Path | None, option("FILE", "the shipped catalog")] = None
    sync_every: int = 1
    offload_optimizer: float = 0.0
    price: Annotated[float | None, option("DOLLARS", "none")] = None
    sweep: bool = False
    inference: bool = False
    prompt: int = 1024
    output: int = 256
    json: bool = False
    html: Annotated[Path | None, option("FILE", "none")] = None
    chart: Annotated[Path | None, option("FILE", "none")] = None

    def run(self) -> int:
        """Prices and prints."""
        from autoshard.cost_model.errors import CostModelError

        try:
            if self.sweep and self.inference:
                raise UsageError("--sweep and --inference exclude each other", "--sweep")
            if self.inference:
                return self._inference()
            return self._sweep() if self.sweep else self._training()
        except CostModelError as error:
            raise UsageError(str(error).rstrip("."), "autoshard estimate --help") from error
        except OSError as error:
            raise UsageError(str(error), "--html estimate.html") from error

    def _network(self) -> Any:
        from autoshard.cost_model import model

        given = {
            name: getattr(self, name)
            for name in (
                "seq",
                "layers",
                "hidden",
                "heads",
                "kv_heads",
                "ffn",
                "vocab",
                "experts",
                "top_k",
            )
            if getattr(self, name) is not None
        }
        if "hidden" in given or "heads" in given:
            # Widths that follow from these two are worked out again unless they are given too.
            given = {"head_dim": 0, "kv_heads": 0, **given}
        if "hidden" in given:
            given = {"ffn": 0, **given}
        return model(self.model, **given)

    def _topology(self) -> Any:
        from autoshard.cost_model import load_catalog, parse_topology

        return parse_topology(self.hardware, load_catalog(self.catalog))

    def _profile(self, device: str) -> Any:
        from autoshard.cost_model import installed_profile, load_profile

        if self.profile:
            return load_profile(self.profile)
        return None if self.shipped else installed_profile(device)

    def _draw(self, **what: Any) -> None:
        if self.chart:
            from autoshard.cli._estimate_chart import write_chart

            write_chart(self.chart, **what)

    def _degrees(self) -> dict[str, int]:
        names = ("tp", "pp", "dp", "cp", "ep", "vpp", "microbatch", "zero")
        return {n: getattr(self, n) for n in names if getattr(self, n) is not None}

    def _training(self) -> int:
        from autoshard.cli._estimate_tables import print_training
        from autoshard.cli._output import print_json
        from autoshard.cost_model import Offload, Parallelism, estimate, html_report

        topology = self._topology()
        degrees = self._degrees()
        rest = 1
        for name in ("tp", "pp", "cp"):
            rest *= degrees.get(name, 1)
        degrees.setdefault("dp", max(1, topology.devices // max(rest, 1)))
        found = estimate(
            self._network(),
            topology,
            Parallelism(
                **degrees,
                recompute=self.recompute or "none",
                schedule=self.schedule,
                sequence_parallel=degrees.get("tp", 1) > 1,
            ),
            global_batch=self.batch,
            precision=self.precision,
            stack=self.stack,
            profile=self._profile(topology.device.name),
            offload=Offload(optimizer=self.offload_optimizer) if self.offload_optimizer else None,
            sync_every=self.sync_every,
            dollars_per_device_hour=self.price,
        )
        if self.html:
            self.html.write_text(html_report(found), "utf-8")
        self._draw(estimate=found)
        if self.json:
            print_json(found.to_dict())
        else:
            print_training(found)
        return ExitCode.OK if found.fits else ExitCode.CHECK_FAILED

    def _sweep(self) -> int:
        from autoshard.cli._estimate_tables import print_sweep
        from autoshard.cli._output import print_json
        from autoshard.cost_model import html_report, sweep

        if self.batch is None:
            raise UsageError("--sweep needs the number of sequences per step", "--batch 256")
        choices: dict[str, Any] = {"fixed": self._degrees()}
        if self.recompute is not None:
            choices["recompute"] = (self.recompute,)
        if self.microbatch is not None:
            choices["microbatches"] = (self.microbatch,)
        topology = self._topology()
        found = sweep(
            self._network(),
            topology,
            global_batch=self.batch,
            precision=self.precision,
            stack=self.stack,
            profile=self._profile(topology.device.name),
            **choices,
        )
        if self.html:
            self.html.write_text(html_report(found=found), "utf-8")
        self._draw(found=found)
        if self.json:
            print_json(found.to_dict())
        else:
            print_sweep(found)
        return ExitCode.OK

    def _inference(self) -> int:
        from autoshard.cli._estimate_tables import print_inference
        from autoshard.cli._output import print_json
        from autoshard.cost_model import estimate_inference

        topology = self._topology()
        found = estimate_inference(
            self._network(),
            topology,
            batch=self.batch or 1,
            prompt=self.prompt,
            output=self.output,
            tp=self.tp,
            pp=self.pp or 1,
            precision=self.precision,
            stack=self.stack,
            profile=self._profile(topology.device.name),
            dollars_per_device_hour=self.price,
        )
        if self.json:
            print_json(found.to_dict())
        else:
            print_inference(found)
        return ExitCode.OK
