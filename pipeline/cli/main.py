"""The `pipeline` command and what its exit codes mean."""

from __future__ import annotations

import sys

import click
from rich.console import Console

from pipeline import __version__
from pipeline.cli.text import printable
from pipeline.errors import PipelineError
from pipeline.files import storage_error

EXIT_CODES = """
\b
Exit codes:
  0    done; of a deploy: the budgets are met and the model is active on the device
  2    wrong usage or bad input; nothing was changed on the device
  3    the budgets can't be met; the device keeps what it had
  4    the device failed, or one of several did
  130  interrupted
"""

_HOMES = {
    "activate": ("pipeline.cli.activate", "activate"),
    "deploy": ("pipeline.cli.deploy", "deploy"),
    "device": ("pipeline.cli.device", "device"),
    "key": ("pipeline.cli.key", "key"),
    "measure": ("pipeline.cli.measure", "measure"),
    "model": ("pipeline.cli.model", "model"),
    "push": ("pipeline.cli.push", "push"),
    "rollback": ("pipeline.cli.rollback", "rollback"),
    "run": ("pipeline.cli.run", "run"),
    "search": ("pipeline.cli.search", "search"),
    "status": ("pipeline.cli.status", "status"),
}


class _LazyGroup(click.Group):
    """Imports a command's module when it is called, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(_HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _HOMES:
            return None
        from importlib import import_module

        module, name = _HOMES[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(cls=_LazyGroup, epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pipeline")
def cli() -> None:
    """Prune a PyTorch model until it measurably fits one small board, and leave it running there.

    \b
    Examples:
      pipeline deploy --device local
      pipeline deploy --device local --task examples/cifar10_resnet20.toml --budget latency=50%
      pipeline run report latest
      pipeline device enroll rpi4 pi@192.0.2.10
      pipeline device provision rpi4
      pipeline measure net.onnx --device rpi4
    """


def main() -> None:
    """Run the command line and turn every expected failure into one clear line and an exit code."""
    code = run_command(sys.argv[1:])
    # Where Ctrl-C came into an `exec`, as dataclasses do on import, `python -m` would end by SIGINT instead of `code`;
    # CPython forgets it with the next one.
    exec("")  # noqa: S102 - an empty string
    sys.exit(code)


def run_command(arguments: list[str]) -> int:
    """Run one command; return its exit code (see `EXIT_CODES`)."""
    try:
        result = cli.main(arguments, prog_name="pipeline", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        return _fail("interrupted", "", 130)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except PipelineError as error:
        return _fail(error.message, error.hint, error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        return _fail(*_explain(error), 2)
    return result if isinstance(result, int) else 0


def _explain(error: OSError) -> tuple[str, str]:
    from pathlib import Path

    stored = storage_error(error, Path(error.filename or "a file"))
    return stored.message, stored.hint


def _fail(message: str, hint: str, code: int) -> int:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]error:[/] {_plain(message)}" if code != 130 else f"[bold]{_plain(message)}[/]")
    if hint:
        console.print(f"  {_plain(hint)}")
    return code


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(printable(text))
