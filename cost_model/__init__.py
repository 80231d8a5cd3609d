"""Predicted seconds and bytes; knows neither JAX nor the program.

Shapes, byte widths, meshes and hardware go in, seconds and bytes come out, each with its terms:

- `device`, `load_catalog`: the hardware table, with the source of every number;
- `parse_topology`, `torus`, `cluster`, `place`: devices, links, and a mesh laid onto them;
- `collective_time` and one function per collective; `matmul`, `attention`, ...: single operations;
- `simulate`: pipeline schedules; `training_memory`: peak bytes by part;
- `estimate`, `sweep`, `estimate_inference`: whole transformer steps;
- `load_profile`: what `autoshard calibrate` measured.

Derivations with worked numbers: docs/cost-model.md.
"""

from . import errors as errors
from ._activations import layer_activation_bytes as layer_activation_bytes
from ._collectives import all_gather as all_gather
from ._collectives import all_reduce as all_reduce
from ._collectives import all_reduce_algorithms as all_reduce_algorithms
from ._collectives import all_to_all as all_to_all
from ._collectives import broadcast as broadcast
from ._collectives import collective_time as collective_time
from ._collectives import permute as permute
from ._collectives import reduce_scatter as reduce_scatter
from ._compute import OpTime as OpTime
from ._compute import attention as attention
from ._compute import convolution as convolution
from ._compute import elementwise as elementwise
from ._compute import gather as gather
from ._compute import matmul as matmul
from ._compute import roofline as roofline
from ._compute import shape_efficiency as shape_efficiency
from ._compute import waves as waves
from ._constants import STACKS as STACKS
from ._constants import Constants as Constants
from ._constants import MemoryConstants as MemoryConstants
from ._constants import Stack as Stack
from ._constants import prior_constants as prior_constants
from ._constants import shipped_constants as shipped_constants
from ._constants import stack as stack
from ._estimate import TrainingEstimate as TrainingEstimate
from ._estimate import estimate as estimate
from ._hardware import Catalog as Catalog
from ._hardware import Device as Device
from ._hardware import device as device
from ._hardware import load_catalog as load_catalog
from ._inference import InferenceEstimate as InferenceEstimate
from ._inference import estimate_inference as estimate_inference
from ._links import Link as Link
from ._links import Segment as Segment
from ._links import ring as ring
from ._links import together as together
from ._measured import CollectiveTables as CollectiveTables
from ._measured import TimeTable as TimeTable
from ._memory import Memory as Memory
from ._memory import training_memory as training_memory
from ._moe import capacity_slots as capacity_slots
from ._moe import expert_imbalance as expert_imbalance
from ._offload import Offload as Offload
from ._offload import tiers as tiers
from ._overlap import bucketed as bucketed
from ._overlap import exposed as exposed
from ._overlap import local_updates as local_updates
from ._overlap import overlapped as overlapped
from ._overlap import overlapped_with_slowdown as overlapped_with_slowdown
from ._overlap import prefetched as prefetched
from ._parallel import Parallelism as Parallelism
from ._pipeline import PipelineResult as PipelineResult
from ._pipeline import StageTime as StageTime
from ._pipeline import flow_shop as flow_shop
from ._pipeline import pipeline_closed_form as pipeline_closed_form
from ._pipeline import simulate as simulate
from ._placement import Placement as Placement
from ._placement import mesh_shapes as mesh_shapes
from ._placement import place as place
from ._placement import placements as placements
from ._profile import Profile as Profile
from ._profile import installed_profile as installed_profile
from ._profile import load_profile as load_profile
from ._profile import profile_path as profile_path
from ._report import bytes_text as bytes_text
from ._report import chart_svg as chart_svg
from ._report import html_report as html_report
from ._report import pareto_svg as pareto_svg
from ._report import part_colour as part_colour
from ._report import seconds_text as seconds_text
from ._step import StepTime as StepTime
from ._step import step_time as step_time
from ._sweep import Sweep as Sweep
from ._sweep import configurations as configurations
from ._sweep import describe_plan as describe_plan
from ._sweep import shown_settings as shown_settings
from ._sweep import sweep as sweep
from ._topology import Level as Level
from ._topology import NodeGroup as NodeGroup
from ._topology import Topology as Topology
from ._topology import cluster as cluster
from ._topology import default_topology as default_topology
from ._topology import parse_topology as parse_topology
from ._topology import torus as torus
from ._transformer import Transformer as Transformer
from ._transformer import model as model
from ._transformer import model_presets as model_presets
