"""Models of transformers and the zoo's give the same logits from the same file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from autoshard import models
from autoshard.checkpoint import load
from autoshard.checkpoint.layouts import formats
from autoshard.checkpoint.layouts.convert import convert

pytestmark = [pytest.mark.external, pytest.mark.filterwarnings("ignore")]

SIZES = {"hidden": 32, "heads": 4, "layers": 2, "vocab_size": 48}
LLAMA = dict(
    hidden_size=32, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2,
    vocab_size=48, intermediate_size=56, max_position_embeddings=32, rms_norm_eps=1e-5,
)  # fmt: skip
GPT2 = dict(n_embd=32, n_head=4, n_layer=2, vocab_size=48, n_positions=16)
BERT = dict(
    hidden_size=32, num_attention_heads=4, num_hidden_layers=2, vocab_size=48,
    intermediate_size=56, max_position_embeddings=16,
)  # fmt: skip
T5 = dict(
    d_model=32, num_heads=4, d_kv=8, num_layers=2, vocab_size=48, d_ff=56,
    relative_attention_num_buckets=8, relative_attention_max_distance=16,
)  # fmt: skip
VIT = dict(
    hidden_size=32, num_attention_heads=4, num_hidden_layers=2, intermediate_size=56,
    image_size=8, patch_size=4, num_labels=5,
)  # fmt: skip
TOKENS = np.arange(24).reshape(2, 12) % 40


def zoo_gpt2(params):
    module = models.get("gpt-tiny", **SIZES, max_positions=16).module
    return module.apply({"params": params}, TOKENS)


def zoo_llama(params):
    module = models.get("llama-tiny", **SIZES, kv_heads=2, intermediate=56).module
    return module.apply({"params": params}, TOKENS)


def zoo_mixtral(params):
    sizes = dict(kv_heads=2, intermediate=56, experts=4, capacity_factor=4.0)
    module = models.get("moe-tiny", **SIZES, **sizes, rope_base=1e6).module
    return module.apply({"params": params}, TOKENS)


def zoo_bert(params):
    module = models.get("bert-tiny", **SIZES, intermediate=56, max_positions=16).module
    places = np.tile(np.arange(12), (2, 1))
    arguments = (TOKENS, np.zeros_like(TOKENS), np.ones_like(TOKENS), places)
    return module.apply({"params": params}, *arguments)[0]


def zoo_t5(params, **options):
    sizes = dict(head_size=8, intermediate=56, decoder_layers=2, buckets=8, max_distance=16)
    module = models.get("t5-tiny", **SIZES, **sizes, **options).module
    return module.apply({"params": params}, TOKENS + 1, TOKENS + 2)


def zoo_vit(params):
    sizes = dict(hidden=32, heads=4, layers=2, intermediate=56, image_size=8, patch_size=4)
    module = models.get("vit-tiny", **sizes, num_classes=5, norm_epsilon=1e-12).module
    return module.apply({"params": params}, images().transpose(0, 2, 3, 1))


def images():
    return np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)


TORCH = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2, zoo_gpt2, "hf_gpt2"),
    "llama": ("LlamaForCausalLM", "LlamaConfig", LLAMA, zoo_llama, "hf_llama"),
    "mistral": (
        "MistralForCausalLM", "MistralConfig", {**LLAMA, "sliding_window": None}, zoo_llama,
        "hf_mistral",
    ),
    "mixtral": (
        "MixtralForCausalLM", "MixtralConfig", {**LLAMA, "num_local_experts": 4}, zoo_mixtral,
        "hf_mixtral",
    ),
    "bert": ("BertForPreTraining", "BertConfig", BERT, zoo_bert, "hf_bert"),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5, zoo_t5, "hf_t5"),
    "t5-1.1": (
        "T5ForConditionalGeneration", "T5Config",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
        lambda params: zoo_t5(params, gated=True, tie_head=False), "hf_t5",
    ),
    "vit": ("ViTForImageClassification", "ViTConfig", VIT, zoo_vit, "hf_vit"),
}  # fmt: skip


@pytest.mark.parametrize("family", TORCH)
def test_pytorch_files(family, kit, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model_name, config_name, sizes, zoo, layout = TORCH[family]
    torch.manual_seed(0)
    model = getattr(transformers, model_name)(getattr(transformers, config_name)(**sizes)).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) * 0.2
    model.tie_weights()
    model.save_pretrained(tmp_path / "hf", max_shard_size="60KB")

    conversion = convert(tmp_path / "hf", tmp_path / "native").conversion
    assert conversion.from_layout is not None
    assert conversion.from_layout.name == layout.replace("mistral", "llama")
    convert(tmp_path / "native", tmp_path / "back", to_layout=layout)
    stored = kit.contents(formats.open_safetensors(tmp_path / "hf"))
    kit.same_bits(kit.contents(formats.open_safetensors(tmp_path / "back")), stored)
    read_again = getattr(transformers, model_name).from_pretrained(tmp_path / "back")
    for name, value in model.state_dict().items():
        assert torch.equal(value, read_again.state_dict()[name]), name

    tokens = torch.tensor(TOKENS)
    with torch.no_grad():
        if family == "vit":
            logits = model(torch.tensor(images())).logits
        elif family.startswith("t5"):
            logits = model(input_ids=tokens + 1, decoder_input_ids=tokens + 2).logits
        else:
            output = model(tokens)
            logits = output.prediction_logits if family == "bert" else output.logits
    found = zoo(load(tmp_path / "native"))
    np.testing.assert_allclose(found, logits.numpy(), atol=2e-6, rtol=1e-5)


FLAX = {
    "gpt2": ("FlaxGPT2LMHeadModel", "GPT2Config", GPT2, zoo_gpt2),
    "llama": ("FlaxLlamaForCausalLM", "LlamaConfig", LLAMA, zoo_llama),
    "bert": ("FlaxBertForPreTraining", "BertConfig", BERT, zoo_bert),
    "vit": ("FlaxViTForImageClassification", "ViTConfig", VIT, zoo_vit),
}


@pytest.mark.parametrize("family", FLAX)
def test_flax_files(family, kit, tmp_path):
    transformers = pytest.importorskip("transformers")
    model_name, config_name, sizes, zoo = FLAX[family]
    config = getattr(transformers, config_name)(**sizes)
    with jax.numpy_rank_promotion("allow"):  # theirs rely on it
        model = getattr(transformers, model_name)(config, seed=0)
    rng = np.random.default_rng(0)
    model.params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 0.2, jnp.float32), model.params
    )
    model.save_pretrained(tmp_path / "flax")
    file = tmp_path / "flax" / "flax_model.msgpack"

    conversion = convert(file, tmp_path / "native").conversion
    assert conversion.from_layout is not None
    assert conversion.from_layout.name == f"flax_{family}"
    convert(tmp_path / "native", tmp_path / "back.msgpack", to_layout=f"flax_{family}")
    stored = kit.contents(formats.open_msgpack(file))
    kit.same_bits(kit.contents(formats.open_msgpack(tmp_path / "back.msgpack")), stored)

    with jax.numpy_rank_promotion("allow"):
        output = model(images() if family == "vit" else TOKENS)
    logits = output.prediction_logits if family == "bert" else output.logits
    found = zoo(load(tmp_path / "native"))
    np.testing.assert_allclose(found, logits, atol=2e-6, rtol=1e-5)
