"""LoRA-Fuse Bench: merge, route, ensemble or train an adapter, and what does each cost?"""

from pathlib import Path

__version__ = "0.1.0"

# In a source checkout tasks/, model_wrappers/ and leaderboards/ lie beside this folder; the wheel
# carries them inside it. Extending the path makes `lorafuse_bench.tasks` the one name for both.
_root = Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "tasks").is_dir():
    __path__.append(str(_root))
