"""The report: a profile as one self-contained HTML page that needs no network."""

from .page import MARK, render

__all__ = ["MARK", "render"]
