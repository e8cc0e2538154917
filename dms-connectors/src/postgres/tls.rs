//! TLS as libpq's `sslmode` means it.

use std::path::PathBuf;
use std::sync::Arc;

use dms_core::{Error, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tokio_postgres_rustls::MakeRustlsConnect;

/// What a connection demands of TLS
/// (<https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-SSLMODE-STATEMENTS>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Disable,
    /// If the server has it.
    Prefer,
    /// With any certificate.
    Require,
    /// With a certificate of an authority that is trusted.
    VerifyCa,
    /// Which also is for the host's name.
    VerifyFull,
}

impl Mode {
    /// # Errors
    /// `Settings` naming the modes there are.
    pub(super) fn parse(mode: &str) -> Result<Self> {
        Ok(match mode {
            "disable" => Self::Disable,
            // libpq tries without first; whoever allows both gets the safer one here.
            "allow" | "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            other => {
                return Err(Error::settings(format!(
                    "sslmode={other} is none of disable, allow, prefer, require, verify-ca and \
                     verify-full"
                )));
            }
        })
    }
}

/// Files of certificates; without them those in libpq's folder count, if they are there.
#[derive(Debug, Clone, Default)]
pub(super) struct Files {
    /// Authorities that are trusted; `system` for those of the operating system.
    pub(super) root: Option<String>,
    pub(super) certificate: Option<String>,
    pub(super) key: Option<String>,
    /// `~/.postgresql`.
    pub(super) folder: Option<PathBuf>,
}

impl Files {
    pub(super) fn or_default(&self, given: Option<&String>, name: &str) -> Option<String> {
        let default = || {
            let path = self.folder.as_ref()?.join(name);
            path.exists().then(|| path.to_string_lossy().into_owned())
        };
        given.cloned().or_else(default)
    }
}

/// How to speak TLS.
///
/// # Errors
/// `Settings` naming the file that cannot be used.
pub(super) fn connector(mode: Mode, files: &Files) -> Result<MakeRustlsConnect> {
    let provider = Arc::new(crypto::aws_lc_rs::default_provider());
    let root = files.or_default(files.root.as_ref(), "root.crt");
    // As libpq has it: an authority that is named is there to be asked.
    let verifies = match mode {
        Mode::VerifyCa | Mode::VerifyFull => true,
        Mode::Require => root.is_some(),
        Mode::Disable | Mode::Prefer => false,
    };
    let trust = if verifies { Some(Trust::read(root.as_deref(), &provider)?) } else { None };
    let verifier =
        Verifier { trust, checks_name: mode == Mode::VerifyFull, provider: Arc::clone(&provider) };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::unexpected("TLS cannot be set up").with_source(error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let certificate = files.or_default(files.certificate.as_ref(), "postgresql.crt");
    let key = files.or_default(files.key.as_ref(), "postgresql.key");
    let config = match (certificate, key) {
        (None, None) => config.with_no_client_auth(),
        (Some(certificate), Some(key)) => {
            let chain = certificates(&certificate)?;
            let secret = PrivateKeyDer::from_pem_file(&key).map_err(|error| {
                Error::settings(format!(
                    "sslkey {key} is not a private key in PEM form without a password"
                ))
                .with_source(error)
            })?;
            config.with_client_auth_cert(chain, secret).map_err(|error| {
                Error::settings(format!("sslcert {certificate} and sslkey {key} do not match"))
                    .with_source(error)
            })?
        }
        (Some(_), None) => return Err(Error::settings("sslcert needs sslkey, its private key")),
        (None, Some(_)) => return Err(Error::settings("sslkey needs sslcert, its certificate")),
    };
    Ok(MakeRustlsConnect::new(config))
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>> {
    let unusable = |error| {
        Error::settings(format!("{path} does not hold certificates in PEM form")).with_source(error)
    };
    let read: std::result::Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(unusable)?.collect();
    let read = read.map_err(unusable)?;
    if read.is_empty() {
        return Err(Error::settings(format!("{path} holds no certificate")));
    }
    Ok(read)
}

/// Whom a server's certificate has to come from.
#[derive(Debug)]
struct Trust {
    /// These very certificates are also those of servers that have signed their own.
    named: Vec<CertificateDer<'static>>,
    chains: Arc<WebPkiServerVerifier>,
}

impl Trust {
    fn read(root: Option<&str>, provider: &Arc<CryptoProvider>) -> Result<Self> {
        let mut store = RootCertStore::empty();
        let named = match root {
            Some(path) if path != "system" => certificates(path)?,
            _ => Vec::new(),
        };
        if named.is_empty() {
            // Some of an operating system's are often odd, which is no reason to trust none.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        for certificate in &named {
            store.add(certificate.clone()).map_err(|error| {
                Error::settings("sslrootcert holds what is no certificate").with_source(error)
            })?;
        }
        let chains =
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider));
        let chains = chains.build().map_err(|error| {
            Error::settings("no authority is trusted; name a file by sslrootcert")
                .with_source(error)
        })?;
        Ok(Self { named, chains })
    }
}

#[derive(Debug)]
struct Verifier {
    trust: Option<Trust>,
    checks_name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let verified = Ok(ServerCertVerified::assertion());
        let Some(trust) = &self.trust else { return verified };
        if trust.named.iter().any(|named| named == end_entity) {
            if self.checks_name {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return verified;
        }
        // The name is looked at when all else is found good.
        match trust.chains.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        ) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.checks_name => verified,
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
