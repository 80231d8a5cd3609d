"""Plans: meshes, specs, labellings, and the one function that turns a labelling into a `Plan`."""

from autoshard.plan._cache import cached_plan as cached_plan
from autoshard.plan._explain import human_bytes as human_bytes
from autoshard.plan._explain import plan_table as plan_table
from autoshard.plan._explain import totals as totals
from autoshard.plan._file import load_plan as load_plan
from autoshard.plan._labelling import Label as Label
from autoshard.plan._labelling import Labelling as Labelling
from autoshard.plan._labelling import Reason as Reason
from autoshard.plan._labelling import check_label as check_label
from autoshard.plan._labelling import project as project
from autoshard.plan._limits import is_miscompiled as is_miscompiled
from autoshard.plan._make import make_plan as make_plan
from autoshard.plan._mesh import MeshShape as MeshShape
from autoshard.plan._mesh import parse_mesh as parse_mesh
from autoshard.plan._plan import ConstraintKey as ConstraintKey
from autoshard.plan._plan import LeafPlan as LeafPlan
from autoshard.plan._plan import Plan as Plan
from autoshard.plan._plan import Reduction as Reduction
from autoshard.plan._replay import replay as replay
from autoshard.plan._reshard import reshard_chain as reshard_chain
from autoshard.plan._roles import Roles as Roles
from autoshard.plan._roles import find_roles as find_roles
from autoshard.plan._spec import Spec as Spec
