"""The wheel, in a new virtual environment: the stock `lm_eval` command finds us from any folder."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSIDE = ("tasks", "model_wrappers", "leaderboards")
MEASURED = ("leaderboards/published/", "leaderboards/analyses/")
# One worker builds the wheel once for all tests here.
pytestmark = pytest.mark.timeout(300)


def run(*command, cwd, check=True):
    ran = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True)
    assert not check or ran.returncode == 0, (
        f"{command} ended with {ran.returncode}:\n{ran.stdout}\n{ran.stderr}"
    )
    return ran


def build(source, out, *what):
    """Build from the project in `source` into `out`; the one file that this made."""
    run(sys.executable, "-m", "hatchling", "build", *what, "-d", out, cwd=source)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "-t", "wheel")


def files_in(wheel):
    """Names and sizes of a wheel's files."""
    with zipfile.ZipFile(wheel) as archive:
        return {item.filename: item.file_size for item in archive.infolist()}


def new_environment(folder):
    """A virtual environment that sees this one's packages, but not its start-up files."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return site


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Folder of the programs of a new environment with the wheel, and lm-eval's own command."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    new_environment(folder)
    programs = folder / "bin"
    pip = (sys.executable, "-m", "pip", "--python", programs / "python")
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    command = (Path(sysconfig.get_path("scripts")) / "lm_eval").read_text().split("\n", 1)[1]
    (programs / "lm_eval").write_text(f"#!{programs}/python\n{command}")
    (programs / "lm_eval").chmod(0o755)
    return programs


def test_the_wheel_holds_every_file_of_the_package(wheel):
    names = files_in(wheel)
    folders = {"lorafuse_bench": "lorafuse_bench"} | {name: f"lorafuse_bench/{name}" for name in INSIDE}
    listed = run("git", "ls-files", *folders, cwd=ROOT).stdout.split()
    tracked = [path for path in listed if not path.startswith(MEASURED)]
    assert 20 < len(tracked) < len(listed)
    expected = {folders[path.split("/")[0]] + path[path.index("/") :] for path in tracked}
    # The start-up files lie beside the package instead.
    missing = {name for name in expected - set(names) if not name.startswith("lorafuse_bench/startup/")}
    assert missing == set()


def test_the_wheel_leaves_out_what_was_measured(wheel):
    measured = [
        name for name in files_in(wheel) if "/published/" in name or "/leaderboards/analyses/" in name
    ]
    assert measured == []


def test_the_wheel_puts_only_the_package_and_its_start_up_files_into_site_packages(wheel):
    tops = {name.split("/")[0] for name in files_in(wheel)}
    metadata = {top for top in tops if top.endswith(".dist-info")}
    assert tops - metadata == {"lorafuse_bench", "lorafuse_bench.pth", "lorafuse_bench.start"}


def test_the_source_distribution_builds_the_same_wheel(wheel, tmp_path):
    archive = build(ROOT, tmp_path / "sdist", "-t", "sdist")
    run("tar", "-xzf", archive, "-C", tmp_path, cwd=tmp_path)
    source = tmp_path / archive.name.removesuffix(".tar.gz")
    assert files_in(build(source, tmp_path / "wheel", "-t", "wheel")) == files_in(wheel)


def test_an_editable_install_maps_one_name_and_starts_the_plugin(tmp_path):
    code = f"from hatchling.build import build_editable as b; b({str(tmp_path)!r})"
    run(sys.executable, "-c", code, cwd=ROOT)
    site = new_environment(tmp_path / "venv")
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        archive.extractall(site)
    code = (
        "import importlib.util as u, lorafuse_bench.tasks, lorafuse_bench.leaderboards, lm_eval.models;"
        "from lm_eval.api.registry import model_registry as r; print('lorafuse' in r, 'hf' in r,"
        " [n for n in ('tasks', 'model_wrappers', 'leaderboards', 'tests') if u.find_spec(n)])"
    )
    assert run(tmp_path / "venv/bin/python", "-c", code, cwd=tmp_path).stdout == "True True []\n"


def test_the_start_up_file_without_the_package_is_silent(tmp_path):
    site = new_environment(tmp_path / "venv")
    (site / "dependencies.pth").unlink()
    (site / "lorafuse_bench.pth").write_bytes(
        (ROOT / "lorafuse_bench/startup/lorafuse_bench.pth").read_bytes()
    )
    assert run(tmp_path / "venv/bin/python", "-c", "pass", cwd=tmp_path).stderr == ""


def test_lm_eval_lists_our_tasks_and_its_own(installed, tmp_path):
    listed = run(installed / "lm_eval", "ls", "tasks", cwd=tmp_path).stdout
    names = {line.split("|")[1].strip() for line in listed.splitlines() if line.count("|") > 2}
    assert {"mtl5", "mtl7", "mtl_proposal", "lorafuse_squad", "lorafuse_sst2_options"} <= names
    assert {"hellaswag", "mmlu", "arc_easy"} <= names


def test_both_models_resolve_in_the_wheels_environment(installed, tmp_path):
    code = (
        "from lm_eval.api.registry import get_model as g; import sys; m = sys.modules;"
        "print(g('hf').__name__, m[g('lorafuse').__module__].__file__)"
    )
    name, file = run(installed / "python", "-c", code, cwd=tmp_path).stdout.split()
    assert name == "HFLM"
    assert Path(file).is_relative_to(installed.parent)


def test_the_headline_command_runs_from_any_folder(installed, tmp_path):
    ran = run(
        *(installed / "lm_eval", "--model", "lorafuse", "--model_args", "method=moa", "--tasks", "mtl5"),
        *("--limit", "2", "--device", "cpu"),
        cwd=tmp_path,
    )
    assert "|lorafuse_squad" in ran.stdout.replace(" ", "").replace("-", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model_args", "method=moaa"), "unknown method 'moaa'. Did you mean 'moa'?"),
        (
            ("--model_args", "method=moa", "--use_cache", "answers"),
            "--use_cache keys answers by the prompt alone",
        ),
        (("--model_args", "method=moa,zoo=nowhere"), "zoo 'nowhere' not found"),
    ],
)
def test_bad_input_to_lm_eval_is_one_line_and_exit_code_2(installed, tmp_path, arguments, message):
    command = (
        installed / "lm_eval",
        "--model",
        "lorafuse",
        *arguments,
        "--tasks",
        "lorafuse_sst2",
        "--limit",
        "2",
    )
    ended = run(*command, cwd=tmp_path, check=False)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert f"lorafuse: {message}" in ended.stderr.splitlines()[-1]
