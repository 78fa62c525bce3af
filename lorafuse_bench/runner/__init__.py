"""The grid of (method, suite) cells on one loaded base.

plan.py        what was asked, and the cells that it means
grid.py        those cells, and what each must be made of
running.py     runs the unfinished cells and keeps the finished ones
sharing.py     hands cells to workers, and a lost worker's cell to another
engines/       where workers are: this process, several of them, a Ray cluster
worker.py      one loaded base that is given cells
outlook.py     what a plan will take, before it runs
evaluation.py  one cell: lm-eval's run made into a result
provenance.py  what a cell is made of
audit.py       random items of finished cells, evaluated anew
"""

from lorafuse_bench.runner.audit import Audit
from lorafuse_bench.runner.grid import Grid
from lorafuse_bench.runner.outlook import outlooks
from lorafuse_bench.runner.plan import Plan, all_methods, shard_of
from lorafuse_bench.runner.running import run

__all__ = ["Audit", "Grid", "Plan", "all_methods", "outlooks", "run", "shard_of"]
