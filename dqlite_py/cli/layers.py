"""Where an option's value comes from: flag, then environment, then TOML file, then default. For all commands.

    dqlite-py --config FILE COMMAND …   or   dqlite-py COMMAND --config FILE …

The file has a table per command ([node], [shell], [cluster], …) and [client], which holds for every command that asks
running nodes. A key is an option's long name; the environment variable is DQLITE_PY_<COMMAND>_<OPTION>, and
DQLITE_PY_<OPTION> for what [client] may hold. What nobody knows is refused (in the file) or told (in the environment).
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import click

from dqlite_py.cli.options import AddressListType

CONFIG_VARIABLE: Final = "DQLITE_PY_CONFIG"
CONFIG_DEFAULT: Final = "/etc/dqlite-py.toml"
CLIENT: Final = "client"
CLIENT_KEYS: Final = ("servers", "timeout", "tls-cert", "tls-key", "tls-ca")
_PREFIX: Final = "DQLITE_PY"
_OTHER_VARIABLES: Final = frozenset({CONFIG_VARIABLE, f"{_PREFIX}_IMPL", f"{_PREFIX}_LOOP"})
# Consent is given where it is needed.
_BY_HAND: Final = frozenset({"config", "help", "yes", "force", "replace", "drop-first"})
_META: Final = "dqlite_py.config"


def install(main: click.Group) -> None:
    """Give every command of the program its --config, and every option its environment variables."""
    main.params.insert(0, _config_option(_remember))
    for path, command in leaves(main):
        for key, option in keys(command).items():
            if option.envvar is None:
                option.envvar = variables(path, key, command)
        if all(param.name != "config" for param in command.params):
            command.params.append(_config_option(_load))


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """(path, command) of every command that is no group, in order."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


def keys(command: click.Command) -> dict[str, click.Option]:
    """What may be configured: an option's long name without dashes in front, and the option."""
    found = {}
    for option in command.params:
        if isinstance(option, click.Option):
            key = max(option.opts, key=len).lstrip("-") if "--servers" not in option.opts else "servers"
            if key not in _BY_HAND:
                found[key] = option
    return found


def variables(path: tuple[str, ...], key: str, command: click.Command) -> list[str]:
    """The environment variables of an option, the one that counts first."""
    names = ["_".join((_PREFIX, *path, key))]
    if key in CLIENT_KEYS and _is_client(command):
        names.append(f"{_PREFIX}_{key}")
    return [name.upper().replace("-", "_") for name in names]


def strange_variables(main: click.Group, environment: Mapping[str, str]) -> list[str]:
    """A line for each variable that looks like ours and is none."""
    known = set(_OTHER_VARIABLES)
    for path, command in leaves(main):
        for key in keys(command):
            known.update(variables(path, key, command))
    return [
        f"the environment variable {name} means nothing{_nearest(name, known)}"
        for name in sorted(environment)
        if name.startswith(f"{_PREFIX}_") and name not in known
    ]


def _is_client(command: click.Command) -> bool:
    return "servers" in keys(command)


def _config_option(callback: Any) -> click.Option:
    return click.Option(
        ["--config"],
        type=click.Path(dir_okay=False),
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=callback,
        help=f"Options from this TOML file (default: ${CONFIG_VARIABLE}, else {CONFIG_DEFAULT} where there is one).",
    )


def _remember(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.meta[_META] = value


def _load(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    """Before the command's other options are looked at."""
    named = value or ctx.meta.get(_META) or os.environ.get(CONFIG_VARIABLE)
    root = ctx.find_root().command
    if ctx.resilient_parsing or not isinstance(root, click.Group):
        return
    if named is None and not os.path.exists(CONFIG_DEFAULT):
        return
    path = named or CONFIG_DEFAULT
    tables = _checked(root, ctx, _read(path), path)
    names = _path_of(ctx)
    client = tables.get(CLIENT, {}) if _is_client(ctx.command) else {}
    found = {**client, **tables.get(names[0], {})}
    options = keys(ctx.command)
    ctx.default_map = {
        str(options[key].name): _listed(options[key], value) for key, value in found.items() if key in options
    }


def _path_of(ctx: click.Context) -> list[str]:
    names: list[str] = []
    at: click.Context | None = ctx
    while at is not None and at.parent is not None:
        names.insert(0, str(at.info_name))
        at = at.parent
    return names


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise click.UsageError(f"cannot read the options file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"the options file {path} is not TOML: {error}") from None


def _checked(
    root: click.Group, ctx: click.Context, content: dict[str, Any], path: str
) -> dict[str, dict[str, Any]]:
    """The whole file, whichever command asks: a mistake is found at the first use, not at the next start."""
    known = _known(root)
    tables: dict[str, dict[str, Any]] = {}
    for name, table in content.items():
        if name not in known:
            raise click.UsageError(f"{path}: [{name}] means nothing{_nearest(name, known)}")
        if not isinstance(table, dict):
            raise click.UsageError(f"{path}: {name} must be a table: write [{name}]")
        tables[name] = {}
        for given, value in table.items():
            key = given.replace("_", "-")
            option = known[name].get(key)
            if option is None:
                raise click.UsageError(
                    f"{path}: {given!r} in [{name}] means nothing{_nearest(given, known[name])}"
                )
            try:
                _check_kind(option, value)
                option.type_cast_value(ctx, _listed(option, value))
            except click.BadParameter as error:
                raise click.UsageError(f"{path}: {given!r} in [{name}]: {error.message}") from None
            tables[name][key] = value
    return tables


def _check_kind(option: click.Option, value: Any) -> None:
    """What click takes for text, or would stumble over. Raises BadParameter."""
    values = value if isinstance(value, list) else [value]
    takes_list = option.multiple or isinstance(option.type, AddressListType)
    if isinstance(value, list) and not takes_list:
        raise click.BadParameter("a list, where one value is to stand")
    for one in values:
        if isinstance(one, (list, dict)) or (isinstance(one, bool) and not option.is_flag):
            raise click.BadParameter(f"{one!r:.40} is no value for it")


def _known(root: click.Group) -> dict[str, dict[str, click.Option]]:
    known: dict[str, dict[str, click.Option]] = {CLIENT: {}}
    for path, command in leaves(root):
        found = keys(command)
        known.setdefault(path[0], {}).update(found)
        if _is_client(command):
            known[CLIENT] |= {key: option for key, option in found.items() if key in CLIENT_KEYS}
    return known


def _listed(option: click.Option, value: Any) -> Any:
    if option.multiple and not isinstance(value, list):
        return [value]
    return value


def _nearest(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f": did you mean {found[0]}?" if found else f" (known are {', '.join(sorted(known)[:12])})"
