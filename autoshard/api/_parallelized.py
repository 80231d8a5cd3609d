"""The decorated function."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.core import Tracer

from autoshard.api._ahead import compile_for, plan_for
from autoshard.api._calls import Call, Calls
from autoshard.api._compiled import PlannedLowering
from autoshard.api._entry import Entry, build_entry
from autoshard.api._init import check_arguments, create_sharded
from autoshard.api._memory import Memory, Reader
from autoshard.api._mesh import choose_mesh
from autoshard.api._ownership import Ownership
from autoshard.api._plan_call import PlanOptions
from autoshard.api._planning import is_planning, planning
from autoshard.api._recent import Recent
from autoshard.api.adapters.nnx._kinds import holds_graph, is_graph_object, makes_graph
from autoshard.errors import InitStateError, NotPlannedError, UnhashableTreeError
from autoshard.lowering import shardings
from autoshard.lowering.ahead import Limits, Target, check_compiler, parse_target
from autoshard.plan import Plan


class Parallelized:
    """A function that is traced, planned and compiled for a mesh on its first call.

    Made by `autoshard.parallelize`. Every new combination of shapes, dtypes and static arguments
    is planned once; later ones inherit the specs of the state they share with the first.

    Args:
        function: The function.
        mesh: As `autoshard.parallelize` takes it.
        options: What was asked of the plan of each call.
        donate: As `autoshard.parallelize` takes it.
        calls: Reads arguments.
        like: The function whose plan to share.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        mesh: Any,
        options: PlanOptions,
        donate: bool | str,
        calls: Reader,
        like: Parallelized | None,
    ) -> None:
        # Not the attributes of a callable object: they might hide ours.
        functools.update_wrapper(self, function, updated=())
        self._function = function
        self._mesh_option = mesh
        self._options = options
        self._donate = bool(donate)
        self._like = like
        self._memory = Memory(Ownership() if like is None else like._memory.owned, calls)
        self._bound: tuple[Any, ...] = ()
        self._name = getattr(function, "__name__", type(function).__name__)

    # Running ----------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function on the mesh.

        Args:
            *args: As for the function; arrays may live anywhere.
            **kwargs: Likewise.

        Returns:
            What the function returns, as global arrays in their planned shardings.

        Raises:
            AutoshardError: The arguments cannot be traced or planned; the text says how to mend it.
        """
        if jax.config.jax_disable_jit or is_planning():  # pyright: ignore[reportAttributeAccessIssue]
            return self._function(*self._bound, *args, **kwargs)
        call = self._read(args, kwargs)
        memory = self._memory
        recent = memory.recent
        if recent is None or not recent.fits(call):
            if any(issubclass(kind, Tracer) for kind in set(map(type, call.leaves))):
                return self._call_nested(call)
            entry = self._entry(call)
            if any(isinstance(array, Tracer) for array in entry.captured):
                return self._call_nested(call)
            memory.recent = recent = Recent(call, entry)
        entry = memory.latest = recent.entry
        return entry.run(entry.function, call, memory.owned, recent)

    def _call_nested(self, call: Call) -> Any:
        """Become a part of the program that is being traced around the call."""
        entry = self._entry(call, nested=True)
        results = entry.function(*call.leaves, *entry.captured)
        return call.finish(entry, call.leaves, entry.complete(results, call.leaves))

    def init(
        self,
        create: Callable[..., Any],
        *args: Any,
        step_args: Sequence[Any] = (),
        step_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Make the state where it will live: no device ever holds it whole.

        ``create`` is compiled into one program whose results are cut as the plan says. The
        compiler cuts what leads to them as well, random bits included (JAX's threefry keys give
        the same numbers however they are cut), so beside its shards a device holds at most one
        leaf. Where an initializer's op cannot be cut (the QR decomposition of
        `jax.nn.initializers.orthogonal`), it holds that op's whole operands and results, for one
        leaf at a time.

        Args:
            create: Makes the state, the function's first argument.
            *args: Its arguments.
            step_args: The function's other positional arguments, as arrays or
                `jax.ShapeDtypeStruct`: the state's specs depend on how it is used.
            step_kwargs: Its keyword arguments.

        Returns:
            The state, sharded as planned. Its values are those of ``jax.jit(create)(*args)``.

        Raises:
            ArgumentError: An argument of ``create`` is no array.
            InitStateError: The step carries something else than what ``create`` makes.
            AutoshardError: The function cannot be planned.
        """
        if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
            return create(*args)
        if _may_hold_graph(args, {}, True) or makes_graph(create, args):
            from autoshard.api.adapters.nnx._init import init_objects  # imports flax

            return init_objects(self, create, args, step_args, step_kwargs or {})
        check_arguments(create, args)
        with planning():
            state = jax.eval_shape(create, *args)
        leaves, tree = jax.tree.flatten(state)
        placed = self.place_state(leaves, (state, *step_args), step_kwargs or {})
        with planning():
            arrays = create_sharded(create, args, [placed[id(leaf)] for leaf in leaves], self.mesh)
        self.own(arrays)
        return jax.tree.unflatten(tree, arrays)

    def read_with(self, reader: Reader) -> None:
        """Read calls in another way than a function's."""
        self._memory.reader = reader

    def placed_like_last(self, leaves: Sequence[Any]) -> list[Any]:
        """The first arguments of the call before, where that wanted them.

        Args:
            leaves: The first argument leaves of the call before.
        """
        entry = self._memory.latest
        if entry is None:
            raise NotPlannedError(self._name, "placed_like_last")
        wanted = entry.shardings[: len(leaves)]
        return self._memory.owned.place(leaves, wanted, [False] * len(leaves))

    def restore(
        self,
        path: str | os.PathLike[str],
        create: Callable[..., Any] | Any,
        *args: Any,
        step_args: Sequence[Any] = (),
        step_kwargs: Mapping[str, Any] | None = None,
        partial: bool = False,
        cast: Mapping[str, str] | None = None,
        budget_bytes: int | None = None,
    ) -> Any:
        """Load the state of a checkpoint into the shardings that this function wants now.

        It may have been saved on any mesh, by any number of processes. As after `init`, the state
        belongs to this function: its memory is reused.

        Args:
            path: A checkpoint of `autoshard.checkpoint`, or a directory of steps, of which the
                newest is taken.
            create: As for `init`; it is not run. Or a state, of abstract arrays too.
            *args: Its arguments.
            step_args: As for `init`.
            step_kwargs: Likewise.
            partial: As for `autoshard.checkpoint.load`.
            cast: Likewise.
            budget_bytes: Likewise.

        Returns:
            The state, sharded as planned.

        Raises:
            CheckpointError: There is no such checkpoint, it is damaged, or does not fit the state.
            AutoshardError: As `init`.
        """
        from autoshard.api._restore import restore_objects, restore_state

        options = {"partial": partial, "cast": cast, "budget_bytes": budget_bytes}
        graph = callable(create) and (_may_hold_graph(args, {}, True) or makes_graph(create, args))
        restore = restore_objects if graph else restore_state
        return restore(self, path, create, args, step_args, step_kwargs or {}, options)

    def own(self, arrays: Sequence[Any]) -> None:
        """Take arrays that nobody else has: their memory may be reused, if donation is on."""
        if self._donate:
            self._memory.owned.add(arrays)

    def place_state(
        self, leaves: Sequence[Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> dict[int, Any]:
        """Where the plan of a call puts some of its arguments.

        Args:
            leaves: Abstract arrays among the arguments.
            args: Positional arguments of the call.
            kwargs: Keyword arguments.

        Returns:
            Identity of each of the leaves → its sharding.

        Raises:
            InitStateError: The step carries something else than these leaves.
        """
        call = self._read(args, kwargs)
        plan = self._entry(call).plan
        ids = {id(leaf) for leaf in leaves}
        found = [(p, x) for p, x in zip(plan.arguments, call.leaves, strict=False) if id(x) in ids]
        planned = [p for p, _ in found]
        if plan.state and not all(leaf.carried for leaf in planned):
            made, carried = ([leaf.path for leaf in part] for part in (planned, plan.state))
            raise InitStateError(self._name, made, carried)
        placed = shardings(planned, self.mesh)
        return {id(x): sharding for (_, x), sharding in zip(found, placed, strict=True)}

    # Asking -----------------------------------------------------------------------------------

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """The device mesh, with Auto axes."""
        with self._memory.lock:
            if self._memory.mesh is None:
                shared = None if self._like is None else self._like.mesh
                given = self._options.given
                self._memory.mesh, note = choose_mesh(self._mesh_option, shared, given)
                self._memory.notes = () if note is None else (note,)
            return self._memory.mesh

    @property
    def strategy(self) -> str:
        """The strategy by which calls are planned."""
        return self._options.strategy

    @property
    def last_plan(self) -> Plan:
        """The plan that was made or used last.

        Raises:
            NotPlannedError: There is none.
        """
        if self._memory.latest is None:
            raise NotPlannedError(self._name, "last_plan")
        return self._memory.latest.plan

    def plan(self, *args: Any, topology: str | None = None, **kwargs: Any) -> Plan:
        """Plan a call without running it.

        Args:
            *args: Arrays or `jax.ShapeDtypeStruct`.
            topology: Devices to plan for that need not be there, such as ``v5e:2x4`` or
                ``h100:4x8``; the visible ones by default.
            **kwargs: As the positional arguments.

        Returns:
            The plan.

        Raises:
            TopologyError: There is no such topology.
        """
        call = self._read(args, kwargs)
        if topology is not None:
            return self._plan_for(call, parse_target(topology))[1]
        return self._entry(call).plan

    def lower(self, *args: Any, **kwargs: Any) -> PlannedLowering:
        """Lower a call, as ``jax.jit(...).lower`` does.

        Args:
            *args: Arrays or `jax.ShapeDtypeStruct`.
            **kwargs: Likewise.

        Returns:
            What can be compiled, with the plan.
        """
        call = self._read(args, kwargs)
        entry = self._entry(call)
        return PlannedLowering(entry, call, self._memory.reader.read_arrays, self._memory.owned)

    def compile(
        self,
        *args: Any,
        topology: str | None = None,
        limits: Limits | None = None,
        text: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Compile a call ahead of time, for the visible devices or for others.

        Args:
            *args: Arrays or `jax.ShapeDtypeStruct`.
            topology: Devices that need not be there, such as ``v5e:2x4``. Their compiler runs in a
                process of its own.
            limits: Time and memory that this process may use.
            text: Keep the optimized HLO of a topology.
            **kwargs: As the positional arguments.

        Returns:
            ``lower(...).compile()``, to be called; for a topology a `Compilation`, which tells the
            memory that a device needs.

        Raises:
            TopologyError: There is no such topology.
            CompilerMissingError: Its compiler is not installed.
            CompilerError: The compiler refused the program, crashed, or reached a limit.
        """
        if topology is None:
            return self.lower(*args, **kwargs).compile()
        target, call = parse_target(topology), self._read(args, kwargs)
        check_compiler(target)
        program, plan = self._plan_for(call, target)
        return compile_for(
            program, plan, call, target, donate=self._donate, limits=limits, text=text
        )

    def _plan_for(self, call: Call, target: Target) -> tuple[Any, Plan]:
        mesh = self._mesh_option
        if mesh is None and self._like is not None:
            mesh = self._like._mesh_option
        return plan_for(
            self._memory.reader.bind(self._function, call),
            call,
            target,
            mesh=mesh,
            options=self._options,
            earlier=self._earlier(),
            notes=self._memory.notes,
        )

    def explain(self, path: str | None = None) -> str:
        """Explain the last plan: one argument or result by its path, or all arguments.

        Args:
            path: The path, or an end of it that only one leaf has.

        Returns:
            Text.

        Raises:
            NotPlannedError: There is no plan yet.
            PathError: The path matches no leaf, or several.
        """
        if self._memory.latest is None:
            raise NotPlannedError(self._name, "explain")
        return self.last_plan.explain(path)

    def _read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        reader = self._memory.reader
        if self._bound:
            args = (*self._bound, *args)
        # Only functions' readers change their mind; those of models know what comes.
        if type(reader) is Calls and _may_hold_graph(args, kwargs, self._memory.recent is None):
            from autoshard.api.adapters.nnx._reader import GraphReader  # imports flax

            self._memory.reader = reader = GraphReader(self._function, reader)
        return reader.read(args, kwargs)

    def _entry(self, call: Call, nested: bool = False) -> Entry:
        memory = self._memory
        with memory.lock:
            try:
                entry = memory.entries.get((call.key, nested))
            except TypeError as error:
                raise UnhashableTreeError(str(error)) from error
            if entry is None:
                entry = self._build(call, nested)
                if not any(isinstance(array, Tracer) for array in entry.captured):
                    memory.entries[call.key, nested] = entry
            memory.latest = entry
            return entry

    def _earlier(self) -> list[Plan]:
        """Plans whose state this function shares."""
        earlier = [e.plan for e in self._memory.entries.values()]
        if self._like is not None:
            earlier += [e.plan for e in self._like._memory.entries.values()]
        return earlier

    def _build(self, call: Call, nested: bool) -> Entry:
        return build_entry(
            self._memory.reader.bind(self._function, call),
            call,
            mesh=self.mesh,
            options=self._options,
            donate=self._donate and not nested,
            nested=nested,
            earlier=self._earlier(),
            notes=self._memory.notes,
        )

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Bind as a method, as a plain function would; the bound method can be asked as well."""
        if instance is None:
            return self
        bound = copy.copy(self)
        bound._bound = (*self._bound, instance)
        return bound

    def __repr__(self) -> str:
        return (
            f"<parallelized {self._name}: {self.strategy} on {self._mesh_option or 'all devices'}>"
        )


def _may_hold_graph(args: Sequence[Any], kwargs: Mapping[str, Any], first: bool) -> bool:
    """Whether NNX objects are among the arguments; inside of trees only the first call is asked."""
    if first:
        return holds_graph((*args, *kwargs.values()))
    return any(map(is_graph_object, args)) or any(map(is_graph_object, kwargs.values()))
