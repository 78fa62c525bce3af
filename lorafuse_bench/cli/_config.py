"""A command's options from a YAML file, and into one.

`options` are those that the command declares: a new one can be named in a file at once, under the name that it has on
the command line, with dashes or underscores. The command line wins over the file, and says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lorafuse_bench.cli._signatures import keyword, with_options

_CONFIG, _SAVE = "config", "save_config"


def configurable(*asking: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator of a command: gives it --config FILE and --save-config FILE.

    `asking` names the parameters that ask for something to be shown, not how to run: they are not saved.
    """
    file_option = Annotated[
        Path | None,
        typer.Option(callback=_read_options, is_eager=True, help="A YAML file with these options."),
    ]
    save_option = Annotated[
        Path | None, typer.Option(help="Write all options, as they are now, to a YAML file.")
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def configured(*, context: typer.Context, **options: Any) -> None:
            file, save = options.pop(_CONFIG), options.pop(_SAVE)
            if file is not None:
                _say_who_wins(context, file)
            if save is not None:
                _write(save, context, asking)
            command(**options)

        return with_options(
            command,
            configured,
            keyword("context", typer.Context),
            keyword(_CONFIG, file_option, None),
            keyword(_SAVE, save_option, None),
        )

    return decorate


def _read_options(context: typer.Context, file: Path | None) -> Path | None:
    """Make a file's options the defaults of those that follow; LorafuseError names the file and the option."""
    from lorafuse_bench.errors import LorafuseError, unknown

    if file is None:
        return None
    known = _named(context)
    given: dict[str, Any] = {}
    for key, value in _parsed(file).items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise unknown("option", str(key), known, f"in {file}")
        parameter = known[name]
        if parameter.name in given:
            raise LorafuseError(f"{file}: {key} is there twice. Say it once.")
        if value is not None:
            given[parameter.name] = _checked(context, file, key, parameter, value)
    context.default_map = given
    return file


def _parsed(file: Path) -> Mapping[str, Any]:
    import yaml

    from lorafuse_bench.errors import LorafuseError
    from lorafuse_bench.yaml_files import parse

    try:
        found = parse(file.read_bytes())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise LorafuseError(f"{file}: not readable YAML: {reason}. Correct the file.") from error
    if not isinstance(found, dict):
        raise LorafuseError(f"{file}: expected lines such as `methods: base,oracle`. Correct the file.")
    return found


def _named(context: typer.Context) -> dict[str, Any]:
    """Every option but ours under each of its long names, such as `num_fewshot`."""
    return {
        word.removeprefix("--").replace("-", "_"): parameter
        for parameter in context.command.params
        if parameter.name not in (_CONFIG, _SAVE, "help")
        for word in parameter.opts
    }


def _checked(context: typer.Context, file: Path, key: str, parameter: Any, value: Any) -> Any:
    """A value as the command line would have it: a list is words with commas, a mapping a JSON object."""
    from lorafuse_bench.errors import LorafuseError

    many = parameter.multiple
    words = [_word(part) for part in value] if many and isinstance(value, list) else _word(value)
    words = [words] if many and isinstance(words, str) else words
    try:
        parameter.process_value(context, words)
    except Exception as error:  # typer gives its usage errors no public name
        if not hasattr(error, "format_message"):
            raise
        reason = error.message.rstrip(".")  # type: ignore[attr-defined]
        raise LorafuseError(f"{file}: {key}: {reason}. Correct it.") from error
    return words


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps({str(key): part for key, part in value.items()}, ensure_ascii=False, default=str)
    if isinstance(value, list):
        return ",".join(map(_word, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _say_who_wins(context: typer.Context, file: Path) -> None:
    """A line for each option of the file that the command line changes."""
    from lorafuse_bench.uncaught import say

    for name, parameter in _named(context).items():
        theirs = (context.default_map or {}).get(parameter.name)
        source = context.get_parameter_source(parameter.name)
        if theirs is None or source is None or source.name != "COMMANDLINE":
            continue
        ours = context.params[parameter.name]
        if _plain(parameter.process_value(context, theirs)) != _plain(ours):
            say(f"{name} is {_word(_plain(ours))}, as the command line says; {file} says {_word(theirs)}.")


def _write(file: Path, context: typer.Context, asking: Sequence[str]) -> None:
    import yaml

    from lorafuse_bench.files import write_text

    options: dict[str, tuple[str, Any]] = {}
    for name, parameter in _named(context).items():
        if parameter.name not in (*options, *asking):
            options[parameter.name] = (name, _plain(context.params[parameter.name]))
    write_text(file, yaml.safe_dump(dict(options.values()), sort_keys=False, allow_unicode=True))


def _plain(value: Any) -> Any:
    """A value as YAML holds it."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value
