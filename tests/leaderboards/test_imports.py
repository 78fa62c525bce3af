"""leaderboards/ reads results only: building and rendering imports no torch, lm-eval or transformers."""

import subprocess
import sys
from pathlib import Path

from toy_cells import write

SCRIPT = """
import sys
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.pages.page import write_page
write_page(sys.argv[2], build([sys.argv[1]]))
heavy = {"torch", "lm_eval", "transformers", "datasets", "peft", "sacrebleu"}
print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""


def test_no_heavy_import(tmp_path: Path) -> None:
    for label, scores in (("base", [0.0, 0.0]), ("oracle", [1.0, 1.0])):
        write(tmp_path / "results", label, {"one": scores})
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "results"), str(tmp_path / "site")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
