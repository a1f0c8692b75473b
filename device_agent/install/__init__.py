"""Installs this agent on the board that it runs on, from a host, over the stdin and stdout of one command.

Nothing of it needs to be on the board before: the host sends the package as a zip file, which is kept in memory and
imported from there (`server`). What the host wants to see installed is a `target`; the `installer` lists the steps
that are left to get there and does them. Each step is done whole or not at all, and is not done twice.
"""
