//! Builds the shim of the log callbacks and, where asked for, makes the bindings from the header.

fn main() {
    println!("cargo::rerun-if-changed=src/log.c");
    println!("cargo::rerun-if-changed=include/vixDiskLib.h");
    cc::Build::new().file("src/log.c").warnings_into_errors(true).compile("ferry_vddk_log");
    #[cfg(feature = "buildtime-bindgen")]
    bind();
}

/// Writes `bindings.rs` to the build's own folder.
#[cfg(feature = "buildtime-bindgen")]
fn bind() {
    let values = bindgen::EnumVariation::NewType { is_bitfield: false, is_global: false };
    let bindings = bindgen::Builder::default()
        .header("include/vixDiskLib.h")
        .allowlist_function("VixDiskLib_.*")
        .allowlist_type("VixDiskLib.*")
        .allowlist_var("VIXDISKLIB_.*|VIX_.*")
        .dynamic_library_name("VixDiskLib")
        .dynamic_link_require_all(false)
        // A value that the library adds later must not be undefined behaviour.
        .default_enum_style(values)
        .derive_default(true)
        .formatter(bindgen::Formatter::Prettyplease)
        .generate()
        .expect("libclang and its headers are there, and the header is sound");
    #[expect(clippy::disallowed_methods, reason = "cargo tells a build script so where to write")]
    let out = std::env::var_os("OUT_DIR").expect("cargo sets it");
    let file = std::path::Path::new(&out).join("bindings.rs");
    bindings.write_to_file(file).expect("the build's folder can be written to");
}
