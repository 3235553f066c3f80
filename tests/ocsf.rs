//! The mapping held against its promises: any event gives valid OCSF, and any OCSF of ours gives the event back.

mod support;

use auditwire::event::AuditEvent;
use auditwire::ocsf::{Mapping, Span, Version, decode, encode};
use proptest::prelude::*;
use serde_json::Value;

const SPAN: Span = Span { trace_id: [0x0a; 16], span_id: [0x0b; 8], flags: 1 };

fn to_ocsf(event: &AuditEvent, mapping: &Mapping, span: Option<&Span>) -> String {
    let mut out = Vec::new();
    encode(event, mapping, span, &mut out);
    String::from_utf8(out).unwrap()
}

fn check_reversible(document: &Value, event: &AuditEvent, ocsf: &str) {
    let back = decode(ocsf).unwrap_or_else(|error| panic!("{error}\n{ocsf}"));
    assert_eq!(back, *event, "{ocsf}");
    // Equality of values has 0.0 equal to -0.0; their texts differ.
    assert_eq!(serde_json::to_value(&back).unwrap().to_string(), document.to_string(), "{ocsf}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_event_becomes_valid_ocsf_and_comes_back(document in support::events::document(), with_span in any::<bool>()) {
        let event: AuditEvent = serde_json::from_value(document.clone()).unwrap();
        let span = with_span.then_some(&SPAN);
        for version in Version::ALL {
            let ocsf = to_ocsf(&event, &Mapping { version }, span);
            assert!(ocsf.starts_with(r#"{"time":"#) && !ocsf.contains('\n'), "{ocsf}");
            check_reversible(&document, &event, &ocsf);
        }
    }
}
