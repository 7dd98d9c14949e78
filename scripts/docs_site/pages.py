"""Pages of the documentation that are written when the site is built, from the program itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import groupby

import click

from safe_train.config_reference import SettingReference, list_settings

_SETTINGS_HEAD = """# Settings

Every setting of `safe train`, written from the program when this site is built. `--set key=value` sets one,
`--config FILE` takes a YAML or JSON file of them ([an example](../../examples/settings.yaml)), and
`safe train --help-settings` prints this list. Values are read as YAML; `null` means *none*.
"""

_COMMANDS_HEAD = """# Commands

Every command with its options, written from the program when this site is built. Bad input is one line with the place,
what was expected, what was given and what to do, exit code 2. A run that is stopped by SIGTERM, SIGUSR1 or SIGHUP exits
with 75, after Ctrl-C with 130.
"""


def settings_page() -> str:
    """The reference of settings, a table for each section of the configuration."""
    sections = [_SETTINGS_HEAD]
    for section, settings in groupby(list_settings(), key=lambda setting: setting.name.rpartition(".")[0]):
        sections.append(f"## {section or 'run'}\n\n" + "\n".join(_settings_table(list(settings))))
    return "\n\n".join(sections) + "\n"


def _settings_table(settings: list[SettingReference]) -> Iterator[str]:
    yield "| setting | values | default | meaning |"
    yield "|---|---|---|---|"
    for setting in settings:
        name = setting.name.replace(".", "-")
        # An anchor of its own, so that a page can link to a setting.
        yield (
            f'| <span id="{name}"></span>`{setting.name}` | {_values(setting)} | `{setting.default}` '
            f"| {_cell(setting.meaning)}{_earlier(setting)} |"
        )


def _earlier(setting: SettingReference) -> str:
    names = ", ".join(f"`{name}`" for name in setting.earlier_names)
    return f" Earlier name: {names}." if names else ""


def _values(setting: SettingReference) -> str:
    if not setting.choices:
        return _cell(setting.kind)
    return ", ".join(f"`{choice}`" for choice in (*setting.choices, *(["null"] if setting.is_optional else [])))


def _cell(text: str) -> str:
    return text.replace("|", "or")


def commands_page() -> str:
    """The reference of commands, a heading for each."""
    from safe_train.cli import safe, train

    sections = [_COMMANDS_HEAD, *_command_sections(safe, "safe"), *_command_sections(train, "safe-train")]
    return "\n\n".join(sections) + "\n"


def _command_sections(command: click.Command, path: str) -> Iterator[str]:
    context = click.Context(command, info_name=path)
    yield "\n\n".join(_command_parts(command, path, context))
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from _command_sections(child, f"{path} {name}")


def _command_parts(command: click.Command, path: str, context: click.Context) -> Iterator[str]:
    yield f"## {path}"
    yield inspect.cleandoc(command.help or "")
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```\n{path} {usage}\n```"
    rows = [record for parameter in command.get_params(context) if (record := parameter.get_help_record(context))]
    if rows:
        yield "\n".join(
            ["| option | does |", "|---|---|", *(f"| `{option}` | {_cell(text)} |" for option, text in rows)]
        )
