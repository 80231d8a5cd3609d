"""What a train step needs to know of a model, one class for each kind of batch."""

from autoshard.models._specs._base import Batch as Batch
from autoshard.models._specs._base import ModelSpec as ModelSpec
from autoshard.models._specs._base import Rngs as Rngs
from autoshard.models._specs._clicks import ClickModelSpec as ClickModelSpec
from autoshard.models._specs._diffusion import DiffusionModelSpec as DiffusionModelSpec
from autoshard.models._specs._images import ImageModelSpec as ImageModelSpec
from autoshard.models._specs._language import LanguageModelSpec as LanguageModelSpec
from autoshard.models._specs._language import SparseLanguageModelSpec as SparseLanguageModelSpec
from autoshard.models._specs._masked import MaskedLanguageModelSpec as MaskedLanguageModelSpec
from autoshard.models._specs._nnx import NNXLanguageModelSpec as NNXLanguageModelSpec
from autoshard.models._specs._text_to_text import TextToTextModelSpec as TextToTextModelSpec
