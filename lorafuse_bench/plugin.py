"""What makes the stock `lm_eval` command see our model and our tasks.

A one-line start-up file beside the package (`lorafuse_bench.pth`; `.start` from Python 3.15) calls
`install()` in every interpreter of the environment. It puts a finder on `sys.meta_path` that waits for
four modules and costs nothing until one of them is imported:

- after `lm_eval.models` ran, our models are registered by name, still unimported;
- after `lm_eval.tasks.manager` ran, `TaskManager` also searches our tasks folder and those of other packages,
  before the user's `include_path`, so that a user's task of the same name wins;
- after `lm_eval.api.task` ran, a task of lm-eval's own takes its rows from where `data=` of --model_args says;
- after `lm_eval.evaluator` ran, `simple_evaluate` asks for consent to our tasks that run a model's code
  before it loads the model, not after, and `evaluate` tells our model which tasks are asked for.

Only the standard library is imported here, and nothing beyond what every interpreter start already
loaded. LORAFUSE_NO_PLUGIN=1 switches it off; `python -m lorafuse_bench` is the explicit way.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing's, without the milliseconds that importing typing costs
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

OPT_OUT = "LORAFUSE_NO_PLUGIN"
MODELS = {
    "lorafuse": "lorafuse_bench.model_wrappers.hf:LorafuseLM",
    "lorafuse-vllm": "lorafuse_bench.model_wrappers.vllm:LorafuseVLLM",
}


def install() -> None:
    """Register with lm-eval as soon as it is imported; does nothing twice, or when opted out."""
    if os.environ.get(OPT_OUT) or installed():
        return
    sys.meta_path.insert(0, _AfterImport())
    for name, hook in HOOKS.items():
        if name in sys.modules:
            _guarded(hook, sys.modules[name])


def installed() -> bool:
    """Whether the start-up file has put our finder in place."""
    return any(isinstance(finder, _AfterImport) for finder in sys.meta_path)


def register() -> None:
    """Register with lm-eval now, importing what that takes; raises where `install` would only warn."""
    from importlib import import_module

    for name, hook in HOOKS.items():
        hook(import_module(name))


def register_models(_: ModuleType) -> None:
    """Add our models to lm-eval's registry, unless its own entry points already did.

    Not to be done before `lm_eval.models` ran: lm-eval fills a registry only once, and finding one of
    our names in it would leave out its own.
    """
    from lm_eval.api.registry import model_registry

    for name, target in MODELS.items():
        if name not in model_registry:
            model_registry.register(name, target=target)
    _show_our_errors()


def add_tasks(manager: ModuleType) -> None:
    """Make every `TaskManager` that includes lm-eval's own tasks include ours."""
    from functools import wraps
    from inspect import signature

    original = manager.TaskManager.__init__
    if hasattr(original, "searches_lorafuse"):
        return
    parameters = signature(original)

    @wraps(original)
    def with_our_tasks(*args: Any, **kwargs: Any) -> None:
        call = parameters.bind(*args, **kwargs)
        if call.arguments.get("include_defaults", True):
            call.arguments["include_path"] = _before(call.arguments.get("include_path"))
        original(*call.args, **call.kwargs)

    setattr(with_our_tasks, "searches_lorafuse", True)  # noqa: B010
    manager.TaskManager.__init__ = with_our_tasks


def ask_first(evaluator: ModuleType) -> None:
    """Make `simple_evaluate` ask for the consent of `tasks.consent` before it loads anything."""
    from functools import wraps
    from inspect import signature

    original = evaluator.simple_evaluate
    if hasattr(original, "asks_lorafuse"):
        return
    parameters = signature(original)

    @wraps(original)
    def asking(*args: Any, **kwargs: Any) -> Any:
        from lorafuse_bench.tasks import consent

        given = parameters.bind(*args, **kwargs).arguments
        if given.get("model") in MODELS:
            _include(getattr(given.get("task_manager"), "include_path", None))
        consent.ask(given.get("tasks") or (), bool(given.get("confirm_run_unsafe_code")))
        return original(*args, **kwargs)

    setattr(asking, "asks_lorafuse", True)  # noqa: B010
    setattr(evaluator, "simple_evaluate", asking)  # noqa: B010
    _show_our_errors()


def serve_rows(tasks: ModuleType) -> None:
    """Make tasks that lm-eval would load from the hub take their rows from the source that is asked for."""
    original = tasks.ConfigurableTask.download
    if hasattr(original, "asks_lorafuse"):
        return

    def download(self: Any, dataset_kwargs: Any = None, **kwargs: Any) -> None:
        rows = None
        if {"data", "zoo", "method"} & set(self.config.metadata or {}):
            from lorafuse_bench.tasks.data import rows_of

            rows = rows_of(self.config)
        if rows is None:
            original(self, dataset_kwargs, **kwargs)
        else:
            self.dataset = rows

    setattr(download, "asks_lorafuse", True)  # noqa: B010
    tasks.ConfigurableTask.download = download


def tell_model(evaluator: ModuleType) -> None:
    """Make `evaluate` tell a model of ours which tasks it is about to evaluate, before any request is made."""
    from functools import wraps
    from inspect import signature

    original = evaluator.evaluate
    if hasattr(original, "tells_lorafuse"):
        return
    parameters = signature(original)

    @wraps(original)
    def telling(*args: Any, **kwargs: Any) -> Any:
        call = parameters.bind(*args, **kwargs)
        call.apply_defaults()
        meet = getattr(call.arguments["lm"], "meet", None)
        if meet is not None:
            meet(_tasks(call.arguments["task_dict"]), call.arguments)
        return original(*args, **kwargs)

    setattr(telling, "tells_lorafuse", True)  # noqa: B010
    setattr(evaluator, "evaluate", telling)  # noqa: B010


def _tasks(asked: Any) -> dict[str, Any]:
    """The tasks by name in what lm-eval evaluates: a table of them, which may hold tables."""
    if isinstance(asked, dict):
        return {name: task for inner in asked.values() for name, task in _tasks(inner).items()}
    name = getattr(getattr(asked, "config", None), "task", None)
    return {name: asked} if isinstance(name, str) and hasattr(asked, "build_all_requests") else {}


def attend_evaluator(evaluator: ModuleType) -> None:
    """Both hooks of `lm_eval.evaluator`."""
    ask_first(evaluator)
    tell_model(evaluator)


HOOKS: dict[str, Callable[[ModuleType], None]] = {
    "lm_eval.models": register_models,
    "lm_eval.tasks.manager": add_tasks,
    "lm_eval.api.task": serve_rows,
    "lm_eval.evaluator": attend_evaluator,
}


class _AfterImport:
    """Meta-path finder: lets the other finders find a module of HOOKS, and runs its hook afterwards."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in HOOKS:
            return None
        others = (finder.find_spec for finder in sys.meta_path if finder is not self)
        spec = next((spec for find in others if (spec := find(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            _run_after(spec.loader, name)
        return spec


def _run_after(loader: Any, name: str) -> None:
    """Extend this one loader's `exec_module`; it stays the loader that others expect (its resources too)."""
    execute = loader.exec_module

    def execute_then_hook(module: ModuleType) -> None:
        execute(module)
        if module.__name__ == name:
            _guarded(HOOKS[name], module)

    loader.exec_module = execute_then_hook


def _guarded(hook: Callable[[ModuleType], None], module: ModuleType) -> None:
    """Run a hook; when this lm-eval is not as we know it, warn rather than break `import lm_eval`."""
    try:
        hook(module)
    except Exception as error:
        import warnings

        warnings.warn(
            f"lorafuse-bench could not register with lm-eval ({hook.__name__}: {error!r});"
            f" `python -m lorafuse_bench` shows the whole error, {OPT_OUT}=1 silences this.",
            stacklevel=2,
        )


def _before(include_path: Any) -> list[Any]:
    """The folders that `catalogue` searches, the last to win; then what the user asked for."""
    from lorafuse_bench.tasks.catalogue import places

    searched = [place for place in reversed(places()) if os.path.isdir(place)]
    return [*searched, *(path for path in _paths(include_path) if str(path) not in searched)]


def _include(include_path: Any) -> None:
    """What the user's `--include_path` holds is found by our model too."""
    from lorafuse_bench.tasks import catalogue

    known = catalogue.places()
    catalogue.include(path for path in _paths(include_path) if os.path.isdir(path) and str(path) not in known)


def _paths(include_path: Any) -> list[Any]:
    return [
        path for path in (include_path if isinstance(include_path, list | tuple) else [include_path]) if path
    ]


def _show_our_errors() -> None:
    """In the `lm_eval` command our errors end as in `lorafuse`: one line, exit code 2.

    lm-eval lets exceptions through to the interpreter, so the interpreter's hook for uncaught ones is
    the place; a program of one's own that imports lm_eval keeps its tracebacks.
    """
    folder, file = os.path.split(sys.argv[0])
    command = os.path.basename(folder) if file == "__main__.py" else os.path.splitext(file)[0]
    if command in ("lm_eval", "lm-eval", "lorafuse_bench"):
        from lorafuse_bench.uncaught import install_excepthook

        install_excepthook()
