"""The boards of one oblivion suite, each under adapters of another number of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards.board import Board
from lorafuse_bench.tasks.suites import suites


def stages(boards: Sequence[Board], suite: str) -> list[tuple[int, Board]]:
    """(Number of tasks trained on, board of the suite), fewest first; the number is 0 where no board tells it.

    The number is that of the tasks of the board of what the same zoo's adapters were trained on.
    """
    measures = {key for each in suites() if each.kind == "oblivion" for key in each.tasks}
    counts = {
        board.zoo: len(board.columns)
        for board in boards
        if board.oblivion and measures.isdisjoint(column.task for column in board.columns)
    }
    own = [board for board in boards if board.suite == suite and board.oblivion]
    found = sorted(((counts.get(board.zoo, 0), board) for board in own), key=itemgetter(0))
    if not found or len({count for count, _ in found}) < len(found):
        raise LorafuseError(
            f"{len(own)} boards of what {suite} lost, where one for each number of tasks trained on is needed."
            " Give the results of one study."
        )
    return found
