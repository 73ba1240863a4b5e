//! The parameters of a telephone number that say where it is routed (RFC 4694), as ENUM and SIP write them.
//!
//! Mirrors `lookupd/protocols/tel_parameters.py`.

/// What a number gets that is in a served range and was not ported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unported {
    /// The number with `npdi` alone.
    #[default]
    Npdi,
    /// The same with the range holder's `rn`.
    RoutingNumber,
    /// The answer of a number that nobody knows.
    Unknown,
}

/// How the parameters are written.
#[derive(Clone, Debug)]
pub struct Parameters {
    /// That the look-up was done.
    pub npdi: String,
    /// Where an `rn` is valid; empty = everywhere, so it is sent with `+`.
    pub rn_context: String,
    /// Where a `cic` is valid; empty = none is sent.
    pub cic_context: String,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { npdi: "npdi".to_owned(), rn_context: String::new(), cic_context: String::new() }
    }
}

impl Parameters {
    /// The network code as a `cic` may be sent: hex digits, where there is a context for it.
    #[inline]
    pub fn cic<'c>(&self, network_code: &'c str) -> Option<&'c str> {
        let is_hex = !network_code.is_empty() && network_code.bytes().all(|byte| byte.is_ascii_hexdigit());
        (!self.cic_context.is_empty() && is_hex).then_some(network_code)
    }

    /// Append them, sorted by name, each with its semicolon.
    pub fn write(&self, rn: Option<&str>, cic: Option<&str>, out: &mut Vec<u8>) {
        if let Some(cic) = cic {
            put(out, &[";cic=", cic, ";cic-context=", &self.cic_context]);
        }
        put(out, &[";", &self.npdi]);
        match rn {
            Some(rn) if self.rn_context.is_empty() => put(out, &[";rn=+", rn]),
            Some(rn) => put(out, &[";rn=", rn, ";rn-context=", &self.rn_context]),
            None => {}
        }
    }
}

fn put(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}
