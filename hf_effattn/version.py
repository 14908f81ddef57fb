"""The version of the package; packaging reads it from here as well."""

__version__ = "0.1.0"
