"""The training loop and what it keeps; nothing here knows of images or captions."""
