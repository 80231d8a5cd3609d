"""DLRM."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autoshard.models.dlrm import CRITEO_KAGGLE, CRITEO_TERABYTE_40M, DLRMConfig

# The authors' scripts (facebookresearch/dlrm: bench/dlrm_s_criteo_{kaggle,terabyte}.sh), and the
# MLPerf training benchmark (bench/run_and_time.sh there).
_TERABYTE = DLRMConfig()
RECOMMENDERS: Mapping[str, Any] = {
    "dlrm-kaggle": DLRMConfig(
        table_rows=CRITEO_KAGGLE, embedding=16, bottom=(512, 256, 64, 16), top=(512, 256)
    ),
    "dlrm-terabyte": _TERABYTE,
    "dlrm-mlperf": DLRMConfig(
        table_rows=CRITEO_TERABYTE_40M,
        embedding=128,
        bottom=(512, 256, 128),
        top=(1024, 1024, 512, 256),
    ),
    # Of the league: tables of up to 10 million rows.
    "dlrm": replace(_TERABYTE, dtype="bfloat16"),
}
