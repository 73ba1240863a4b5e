"""Bytes <-> model, one module a dialect: no socket, no clock, no store.

Any bytes give a message or a ProtocolError.
"""
