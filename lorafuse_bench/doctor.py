"""What this machine offers for a run, what is wrong with it, and what to do about it."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from lorafuse_bench import plugin
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import check_writable
from lorafuse_bench.zoo.installed import installed_zoos
from lorafuse_bench.zoo.locate import cache_root
from lorafuse_bench.zoo.manifest import Zoo

LEAST_GB = 5.0
"""Free space below which a base of a billion parameters may not fit."""
_HUB_SECONDS = 3.0
_LONGEST = 200
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

State = Literal["good", "look", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `bad` keeps commands from working, `look` may surprise; `advice` mends it."""

    what: str
    state: State
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Everything, in the order in which it is worth mending; nothing raises, and no token is shown."""
    return [finding for check in CHECKS for finding in _told(check)]


def _told(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a check finds, and that it cannot go on, whatever is broken: the others are still made."""
    try:
        yield from check()
    except Exception as error:
        reason = " ".join(str(error).split())[:_LONGEST] or "no reason given"
        yield Finding(
            check.__name__, "bad", f"{type(error).__name__}: {reason}", "Mend this, then look again."
        )


def versions() -> Iterator[Finding]:
    """Python, and every package that is needed, within the range that pyproject.toml asks for."""
    yield Finding("python", "good", sys.version.split()[0])
    for text in requires("lorafuse-bench") or ():
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        install = f"pip install '{needed.name}{needed.specifier}'"
        try:
            have = Version(version(needed.name))
        except PackageNotFoundError:
            yield Finding(needed.name, "bad", "not installed", install)
            continue
        except (InvalidVersion, TypeError):  # a package half removed has no version
            yield Finding(needed.name, "bad", "installed in part", f"{install} --force-reinstall")
            continue
        fits = needed.specifier.contains(have, prereleases=True)
        yield Finding(needed.name, "good" if fits else "bad", str(have), "" if fits else install)


def gpu() -> Iterator[Finding]:
    """Accelerators that torch can use."""
    import torch

    if not torch.cuda.is_available():
        advice = "Small bases run on the CPU. For large ones install the torch that is built for your GPU."
        yield Finding("gpu", "look", f"none that torch {torch.__version__} can use", advice)
    for i in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(i)
        found = f"{torch.cuda.get_device_name(i)}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free"
        yield Finding(f"gpu {i}", "good", found)


def threads() -> Iterator[Finding]:
    """Threads that torch computes with, what says how many, and what else runs."""
    import torch

    mine = getattr(os, "sched_getaffinity", None)  # a job may have a part of the machine's cores
    cores, used = len(mine(0)) if mine else os.cpu_count() or 1, torch.get_num_threads()
    for name in _THREADS:
        value = os.environ.get(name)
        if value is not None and not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", value.strip()):
            yield Finding(
                name, "look", f"{value!r} is no number of threads", f"Unset it, or say 1 to {cores}."
            )
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    advice = ""
    if used > cores:
        advice = f"Threads beyond the cores wait for each other: set OMP_NUM_THREADS to {cores} at most."
    elif load > cores:
        advice = "Others use the cores, too: with OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE nobody waits for the other."
    found = f"{used} on {cores} cores, load {load:.1f}"
    yield Finding("threads", "look" if advice else "good", found, advice)


def variables() -> Iterator[Finding]:
    """Variables of ours that name places: they must be there."""
    from lorafuse_bench.tasks import catalogue, data

    if os.environ.get(data.VARIABLE):
        try:
            yield Finding(data.VARIABLE, "good", data.resolve_source())
        except LorafuseError as error:
            yield Finding(data.VARIABLE, "bad", os.environ[data.VARIABLE], str(error))
    for place in catalogue.absent():
        yield Finding(catalogue.VARIABLE, "look", f"nothing is at {place}", "Correct it, or unset it.")


def disk() -> Iterator[Finding]:
    """Free space and permission in the folders that are written to."""
    from huggingface_hub.constants import HF_HUB_CACHE

    places = {"this folder": Path(), "lorafuse's cache": cache_root(), "hub cache": Path(HF_HUB_CACHE)}
    variables = {"lorafuse's cache": "LORAFUSE_CACHE", "hub cache": "HF_HUB_CACHE"}
    for name, path in places.items():
        elsewhere = f"Set {variables[name]} to another folder." if name in variables else "Work elsewhere."
        try:
            where = path.absolute()  # fails in a folder that was removed
            check_writable(where)
            there = next(folder for folder in (where, *where.parents) if folder.exists())
            free = shutil.disk_usage(there).free / 1e9
        except (LorafuseError, OSError) as error:
            yield Finding(name, "bad", str(error)[-_LONGEST:], elsewhere)
            continue
        full = free < LEAST_GB
        advice = f"Free some space. {elsewhere}" if full else ""
        yield Finding(name, "look" if full else "good", f"{where}, {free:.0f} GB free", advice)


def hub() -> Iterator[Finding]:
    """Whether the hub can be reached, and whether there is a token."""
    import urllib.error
    import urllib.request

    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        yield Finding("hub", "look", "HF_HUB_OFFLINE is set", "Unset it to download bases, rows and zoos.")
    else:
        try:
            urllib.request.urlopen(constants.ENDPOINT, timeout=_HUB_SECONDS).close()
            yield Finding("hub", "good", f"{constants.ENDPOINT} answers")
        except urllib.error.HTTPError as error:
            yield Finding("hub", "good", f"{constants.ENDPOINT} answers ({error.code})")
        except (OSError, ValueError) as error:
            advice = (
                "Bases, rows and zoos must be folders: --base DIR, --data DIR. HF_ENDPOINT names a mirror."
            )
            yield Finding(
                "hub", "look", f"{constants.ENDPOINT} does not answer ({type(error).__name__})", advice
            )
    told = get_token() is not None
    advice = "" if told else "For gated bases and for --push: set HF_TOKEN, or run `hf auth login`."
    yield Finding("token of the hub", "good" if told else "look", "there" if told else "none", advice)


def harness() -> Iterator[Finding]:
    """Whether stock lm_eval sees our models and tasks."""
    if os.environ.get(plugin.OPT_OUT):
        yield Finding(
            "lm_eval plugin", "look", f"{plugin.OPT_OUT} is set", "Unset it to use --model lorafuse."
        )
    elif plugin.installed():
        yield Finding("lm_eval plugin", "good", "loaded at the start of Python")
    else:
        advice = (
            "Install the package again with pip, or run `python -m lorafuse_bench` in the place of lm_eval."
        )
        yield Finding("lm_eval plugin", "bad", "no start-up file in this environment", advice)


def zoos() -> Iterator[Finding]:
    """Every installed zoo, and whether its files are there."""
    for name in installed_zoos():
        try:
            zoo = Zoo.open(name).check_whole()
            yield Finding(f"zoo {name}", "good", f"{len(zoo.manifest.experts)} experts on {zoo.base_name}")
        except LorafuseError as error:
            yield Finding(f"zoo {name}", "bad", "not whole", " ".join(str(error).split()))


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    versions,
    harness,
    zoos,
    variables,
    gpu,
    threads,
    disk,
    hub,
)
