"""docs/cli.md: every command and option, made of the program itself. `python -m dqlite_py.cli.reference > docs/cli.md`.

A test compares the file with this, so that what is documented is what there is.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from dqlite_py.cli import layers
from dqlite_py.cli.exits import EXIT_CODES
from dqlite_py.cli.main import main

_HEAD = """\
# The command line

Made by `python -m dqlite_py.cli.reference`; change the commands, not this file. The shell has a page of its own:
[shell.md](shell.md).

## Options: flag, environment, file

An option's value comes from the first of these that has one: the flag; the environment variable; the TOML file; the
default. The file is named by `--config` (before or behind the command), else by `{variable}`, else it is `{path}`
where there is one. Its tables are named as the commands; `[client]` holds for every command with `--servers`, and a
command's own table counts before it. Keys are the long names of options. `--yes`, `--force`, `--replace` and
`--drop-first` are given by hand only.

```toml
[node]
dir = "/var/lib/dqlite-py"
listen = "10.0.0.1:9001"
join = ["10.0.0.2:9001", "10.0.0.3:9001"]

[client]
servers = ["10.0.0.1:9001", "10.0.0.2:9001"]
tls-cert = "/etc/dqlite-py/cert.pem"
```

A key or table that means nothing is refused, with the nearest right one, whichever command runs. A variable
`DQLITE_PY_…` that means nothing is told on stderr.

Shells complete commands and options after `eval "$(dqlite-py completion bash)"` (or zsh; `dqlite-py completion -h` for
fish).

## Exit codes

| code | meaning |
|---|---|
"""


def reference() -> str:
    """The whole page."""
    parts = [_HEAD.format(variable=layers.CONFIG_VARIABLE, path=layers.CONFIG_DEFAULT)]
    parts += [f"| {int(code)} | {meaning} |\n" for code, meaning in EXIT_CODES.items()]
    parts.append(
        "\nErrors are on stderr, results on stdout. A program that reads results should ask for `--json`.\n"
    )
    for path, command in layers.leaves(main):
        parts += _command(path, command)
    return "".join(parts)


def _command(path: tuple[str, ...], command: click.Command) -> Iterator[str]:
    name = " ".join(("dqlite-py", *path))
    context = click.Context(command, info_name=name)
    arguments = [p.make_metavar(context) for p in command.params if isinstance(p, click.Argument)]
    yield f"\n## {' '.join(path)}\n\n"
    yield f"    {' '.join([name, '[OPTIONS]', *arguments])}\n\n"
    yield _prose(inspect.cleandoc(command.help or ""))
    yield "\n| option | environment | |\n|---|---|---|\n"
    known = {option.name: key for key, option in layers.keys(command).items()}
    for param in command.params:
        if isinstance(param, click.Option) and param.name not in ("config", "help"):
            record = param.get_help_record(context)
            flags, text = record if record is not None else ("", "")
            names = layers.variables(path, known[param.name], command) if param.name in known else []
            yield f"| `{_cell(flags)}` | {'<br>'.join(f'`{n}`' for n in names)} | {_cell(text)} |\n"


def _prose(text: str) -> str:
    """click's marks for text that is not to be wrapped are code here."""
    paragraphs = []
    for paragraph in text.strip().split("\n\n"):
        if paragraph.startswith("\b"):
            paragraphs.append("```\n" + paragraph.removeprefix("\b").strip("\n") + "\n```")
        else:
            paragraphs.append(paragraph)
    return "\n\n".join(paragraphs) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    click.echo(reference(), nl=False)
