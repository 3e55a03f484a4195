"""Neural networks, one noun a file."""
