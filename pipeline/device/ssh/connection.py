"""A connection to one board: reached, its host key checked, logged in. The one file that uses paramiko."""

from __future__ import annotations

import base64
import contextlib
import getpass
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import paramiko
from paramiko.ssh_exception import BadAuthenticationType, PasswordRequiredException

from pipeline.device.address import SshAddress, fingerprint
from pipeline.device.ssh.settings import KnownKeys, Target, known_hosts, resolve, split_jump
from pipeline.errors import InputError, LinkLostError, TransportError

Channel: TypeAlias = paramiko.Channel
BROKEN = (OSError, EOFError, paramiko.SSHException)  # raised by what has no connection any more

CONNECT_S = 15.0
HANDSHAKE_S = 60.0  # a small board computes for some seconds
AUTHENTICATE_S = 60.0
OPEN_S = 60.0
DEAD_S = 30  # unanswered for so long, the connection is given up
_KEEPALIVE_S = 10
_WINDOW_BYTES = 4 * 1024 * 1024
_MOST_JUMPS = 8
# One pass over the data instead of two (cipher and hash), and in C: twice as fast as the default on the host's side.
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
_RSA = "ssh-rsa"

_log = logging.getLogger("paramiko")
_log.addHandler(logging.NullHandler())
_log.propagate = False  # what matters of it is in the errors


class Connection:
    """One that has logged in, with everything below it."""

    def __init__(self, transport: paramiko.Transport, below: contextlib.ExitStack) -> None:
        self._transport = transport
        self._below = below

    @property
    def alive(self) -> bool:
        """Whether it is of use."""
        return bool(self._transport.is_active())

    def start(self, command: str) -> Channel:
        """Start a command on the board; raises one of `BROKEN`."""
        channel = self._transport.open_session(timeout=OPEN_S)
        channel.exec_command(command)
        return channel

    def close(self) -> None:
        """End it, and what it went through."""
        self._below.close()


def connect(address: SshAddress, name: str) -> Connection:
    """Connect, check the host key, log in.

    Raises:
        TransportError: there is no way to the board, it is not the one it was, or it lets nobody in.
        InputError: the ssh_config or the chosen key is not usable.
    """
    target = resolve(address)
    with contextlib.ExitStack() as stack:
        transport = _handshake(target, name, stack, 0)
        _check_host_key(target, transport, name)
        _log_in(target, transport, name)
        transport.set_keepalive(_KEEPALIVE_S)
        return Connection(transport, stack.pop_all())


def shown_host_key(address: SshAddress, name: str) -> str:
    """Connect without logging in, and return the key that the board shows, as "TYPE BASE64".

    Raises:
        TransportError: there is no way to it.
    """
    target = resolve(address)
    with contextlib.ExitStack() as stack:
        connection = _handshake(target, f"device {name!r}", stack, 0)
        return _text(connection.get_remote_server_key())


def known_host_keys(address: SshAddress) -> KnownKeys:
    """Return the keys that the user's own ssh knows this board by, and must not know it by."""
    return known_hosts(resolve(address))


def login(address: SshAddress, name: str) -> None:
    """Log in and out again.

    Raises:
        TransportError: the board lets nobody in with these keys, or is not the one it was.
    """
    connect(address, f"device {name!r}").close()


def _handshake(target: Target, name: str, stack: contextlib.ExitStack, depth: int) -> paramiko.Transport:
    """Reach the board and agree on keys; who is on the other side is not known yet."""
    where = f"{name}: {target.host}:{target.port}"
    try:
        reached = _reach(target, name, stack, depth)
        transport = paramiko.Transport(reached, default_window_size=_WINDOW_BYTES)
        stack.callback(transport.close)
        transport.banner_timeout = transport.handshake_timeout = 2 * HANDSHAKE_S  # ours comes first
        transport.auth_timeout = AUTHENTICATE_S
        options = transport.get_security_options()
        options.ciphers = _CIPHERS
        options.key_types = _first(_key_types(target), options.key_types)
        transport.start_client(timeout=HANDSHAKE_S)
        if not transport.initial_kex_done:  # its time is over, which it does not tell
            raise TimeoutError
    except (socket.gaierror, UnicodeError) as error:
        raise TransportError(
            f"{where}: no such host",
            hint="is the name right? an address or an alias of ~/.ssh/config works, too",
        ) from error
    except ConnectionRefusedError as error:
        raise LinkLostError(f"{where}: nobody listens there", hint="is the board's SSH server on?") from error
    except BROKEN as error:
        why = "" if isinstance(error, TimeoutError) else f" ({reason(error)})"
        raise LinkLostError(
            f"{where}: no answer from an SSH server{why}",
            hint="is the board up, on this network, and is this the port of its SSH server?",
        ) from error
    return transport


def _reach(target: Target, name: str, stack: contextlib.ExitStack, depth: int) -> Any:
    """Return a socket to the board, or what stands for one: a jump host's channel, a command's pipes."""
    if depth > _MOST_JUMPS:
        raise InputError(
            f"{name}: more than {_MOST_JUMPS} jump hosts", hint="is there a circle in the ssh_config?"
        )
    if target.jumps:
        *before, last = target.jumps
        user, host, port = split_jump(last)
        jump = resolve(SshAddress(host, port, user))
        jump = replace(jump, jumps=tuple(before) or jump.jumps)
        jump_name = f"{name}: jump host {last!r}"
        below = _handshake(jump, jump_name, stack, depth + 1)
        _check_jump(jump, below, jump_name)
        _log_in(jump, below, jump_name)
        return below.open_channel("direct-tcpip", (target.host, target.port), ("", 0), timeout=OPEN_S)
    if target.proxy_command:
        return _proxy(target.proxy_command, stack)
    reached = socket.create_connection((target.host, target.port), CONNECT_S)
    stack.callback(reached.close)
    _tune(reached)
    return reached


def _proxy(command: str, stack: contextlib.ExitStack) -> socket.socket:
    """Start a ProxyCommand as ssh does, by the shell; its end is the end of the stream."""
    ours, its = socket.socketpair()
    stack.callback(ours.close)
    with its:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command}"],
            stdin=its.fileno(),
            stdout=its.fileno(),
            start_new_session=True,
        )
    stack.callback(_end, process)
    return ours


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tune(reached: socket.socket) -> None:
    """Send small requests at once, and notice a dead board within half a minute."""
    reached.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reached.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_USER_TIMEOUT", DEAD_S * 1000)):
        if hasattr(socket, option):  # not every system has them
            reached.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _check_host_key(target: Target, transport: paramiko.Transport, name: str) -> None:
    """Refuse a board that shows another key than the one that was pinned."""
    shown = _text(transport.get_remote_server_key())
    if target.host_key is None:
        raise TransportError(
            f"{name}: its host key is not known", hint="`pipeline device enroll` asks about it"
        )
    if shown != target.host_key:
        raise TransportError(
            f"{name}: the board at {target.host}:{target.port} shows another host key than the one that was pinned: "
            f"pinned {fingerprint(target.host_key)}, shown {fingerprint(shown)} ({shown.split()[0]})",
            hint="was it installed anew? then `pipeline device forget` and `enroll` it again; if not, somebody "
            "may stand between you and the board",
        )


def _check_jump(target: Target, transport: paramiko.Transport, name: str) -> None:
    """A jump host is none of our devices: the user's own known_hosts says who it is."""
    known = known_hosts(target)
    shown = _text(transport.get_remote_server_key())
    if shown in known.revoked:
        raise TransportError(f"{name}: it shows a revoked host key", hint="see @revoked in known_hosts")
    if not known.keys:
        raise TransportError(
            f"{name}: its host key is not in known_hosts", hint=f"ssh to {target.alias} once"
        )
    if shown not in known.keys:
        raise TransportError(
            f"{name}: it shows the host key {fingerprint(shown)}, known_hosts has "
            f"{', '.join(map(fingerprint, known.keys))}",
            hint=f"ssh {target.alias} says the same; find out why before going on",
        )


def _log_in(target: Target, transport: paramiko.Transport, name: str) -> None:
    """Try the chosen identity, the keys of the SSH agent, then the files of the ssh_config."""
    tried, refused = [], ""
    for what, key in _keys(target):
        if key is None:
            tried.append(what)
            continue
        try:
            left = transport.auth_publickey(target.user, key)
        except BadAuthenticationType as error:
            refused = f"; it takes {', '.join(error.allowed_types)}"
            break
        except paramiko.AuthenticationException:
            tried.append(what)
        except BROKEN as error:
            tried.append(what)
            refused = f"; it ended the talk: {reason(error)}"
            break
        else:
            if not left:
                return
            refused = f"; after the key {what} it still wants {', '.join(left)}"
            break
    if not tried and not refused:
        raise TransportError(
            f"{name}: there is no key to log in to {target} with",
            hint=f"`ssh-keygen -t ed25519` makes one, `ssh-copy-id -p {target.port} {target.user}@{target.host}` "
            "puts it there",
        )
    keys = f"none of these keys: {', '.join(tried)}" if tried else "no key"
    raise TransportError(
        f"{name}: {target} takes {keys}{refused}",
        hint=f"`ssh-copy-id -p {target.port} {target.user}@{target.host}` puts your key there; "
        "or name the right one with --identity at `pipeline device enroll`",
    )


def _keys(target: Target) -> Iterator[tuple[str, paramiko.PKey | None]]:
    """Yield the keys to show, as ssh does, each with a name for messages; `None` for one that can't be opened.

    A key that the SSH agent holds is taken from there, so that nobody is asked for its passphrase.
    """
    held = {key.asbytes(): key for key in paramiko.Agent().get_keys()}
    files = [path for path in target.identities if path != target.chosen and path.is_file()]
    in_agent = [path for path in files if _public_part(path) in held]
    if target.chosen is not None:
        key = held.pop(_public_part(target.chosen), None)
        yield (str(target.chosen), key) if key else _load(target.chosen, needed=True)
    for path in in_agent:
        if key := held.pop(_public_part(path), None):
            yield str(path), key
    if not target.identities_only:
        for key in held.values():
            yield f"{key.comment or key.get_name()} of the SSH agent", key
    for path in files:
        if path not in in_agent:
            yield _load(path, needed=False)


def _public_part(path: Path) -> bytes:
    """Return the public part of a key that lies beside its file, empty if it does not."""
    try:
        return base64.b64decode(path.with_name(f"{path.name}.pub").read_text(encoding="utf-8").split()[1])
    except (OSError, ValueError, IndexError):
        return b""


def _load(path: Path, *, needed: bool) -> tuple[str, paramiko.PKey | None]:
    """Read a private key; the passphrase of one that has one is asked for on a terminal, and not kept.

    Raises:
        InputError: it is `needed`, and can't be opened.
    """
    try:
        try:
            return str(path), paramiko.PKey.from_path(path)
        except (PasswordRequiredException, TypeError):
            if not sys.stdin.isatty():
                return f"{path} (it has a passphrase: ssh-add {path})", None
            secret = getpass.getpass(f"passphrase of {path}: ")
            return str(path), paramiko.PKey.from_path(path, password=secret)
    except (OSError, ValueError, paramiko.SSHException, paramiko.UnknownKeyType) as error:
        if needed:
            raise InputError(f"the key {path} cannot be used: {reason(error)}") from error
        return f"{path} (it cannot be read: {reason(error)})", None


def _key_types(target: Target) -> tuple[str, ...]:
    """Return the types by which a board is asked for the pinned key, should it have several."""
    if target.host_key is None:
        return ()
    kind = target.host_key.split()[0]
    return ("rsa-sha2-512", "rsa-sha2-256") if kind == _RSA else (kind,)


def _first(wanted: tuple[str, ...], known: Any) -> tuple[str, ...]:
    chosen = [each for each in wanted if each in known]
    return (*chosen, *(each for each in known if each not in chosen))


def _text(key: paramiko.PKey) -> str:
    return f"{key.get_name()} {key.get_base64()}"


def reason(error: BaseException) -> str:
    """Return what is wrong, in words."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
