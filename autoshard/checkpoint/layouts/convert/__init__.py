"""Converting checkpoints between formats, layouts and trees, piece by piece."""

from autoshard.checkpoint.layouts.convert._plan import Conversion as Conversion
from autoshard.checkpoint.layouts.convert._plan import prepare as prepare
from autoshard.checkpoint.layouts.convert._request import Request as Request
from autoshard.checkpoint.layouts.convert._run import Outcome as Outcome
from autoshard.checkpoint.layouts.convert._run import convert as convert
from autoshard.checkpoint.layouts.convert._run import run as run
