//! The certificate of a server: made when it first starts, signed by itself, and kept in its folder: whoever trusts it trusts it
//! after a restart.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{AlpnError, SslAcceptor, SslMethod, select_next_proto};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509NameBuilder};

/// A certificate that serves.
pub(super) struct Certificate {
    pub(super) acceptor: SslAcceptor,
    /// SHA-256 of the certificate, `AA:BB:…`.
    pub(super) fingerprint: String,
    /// SHA-1 of the certificate, as VMware's products pin it.
    pub(super) thumbprint: String,
    /// The certificate, for whoever trusts it as an authority.
    pub(super) pem: String,
}

/// Where key and certificate are kept.
const FILE: &str = "server.pem";

/// Takes the certificate that a folder holds, or makes one there.
pub(super) fn of(folder: &Path) -> io::Result<Certificate> {
    let path = folder.join(FILE);
    match fs::read(&path) {
        Ok(pem) => Ok(serve(&PKey::private_key_from_pem(&pem)?, &X509::from_pem(&pem)?)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (key, certificate) = make()?;
            fs::create_dir_all(folder)?;
            let pem = [key.private_key_to_pem_pkcs8()?, certificate.to_pem()?].concat();
            let mut file =
                fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
            io::Write::write_all(&mut file, &pem)?;
            Ok(serve(&key, &certificate)?)
        }
        Err(error) => Err(error),
    }
}

/// Makes a key and a certificate for this machine.
fn make() -> Result<(PKey<Private>, X509), ErrorStack> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&group)?)?;
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_text("CN", "localhost")?;
    let name = name.build();
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(&*serial.to_asn1_integer()?)?;
    builder.set_subject_name(&name)?;
    builder.set_issuer_name(&name)?;
    builder.set_pubkey(&key)?;
    builder.set_not_before(&*Asn1Time::days_from_now(0)?)?;
    builder.set_not_after(&*Asn1Time::days_from_now(365)?)?;
    builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
    let names = SubjectAlternativeName::new()
        .dns("localhost")
        .ip("127.0.0.1")
        .ip("::1")
        .build(&builder.x509v3_context(None, None))?;
    builder.append_extension(names)?;
    builder.sign(&key, MessageDigest::sha256())?;
    Ok((key, builder.build()))
}

fn serve(key: &PKey<Private>, certificate: &X509) -> Result<Certificate, ErrorStack> {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    acceptor.set_private_key(key)?;
    acceptor.set_certificate(certificate)?;
    acceptor.check_private_key()?;
    acceptor.set_alpn_select_callback(|_, offered| {
        select_next_proto(b"\x08http/1.1", offered).ok_or(AlpnError::NOACK)
    });
    Ok(Certificate {
        acceptor: acceptor.build(),
        fingerprint: colons(&certificate.digest(MessageDigest::sha256())?),
        thumbprint: colons(&certificate.digest(MessageDigest::sha1())?),
        pem: String::from_utf8_lossy(&certificate.to_pem()?).into_owned(),
    })
}

fn colons(bytes: &[u8]) -> String {
    let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
    bytes.join(":")
}
