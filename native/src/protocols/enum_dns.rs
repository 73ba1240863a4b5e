//! Not served natively yet.

/// How a client is answered by ENUM; see `lookupd/protocols/enum_dns.py`.
#[derive(Debug, Default)]
pub struct Profile {}
