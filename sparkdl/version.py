"""The version of sparkdl, for modules that must not import the public names around it."""

__version__ = "0.1.0"
