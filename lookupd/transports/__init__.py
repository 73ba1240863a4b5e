"""Sockets only: receive, hand over, send. No parsing of dialects, no decisions about numbers."""
