"""The only package that touches the operating system: sockets, clock, disk, randomness."""
