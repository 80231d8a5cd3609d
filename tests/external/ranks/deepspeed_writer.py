"""Trains a little with DeepSpeed and saves a checkpoint, as one rank of several.

python deepspeed_writer.py STAGE float32|bfloat16 DIRECTORY
"""

# torch and what is built on it may be absent.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false

import os
import sys

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
import torch


class Net(torch.nn.Module):
    """Sizes that no number of ranks divides."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Linear(7, 5)
        self.b = torch.nn.Linear(5, 3, bias=False)
        self.norm = torch.nn.LayerNorm(5)
        self.register_buffer("shift", torch.arange(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.b(torch.tanh(self.norm(self.a(x)))) + self.shift).pow(2).mean()


def groups(net: torch.nn.Module) -> list[dict]:
    """Two groups of parameters: matrices decay, vectors do not."""
    found = list(net.parameters())
    return [
        {"params": [p for p in found if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in found if p.ndim == 1], "weight_decay": 0.0},
    ]


def batch(step: int, rank: int) -> torch.Tensor:
    return torch.randn(1, 7, generator=torch.Generator().manual_seed(10 * step + rank))


def main() -> None:
    stage, dtype, directory = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.manual_seed(0)
    net = Net()
    config = {
        "train_batch_size": int(os.environ["WORLD_SIZE"]),
        "train_micro_batch_size_per_gpu": 1,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "torch_adam": True}},
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "gradient_clipping": 1.0,
        "bf16": {"enabled": dtype == "bfloat16"},
    }
    engine, *_ = deepspeed.initialize(model=net, config=config, model_parameters=groups(net))
    for step in range(3):
        x = batch(step, int(os.environ["RANK"])).to(getattr(torch, dtype))
        engine.backward(engine(x))
        engine.step()
    engine.save_checkpoint(directory)
    torch.distributed.barrier()


if __name__ == "__main__":
    main()
