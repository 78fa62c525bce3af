"""LoRA-Fuse Bench: merge, route, ensemble or train an adapter, and what does each cost?

The names of `__all__` are the public ones (docs/python.md); they are imported when they are first used.
"""

import os.path

__version__ = "0.1.0"

# In a source checkout tasks/, model_wrappers/ and leaderboards/ lie beside this folder; the wheel
# carries them inside it. Extending the path makes `lorafuse_bench.tasks` the one name for both.
# (os.path, not pathlib: this runs at every interpreter start, and pathlib alone costs 10 ms there.)
_root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if os.path.isfile(os.path.join(_root, "pyproject.toml")) and os.path.isdir(os.path.join(_root, "tasks")):
    __path__.append(_root)

__all__ = ["Fused", "LorafuseError", "Zoo", "board", "evaluate", "fuse", "methods"]


def __getattr__(name: str) -> object:
    """The public names, without the seconds that torch takes until one of them is used."""
    if name in __all__:
        from lorafuse_bench import api

        return getattr(api, name)
    if name.startswith("_"):
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    from lorafuse_bench.errors import did_you_mean

    hint = did_you_mean(name, __all__)
    raise AttributeError(f"{__name__} has no '{name}'.{hint} It has: {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
