"""Boards over SSH: one connection each, its host key checked, and commands on it.

A board needs an SSH server and a shell, nothing else: no SFTP, no forwarding; a key that is bound to one forced
command is enough for everything but provisioning.

    settings.py → connection.py (the one file that uses paramiko) → shell.py
"""

from pipeline.device.ssh.connection import known_host_keys, login, shown_host_key
from pipeline.device.ssh.settings import known_as
from pipeline.device.ssh.shell import SshShell, SshTransport

__all__ = ["SshShell", "SshTransport", "known_as", "known_host_keys", "login", "shown_host_key"]
