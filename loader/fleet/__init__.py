"""A fleet of replicas that follow one relay over NATS JetStream.

The engine carries what is signed and numbered already, and may be lost at any time: the files remain the truth.

    wire       one step of a feed as a message, and back
    connect    the connection: servers, TLS, account, version floor, the stream and its settings
    relay      files -> stream, `lookupd-loader relay`
"""
