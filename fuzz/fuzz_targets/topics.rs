//! See `reqtt_core::fuzzing::topics`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| reqtt_fuzz::bounded(data, reqtt_core::fuzzing::topics));
