"""The board side: keeps files and bundles, measures models, and answers one host over a byte stream.

The daemon imports the standard library only; numpy and a model runtime live in short-lived workers.
"""

__version__ = "0.1.0"
