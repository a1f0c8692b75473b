"""What a worker measures, and how: the protocol, the runtimes, the figures."""
