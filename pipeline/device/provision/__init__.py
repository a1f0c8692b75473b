"""Installs the agent on a board: one SSH channel, no internet there, no package manager.

`probe` looks at the board, `wheels` finds the packages for it on this host, `boarding` sends the agent's own installer
into the board's memory, and `install` has it do what is left to be done.
"""
