"""Answers whether a telephone number was ported and which network serves it now."""

__version__ = "0.1.0"
