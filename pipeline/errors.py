"""Every error that the host side raises on purpose.

    PipelineError                 something the user can understand and act on
    ├── InputError                exit 2: a file, flag, model or data set is not usable
    │   ├── ProfileError          a profile or a budget given by flag
    │   ├── TaskError             a task file, its factory or its weights
    │   ├── DataError             a data set that is missing, truncated or of the wrong shape
    │   ├── ModelError            a model that cannot be traced, slimmed or converted
    │   └── RunError              a run that is unknown or cannot be resumed as asked
    ├── StorageError              exit 2: the host's disk is full or not writable
    ├── InfeasibleError           exit 3: the budgets cannot be met
    └── DeviceError               exit 4: the device could not do its part
        ├── TransportError        there is no way to the agent
        │   └── LinkLostError     the link to it broke, or the agent died; another try may work
        └── AgentError            the agent answered with an error; `code` says which

A message says what is wrong and where; `hint` says what to do about it.
"""

from __future__ import annotations


class PipelineError(Exception):
    """Base of all errors that end a command with one clear line instead of a traceback."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InputError(PipelineError):
    """A file, flag, model or data set that the user gave is not usable."""

    exit_code = 2


class ProfileError(InputError):
    """A profile, or a budget given by flag, is wrong."""


class TaskError(InputError):
    """A task file, its factory or its weights are wrong."""


class DataError(InputError):
    """A data set is missing, truncated or of the wrong shape."""


class ModelError(InputError):
    """A model cannot be traced, slimmed or converted."""


class RunError(InputError):
    """A run is unknown, or cannot be resumed in the way that was asked."""


class StorageError(PipelineError):
    """The host could not write: disk full, no permission, read-only."""

    exit_code = 2


class InfeasibleError(PipelineError):
    """No candidate meets the budgets."""

    exit_code = 3


class DeviceError(PipelineError):
    """The device could not do its part."""

    exit_code = 4


class TransportError(DeviceError):
    """There is no way to the agent: a key that is refused, another protocol, an answer nobody understands."""


class LinkLostError(TransportError):
    """The link to the agent broke, or the agent died; another try may work."""


class AgentError(DeviceError):
    """The agent answered a request with an error."""

    def __init__(self, message: str, *, code: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code
