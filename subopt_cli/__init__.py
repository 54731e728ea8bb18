"""subopt: which optimizer, on your model, on your GPU, and is it worth it?"""

if __name__ != "subopt":
    raise ImportError(
        "this folder is the package 'subopt': install it with 'make install' and import subopt"
    )

from ._version import __version__

__all__ = ["__version__"]
