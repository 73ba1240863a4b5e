//! The numbering plan, the clients list and the codecs, for the workers' settings and for the tests of parity.

use std::net::IpAddr;
use std::sync::Arc;

use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;

use crate::access::{self, Rule};
use crate::plan::{self, Head};

/// A country's numbering plan. Shared with the workers that read in it.
#[pyclass(frozen, module = "lookupd._native")]
pub struct Plan {
    pub(crate) inner: Arc<plan::Plan>,
}

impl Plan {
    fn number(&self, digits: &[u8]) -> PyResult<plan::Digits> {
        let read = self.inner.digits(digits).filter(|found| found.as_bytes() == digits);
        read.ok_or_else(|| PyValueError::new_err("not the digits of a number"))
    }
}

#[pymethods]
impl Plan {
    #[new]
    fn new(country_code: &str, trunk_prefix: &str, heads: Vec<(usize, String, bool)>) -> Self {
        let heads = heads.into_iter().map(|(digits, prefix, portable)| Head { digits, prefix, portable }).collect();
        Self { inner: Arc::new(plan::Plan::new(country_code, trunk_prefix, heads)) }
    }

    fn digits(&self, dialled: &[u8]) -> Option<Vec<u8>> {
        self.inner.digits(dialled).map(|digits| digits.as_bytes().to_vec())
    }

    fn portable(&self, digits: &[u8]) -> PyResult<Option<bool>> {
        Ok(self.inner.portable(&self.number(digits)?))
    }

    fn covers(&self, digits: &[u8]) -> PyResult<bool> {
        Ok(self.inner.covers(&self.number(digits)?))
    }
}

/// The clients list with its buckets. Shared with the workers that serve it.
#[pyclass(frozen, module = "lookupd._native")]
pub struct Clients {
    pub(crate) inner: Arc<access::Clients>,
}

#[pymethods]
impl Clients {
    #[new]
    fn new(rules: Vec<(u64, Vec<String>)>) -> PyResult<Self> {
        let rules = rules.into_iter().map(|(queries_per_second, sources)| {
            let sources = sources.iter().map(|source| parse_network(source)).collect::<PyResult<_>>()?;
            Ok(Rule { queries_per_second, sources })
        });
        Ok(Self { inner: Arc::new(access::Clients::new(rules.collect::<PyResult<_>>()?)) })
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    fn find(&self, host: &str) -> PyResult<Option<usize>> {
        let address = host.split_once('%').map_or(host, |(address, _)| address);
        Ok(self.inner.find(parse_address(address)?))
    }

    fn take(&self, client: usize, queries: u64, now_ns: u64) -> PyResult<bool> {
        if client >= self.inner.len() {
            return Err(PyIndexError::new_err("no such client"));
        }
        Ok(self.inner.client(client).take(queries, now_ns))
    }
}

fn parse_address(text: &str) -> PyResult<IpAddr> {
    text.parse().map_err(|_| PyValueError::new_err(format!("{text:?} is no address")))
}

/// `192.0.2.0/24`; without a length it is the address alone.
fn parse_network(text: &str) -> PyResult<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/').unwrap_or((text, ""));
    let address = parse_address(address)?;
    let bits_max = if address.is_ipv4() { 32 } else { 128 };
    let bits = if bits.is_empty() { Some(bits_max) } else { bits.parse().ok().filter(|bits| *bits <= bits_max) };
    Ok((address, bits.ok_or_else(|| PyValueError::new_err(format!("{text:?} is no network")))?))
}
