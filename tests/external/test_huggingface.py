"""Models of `transformers` 4, the last with Flax."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

Case = dict[str, Any]  # what `same_on_a_mesh` takes

pytestmark = [
    pytest.mark.external,
    pytest.mark.slow,
    pytest.mark.skipif(
        find_spec("transformers") is None, reason="needs the extra [external]: transformers"
    ),
    # LongT5 hands float block numbers to one_hot.
    pytest.mark.filterwarnings("ignore:jax.nn.one_hot input should be integer-typed"),
]


def hf() -> Any:
    """The package, imported when a test asks for it: that takes seconds."""
    return import_module("transformers")


def normal(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def integers(bound: int, *shape: int) -> Any:
    return np.random.default_rng(1).integers(0, bound, shape, dtype=np.int32)


VOCABULARY = 128
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}
TOKENS = {"input_ids": integers(VOCABULARY, 8, 16)}
# The second half of some sentences is padding.
PADDED = TOKENS | {
    "attention_mask": jnp.ones((8, 16), jnp.int32).at[::3, 8:].set(0),
}
TWO_TEXTS = PADDED | {
    "decoder_input_ids": integers(VOCABULARY, 8, 12),
    "decoder_attention_mask": jnp.ones((8, 12), jnp.int32),
}
IMAGES = {"pixel_values": normal(8, 3, 32, 32)}

Output = Callable[[Any], jax.Array]


def logits(output: Any) -> jax.Array:
    return output.logits


def last_hidden(output: Any) -> jax.Array:
    return output.last_hidden_state


def build(
    name: str,
    config: Any,
    batch: dict[str, Any],
    output: Output = logits,
    mode: Any = None,
    **options: Any,
) -> Case:
    """A case of the model `name`: weights drawn, nothing downloaded.

    Args:
        name: Its class.
        config: Its configuration.
        batch: What it is called with.
        output: The scores in what it returns.
        mode: `mode(key)` gives the arguments that switch its training mode on.
        **options: Of its constructor.
    """
    mode = mode or (lambda key: {"dropout_rng": key, "train": True})
    key_of_shape = "pixel_values" if "pixel_values" in batch else "input_ids"
    shape = (1, *batch[key_of_shape].shape[1:])
    if key_of_shape == "pixel_values":
        options.setdefault("input_shape", (1, 32, 32, 3))
        shape = options["input_shape"]
    model = getattr(hf(), name)(config, _do_init=False, **options)
    if options.get("gradient_checkpointing"):
        model.enable_gradient_checkpointing()
    variables = jax.jit(model.init_weights, static_argnums=1)(jax.random.key(0), shape)
    with_statistics = "batch_stats" in variables
    params = variables["params"] if with_statistics else variables

    def loss(params: Any, collections: Any, batch: Any, key: jax.Array) -> Any:
        if with_statistics:
            result, updated = model(**batch, params={"params": params, **collections}, train=True)
            collections = {"batch_stats": updated["batch_stats"]}
        else:
            result = model(**batch, params=params, **mode(key))
        scores = output(result)
        targets = jnp.arange(scores.shape[0] * scores.shape[-2]).reshape(scores.shape[0], -1)
        if scores.ndim == 2:
            targets = jnp.arange(scores.shape[0])
        nll = -jax.nn.log_softmax(scores.astype(jnp.float32))
        picked = jnp.take_along_axis(nll, (targets % scores.shape[-1])[..., None], axis=-1)
        return jnp.mean(picked), collections

    collections = {"batch_stats": variables["batch_stats"]} if with_statistics else {}
    return dict(loss=loss, params=params, batch=batch, collections=collections)


def small(name: str, **options: Any) -> Any:
    return getattr(hf(), name)(**{**SMALL, **options})


def gpt2() -> Case:
    config = hf().GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=64, n_layer=2, n_head=8)
    return build("FlaxGPT2LMHeadModel", config, TOKENS)


def llama() -> Case:
    config = small("LlamaConfig", num_key_value_heads=4)
    return build("FlaxLlamaForCausalLM", config, TOKENS)


def bert(**options: Any) -> Case:
    return build("FlaxBertForMaskedLM", small("BertConfig"), PADDED, **options)


def bert_checkpointed() -> Case:
    return bert(gradient_checkpointing=True)


def t5() -> Case:
    config = hf().T5Config(
        vocab_size=VOCABULARY, d_model=64, d_kv=8, d_ff=128, num_layers=2, num_heads=8
    )
    return build("FlaxT5ForConditionalGeneration", config, TWO_TEXTS)


def bart() -> Case:
    config = hf().BartConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
    )
    return build("FlaxBartForConditionalGeneration", config, TWO_TEXTS)


def vit() -> Case:
    config = small("ViTConfig", image_size=32, patch_size=8, num_labels=16)
    return build("FlaxViTForImageClassification", config, IMAGES)


def resnet() -> Case:
    config = hf().ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], num_labels=16
    )
    return build("FlaxResNetForImageClassification", config, IMAGES)


LISTED = [gpt2, llama, bert, bert_checkpointed, t5, bart, vit, resnet]


# Further families of the package, in the order of their names.


def albert() -> Case:
    return build("FlaxAlbertForMaskedLM", small("AlbertConfig", embedding_size=32), PADDED)


def beit() -> Case:
    config = small(
        "BeitConfig", image_size=32, patch_size=8, num_labels=16, use_relative_position_bias=True
    )
    return build("FlaxBeitForImageClassification", config, IMAGES)


def big_bird() -> Case:
    config = small("BigBirdConfig", block_size=2, num_random_blocks=1)
    long = {name: np.concatenate([leaf, leaf], axis=1) for name, leaf in PADDED.items()}
    return build(
        "FlaxBigBirdForMaskedLM",
        config,
        long,
        mode=lambda key: {"dropout_rng": key, "indices_rng": key, "train": True},
    )


def bloom() -> Case:
    config = hf().BloomConfig(vocab_size=VOCABULARY, hidden_size=64, n_layer=2, n_head=8)
    return build("FlaxBloomForCausalLM", config, PADDED)


def clip() -> Case:
    config = small("CLIPVisionConfig", image_size=32, patch_size=8)
    return build("FlaxCLIPVisionModel", config, IMAGES, last_hidden)


def dinov2() -> Case:
    config = small("Dinov2Config", image_size=32, patch_size=8, num_labels=16, mlp_ratio=2)
    return build("FlaxDinov2ForImageClassification", config, IMAGES)


def distilbert() -> Case:
    config = hf().DistilBertConfig(
        vocab_size=VOCABULARY, dim=64, n_layers=2, n_heads=8, hidden_dim=128
    )
    return build("FlaxDistilBertForMaskedLM", config, PADDED)


def electra() -> Case:
    return build("FlaxElectraForMaskedLM", small("ElectraConfig", embedding_size=32), PADDED)


def gemma() -> Case:
    config = small("GemmaConfig", num_key_value_heads=4, head_dim=8)
    return build("FlaxGemmaForCausalLM", config, PADDED)


def gpt_neo() -> Case:
    config = hf().GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_layers=2,
        num_heads=8,
        intermediate_size=128,
        max_position_embeddings=64,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
    )
    return build("FlaxGPTNeoForCausalLM", config, PADDED)


def gptj() -> Case:
    config = hf().GPTJConfig(
        vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=8, rotary_dim=4, n_positions=64
    )
    return build("FlaxGPTJForCausalLM", config, PADDED)


def longt5() -> Case:
    config = hf().LongT5Config(
        vocab_size=VOCABULARY,
        d_model=64,
        d_kv=8,
        d_ff=128,
        num_layers=2,
        num_heads=8,
        local_radius=4,
        encoder_attention_type="transient-global",
        global_block_size=4,
    )
    return build("FlaxLongT5ForConditionalGeneration", config, TWO_TEXTS)


def mistral() -> Case:
    return build("FlaxMistralForCausalLM", small("MistralConfig", num_key_value_heads=4), PADDED)


def opt() -> Case:
    config = small("OPTConfig", ffn_dim=128, word_embed_proj_dim=64)
    return build(
        "FlaxOPTForCausalLM",
        config,
        PADDED,
        mode=lambda key: {"dropout_rng": key, "deterministic": False},
    )


def regnet() -> Case:
    """Grouped convolutions, of three groups, which four devices cannot share."""
    config = hf().RegNetConfig(
        embedding_size=16, hidden_sizes=[24, 48], depths=[1, 1], groups_width=8, num_labels=16
    )
    return build("FlaxRegNetForImageClassification", config, IMAGES)


def roberta() -> Case:
    return build("FlaxRobertaForMaskedLM", small("RobertaConfig"), PADDED)


def roformer() -> Case:
    return build("FlaxRoFormerForMaskedLM", small("RoFormerConfig", embedding_size=64), PADDED)


def xglm() -> Case:
    config = hf().XGLMConfig(
        vocab_size=VOCABULARY, d_model=64, ffn_dim=128, num_layers=2, attention_heads=8
    )
    return build("FlaxXGLMForCausalLM", config, PADDED)


MORE = [
    *(albert, beit, big_bird, bloom, clip, dinov2, distilbert, electra, gemma, gpt_neo, gptj),
    *(longt5, mistral, opt, roberta, roformer, xglm),
]


@pytest.fixture(autouse=True)
def clip_as_before_jax_0_8(monkeypatch: pytest.MonkeyPatch) -> None:
    """T5 calls `jnp.clip(a_max=)`, whose arguments have other names since jax 0.8."""
    clip = jnp.clip

    def old_clip(x: Any, min: Any = None, max: Any = None, *, a_min: Any = None, a_max: Any = None):
        return clip(x, min if a_min is None else a_min, max if a_max is None else a_max)

    monkeypatch.setattr(jnp, "clip", old_clip)


@pytest.mark.parametrize("case", LISTED, ids=lambda case: case.__name__)
def test_listed_models(case, same_on_a_mesh):
    same_on_a_mesh(**case())


@pytest.mark.parametrize("case", MORE, ids=lambda case: case.__name__)
def test_further_models(case, same_on_a_mesh):
    same_on_a_mesh(**case())


def test_grouped_convolutions(same_on_a_mesh):
    """XLA gets the kernel's gradient wrong where it may cut the cotangent's channels."""
    same_on_a_mesh(**regnet())
