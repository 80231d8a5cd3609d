"""One rank of a model of Megatron-Core: saves its part and, where it ends, what it computes.

python megatron_writer.py TENSOR PIPELINE gpt|llama DIRECTORY
"""

# torch and what is built on it may be absent.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false

import argparse
import contextlib
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state, tensor_parallel
from megatron.core.models.gpt import GPTModel
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker
from megatron.core.transformer.transformer_config import TransformerConfig

tensor, pipeline, kind, directory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
HIDDEN, LENGTH = 32, 12
OFF = dict.fromkeys(
    ["bias_dropout_fusion", "gradient_accumulation_fusion", "masked_softmax_fusion",
     "bias_activation_fusion", "apply_rope_fusion", "persist_layer_norm"], False)  # fmt: skip
COMMON = dict(
    num_layers=2, hidden_size=HIDDEN, num_attention_heads=4, use_cpu_initialization=True,
    tensor_model_parallel_size=tensor, pipeline_model_parallel_size=pipeline,
    pipeline_dtype=torch.float32, attention_dropout=0.0, hidden_dropout=0.0, **OFF,
)  # fmt: skip


def build() -> GPTModel:
    if kind == "llama":
        config = TransformerConfig(
            **COMMON, num_query_groups=2, ffn_hidden_size=56, gated_linear_unit=True,
            activation_func=torch.nn.functional.silu, add_bias_linear=False,
            normalization="RMSNorm", layernorm_epsilon=1e-5,
        )  # fmt: skip
        layers = get_gpt_layer_local_spec(normalization="RMSNorm")
        more = {"position_embedding_type": "rope", "share_embeddings_and_output_weights": False}
    else:
        config = TransformerConfig(
            **COMMON, activation_func=lambda x: torch.nn.functional.gelu(x, approximate="tanh")
        )
        layers = get_gpt_layer_local_spec()
        more = {
            "position_embedding_type": "learned_absolute",
            "share_embeddings_and_output_weights": True,
        }
    return GPTModel(
        config, layers, vocab_size=128 * tensor, max_sequence_length=16,
        pre_process=parallel_state.is_pipeline_first_stage(),
        post_process=parallel_state.is_pipeline_last_stage(), **more,
    ).eval()  # fmt: skip


def perturb(model: GPTModel, rank: int) -> None:
    """Norms and biases begin as constants, which would hide mistakes. Copies stay copies."""
    for name, parameter in model.named_parameters():
        cut = getattr(parameter, "tensor_model_parallel", False)
        seed = sum(map(ord, name)) + (1000 * rank if cut else 0)
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        parameter.data += 0.1 * noise


def compute(model: GPTModel) -> torch.Tensor | None:
    """Logits, on the last stage."""
    tokens = torch.arange(2 * LENGTH).reshape(2, LENGTH) % 100
    places = torch.arange(LENGTH).tile(2, 1)
    mask = torch.triu(torch.ones(LENGTH, LENGTH, dtype=torch.bool), 1)[None, None]
    if not parallel_state.is_pipeline_first_stage():
        received = torch.empty(LENGTH, 2, HIDDEN)
        dist.recv(received, parallel_state.get_pipeline_model_parallel_prev_rank())
        model.set_input_tensor(received)
    found = model(tokens, places, mask)
    if not parallel_state.is_pipeline_last_stage():
        dist.send(found.contiguous(), parallel_state.get_pipeline_model_parallel_next_rank())
        return None
    return tensor_parallel.gather_from_tensor_model_parallel_region(found)


def main() -> None:
    dist.init_process_group("gloo")
    parallel_state.initialize_model_parallel(tensor, pipeline)
    torch.cuda.current_device = lambda: torch.device("cpu")  # pyright: ignore
    get_cuda_rng_tracker().fork = lambda *_, **__: contextlib.nullcontext()  # pyright: ignore
    torch.manual_seed(0)
    model = build()
    rank = parallel_state.get_tensor_model_parallel_rank()
    stage = parallel_state.get_pipeline_model_parallel_rank()
    perturb(model, rank)
    # As Megatron-LM's training loop does, which is not in the package.
    name = f"mp_rank_{rank:02d}" if pipeline == 1 else f"mp_rank_{rank:02d}_{stage:03d}"
    folder = Path(directory, "iter_0000003", name)
    folder.mkdir(parents=True)
    content = {
        "args": argparse.Namespace(num_layers=2, hidden_size=HIDDEN),
        "checkpoint_version": 3.0,
        "iteration": 3,
        "model": model.state_dict_for_save_checkpoint(),
    }
    torch.save(content, folder / "model_optim_rng.pt")
    with torch.no_grad():
        logits = compute(model)
    if logits is not None and rank == 0:
        torch.save(logits.float(), Path(directory, "logits.pt"))
    dist.barrier()
    os._exit(0)  # its atexit wants CUDA


main()
