"""Measure the devices at hand and fit the cost model's constants to them.

`calibrate` times matrix products, copies and every collective on every mesh axis, fits in log
space with a prior toward the datasheet, and returns a `Profile` that the cost model uses from
then on for the same kind of device and the same software.
"""

from ._fit import fit_constants as fit_constants
from ._measure import Samples as Samples
from ._measure import measure as measure
from ._run import calibrate as calibrate
from ._run import installed_profile as installed_profile
from ._run import software_versions as software_versions
