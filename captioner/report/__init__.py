"""A run as one page: its curves, figures, captions, shape and times."""
