"""`lookupd-loader`'s commands: parse options, call, print. What is done is in the modules they call."""
