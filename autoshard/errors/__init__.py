"""Every error that autoshard raises for its users; all are `AutoshardError`."""

from autoshard.errors._ahead import (
    CompilerError as CompilerError,
)
from autoshard.errors._ahead import (
    CompilerMissingError as CompilerMissingError,
)
from autoshard.errors._ahead import (
    ExportError as ExportError,
)
from autoshard.errors._ahead import (
    TopologyError as TopologyError,
)
from autoshard.errors._arguments import (
    AbstractArgumentError as AbstractArgumentError,
)
from autoshard.errors._arguments import (
    ArgumentError as ArgumentError,
)
from autoshard.errors._arguments import (
    CompiledArgumentsError as CompiledArgumentsError,
)
from autoshard.errors._arguments import (
    DeletedArrayError as DeletedArrayError,
)
from autoshard.errors._arguments import (
    InitStateError as InitStateError,
)
from autoshard.errors._arguments import (
    NotPlannedError as NotPlannedError,
)
from autoshard.errors._arguments import (
    OptionError as OptionError,
)
from autoshard.errors._arguments import (
    StateStructureError as StateStructureError,
)
from autoshard.errors._arguments import (
    StaticArgumentError as StaticArgumentError,
)
from autoshard.errors._arguments import (
    UnhashableTreeError as UnhashableTreeError,
)
from autoshard.errors._base import (
    AutoshardError as AutoshardError,
)
from autoshard.errors._base import (
    ExitCode as ExitCode,
)
from autoshard.errors._base import (
    UsageError as UsageError,
)
from autoshard.errors._checkpoint import (
    CheckpointError as CheckpointError,
)
from autoshard.errors._checkpoint import (
    CheckpointExistsError as CheckpointExistsError,
)
from autoshard.errors._checkpoint import (
    CheckpointKeyError as CheckpointKeyError,
)
from autoshard.errors._checkpoint import (
    CheckpointLeafError as CheckpointLeafError,
)
from autoshard.errors._checkpoint import (
    CheckpointMismatchError as CheckpointMismatchError,
)
from autoshard.errors._checkpoint import (
    CheckpointNotFoundError as CheckpointNotFoundError,
)
from autoshard.errors._checkpoint import (
    CheckpointPeerError as CheckpointPeerError,
)
from autoshard.errors._checkpoint import (
    CheckpointRemovalError as CheckpointRemovalError,
)
from autoshard.errors._checkpoint import (
    CheckpointVersionError as CheckpointVersionError,
)
from autoshard.errors._checkpoint import (
    CheckpointWriteError as CheckpointWriteError,
)
from autoshard.errors._checkpoint import (
    CorruptCheckpointError as CorruptCheckpointError,
)
from autoshard.errors._checkpoint import (
    IncompleteCheckpointError as IncompleteCheckpointError,
)
from autoshard.errors._compiled import (
    HloFormatError as HloFormatError,
)
from autoshard.errors._compiled import (
    HloLoopError as HloLoopError,
)
from autoshard.errors._compiled import (
    HloMeshError as HloMeshError,
)
from autoshard.errors._compiled import (
    MemoryStatsError as MemoryStatsError,
)
from autoshard.errors._data import (
    BatchError as BatchError,
)
from autoshard.errors._data import (
    BatchShapeError as BatchShapeError,
)
from autoshard.errors._data import (
    DataError as DataError,
)
from autoshard.errors._data import (
    ProcessDataError as ProcessDataError,
)
from autoshard.errors._data import (
    SequenceError as SequenceError,
)
from autoshard.errors._data import (
    UncutDataError as UncutDataError,
)
from autoshard.errors._layouts import (
    ConversionError as ConversionError,
)
from autoshard.errors._layouts import (
    ForeignFileError as ForeignFileError,
)
from autoshard.errors._layouts import (
    LayoutAmbiguityError as LayoutAmbiguityError,
)
from autoshard.errors._layouts import (
    LayoutBindingError as LayoutBindingError,
)
from autoshard.errors._layouts import (
    LayoutCoverageError as LayoutCoverageError,
)
from autoshard.errors._layouts import (
    LayoutDataError as LayoutDataError,
)
from autoshard.errors._layouts import (
    LayoutError as LayoutError,
)
from autoshard.errors._layouts import (
    LayoutSyntaxError as LayoutSyntaxError,
)
from autoshard.errors._layouts import (
    LossyLayoutError as LossyLayoutError,
)
from autoshard.errors._layouts import (
    UnknownFormatError as UnknownFormatError,
)
from autoshard.errors._layouts import (
    UnknownLayoutError as UnknownLayoutError,
)
from autoshard.errors._layouts import (
    UnsafePickleError as UnsafePickleError,
)
from autoshard.errors._models import (
    CapturedModuleError as CapturedModuleError,
)
from autoshard.errors._models import (
    GraphStateError as GraphStateError,
)
from autoshard.errors._models import (
    ModelKindError as ModelKindError,
)
from autoshard.errors._models import (
    ModelOptionError as ModelOptionError,
)
from autoshard.errors._pins import (
    ConstraintMeshError as ConstraintMeshError,
)
from autoshard.errors._pins import (
    LogicalAxisError as LogicalAxisError,
)
from autoshard.errors._pins import (
    PinAxisError as PinAxisError,
)
from autoshard.errors._pins import (
    PinConflictError as PinConflictError,
)
from autoshard.errors._pins import (
    PinError as PinError,
)
from autoshard.errors._pins import (
    PinFormError as PinFormError,
)
from autoshard.errors._pins import (
    PinPathError as PinPathError,
)
from autoshard.errors._pins import (
    PinRankError as PinRankError,
)
from autoshard.errors._pins import (
    PinSizeError as PinSizeError,
)
from autoshard.errors._plan_files import (
    MissingPlanError as MissingPlanError,
)
from autoshard.errors._plan_files import (
    PlanCacheWarning as PlanCacheWarning,
)
from autoshard.errors._plan_files import (
    PlanFileError as PlanFileError,
)
from autoshard.errors._plan_files import (
    PlanMismatchError as PlanMismatchError,
)
from autoshard.errors._plan_files import (
    PlanOptionError as PlanOptionError,
)
from autoshard.errors._plan_files import (
    PlanSchemaError as PlanSchemaError,
)
from autoshard.errors._plan_files import (
    PlanWriteError as PlanWriteError,
)
from autoshard.errors._planning import (
    EmulationError as EmulationError,
)
from autoshard.errors._planning import (
    LabellingError as LabellingError,
)
from autoshard.errors._planning import (
    MeshError as MeshError,
)
from autoshard.errors._planning import (
    PathError as PathError,
)
from autoshard.errors._planning import (
    RuleError as RuleError,
)
from autoshard.errors._planning import (
    RuleSyntaxError as RuleSyntaxError,
)
from autoshard.errors._planning import (
    RuleViolationError as RuleViolationError,
)
from autoshard.errors._planning import (
    SpecError as SpecError,
)
from autoshard.errors._planning import (
    StrategyError as StrategyError,
)
from autoshard.errors._planning import (
    UnknownPrimitiveError as UnknownPrimitiveError,
)
from autoshard.errors._user_model import (
    UserModelError as UserModelError,
)
