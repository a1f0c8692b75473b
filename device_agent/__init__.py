"""The board side: keeps files and bundles, measures models, and answers hosts over a byte stream.

The daemon imports the standard library only; numpy, a model runtime and `cryptography` live in short-lived
workers. For an application on the board: `active_model` and `watch`, see `active`.
"""

from __future__ import annotations

from device_agent.active import ActiveModel, active_model, watch

__all__ = ["ActiveModel", "active_model", "watch"]
__version__ = "0.2.0"
