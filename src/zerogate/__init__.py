"""zerogate: zero-init attention for any frozen transformer."""
