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
    """The reference of settings, a heading for each section of the configuration and for each setting."""
    parts = [_SETTINGS_HEAD]
    for section, settings in groupby(list_settings(), key=lambda setting: setting.name.rpartition(".")[0]):
        parts.append(f"## {section or 'run'}")
        parts += [_setting(setting) for setting in settings]
    return "\n\n".join(parts) + "\n"


def _setting(setting: SettingReference) -> str:
    facts = [f"**Values:** {_values(setting)}", f"**Default:** `{setting.default}`"]
    if setting.earlier_names:
        facts.append(f"**Earlier name:** {_as_code(setting.earlier_names)}")
    return f"### {setting.name} {{ #{setting.name} }}\n\n{setting.meaning}\n\n{'. '.join(facts)}."


def _values(setting: SettingReference) -> str:
    if not setting.choices:
        return setting.kind
    return _as_code((*setting.choices, "null") if setting.is_optional else setting.choices)


def _as_code(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _cell(text: str) -> str:
    return text.replace("|", "or")


def commands_page() -> str:
    """The reference of commands, a heading for each."""
    from containers.cli import container
    from safe_train.cli import safe, train

    # What is behind ``safe container`` is read when it is called; here it stands in its place.
    context = click.Context(safe, info_name="safe", **safe.context_settings)
    sections = [_COMMANDS_HEAD, _section(safe, "safe", context)]
    for name, command in sorted(safe.commands.items()):
        sections += _command_sections(container if name == "container" else command, f"safe {name}", context)
    return "\n\n".join([*sections, *_command_sections(train, "safe-train")]) + "\n"


def _command_sections(command: click.Command, path: str, parent: click.Context | None = None) -> Iterator[str]:
    if command.hidden:
        return
    context = click.Context(command, parent=parent, info_name=path, **command.context_settings)
    yield _section(command, path, context)
    if isinstance(command, click.Group):
        for name, child in sorted(command.commands.items()):
            yield from _command_sections(child, f"{path} {name}", context)


def _section(command: click.Command, path: str, context: click.Context) -> str:
    return "\n\n".join(_command_parts(command, path, context))


def _command_parts(command: click.Command, path: str, context: click.Context) -> Iterator[str]:
    yield f"## {path}"
    yield inspect.cleandoc(command.help or "")
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```\n{path} {usage}\n```"
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    rows = [f"| `{record[0]}` | {_cell(record[1])} |" for record in records if record and record[1]]
    if rows:
        yield "\n".join(["| option | does |", "|---|---|", *rows])
