"""The execution oracle: a rule is proven by running its op."""

from autoshard.rules.oracle._check import FactorProof as FactorProof
from autoshard.rules.oracle._check import check_rule as check_rule
from autoshard.rules.oracle._check import op_of as op_of
from autoshard.rules.oracle._check import prove as prove
from autoshard.rules.oracle._local import Shard as Shard
from autoshard.rules.oracle._mesh import ALLOWED as ALLOWED
from autoshard.rules.oracle._mesh import collectives as collectives
from autoshard.rules.oracle._mesh import placed as placed
from autoshard.rules.oracle._op import Op as Op
