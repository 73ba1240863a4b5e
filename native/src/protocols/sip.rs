//! Not served natively yet.

/// How a client is answered by SIP; see `lookupd/protocols/sip.py`.
#[derive(Debug, Default)]
pub struct Profile {}
