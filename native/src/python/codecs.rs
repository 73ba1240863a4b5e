//! The numbering plan, the clients list and the codecs, for the workers' settings and for the tests of parity.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;

use crate::access::{self, Rule};
use crate::counters::{Usage, UsageCells};
use crate::model::{Answer, InForce, Measure, Outcome, Route};
use crate::plan::{self, Head};
use crate::protocols::enum_dns::Tell;
use crate::protocols::npq::{self, Fault, Number, Numbers};
use crate::protocols::tel_parameters::{Parameters, Unported};
use crate::protocols::{enum_dns, pdb, sip};

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

    fn continues(&self, digits: &[u8]) -> bool {
        self.inner.continues(digits)
    }

    fn portable(&self, digits: &[u8]) -> PyResult<Option<bool>> {
        Ok(self.inner.portable(&self.number(digits)?))
    }

    fn covers(&self, digits: &[u8]) -> PyResult<bool> {
        Ok(self.inner.covers(&self.number(digits)?))
    }

    fn is_incomplete(&self, digits: &[u8]) -> PyResult<bool> {
        Ok(self.inner.is_incomplete(&self.number(digits)?))
    }
}

/// How a client is answered by ENUM.
#[pyclass(frozen, module = "lookupd._native")]
pub struct EnumProfile {
    pub(crate) inner: Arc<enum_dns::Profile>,
}

#[pymethods]
impl EnumProfile {
    #[new]
    #[allow(clippy::too_many_arguments)] // the settings, one by one
    #[pyo3(signature = (*, apexes, services, ttl, negative_ttl, domain, nameservers, unported, rn_context, cic_context, unmapped_routing_number, tell))]
    fn new(
        apexes: Vec<String>,
        services: Vec<String>,
        ttl: u32,
        negative_ttl: u32,
        domain: String,
        nameservers: Vec<(String, Vec<String>)>,
        unported: &str,
        rn_context: String,
        cic_context: String,
        unmapped_routing_number: String,
        tell: &str,
    ) -> PyResult<Self> {
        let nameservers = nameservers.into_iter().map(|(name, addresses)| {
            let addresses = addresses.iter().map(|address| parse_host(address)).collect::<PyResult<_>>()?;
            Ok((name, addresses))
        });
        let settings = enum_dns::Settings {
            apexes,
            services,
            ttl,
            negative_ttl,
            domain,
            nameservers: nameservers.collect::<PyResult<_>>()?,
            unported: parse_unported(unported)?,
            parameters: Parameters { rn_context, cic_context, ..Parameters::default() },
            unmapped_routing_number,
            tell: match tell {
                "no" => Tell::No,
                "txt" => Tell::Txt,
                "edns" => Tell::Edns,
                _ => return Err(PyValueError::new_err(format!("tell: {tell:?} is none of no, txt, edns"))),
            },
        };
        let profile = enum_dns::Profile::new(settings).map_err(PyValueError::new_err)?;
        Ok(Self { inner: Arc::new(profile) })
    }
}

fn parse_unported(text: &str) -> PyResult<Unported> {
    match text {
        "npdi" => Ok(Unported::Npdi),
        "rn" => Ok(Unported::RoutingNumber),
        "unknown" => Ok(Unported::Unknown),
        _ => Err(PyValueError::new_err(format!("unported: {text:?} is none of npdi, rn, unknown"))),
    }
}

/// How a client is answered by SIP.
#[pyclass(frozen, module = "lookupd._native")]
pub struct SipProfile {
    pub(crate) inner: Arc<sip::Profile>,
}

#[pymethods]
impl SipProfile {
    #[new]
    #[pyo3(signature = (*, status, form, npdi, domain, unported, rn_context, cic_context, unmapped_routing_number, tell))]
    #[allow(clippy::too_many_arguments)] // one for each setting
    fn new(
        status: u16,
        form: &str,
        npdi: String,
        domain: String,
        unported: &str,
        rn_context: String,
        cic_context: String,
        unmapped_routing_number: String,
        tell: bool,
    ) -> PyResult<Self> {
        let refuse = |setting, value| Err(PyValueError::new_err(format!("{setting} {value:?}")));
        let inner = sip::Profile {
            is_permanent: status == 301,
            form: match form {
                "rn" => sip::Form::Parameter,
                "replace" => sip::Form::Replace,
                "prefix" => sip::Form::Prefix,
                _ => return refuse("form", form),
            },
            unported: match unported {
                "npdi" => Unported::Npdi,
                "rn" => Unported::RoutingNumber,
                "unknown" => Unported::Unknown,
                _ => return refuse("unported", unported),
            },
            domain,
            parameters: Parameters { npdi, rn_context, cic_context },
            unmapped_routing_number: (!unmapped_routing_number.is_empty()).then_some(unmapped_routing_number),
            tells_version: tell,
        };
        Ok(Self { inner: Arc::new(inner) })
    }
}

/// One client as Python tells of it; see `_native.pyi`.
#[derive(FromPyObject)]
pub struct ClientRule<'p> {
    name: String,
    queries_per_second: u64,
    queries_per_prefix: u64,
    sources: Vec<String>,
    enum_profile: Bound<'p, EnumProfile>,
    sip_profile: Bound<'p, SipProfile>,
}

/// The clients list with its buckets. Shared with the workers that serve it.
#[pyclass(frozen, module = "lookupd._native")]
pub struct Clients {
    pub(crate) inner: Arc<access::Clients>,
    pub(crate) usage: Arc<Usage>,
}

#[pymethods]
impl Clients {
    #[new]
    fn new(rules: Vec<ClientRule<'_>>) -> PyResult<Self> {
        let rules = rules.into_iter().map(|rule| {
            let sources = rule.sources.iter().map(|source| parse_network(source)).collect::<PyResult<_>>()?;
            Ok(Rule {
                name: rule.name,
                queries_per_second: rule.queries_per_second,
                queries_per_prefix: rule.queries_per_prefix,
                sources,
                enum_profile: Arc::clone(&rule.enum_profile.get().inner),
                sip_profile: Arc::clone(&rule.sip_profile.get().inner),
            })
        });
        let inner = access::Clients::new(rules.collect::<PyResult<_>>()?);
        Ok(Self { usage: Arc::new(Usage::new(inner.len())), inner: Arc::new(inner) })
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    /// Whose queries the query log may have: of each client, whether it may.
    #[allow(clippy::needless_pass_by_value)] // a list from Python becomes a vector of ours
    fn set_tapped(&self, tapped: Vec<bool>) {
        self.inner.set_tapped(&tapped);
    }

    fn usage(&self) -> Vec<Vec<UsageCells>> {
        self.usage.read().into_iter().map(Vec::from).collect()
    }

    fn find(&self, host: &str) -> PyResult<Option<usize>> {
        Ok(self.inner.find(parse_host(host)?))
    }

    #[pyo3(signature = (host, port = 0))]
    fn set_own(&self, host: Option<&str>, port: u16) -> PyResult<()> {
        let host = host.map(parse_host).transpose()?;
        self.inner.set_own(host.map(|host| SocketAddr::new(host, port)));
        Ok(())
    }

    #[pyo3(signature = (client, queries, now_ns, host = None))]
    fn take(&self, client: usize, queries: u64, now_ns: u64, host: Option<&str>) -> PyResult<bool> {
        if client >= self.inner.len() {
            return Err(PyIndexError::new_err("no such client"));
        }
        let host = host.map(parse_host).transpose()?;
        Ok(self.inner.client(client).take(queries, now_ns, host))
    }
}

/// Where a client's allowance for the prefix of an address lies.
#[pyfunction]
pub fn slot(client: usize, host: &str) -> PyResult<usize> {
    Ok(access::slot(client, parse_host(host)?))
}

/// As sockets tell it, perhaps with a zone.
pub(super) fn parse_host(host: &str) -> PyResult<IpAddr> {
    parse_address(host.split_once('%').map_or(host, |(address, _)| address))
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

/// (the query, None) or (None, why there is none); see `_native.pyi`.
type NpqFound = (Option<(u32, bool, bool, Vec<Vec<u8>>)>, Option<(u8, Option<u32>, Option<u8>)>);

#[pyfunction]
pub fn decode_npq(message: &[u8]) -> NpqFound {
    let query = match npq::decode_query(message) {
        Ok(query) => query,
        Err(fault @ Fault::Drop(_)) => return (None, Some((fault.reason() as u8, None, None))),
        Err(fault @ Fault::Refused { id, code }) => return (None, Some((fault.reason() as u8, id, Some(code)))),
    };
    let dialled = |number: Number<'_>| number.dialled(&mut [0; 20]).to_vec();
    let (many, numbers) = match query.numbers {
        Numbers::One(number) => (false, vec![dialled(number)]),
        Numbers::Many(many) => (true, many.iter().map(dialled).collect()),
    };
    (Some((query.id, query.names, many, numbers)), None)
}

/// tn, outcome, (network code, routing number, operator), (measure, until) of a restriction, serial, age.
type AnswerRow = (Option<u64>, usize, Option<(String, Option<String>, String)>, Option<(u8, u64)>, u32, Option<u64>);

#[pyfunction]
#[allow(clippy::needless_pass_by_value)] // what Python's values are read into
pub fn encode_npq(message: &[u8], rows: Vec<AnswerRow>, bytes_max: usize) -> PyResult<(Vec<u8>, usize)> {
    let query = npq::decode_query(message).map_err(|_| PyValueError::new_err("not a query"))?;
    let routes: Vec<Option<Route>> = rows.iter().map(|row| row.2.clone().map(route)).collect();
    let mut answers = Vec::new();
    for (row, route) in rows.iter().zip(&routes) {
        let &(tn, outcome, _, restriction, serial, age_seconds) = row;
        let restriction = restriction.map(|(measure, until)| {
            let measure = Measure::ALL.into_iter().find(|known| *known as u8 == measure);
            measure.map(|measure| InForce { measure, until }).ok_or_else(|| PyValueError::new_err("no such measure"))
        });
        let restriction = restriction.transpose()?;
        let outcome = *Outcome::ALL.get(outcome).ok_or_else(|| PyValueError::new_err("no such outcome"))?;
        answers.push(Answer { tn, outcome, route: route.as_ref(), restriction, serial, age_seconds });
    }
    let mut out = Vec::new();
    let held = npq::encode_many(&query, &answers, bytes_max, &mut out);
    Ok((out, held))
}

#[pyfunction]
pub fn encode_npq_error(id: Option<u32>, code: u8) -> Vec<u8> {
    let mut out = Vec::new();
    npq::encode_error(id, code, &mut out);
    out
}

fn route((network_code, routing_number, operator): (String, Option<String>, String)) -> Route {
    Route { network_code, routing_number, operator, pdb_carrier_id: None, own: true }
}

/// (the query, None) or (None, why there is none); see `_native.pyi`.
type PdbFound = (Option<(Option<u16>, Option<Vec<u8>>, bool)>, Option<u8>);

#[pyfunction]
pub fn decode_pdb(datagram: &[u8], legacy: bool) -> PdbFound {
    match pdb::decode_query(datagram, legacy) {
        Ok(query) => (Some((query.id, query.number.map(<[u8]>::to_vec), query.odd)), None),
        Err(reason) => (None, Some(reason as u8)),
    }
}

#[pyfunction]
pub fn encode_pdb(datagram: &[u8], carrier_id: Option<u16>) -> PyResult<Vec<u8>> {
    let query = pdb::decode_query(datagram, true).map_err(|_| PyValueError::new_err("not a query"))?;
    let mut out = Vec::new();
    pdb::encode_answer(&query, carrier_id, &mut out);
    Ok(out)
}
