"""`autoshard train`: a byte-level language model on text files."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from autoshard.cli._options import ModelOptions, option
from autoshard.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from autoshard.cli._loop import Report
    from autoshard.cli._session import Session
    from autoshard.data import BatchSampler, ByteCorpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Train(ModelOptions):
    """Train a byte-level language model on text files.

    Shows the plan, then trains. Without --data the text is the source of Python's own standard
    library. Several processes train one model together when each is started with the same
    --coordinator and --num-processes, and its own --process-id.

    Example: autoshard train gpt-small --mesh data=2,model=4 --emulate 8 --strategy zero3+tensor

    Attributes:
        plan: Follow the plan in this file, from plan --out, instead of planning.
        seq: Tokens (bytes) per sequence.
        steps: Steps to train.
        seconds: Stop earlier, at the first report after this many seconds.
        lr: Peak learning rate of AdamW, after a warm-up; a cosine leads down to a tenth.
        data: Text files, and directories of them.
        seed: Chooses parameters, batches and dropout.
        log_every: Steps between reports.
        checkpoint_dir: Save the state here, one folder a step; the last step always.
        checkpoint_every: Steps between checkpoints.
        checkpoint_keep: So many of the newest stay.
        resume: Go on from the newest checkpoint there, whatever the devices were then.
        json: Print one JSON object at the end instead of the plan and the summary.
        json_log: Write every report to this new file, one JSON object a line.
        coordinator: Address of process 0.
        num_processes: Processes that train together.
        process_id: Which of them this is, from 0.
    """

    plan: Annotated[Path | None, option("FILE", "none")] = None
    seq: Annotated[int, arg(metavar="T")] = 128
    steps: Annotated[int, arg(metavar="N")] = 300
    seconds: Annotated[float | None, option("S", "no limit")] = None
    lr: Annotated[float, arg(metavar="RATE")] = 2e-3
    data: Annotated[tuple[Path, ...], option("PATH ...", "Python's standard library")] = ()
    seed: Annotated[int, arg(metavar="N")] = 0
    log_every: Annotated[int, arg(metavar="N")] = 10
    checkpoint_dir: Annotated[Path | None, option("DIR", "none")] = None
    checkpoint_every: Annotated[int, arg(metavar="N")] = 100
    checkpoint_keep: Annotated[int, arg(metavar="N")] = 3
    resume: bool = False
    json: bool = False
    json_log: Annotated[Path | None, option("FILE", "none")] = None
    coordinator: Annotated[str | None, option("HOST:PORT", "a single process")] = None
    num_processes: Annotated[int | None, option("N", "a single process")] = None
    process_id: Annotated[int | None, option("I", "a single process")] = None

    def run(self) -> int:
        """Trains, reports, and prints a summary."""
        self.check_positive("batch", "seq", "emulate", "steps", "seconds", "lr", "log_every")
        self.check_positive("checkpoint_every", "checkpoint_keep")
        if self.resume and self.checkpoint_dir is None:
            raise UsageError("--resume needs to know from where", "--checkpoint-dir DIR --resume")
        # What can be wrong with the data shows before jax is loaded.
        from autoshard.cli._devices import cluster_from_flags, start_devices

        cluster = cluster_from_flags(self.coordinator, self.num_processes, self.process_id)
        sampler = self._sampler()
        start_devices(self.emulate, cluster)

        from autoshard.cli import _output
        from autoshard.cli._budget import find_budget
        from autoshard.cli._progress import status

        session = self._session()
        with status("planning"):
            plan = session.plan()
        leads = cluster is None or cluster.process_id == 0
        if leads and not self.json:
            _output.print_plan(plan)
            _output.print_verdict(_output.judge(plan, find_budget(None, None, None)))
        summary = {
            "model": self.model,
            "strategy": plan.strategy,
            "mesh": plan.mesh_shape,
            **self._train(session, sampler, leads=leads),
        }
        if leads and self.json:
            _output.print_json(summary)
        elif leads:
            print(_summary_text(summary))
        return ExitCode.OK

    def _train(self, session: "Session", sampler: "BatchSampler", *, leads: bool) -> dict[str, Any]:
        """Runs the steps, reports if this process leads, and sums up."""
        from rich.console import Console

        from autoshard.cli._json_log import JsonLog
        from autoshard.cli._keeper import open_keeper
        from autoshard.cli._loop import run_steps
        from autoshard.cli._progress import make_reporter
        from autoshard.data import split_next_token

        share, shares = session.share()

        def batch_of(index: int) -> Any:
            rows = sampler.tokens(index, process_index=share, process_count=shares)
            return session.shard(split_next_token(rows))

        stderr = Console(stderr=True, quiet=not leads)
        stderr.print(_describe(sampler.corpus), highlight=False, soft_wrap=True)
        reports: list[Report] = []
        keeper = open_keeper(self, session, sampler.corpus)
        start_step, state = keeper.begin(self.resume, self.steps)
        if start_step:
            stderr.print(f"resumed after step {start_step}", highlight=False)
        with (
            keeper,
            JsonLog(self.json_log if leads else None) as log,
            make_reporter(stderr, self.steps) as reporter,
        ):
            for report in run_steps(
                session.step,
                state,
                batch_of,
                steps=self.steps,
                seconds=self.seconds,
                tokens_per_step=self.batch * self.seq,
                report_every=self.log_every,
                start_step=start_step,
                after_step=keeper.after_step,
            ):
                reports.append(report)
                reporter.show(report)
                log.write("report", **asdict(report))
            summary = self._summary(reports)
            log.write("summary", **summary)
        return summary

    def _sampler(self) -> "BatchSampler":
        from autoshard.data import BatchSampler, ByteCorpus

        corpus = ByteCorpus.from_paths(self.data) if self.data else ByteCorpus.standard_library()
        return BatchSampler(corpus=corpus, batch=self.batch, seq=self.seq, seed=self.seed)

    def _session(self) -> "Session":
        from autoshard.cli._optimizer import make_optimizer
        from autoshard.cli._session import build_model, open_session
        from autoshard.models import LanguageModelSpec

        spec = build_model(self, seq=self.seq)
        if not isinstance(spec, LanguageModelSpec):
            raise UsageError(
                f"{self.model} is no language model, and text is what there is to train on",
                "autoshard train gpt-small",
            )
        if spec.config.vocab_size < 256:
            raise UsageError(
                f"vocab_size={spec.config.vocab_size} is too small for the 256 byte values",
                "--set vocab_size=256",
            )
        optimizer = make_optimizer(peak=self.lr, steps=self.steps)
        return open_session(self, spec, optimizer, seq=self.seq, seed=self.seed, plan=self.plan)

    def _summary(self, reports: "list[Report]") -> dict[str, Any]:
        first, last = reports[0], reports[-1]
        tokens = (last.step - first.step) * self.batch * self.seq
        return {
            "steps": last.step,
            "first_loss": first.loss,
            "loss": last.loss,
            "first_step_s": first.time_s,
            "time_s": last.time_s,
            # The first step compiles; it does not count.
            "tokens_per_s": tokens / (last.time_s - first.time_s) if tokens else None,
        }


def _describe(corpus: "ByteCorpus") -> str:
    skipped = f", {len(corpus.skipped)} skipped" if corpus.skipped else ""
    return f"data: {corpus.name}, {len(corpus.files)} files, {len(corpus) / 1e6:.1f} MB{skipped}"


def _summary_text(summary: dict[str, Any]) -> str:
    speed = summary["tokens_per_s"]
    return (
        f"{summary['steps']} steps in {summary['time_s']:.1f} s "
        f"({summary['first_step_s']:.1f} s for the first, with compilation): "
        f"loss {summary['first_loss']:.4f} -> {summary['loss']:.4f}"
        + (f", {speed:,.0f} tokens/s" if speed else "")
    )
