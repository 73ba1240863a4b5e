"""A fleet of replicas that follow one relay over NATS JetStream.

The engine carries what is signed and numbered already, and may be lost at any time: the files remain the truth.

    wire       one step of a feed as a message, and back
    login      what a connection needs, from the settings and their files
    connect    the connection: servers, TLS, account, version floor
    monitor    what only the servers' monitoring ports tell
    streams    the two streams: names, settings, checks
    position   how far the engine has a feed, and whether it went back
    relay_feed one feed: files -> stream
    relay      `lookupd-loader relay`: who runs when; relay_metrics
    followers  how far each replica is, by its own word
    fleet      all of that at one moment, `lookupd-loader fleet`
"""
