"""Data sets: where they are, how they are read, split, augmented and preprocessed."""
