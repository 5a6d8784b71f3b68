"""The page: every picture of one or several traces in one HTML file that needs nothing else."""

from gentrace.explorer.explore import Explorer, explore

__all__ = ["Explorer", "explore"]
