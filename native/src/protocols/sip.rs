//! SIP requests that ask for a number's route, and the answers that redirect them. `lookupd/protocols/sip.py` has the
//! whole story; every byte agrees with it.
//!
//! text: pieces of it. message: a request. via: where it came from, by its own account. uri: the number that it is
//! for. reply: what it gets.

use crate::protocols::tel_parameters::{Parameters, Unported};

pub mod message;
pub mod reply;
pub mod text;
pub mod uri;
pub mod via;

/// How a routing number stands in a Contact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// As a parameter of the number.
    #[default]
    Parameter,
    /// In the number's place.
    Replace,
    /// Before the number's digits.
    Prefix,
}

/// How a client is answered by SIP; see `lookupd.profiles.SipSettings`.
#[derive(Debug, Default)]
pub struct Profile {
    /// 301 instead of 302.
    pub is_permanent: bool,
    /// Of a Contact with a routing number.
    pub form: Form,
    /// Of a number that was not ported.
    pub unported: Unported,
    /// Host of a Contact, perhaps with a port; empty = the request's own.
    pub domain: String,
    /// How they are written.
    pub parameters: Parameters,
    /// Of a ported number whose network has none.
    pub unmapped_routing_number: Option<String>,
    /// Whether a header says serial and age.
    pub tells_version: bool,
}

/// Append a number as it is written.
fn write_decimal(mut value: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    for place in digits.iter_mut().rev() {
        *place = b'0' + (value % 10) as u8;
        value /= 10;
        start -= 1;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(digits.get(start..).unwrap_or_default());
}

#[cfg(test)]
mod tests;
