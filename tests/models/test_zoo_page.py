"""The table of models in docs/models.md says what the code says."""

from collections.abc import Callable
from pathlib import Path

import pytest

from autoshard import models

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN, END = "<!-- zoo: pytest tests/models --update-golden -->\n", "<!-- end of zoo -->\n"

SOURCES = {
    models.GPT2Config: "Radford et al. 2019",
    models.LlamaConfig: "Touvron et al. 2023, Llama 3 2024",
    models.LlamaNNXConfig: "the same, in NNX",
    models.MixtralConfig: "Jiang et al. 2024",
    models.BertConfig: "Devlin et al. 2018",
    models.T5Config: "Raffel et al. 2020",
    models.ViTConfig: "Dosovitskiy et al. 2021",
    models.ResNetConfig: "He et al. 2015",
    models.UNetConfig: "Ho et al. 2020",
    models.DLRMConfig: "Naumov et al. 2019",
}
# Sizes that are ours, of the network of that source.
OURS = ("gpt-small", "llama-small", "moe-8x", "unet")


def zoo(count_of: Callable[[str], int]) -> str:
    lines = ["| name | source | parameters | a batch |", "| --- | --- | ---: | --- |"]
    for name in models.names():
        spec = models.get(name)
        source = SOURCES[type(spec.config)]
        if name in OURS or name.endswith("-tiny"):
            source += "; size ours"
        batch = ", ".join(
            f"{key} {'×'.join(map(str, leaf.shape))}" for key, leaf in spec.example_batch().items()
        )
        lines.append(f"| `{name}` | {source} | {count_of(name):,} | {batch} |")
    return "\n".join([*lines, ""])


def test_the_table_of_models(pytestconfig: pytest.Config, count_of: Callable[[str], int]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    text = f"{before}{BEGIN}\n{zoo(count_of)}\n{END}{after}"
    if pytestconfig.getoption("--update-golden"):
        PAGE.write_text(text, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == text, "pytest tests/models --update-golden"
