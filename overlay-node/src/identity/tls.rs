//! TLS 1.3 with both sides authenticated, and the one exception: a node that joins has no certificate yet.

use std::{fmt, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    version::TLS13,
};
use thiserror::Error;

use super::{
    ca_digest,
    certificate::{to_pem, unit},
};
use crate::{api::Role, secret::Secret};

/// A node's certificate, its key and the authorities that it trusts, all PEM.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Credentials {
    /// The certificates of the authorities: two while one takes over from the other.
    pub authority: String,
    /// The node's certificate, and what leads from it to an authority that the others trust.
    pub certificate: String,
    /// The node's key.
    pub key: Secret<0>,
    /// The digest of the authority that signed it.
    #[serde(default)]
    pub issuer: [u8; 32],
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// The credentials cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the node's certificate or key cannot be used: {reason}")]
pub struct TlsError {
    /// What the library said.
    pub reason: String,
}

impl TlsError {
    fn new(error: impl fmt::Display) -> Self {
        Self {
            reason: error.to_string(),
        }
    }
}

impl Credentials {
    /// Makes the server's side: clients show a certificate of the same authority, or none in order to join.
    ///
    /// # Errors
    ///
    /// See [`TlsError`].
    pub fn server(&self) -> Result<ServerConfig, TlsError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider())
            .allow_unauthenticated()
            .build()
            .map_err(TlsError::new)?;
        let (chain, key) = self.identity()?;
        ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsError::new)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map(|mut config| {
                // Each connection shows a certificate that is valid now: none goes on from an earlier one.
                config.send_tls13_tickets = 0;
                config.session_storage = Arc::new(NoServerSessionStorage {});
                config
            })
            .map_err(TlsError::new)
    }

    /// Makes the client's side: it shows its certificate, and takes none but a manager's of the same authority.
    ///
    /// # Errors
    ///
    /// See [`TlsError`].
    pub fn client(&self) -> Result<ClientConfig, TlsError> {
        let (chain, key) = self.identity()?;
        ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsError::new)?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(chain, key)
            .map(|mut config| {
                config.resumption = Resumption::disabled();
                config
            })
            .map_err(TlsError::new)
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in read(&self.authority)? {
            roots.add(authority).map_err(TlsError::new)?;
        }
        Ok(Arc::new(roots))
    }

    fn identity(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let mut chain = read(&self.certificate)?;
        // The authorities come along, so that a joining node can compare them with its token's digest.
        chain.extend(read(&self.authority)?);
        let key = PrivateKeyDer::from_pem_slice(self.key.expose()).map_err(TlsError::new)?;
        Ok((chain, key))
    }
}

/// Reads all certificates of a text.
fn read(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
    let certificates: Vec<_> = certificates
        .collect::<Result<_, _>>()
        .map_err(TlsError::new)?;
    if certificates.is_empty() {
        return Err(TlsError::new("it has no certificate"));
    }
    Ok(certificates)
}

/// Both sides of TLS, made once for many connections.
#[derive(Clone)]
pub(crate) struct Sides {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
}

impl Sides {
    /// Makes both sides for these credentials.
    pub(crate) fn new(credentials: &Credentials) -> Result<Self, TlsError> {
        Ok(Self {
            server: Arc::new(credentials.server()?),
            client: Arc::new(credentials.client()?),
        })
    }
}

impl fmt::Debug for Sides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sides(..)")
    }
}

/// Makes the client's side of a node that joins: no certificate, and no trust but in the digest of its token.
///
/// # Errors
///
/// See [`TlsError`].
pub fn joining_client(ca_digest: [u8; 32]) -> Result<ClientConfig, TlsError> {
    let verifier = Pinned {
        ca_digest,
        provider: provider(),
    };
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::new)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(config)
}

/// Returns the name that TLS expects of a node with this role.
pub(crate) fn node_name(role: Role) -> ServerName<'static> {
    ServerName::try_from(unit(role)).expect("the name of a role is a DNS name")
}

/// Trusts the authority whose certificate has the token's digest, and what it signed.
#[derive(Debug)]
struct Pinned {
    ca_digest: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned =
            |certificate: &&CertificateDer<'_>| ca_digest(&to_pem(certificate)) == self.ca_digest;
        let authority = intermediates.iter().find(pinned).ok_or_else(|| {
            rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)
        })?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&self.provider),
        )
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
        // The pinned one may know the issuer by way of a certificate that it signed for it.
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
