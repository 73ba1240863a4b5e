//! Any dialled text, in three plans. The first byte chooses the plan.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lookupd_native::plan::{Head, Plan};

static PLANS: LazyLock<[Plan; 3]> = LazyLock::new(|| {
    let head = |digits, prefix: &str, portable| Head { digits, prefix: prefix.to_owned(), portable };
    [
        Plan::new("886", "0", vec![head(12, "8869", true), head(12, "88690", false), head(11, "8862", true)]),
        Plan::new("36", "06", vec![head(11, "3620", true), head(10, "36", false)]),
        Plan::new("1", "", vec![head(11, "1", true)]),
    ]
});

fuzz_target!(|input: &[u8]| {
    let [choice, dialled @ ..] = input else { return };
    let plan = &PLANS[usize::from(*choice) % PLANS.len()];
    let Some(digits) = plan.digits(dialled) else { return };
    let bytes = digits.as_bytes();
    assert!((5..=15).contains(&bytes.len()) && bytes[0] != b'0');
    assert_eq!(digits.tn().to_string().as_bytes(), bytes);
    assert!(dialled.len() <= bytes.len() + 2, "only a plus sign or a trunk prefix is taken off");
    assert_eq!(plan.digits(bytes), Some(digits), "its own digits are a number");
    assert_eq!(plan.digits(&[b"+", bytes].concat()), Some(digits));
    if plan.portable(&digits).is_some() {
        assert!(plan.covers(&digits), "only numbers of the country have a kind");
    }
});
