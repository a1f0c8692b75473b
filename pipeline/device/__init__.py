"""Devices as this host sees them.

    with open_device("local") as device:          registry.py: which devices there are
        device.push([path])                       client.py: what one can be asked
        device.measure(path, …)

Below the client, `link.py` speaks frames with the agent over a `Transport`: a pair of byte streams, opened by
a file of its own for each kind (`local.py`, `ssh/`). Agent, wire format and measuring protocol are `device_agent`'s.
"""
