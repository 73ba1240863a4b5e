"""Bytes of a clearinghouse's files to rows and notices: one module a format."""
