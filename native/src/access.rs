//! Clients: who may ask, and how often. Nobody else is answered. `lookupd/access.py` has the same rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use rustc_hash::FxHashMap;

use crate::limits::{PREFIX_BITS_V4, PREFIX_BITS_V6, PREFIX_SLOTS};
use crate::protocols::{enum_dns, sip};

const SECOND_NS: u64 = 1_000_000_000;

/// One entry of the clients list.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// As the configuration calls it.
    pub name: String,
    /// 0 = no limit.
    pub queries_per_second: u64,
    /// Over UDP, from the addresses of one prefix; 0 = no limit.
    pub queries_per_prefix: u64,
    /// How it is answered by ENUM.
    pub enum_profile: Arc<enum_dns::Profile>,
    /// How it is answered by SIP.
    pub sip_profile: Arc<sip::Profile>,
    /// Networks: an address and how many of its leading bits count.
    pub sources: Vec<(IpAddr, u8)>,
}

/// One client's allowance: a bucket of one second's queries that fills steadily. Alone in its cache line, since
/// every worker writes to it.
#[derive(Debug)]
#[repr(align(64))]
pub struct Client {
    name: Box<str>,
    at: usize,
    is_tapped: AtomicBool,
    queries_per_second: u64,
    queries_per_prefix: u64,
    bucket: Bucket,
    prefixes: Arc<Prefixes>,
    enum_profile: Arc<enum_dns::Profile>,
    sip_profile: Arc<sip::Profile>,
}

/// The moment at which an allowance is full again; what it lacks until then is taken or owed.
#[derive(Debug, Default)]
struct Bucket(AtomicU64);

impl Client {
    /// A client alone, with a full bucket; 0 queries a second = no limit.
    pub fn new(queries_per_second: u64) -> Self {
        Self::of(0, &Rule { queries_per_second, ..Rule::default() }, &Arc::default())
    }

    fn of(at: usize, rule: &Rule, prefixes: &Arc<Prefixes>) -> Self {
        Self {
            name: rule.name.as_str().into(),
            at,
            is_tapped: AtomicBool::new(true),
            queries_per_second: rule.queries_per_second,
            queries_per_prefix: rule.queries_per_prefix,
            bucket: Bucket::default(),
            prefixes: Arc::clone(prefixes),
            enum_profile: Arc::clone(&rule.enum_profile),
            sip_profile: Arc::clone(&rule.sip_profile),
        }
    }

    /// As the configuration calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the query log may have its queries.
    #[inline]
    pub fn is_tapped(&self) -> bool {
        self.is_tapped.load(Ordering::Relaxed)
    }

    /// How it is answered by ENUM.
    #[inline]
    pub fn enum_profile(&self) -> &enum_dns::Profile {
        &self.enum_profile
    }

    /// How it is answered by SIP.
    #[inline]
    pub fn sip_profile(&self) -> &sip::Profile {
        &self.sip_profile
    }

    /// Whether it has a limit at all.
    #[inline]
    pub fn is_limited(&self) -> bool {
        self.queries_per_second != 0 || self.queries_per_prefix != 0
    }

    /// Whether so many queries are within the allowance; they are taken from it if so. `now_ns`: of a clock that only
    /// grows. More queries at once than one second's allowance need a full bucket, and leave it in debt.
    ///
    /// host: of a message over UDP, whose prefix has an allowance too; over TCP nobody forges an address.
    #[inline]
    pub fn take(&self, queries: u64, now_ns: u64, host: Option<IpAddr>) -> bool {
        host.is_none_or(|host| self.take_from(host, now_ns))
            && (self.queries_per_second == 0 || self.bucket.take(self.queries_per_second, queries, now_ns))
    }

    /// Whether one more message from the prefix of this address is within its allowance.
    #[inline]
    pub fn take_from(&self, host: IpAddr, now_ns: u64) -> bool {
        let rate = self.queries_per_prefix;
        rate == 0 || self.prefixes.0.get(slot(self.at, host)).is_none_or(|bucket| bucket.take(rate, 1, now_ns))
    }
}

impl Bucket {
    #[inline]
    fn take(&self, rate: u64, queries: u64, now_ns: u64) -> bool {
        let needed_ns = filling_ns(queries.min(rate), rate);
        let taken_ns = filling_ns(queries, rate);
        let mut full_at_ns = self.0.load(Ordering::Relaxed);
        // Ends: another turn means that another worker's came to its end.
        loop {
            if full_at_ns.saturating_sub(now_ns).saturating_add(needed_ns) > SECOND_NS {
                return false;
            }
            let next_ns = full_at_ns.max(now_ns).saturating_add(taken_ns);
            match self.0.compare_exchange_weak(full_at_ns, next_ns, Ordering::Relaxed, Ordering::Relaxed) {
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

/// Allowances of address prefixes, in a table of fixed size: forged sources cannot make it grow. Prefixes that fall
/// into one slot share an allowance.
#[derive(Debug, Default)]
struct Prefixes(Vec<Bucket>);

impl Prefixes {
    /// Empty when no client needs it.
    fn new(rules: &[Rule]) -> Self {
        let slots = if rules.iter().any(|rule| rule.queries_per_prefix != 0) { PREFIX_SLOTS } else { 0 };
        Self((0..slots).map(|_| Bucket::default()).collect())
    }
}

/// Where a client's allowance for the prefix of an address lies.
#[inline]
pub fn slot(client: usize, host: IpAddr) -> usize {
    /// Odd numbers without a pattern: a multiplication by them spreads what differs little.
    const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;
    const CLIENT_STEP: u64 = 0xBF58_476D_1CE4_E5B9;
    let prefix = match host {
        IpAddr::V4(address) => u64::from(address.to_bits() >> (32 - PREFIX_BITS_V4)) | 1 << 63,
        IpAddr::V6(address) => (address.to_bits() >> (128 - PREFIX_BITS_V6)) as u64,
    };
    let mixed = prefix.wrapping_add((client as u64).wrapping_mul(CLIENT_STEP)).wrapping_mul(SPREAD);
    (mixed >> (64 - PREFIX_SLOTS.ilog2())) as usize
}

/// The networks of one length: the leading bits -> the first client with that network.
#[derive(Debug)]
struct Networks<T> {
    mask: T,
    clients: FxHashMap<T, usize>,
    /// The first of its clients.
    first: usize,
}

/// Lists made so far.
static LISTS: AtomicU64 = AtomicU64::new(0);

/// The clients list: finds the client of an address. Never changes once made; the buckets do.
#[derive(Debug)]
pub struct Clients {
    id: u64,
    buckets: Vec<Client>,
    v4: Vec<Networks<u32>>,
    v6: Vec<Networks<u128>>,
    /// From where the daemon asks itself just now, see `own_key`; 0 = it does not.
    own: AtomicU32,
}

impl Clients {
    /// rules: in the order of the list. Bits of an address behind its network's length are not looked at; a length
    /// over the address's own is taken for the whole address.
    pub fn new(rules: Vec<Rule>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let mut buckets = Vec::with_capacity(rules.len());
        let prefixes = Arc::new(Prefixes::new(&rules));
        for (at, rule) in rules.into_iter().enumerate() {
            buckets.push(Client::of(at, &rule, &prefixes));
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
        let id = LISTS.fetch_add(1, Ordering::Relaxed);
        Self { id, buckets, v4, v6, own: AtomicU32::new(0) }
    }

    /// No other list of this process has it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whose queries the query log may have: of each client, whether it may. Missing ones may not.
    pub fn set_tapped(&self, tapped: &[bool]) {
        for (at, client) in self.buckets.iter().enumerate() {
            client.is_tapped.store(tapped.get(at).copied().unwrap_or(false), Ordering::Relaxed);
        }
    }

    /// The daemon asks itself from this socket, which it holds; None = it does not. Such a question is the last
    /// client's of the list, whoever's its address is: nobody else can have that address and port.
    pub fn set_own(&self, asker: Option<SocketAddr>) {
        self.own.store(asker.map_or(0, own_key), Ordering::Relaxed);
    }

    /// Whether the daemon itself asks from there.
    #[inline]
    pub fn is_own(&self, asker: impl FnOnce() -> SocketAddr) -> bool {
        let own = self.own.load(Ordering::Relaxed);
        own != 0 && own == own_key(asker())
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

/// A port of 127.0.0.1, or of `::1` above all of those; 0 for every other address.
fn own_key(asker: SocketAddr) -> u32 {
    match asker.ip() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => asker.port().into(),
        IpAddr::V6(Ipv6Addr::LOCALHOST) => 1 << 16 | u32::from(asker.port()),
        _ => 0,
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
