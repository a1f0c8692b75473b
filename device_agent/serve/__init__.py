"""How the agent is reached, by whom, and what it can be asked: the methods, the daemon, the bridge."""
