//! What bindgen makes of `include/vixDiskLib.h`. Calling a function that the library lacks panics: [`crate::Library`] looks first.
#![expect(
    missing_docs,
    missing_debug_implementations,
    non_snake_case,
    non_camel_case_types,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "it is generated; the header says what there is to say"
)]

include!("bindings.rs");
