"""Command-line interface. Importing it leaves jax unloaded, so that `--help` answers at once."""

from autoshard.cli._main import main as main
