"""Files over a stream. Pure."""
