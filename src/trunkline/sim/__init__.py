"""A world with its own clock and network, in which the pure machines run: explorer, random worlds, replay."""
