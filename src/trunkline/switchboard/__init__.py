"""The switchboard: pending requests, matching, replication, and the client side. Pure (docs/spec/switchboard.md)."""
