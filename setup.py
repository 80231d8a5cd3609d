"""Where each import package lies: the one thing that pyproject.toml cannot say.

Four folders install as one import package, `autoshard`. setuptools can rename folders or discover
packages, not both at once, hence these lines; everything else is in pyproject.toml.
"""

from setuptools import find_namespace_packages, setup

FOLDERS = {
    "autoshard": "autoshard",
    "autoshard.cli": "cli",
    "autoshard.cost_model": "cost_model",
    "autoshard.models": "models",
}

setup(
    package_dir=FOLDERS,
    packages=[
        package
        for root, folder in FOLDERS.items()
        # Namespace packages, for there are folders that hold data alone.
        for package in (root, *(f"{root}.{name}" for name in find_namespace_packages(folder)))
        if not package.endswith(".__pycache__")
    ],
    # A test tells when a file of another kind is left out.
    package_data={"": ["py.typed", "*.json", "*.yaml", "*.html", "*.css", "*.js"]},
)
