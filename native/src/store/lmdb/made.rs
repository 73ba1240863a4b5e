//! Small stores for tests, written as the loader writes them. To be made before the store is opened for reading.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use lmdb_sys::{self as ffi, MDB_env, MDB_val};

use crate::store::DATABASES;
use crate::store::layout::{BLOCK_BYTES, FORMAT_VERSION, META_FORMAT, META_STATE, NUMBERS_PER_BLOCK, checksum};
use crate::store::restricted::pack;

/// Database, key, value.
pub type Row = (&'static CStr, Vec<u8>, Vec<u8>);

const MAP_BYTES: usize = 1 << 24;

/// A store that can be written to; its own environment, closed when dropped.
pub struct Made(*mut MDB_env);

impl Drop for Made {
    fn drop(&mut self) {
        // SAFETY: made by `new`; no transaction outlives `commit`.
        unsafe { ffi::mdb_env_close(self.0) }
    }
}

impl Made {
    /// A store with its databases and its format, and no state.
    pub fn new(path: &Path) -> Made {
        let folder = CString::new(path.as_os_str().as_bytes()).unwrap();
        let mut environment = ptr::null_mut();
        // SAFETY: room for the handle; then a handle just made, and a path that ends with a zero byte.
        unsafe {
            assert_eq!(ffi::mdb_env_create(&raw mut environment), 0);
            assert_eq!(ffi::mdb_env_set_mapsize(environment, MAP_BYTES), 0);
            assert_eq!(ffi::mdb_env_set_maxdbs(environment, 16), 0);
            assert_eq!(ffi::mdb_env_open(environment, folder.as_ptr(), ffi::MDB_NOTLS, 0o600), 0);
        }
        let made = Made(environment);
        made.commit(&[(c"meta", META_FORMAT.to_vec(), FORMAT_VERSION.to_le_bytes().to_vec())]);
        made
    }

    /// Put rows, all in one commit.
    pub fn commit(&self, rows: &[Row]) {
        let mut transaction = ptr::null_mut();
        // SAFETY: our environment; the only transaction of it; keys and values outlive the calls, which copy them.
        unsafe {
            assert_eq!(ffi::mdb_txn_begin(self.0, ptr::null_mut(), 0, &raw mut transaction), 0);
            let open = |name: &CStr| {
                let mut database = 0;
                assert_eq!(ffi::mdb_dbi_open(transaction, name.as_ptr(), ffi::MDB_CREATE, &raw mut database), 0);
                database
            };
            let databases = DATABASES.map(open);
            for (name, key, value) in rows {
                let at = DATABASES.iter().position(|known| known == name).unwrap();
                let (mut key, mut value) = (lend(key), lend(value));
                assert_eq!(ffi::mdb_put(transaction, databases[at], &raw mut key, &raw mut value, 0), 0);
            }
            assert_eq!(ffi::mdb_txn_commit(transaction), 0);
        }
    }

    /// Readers that hold a state, in any environment of these files.
    pub fn pinned(&self) -> usize {
        let mut lines: Vec<String> = Vec::new();
        // SAFETY: `take_line` is given what it expects, and only while the call lasts.
        assert!(unsafe { ffi::mdb_reader_list(self.0, Some(take_line), (&raw mut lines).cast()) } >= 0);
        // pid, thread, and the transaction or a dash.
        let held = |line: &&String| line.split_whitespace().nth(2).is_some_and(|id| id.parse::<u64>().is_ok());
        lines.iter().filter(held).count()
    }
}

/// SAFETY: `message` is LMDB's text, `lines` the vector that `pinned` lends.
unsafe extern "C" fn take_line(message: *const c_char, lines: *mut c_void) -> c_int {
    // SAFETY: as above.
    let (message, lines) = unsafe { (CStr::from_ptr(message), &mut *lines.cast::<Vec<String>>()) };
    lines.extend(message.to_string_lossy().lines().map(str::to_owned));
    0
}

fn lend(bytes: &[u8]) -> MDB_val {
    MDB_val { mv_size: bytes.len(), mv_data: bytes.as_ptr().cast_mut().cast() }
}

/// The state. confirmed: of its only feed; None = no feed was loaded.
pub fn state(serial: u64, tables: u64, confirmed_at: Option<u32>) -> Row {
    let mut packed = vec![0x97, 0xCF];
    packed.extend(serial.to_be_bytes());
    packed.extend([0x00, 0x00, 0x00, 0xCF]);
    packed.extend(tables.to_be_bytes());
    match confirmed_at {
        Some(seconds) => {
            packed.extend([0x81, 0xA1, b'a', 0x95, 0x00, 0x00, 0x00, 0x00, 0xCE]);
            packed.extend(seconds.to_be_bytes());
        }
        None => packed.push(0x80),
    }
    packed.push(0xC0);
    let sum = checksum(&packed, 0).to_le_bytes();
    packed.extend(sum);
    (c"meta", META_STATE.to_vec(), packed)
}

/// A route with a network code of up to 31 characters.
pub fn route(id: u16, code: &str, carrier_id: Option<u8>) -> Row {
    let mut packed = vec![0x95, 0xA0 | code.len() as u8];
    packed.extend(code.bytes());
    packed.extend([0xC0, 0xA1, b'N']);
    packed.extend(carrier_id.map_or(vec![0xC0], |id| vec![0xCC, id]));
    packed.push(0xC3);
    (c"routes", id.to_be_bytes().to_vec(), packed)
}

/// A range and its holder.
pub fn range(prefix: &str, route: u16) -> Row {
    (c"ranges", prefix.as_bytes().to_vec(), route.to_le_bytes().to_vec())
}

/// A block with some entries: offset and entry.
pub fn block(number: u64, entries: &[(usize, u16)]) -> Row {
    let mut value = vec![0; BLOCK_BYTES - 8];
    for &(offset, entry) in entries {
        assert!(offset < NUMBERS_PER_BLOCK);
        value[2 * offset..][..2].copy_from_slice(&entry.to_le_bytes());
    }
    let sum = checksum(&value, number).to_le_bytes();
    value.extend(sum);
    (c"blocks", number.to_be_bytes().to_vec(), value)
}

/// The same with a bit changed after its checksum was made.
pub fn damaged_block(number: u64, entries: &[(usize, u16)]) -> Row {
    let (name, key, mut value) = block(number, entries);
    value[1999] ^= 1;
    (name, key, value)
}

/// What look-ups read of a block's restrictions: first and last offset, measure, from, until, in the order of strictness.
pub fn restricted(number: u64, records: &[(u16, u16, u8, u64, u64)]) -> Row {
    let packed: Vec<_> = records.iter().map(|it| (it.0, it.1, it.2, it.3 as u32, it.4 as u32)).collect();
    (c"restricted", number.to_be_bytes().to_vec(), pack(number, &packed))
}

/// A restriction of the numbers first to last, and the rows that lead to it: measure, from, until, whose tag.
pub fn restriction(first: u64, last: u64, (measure, from, until, tag): (u8, u64, u64, u64)) -> Vec<Row> {
    let joined = |name: u8, numbers: &[u64]| {
        let mut key = vec![name];
        key.extend(numbers.iter().flat_map(|number| number.to_be_bytes()));
        key
    };
    let key = joined(b'n', &[first, last, tag]);
    let mut value = vec![measure, 0, 0, 0, 0, 0, 0, 0];
    value.extend(from.to_le_bytes());
    value.extend(until.to_le_bytes());
    value.extend(b"\x92\xa1A\xa1C");
    let sum = twox_hash::XxHash3_64::oneshot(&[&key[..], &value].concat()).to_le_bytes();
    value.extend(sum);
    let thousand = NUMBERS_PER_BLOCK as u64;
    let blocks = (first / thousand..=last / thousand).filter(|_| first < last);
    let reaches = blocks.map(|block| (c"restrictions", joined(b'r', &[block, first, last, tag]), Vec::new()));
    let mut rows: Vec<Row> = reaches.collect();
    rows.push((c"restrictions", key, value));
    rows
}
