"""What two matched peers say to each other: token, ready, commit. Pure (docs/spec/switchboard.md section 6)."""
