//! Any datagram of the `pdb` dialect, in both forms.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lookupd_native::limits::{PDB_DATAGRAM_BYTES_MAX, PDB_DIGITS_MAX, PDB_MESSAGE_BYTES_MAX};
use lookupd_native::protocols::pdb;

fuzz_target!(|datagram: &[u8]| {
    let datagram = &datagram[..datagram.len().min(PDB_DATAGRAM_BYTES_MAX)];
    let strict = pdb::decode_query(datagram, false);
    let query = pdb::decode_query(datagram, true);
    if let Ok(strict) = strict {
        assert_eq!(query, Ok(strict), "the older form never hides the newer one");
    }
    let Ok(query) = query else { return };
    if let Some(number) = query.number {
        assert!(number.iter().all(u8::is_ascii_digit));
        assert!(query.id.is_none() || number.len() <= PDB_DIGITS_MAX);
    }
    for carrier_id in [None, Some(1), Some(1000), Some(32_767)] {
        let mut out = b"before".to_vec();
        pdb::encode_answer(&query, carrier_id, &mut out);
        let reply = out.strip_prefix(b"before").expect("appended");
        assert!(reply.len() <= datagram.len() + 3 && reply.len() <= PDB_MESSAGE_BYTES_MAX);
        if let Some(id) = query.id {
            assert_eq!(usize::from(reply[3]), reply.len());
            assert_eq!(reply[4..6], id.to_be_bytes());
            assert!(pdb::decode_query(reply, true).is_err(), "an answer is never answered");
        } else {
            assert_eq!(pdb::decode_query(reply, true).map(|echoed| echoed.number), Ok(query.number));
        }
    }
});
