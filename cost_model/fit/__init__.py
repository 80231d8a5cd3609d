"""Fit the constants to published runs and measure what they predict.

- `read_rows`, `read_single_node`, `read_runs`: files of published runs as `Run`.
- `held_out`, `with_shipped`: predictions, held out by model shape or with shipped constants.
- `by_group`, `summarize`: the benchmark's figures.
- `fitted_document`, `write_constants`: the constants that the package ships.
"""

from ._evaluate import held_out as held_out
from ._evaluate import training_subset as training_subset
from ._evaluate import with_shipped as with_shipped
from ._files import read_rows as read_rows
from ._files import read_runs as read_runs
from ._files import read_single_node as read_single_node
from ._folds import group_folds as group_folds
from ._folds import shape_folds as shape_folds
from ._metrics import Prediction as Prediction
from ._metrics import by_group as by_group
from ._metrics import summarize as summarize
from ._resnet import convolution_oom as convolution_oom
from ._rows import Run as Run
from ._rows import read_run as read_run
from ._ship import fitted_document as fitted_document
from ._ship import write_constants as write_constants
