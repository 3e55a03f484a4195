"""captioner: bring images with captions, get a captioner you can trust, publish it, and use it."""

from importlib import import_module

__version__ = "0.1.0"

_EXPORTS = {"Captioner": "captioner.api", "Caption": "captioner.api", "Settings": "captioner.settings"}
__all__ = ["Caption", "Captioner", "Settings", "__version__"]


def __getattr__(name: str):
    """Load the public names when they are first used, so that importing the package stays fast."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'captioner' has no attribute '{name}'")
    return getattr(import_module(_EXPORTS[name]), name)
