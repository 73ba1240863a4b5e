"""Commands of `lookupd` that are more than a few lines, a module each; `cli` has the others and joins them."""
