"""Short-lived, confined processes for whatever is heavy or may be hostile, and how nothing of them stays."""
