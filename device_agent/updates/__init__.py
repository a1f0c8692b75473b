"""What a bundle is and how it becomes the active one: files by digest, trust, the journalled state machine."""
