//! Builds what speaks to the log callbacks, which take a `va_list`.

fn main() {
    println!("cargo::rerun-if-changed=src/say.c");
    cc::Build::new().file("src/say.c").warnings_into_errors(true).compile("vddk_stub_say");
}
