"""The plugin: what it adds to lm-eval, when, and that it leaves the rest alone."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace

import lm_eval.models
import pytest
from lm_eval.api.registry import model_registry
from lm_eval.tasks.manager import TaskManager

from lorafuse_bench import plugin

CHECKOUT = Path(plugin.__file__).parent.parent


def python(code, *options, **environment):
    """Standard output of `code` in a new interpreter, where the start-up file has run."""
    command = [sys.executable, *options, "-c", code]
    ran = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def test_both_models_resolve_by_name():
    code = "from lm_eval.api.registry import get_model as g; print(g('lorafuse').__name__, g('hf').__name__)"
    assert python(code) == "LorafuseLM HFLM"


def test_registration_does_not_import_the_model():
    code = "import sys, lm_eval.models; print('lorafuse_bench.model_wrappers.hf' in sys.modules)"
    assert python(code) == "False"


def test_opt_out():
    code = "import sys; print('lorafuse' in {type(f).__module__.split('_')[0] for f in sys.meta_path})"
    assert python(code) == "True"
    assert python(code, LORAFUSE_NO_PLUGIN="1") == "False"


def test_interpreters_that_never_import_lm_eval_load_only_the_finder():
    code = "import sys; print(sorted(m for m in sys.modules if m.startswith('lorafuse_bench')))"
    assert python(code) == "['lorafuse_bench', 'lorafuse_bench.plugin']"


def test_the_finder_imports_only_what_start_up_already_loaded():
    code = (
        f"import sys, json, os; sys.path.insert(0, {str(CHECKOUT)!r}); before = set(sys.modules);"
        "import lorafuse_bench.plugin; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    loaded = json.loads(python(code, "-I", "-S"))
    assert loaded == ["__future__", "lorafuse_bench", "lorafuse_bench.plugin"]


@pytest.fixture
def manager():
    """A stand-in for the module lm_eval.tasks.manager whose TaskManager only notes its arguments."""

    class Notes:
        def __init__(self, verbosity=None, include_path=None, include_defaults=True, metadata=None):
            self.include_path, self.metadata = include_path, metadata

    module = SimpleNamespace(TaskManager=Notes)
    plugin.add_tasks(module)
    return module.TaskManager


OURS = plugin._before(None)


def test_our_tasks_come_before_the_users(manager):
    assert manager().include_path == OURS
    assert manager(include_path="mine").include_path == [*OURS, "mine"]
    assert manager(None, ["a", "b"], metadata={"k": 1}).include_path == [*OURS, "a", "b"]
    assert manager(include_path=OURS[0]).include_path == OURS


def test_a_manager_without_defaults_is_left_alone(manager):
    assert manager(include_path="mine", include_defaults=False).include_path == "mine"
    assert manager(None, None, False).include_path is None


def test_adding_twice_adds_once(manager):
    module = SimpleNamespace(TaskManager=manager)
    plugin.add_tasks(module)
    assert module.TaskManager().include_path == OURS


def test_lm_evals_own_signature_is_the_one_expected():
    assert TaskManager(include_defaults=False, include_path=OURS[0]).all_tasks


def test_a_strange_lm_eval_is_a_warning_and_still_imports():
    with pytest.warns(UserWarning, match="could not register.*add_tasks.*AttributeError"):
        plugin._guarded(plugin.add_tasks, ModuleType("lm_eval.tasks.manager"))


def test_a_name_that_lm_evals_entry_points_registered_is_kept(monkeypatch):
    monkeypatch.setitem(model_registry._objs, "lorafuse", "elsewhere:Model")
    plugin.register_models(lm_eval.models)
    assert model_registry._objs["lorafuse"] == "elsewhere:Model"


def test_registering_twice_changes_nothing():
    plugin.register()
    before = dict(model_registry._objs)
    with warnings.catch_warnings(action="error"):
        plugin.register()
    assert dict(model_registry._objs) == before


def test_the_loader_stays_lm_evals_own():
    code = "import lm_eval.models as m; print(type(m.__spec__.loader).__name__)"
    assert python(code) == "SourceFileLoader"


def test_the_explicit_way_needs_no_start_up_file():
    code = (
        "import lm_eval.__main__ as m, lorafuse_bench.__main__ as ours;"
        "from lm_eval.api.registry import model_registry as r; from lm_eval.tasks import TaskManager as T;"
        "m.cli_evaluate = lambda: print('lorafuse' in r, 'hf' in r, hasattr(T.__init__, 'searches_lorafuse'));"
        "ours.main()"
    )
    assert python(code, LORAFUSE_NO_PLUGIN="1") == "True True True"
