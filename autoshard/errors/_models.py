"""Errors about models: NNX objects, Linen modules, Hugging Face models."""

from autoshard.errors._base import AutoshardError


class GraphStateError(AutoshardError):
    """An NNX variable that cannot be an argument of a parallelized function.

    Args:
        path: Where it stands.
        problem: What is the matter with it.
    """

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(
            f"argument {path!r} {problem}: its array lives behind a reference that JAX itself "
            "manages, so it cannot be placed on a mesh from outside.\n"
            "Mend it: make the model without nnx.var_defaults(ref=True) or hijax=True; a "
            "parallelized function updates plain variables in place as well"
        )


class CapturedModuleError(AutoshardError):
    """A function that updates an NNX object which is not among its arguments.

    Args:
        function: The function.
        problem: What flax says.
    """

    def __init__(self, function: str, problem: str) -> None:
        self.function = function
        self.problem = problem
        super().__init__(
            f"{function} updates an NNX object that it closes over ({problem}), and what is "
            "traced cannot reach it.\n"
            f"Mend it: make the object an argument: def {function}(model, …)"
        )


class ModelKindError(AutoshardError):
    """Something that is no model where one is wanted.

    Args:
        value: What was given.
        known: Base classes of the models that there are.
    """

    def __init__(self, value: object, known: list[str]) -> None:
        self.value = value
        self.known = known
        super().__init__(
            f"autoshard.wrap takes a model ({', '.join(known)}), not a {type(value).__name__}.\n"
            "Mend it: decorate a function, autoshard.parallelize(train_step)"
        )


class ModelOptionError(AutoshardError):
    """An option that says nothing about a model.

    Args:
        option: Its name.
        value: What was given.
        model: Name of the model's class.
    """

    def __init__(self, option: str, value: object, model: str) -> None:
        self.option = option
        self.value = value
        self.model = model
        super().__init__(
            f"{option}={value!r:.60} cannot be said of the model {model}: whatever is no array is "
            "static in its calls.\n"
            f"Mend it: leave {option} out, or decorate the function that calls the model"
        )
