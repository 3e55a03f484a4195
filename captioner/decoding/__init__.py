"""From image tokens to captions."""
