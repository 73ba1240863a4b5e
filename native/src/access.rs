//! Clients: who may ask, and how often. Nobody else is answered. `lookupd/access.py` has the same rules.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use rustc_hash::FxHashMap;

const SECOND_NS: u64 = 1_000_000_000;

/// One entry of the clients list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// 0 = no limit.
    pub queries_per_second: u64,
    /// Networks: an address and how many of its leading bits count.
    pub sources: Vec<(IpAddr, u8)>,
}

/// One client's allowance: a bucket of one second's queries that fills steadily. Alone in its cache line, since
/// every worker writes to it.
#[derive(Debug)]
#[repr(align(64))]
pub struct Client {
    queries_per_second: u64,
    /// The moment at which the bucket is full again; what it lacks until then is taken or owed.
    full_at_ns: AtomicU64,
}

impl Client {
    /// A client with a full bucket; 0 queries a second = no limit.
    pub fn new(queries_per_second: u64) -> Self {
        Self { queries_per_second, full_at_ns: AtomicU64::new(0) }
    }

    /// Whether it has a limit at all.
    #[inline]
    pub fn is_limited(&self) -> bool {
        self.queries_per_second != 0
    }

    /// Whether so many queries are within the allowance; they are taken from it if so. `now_ns`: of a clock that only
    /// grows. More queries at once than one second's allowance need a full bucket, and leave it in debt.
    #[inline]
    pub fn take(&self, queries: u64, now_ns: u64) -> bool {
        let rate = self.queries_per_second;
        if rate == 0 {
            return true;
        }
        let needed_ns = filling_ns(queries.min(rate), rate);
        let taken_ns = filling_ns(queries, rate);
        let mut full_at_ns = self.full_at_ns.load(Ordering::Relaxed);
        // Ends: another turn means that another worker's came to its end.
        loop {
            if full_at_ns.saturating_sub(now_ns).saturating_add(needed_ns) > SECOND_NS {
                return false;
            }
            let next_ns = full_at_ns.max(now_ns).saturating_add(taken_ns);
            match self.full_at_ns.compare_exchange_weak(full_at_ns, next_ns, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(found_ns) => full_at_ns = found_ns,
            }
        }
    }
}

/// How long so many queries take to fill again, in whole nanoseconds.
#[inline]
fn filling_ns(queries: u64, rate: u64) -> u64 {
    match queries.checked_mul(SECOND_NS) {
        Some(product) => product / rate,
        None => u64::try_from(u128::from(queries) * u128::from(SECOND_NS) / u128::from(rate)).unwrap_or(u64::MAX),
    }
}

/// The networks of one length: the leading bits -> the first client with that network.
#[derive(Debug)]
struct Networks<T> {
    mask: T,
    clients: FxHashMap<T, usize>,
    /// The first of its clients.
    first: usize,
}

/// The clients list: finds the client of an address. Never changes once made; the buckets do.
#[derive(Debug)]
pub struct Clients {
    buckets: Vec<Client>,
    v4: Vec<Networks<u32>>,
    v6: Vec<Networks<u128>>,
}

impl Clients {
    /// rules: in the order of the list. Bits of an address behind its network's length are not looked at; a length
    /// over the address's own is taken for the whole address.
    pub fn new(rules: Vec<Rule>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let mut buckets = Vec::with_capacity(rules.len());
        for (at, rule) in rules.into_iter().enumerate() {
            buckets.push(Client::new(rule.queries_per_second));
            for (address, bits) in rule.sources {
                match address {
                    IpAddr::V4(address) => {
                        let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits.into())).unwrap_or(0);
                        put(&mut v4, mask, address.to_bits(), at);
                    }
                    IpAddr::V6(address) => {
                        let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits.into())).unwrap_or(0);
                        put(&mut v6, mask, address.to_bits(), at);
                    }
                }
            }
        }
        v4.sort_by_key(|networks| networks.first);
        v6.sort_by_key(|networks| networks.first);
        Self { buckets, v4, v6 }
    }

    /// Which client asks from this address: the first whose sources hold it. None = on no list.
    #[inline]
    pub fn find(&self, host: IpAddr) -> Option<usize> {
        match host {
            IpAddr::V4(address) => find(&self.v4, address.to_bits()),
            IpAddr::V6(address) => find(&self.v6, address.to_bits()),
        }
    }

    /// The client of that number. Panics over `len`: `find` gives no such number.
    #[inline]
    pub fn client(&self, at: usize) -> &Client {
        &self.buckets[at]
    }

    /// How many clients there are.
    pub fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Whether nobody may ask.
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }
}

fn put<T>(networks: &mut Vec<Networks<T>>, mask: T, address: T, client: usize)
where
    T: Copy + Eq + std::hash::Hash + std::ops::BitAnd<Output = T>,
{
    let at = networks.iter().position(|networks| networks.mask == mask).unwrap_or_else(|| {
        networks.push(Networks { mask, clients: FxHashMap::default(), first: client });
        networks.len() - 1
    });
    networks[at].clients.entry(address & mask).or_insert(client);
}

#[inline]
fn find<T>(networks: &[Networks<T>], address: T) -> Option<usize>
where
    T: Copy + Eq + std::hash::Hash + std::ops::BitAnd<Output = T>,
{
    let mut found = usize::MAX;
    for networks in networks {
        if networks.first > found {
            break; // sorted: none of the rest can come before it
        }
        if let Some(&client) = networks.clients.get(&(address & networks.mask)) {
            found = found.min(client);
        }
    }
    (found != usize::MAX).then_some(found)
}

#[cfg(test)]
mod tests;
