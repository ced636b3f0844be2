"""Which keepstep this is."""

from importlib.metadata import version

VERSION = version("keepstep")
