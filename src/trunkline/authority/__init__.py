"""Whose process is that? The directory of keys, its log and proofs, certificates, trust. Pure (docs/spec/authority.md)."""
