"""Whose process is that? Directory of keys, log and proofs, certificates, trust. Pure (docs/spec/authority.md)."""
