"""LoRA-Fuse Bench: merge, route, ensemble or train an adapter, and what does each cost?"""

import os.path

__version__ = "0.1.0"

# In a source checkout tasks/, model_wrappers/ and leaderboards/ lie beside this folder; the wheel
# carries them inside it. Extending the path makes `lorafuse_bench.tasks` the one name for both.
# (os.path, not pathlib: this runs at every interpreter start, and pathlib alone costs 10 ms there.)
_root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if os.path.isfile(os.path.join(_root, "pyproject.toml")) and os.path.isdir(os.path.join(_root, "tasks")):
    __path__.append(_root)
