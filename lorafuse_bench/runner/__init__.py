"""The grid of (method, suite) cells on one loaded base.

plan.py        what was asked, and the cells that it means
grid.py        runs the unfinished cells and keeps the finished ones
evaluation.py  one cell: lm-eval's run made into a result
provenance.py  what a cell is made of
"""

from lorafuse_bench.runner.grid import run
from lorafuse_bench.runner.plan import Plan, all_methods

__all__ = ["Plan", "all_methods", "run"]
