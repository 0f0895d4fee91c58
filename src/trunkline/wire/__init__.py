"""Frames, the message catalogue, and their limits: pure (docs/spec/wire.md)."""
