"""Numbering plans, one TOML file a country code; a country without one is served by length alone."""
