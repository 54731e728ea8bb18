"""The four folders are one package; setuptools finds its parts."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
FOLDERS = {
    "subopt": "subopt_cli",
    "subopt.profilers": "profilers",
    "subopt.optimizers": "optimizers",
    "subopt.recipes": "recipes",
}

setup(
    package_dir=FOLDERS,
    packages=[
        ".".join(filter(None, (package, part)))
        for package, folder in FOLDERS.items()
        for part in ("", *find_packages(str(HERE / folder)))
    ],
)
