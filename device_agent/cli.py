"""The command `device-agent`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from device_agent import __version__
from device_agent.active import state_folder
from device_agent.errors import RequestError
from device_agent.settings import Listening, Settings

DEFAULT_SOCKET = Path("/run/device-agent/agent.sock")
SOCKET_VARIABLE = "DEVICE_AGENT_SOCKET"
_EXAMPLES = """\
examples:
  device-agent status                                  what runs here, and what it may run
  device-agent predict --golden                        try the active model on its golden input
  device-agent predict --input picture.npy             ... or on an array of your own
  device-agent call bundle.confirm                     the application is content with the new model
  device-agent call bundle.rollback '{"to_previous": true}'
  device-agent metrics > /var/lib/node_exporter/device_agent.prom

exit status: 0 done, 2 wrong call, 3 a peer that breaks the protocol, 4 refused or failed
"""


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Run one command; returns the exit status (2 for a call that is wrong, 4 for what cannot be done)."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except (RequestError, OSError) as error:
        hint = getattr(error, "hint", "")
        print(f"device-agent: {error}" + (f"\n  {hint}" if hint else ""), file=sys.stderr)
        return 4
    except KeyboardInterrupt:
        return 130
    return status


# --- the commands; each imports what it needs, so that the daemon stays small ---------------------------------


def _serve(options: argparse.Namespace) -> int:
    from device_agent.serve import daemon  # noqa: PLC0415

    return daemon.serve(_settings(options), _listening(options))


def _stdio(options: argparse.Namespace) -> int:
    if options.standalone:
        from device_agent.serve import stdio  # noqa: PLC0415

        return stdio.serve_stdio(_settings(options))
    from device_agent.serve import bridge  # noqa: PLC0415

    return bridge.bridge(_socket(options))


def _launch(options: argparse.Namespace) -> int:
    from device_agent.serve import trees  # noqa: PLC0415

    trees.launch(_settings(options), _listening(options))
    return 0


def _self_test(_: argparse.Namespace) -> int:
    from device_agent.serve import self_test  # noqa: PLC0415

    print(json.dumps(self_test.run()))
    return 0


def _call(options: argparse.Namespace) -> int:
    try:
        params = json.loads(options.params)
    except ValueError as error:
        print(f"device-agent: PARAMS is not JSON: {error}", file=sys.stderr)
        return 2
    print(json.dumps(_ask(options, options.method, params), indent=2))
    return 0


def _status(options: argparse.Namespace) -> int:
    from device_agent.serve import look  # noqa: PLC0415

    found = look.at(_state(options)) if options.state else _ask(options, "status")
    print(json.dumps(found, indent=2) if options.json else look.as_text(found))
    return 0


def _metrics(options: argparse.Namespace) -> int:
    print(_ask(options, "metrics")["text"], end="")
    return 0


def _predict(options: argparse.Namespace) -> int:
    from device_agent import predict  # noqa: PLC0415

    found = predict.predict(_state(options), options.input)
    print(json.dumps(found, indent=2) if options.json else predict.as_text(found))
    return 0


def _ask(options: argparse.Namespace, method: str, params: Optional[dict[str, Any]] = None) -> dict[str, Any]:
    from device_agent.serve import bridge, client  # noqa: PLC0415

    with client.Client(bridge.connect(_socket(options))) as agent:
        return agent.ask(method, params, lambda event: print(json.dumps(event), file=sys.stderr))


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        state=_state(options),
        keys=options.keys,
        hooks=options.hooks,
        worker_user=options.worker_user,
        quota_bytes=options.quota_mb * 1_000_000 if options.quota_mb else None,
        energy_meter=options.energy_meter,
    )


def _listening(options: argparse.Namespace) -> Listening:
    return Listening(_socket(options), options.group, tuple(options.operators), tuple(options.applications))


def _state(options: argparse.Namespace) -> Path:
    return state_folder(options.state).absolute()


def _socket(options: argparse.Namespace) -> Path:
    return Path(options.socket or os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET).absolute()


# --- the parser -----------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="device-agent",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"device-agent {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, what: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=what, description=what)
        added.set_defaults(run=run)
        added.add_argument("--state", metavar="DIR", help="the state folder (/var/lib/device-agent)")
        added.add_argument("--socket", metavar="PATH", help=f"the daemon's socket ({DEFAULT_SOCKET})")
        return added

    _add_setup(command("serve", _serve, "run the daemon on a unix socket"), listens=True)
    stdio = command("stdio", _stdio, "connect stdin and stdout with the daemon, or serve them alone")
    stdio.add_argument("--standalone", action="store_true", help="with no daemon behind it")
    _add_setup(stdio, listens=False)
    launch = command(
        "launch", _launch, "run the daemon of the newest version that works; for the service manager"
    )
    _add_setup(launch, listens=True)
    command("self-test", _self_test, "say whether this agent works, as JSON")
    call = command("call", _call, "make one request and print its result; events go to stderr")
    call.add_argument("method", metavar="METHOD", help="such as status, bundle.confirm, lease.acquire")
    call.add_argument("params", metavar="PARAMS", nargs="?", default="{}", help="a JSON object")
    status = command(
        "status", _status, "what the agent knows; with --state, read from the folder, with no daemon"
    )
    command("metrics", _metrics, "the same for Prometheus")
    predict = command("predict", _predict, "try the active model once")
    what = predict.add_mutually_exclusive_group(required=True)
    what.add_argument("--input", type=Path, metavar="FILE.npy", help="an array as the model takes it")
    what.add_argument("--golden", action="store_true", help="the golden input of its bundle")
    for each in (status, predict):
        each.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_setup(parser: argparse.ArgumentParser, *, listens: bool) -> None:
    if listens:
        parser.add_argument("--group", metavar="GROUP", help="who may open the socket, and read")
        for role, what in (
            ("operators", "measure and change"),
            ("applications", "confirm a model, or mark it bad"),
        ):
            parser.add_argument(
                f"--{role}",
                metavar="GROUP",
                action="append",
                default=[],
                help=f"who may {what} (may be repeated)",
            )
    parser.add_argument(
        "--keys", type=Path, metavar="FILE", help="trusted keys; then only signed bundles are staged"
    )
    parser.add_argument("--hooks", type=Path, metavar="DIR", help="holds before-measure and after-measure")
    parser.add_argument("--worker-user", metavar="USER", help="who workers run as, where that is allowed")
    parser.add_argument("--quota-mb", type=int, metavar="MB", help="most that uploaded files may take")
    parser.add_argument(
        "--energy-meter", metavar="WHERE", help="an external meter, such as serial:/dev/ttyUSB0@115200"
    )


if __name__ == "__main__":
    sys.exit(main())
