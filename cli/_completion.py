"""`autoshard completion`: what a shell needs to complete commands and flags."""

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from autoshard.errors import ExitCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Print the script with which a shell completes commands and flags.

    Example: autoshard completion bash > ~/.local/share/bash-completion/completions/autoshard

    Attributes:
        shell: The shell.
    """

    shell: Annotated[Positional[Literal["bash", "zsh", "fish"]], arg(metavar="bash|zsh|fish")]

    def run(self) -> int:
        """Prints it."""
        from autoshard.cli._main import print_completion

        print_completion(self.shell)
        return ExitCode.OK
