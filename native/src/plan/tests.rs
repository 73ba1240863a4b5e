use proptest::prelude::*;

use super::*;

fn head(digits: usize, prefix: &str, portable: bool) -> Head {
    Head { digits, prefix: prefix.to_owned(), portable }
}

fn taiwan() -> Plan {
    let heads = [head(12, "8869", true), head(12, "88690", false), head(12, "886902", true), head(11, "8862", true)];
    Plan::new("886", "0", heads.to_vec())
}

fn tn(plan: &Plan, dialled: &str) -> Option<u64> {
    plan.digits(dialled.as_bytes()).map(|digits| digits.tn())
}

fn portable(plan: &Plan, dialled: &str) -> Option<bool> {
    plan.portable(&plan.digits(dialled.as_bytes()).unwrap())
}

#[test]
fn dialled_number_is_read() {
    let cases = [
        ("886912345678", Some(886_912_345_678)),
        ("+886912345678", Some(886_912_345_678)),
        ("0912345678", Some(886_912_345_678)),
        ("81312345678", Some(81_312_345_678)),
        ("123456789012345", Some(123_456_789_012_345)),
        ("999999999999999", Some(999_999_999_999_999)),
        ("12345", Some(12_345)),
        ("1234567890123456", None), // 16 digits
        ("0123456789012", Some(886_123_456_789_012)),
        ("01234567890123", None), // 16 with the country code
        ("1234", None),           // a short code has no E.164 form
        ("110", None),
        ("", None),
        ("+", None),
        ("0", None),
        ("01", None),
        ("012", Some(88_612)),
        ("00886912345678", None), // two zeros: 886 and the rest are 16 digits
        ("+0912345678", None),
        ("++886912345678", None),
        ("88691234567a", None),
        ("8869123456 8", None),
        ("٨٨٦٩١", None), // digits of another script
        ("886912345678\n", None),
        ("886912345678\0", None),
    ];
    for (dialled, expected) in cases {
        assert_eq!(tn(&taiwan(), dialled), expected, "{dialled:?}");
    }
    assert_eq!(taiwan().digits(&[b'9'; 10_000]), None);
    assert_eq!(taiwan().digits(b"\xff\xfe12345"), None);
}

#[test]
fn only_a_trunk_prefix_that_starts_with_zero_is_read() {
    let italy = Plan::new("39", "", vec![head(12, "39", true)]);
    assert_eq!(tn(&italy, "0612345678"), None);
    assert_eq!(tn(&italy, "390612345678"), Some(390_612_345_678));
    let russia = Plan::new("7", "8", vec![]);
    assert_eq!(tn(&russia, "89161234567"), Some(89_161_234_567));
    let hungary = Plan::new("36", "06", vec![]);
    assert_eq!(tn(&hungary, "06201234567"), Some(36_201_234_567));
    assert_eq!(tn(&hungary, "0201234567"), None);
    assert_eq!(tn(&hungary, "06"), None);
}

#[test]
fn longest_head_of_the_length_says_the_kind() {
    let plan = taiwan();
    assert_eq!(portable(&plan, "886912345678"), Some(true));
    assert_eq!(portable(&plan, "886901345678"), Some(false));
    assert_eq!(portable(&plan, "886902345678"), Some(true));
    assert_eq!(portable(&plan, "88621234567"), Some(true));
    assert_eq!(portable(&plan, "88691234567"), None);
    assert_eq!(portable(&plan, "8869123456789"), None);
    assert_eq!(portable(&plan, "886812345678"), None);
    assert_eq!(portable(&plan, "819123456789"), None);
    assert!(plan.covers(&plan.digits(b"88612").unwrap()));
    assert!(!plan.covers(&plan.digits(b"88512345").unwrap()));
}

#[test]
fn head_that_no_number_can_have_is_left_out() {
    let heads = [head(12, "886x", true), head(16, "886", true), head(3, "8869", true), head(12, "0886", true)];
    assert!(Plan::new("886", "0", heads.to_vec()).levels.iter().all(Vec::is_empty));
    let twice = Plan::new("886", "0", vec![head(12, "8869", true), head(12, "8869", false)]);
    assert_eq!(portable(&twice, "886912345678"), Some(false));
    let whole = Plan::new("", "0", vec![head(15, "", true), head(15, "123456789012345", false)]);
    assert_eq!(portable(&whole, "123456789012346"), Some(true));
    assert_eq!(portable(&whole, "123456789012345"), Some(false));
}

proptest! {
    #[test]
    fn any_bytes_are_a_number_or_none(dialled in proptest::collection::vec(any::<u8>(), 0..40)) {
        prop_assert!(taiwan().digits(&dialled).is_none_or(|digits| digits.as_bytes().len() >= TN_DIGITS_MIN));
    }

    #[test]
    fn digits_of_a_number_are_read_as_themselves(number in "[1-9][0-9]{4,14}") {
        let digits = taiwan().digits(number.as_bytes());
        prop_assert_eq!(digits.as_ref().map(Digits::as_bytes), Some(number.as_bytes()));
        prop_assert_eq!(digits.map(|digits| digits.tn().to_string()), Some(number));
    }
}
