"""The boards in the repository: each is what its results make, and holds no documents."""

from pathlib import Path

import pytest

from lorafuse_bench.leaderboards.publishing.verify import verify
from lorafuse_bench.leaderboards.results.samples import SUFFIX

PUBLISHED = Path(__file__).resolve().parents[2] / "leaderboards" / "published"
FOLDERS = sorted(path.parent for path in PUBLISHED.rglob("leaderboard.json"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_published_board_verifies(folder: Path) -> None:
    report = verify(folder)
    assert report.problems == ()
    assert report.results
    assert (folder / "caption.md").read_text().strip()


def test_no_texts_are_published() -> None:
    kept = (path.name for path in PUBLISHED.rglob("*") if path.is_file())
    assert not [name for name in kept if name.endswith((SUFFIX, ".jsonl", ".parquet"))]
