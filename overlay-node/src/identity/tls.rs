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

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use overlay_core::NodeId;
    use rustls::{ClientConnection, ServerConnection};

    use super::*;
    use crate::identity::certificate::{self, Authority, Subject, peer};

    const CLUSTER: NodeId = NodeId::from_bytes([9; 16]);
    const HOUR: Duration = Duration::from_secs(3_600);

    fn now() -> Duration {
        #[expect(clippy::disallowed_methods, reason = "TLS looks at the clock, too")]
        let now = std::time::SystemTime::now();
        now.duration_since(std::time::UNIX_EPOCH).unwrap()
    }

    /// Credentials of a node whose certificate begins at a time, by an authority.
    fn node(authority: &Authority, role: Role, from: Duration) -> Credentials {
        let (key, request) = certificate::request().unwrap();
        let subject = Subject {
            cluster: CLUSTER,
            node: certificate::node_of(&request).unwrap(),
            role,
        };
        Credentials {
            authority: authority.certificate().to_owned(),
            certificate: authority.issue(&request, subject, from, HOUR).unwrap(),
            key,
            issuer: [0; 32],
        }
    }

    /// Lets both sides speak until neither has anything to say; returns the role that the server sees.
    fn speak(server: &Credentials, client: ClientConfig) -> Result<Option<Role>, io::Error> {
        let mut server = ServerConnection::new(Arc::new(server.server().unwrap())).unwrap();
        let name = node_name(Role::Manager);
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        for _ in 0..10 {
            let mut octets = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut octets)?;
            }
            server.read_tls(&mut &octets[..])?;
            server.process_new_packets().map_err(io::Error::other)?;
            octets.clear();
            while server.wants_write() {
                server.write_tls(&mut octets)?;
            }
            client.read_tls(&mut &octets[..])?;
            client.process_new_packets().map_err(io::Error::other)?;
        }
        assert!(!server.is_handshaking() && !client.is_handshaking());
        let leaf = server.peer_certificates().and_then(|chain| chain.first());
        Ok(leaf.map(|leaf| peer(leaf).unwrap().role))
    }

    #[test]
    fn only_certificates_of_the_cluster_are_taken_while_they_are_valid() {
        let own = Authority::generate(CLUSTER, now()).unwrap();
        let foreign = Authority::generate(CLUSTER, now()).unwrap();
        let server = node(&own, Role::Manager, now());
        for role in [Role::Manager, Role::Worker] {
            let client = node(&own, role, now()).client().unwrap();
            assert_eq!(speak(&server, client).unwrap(), Some(role));
        }
        // None at all: it may ask to join, and nothing else.
        let token = ca_digest(own.certificate());
        let joining = || joining_client(token).unwrap();
        assert_eq!(speak(&server, joining()).unwrap(), None);
        let trusting = |client: &Credentials| {
            // It trusts the server whatever it is itself.
            let client = Credentials {
                authority: own.certificate().to_owned(),
                ..client.clone()
            };
            client.client().unwrap()
        };
        let past = now() - 2 * HOUR;
        let future = now() + 2 * HOUR;
        for (what, client, said) in [
            (
                "foreign",
                node(&foreign, Role::Manager, now()),
                "UnknownIssuer",
            ),
            ("expired", node(&own, Role::Manager, past), "xpired"),
            ("early", node(&own, Role::Manager, future), "not valid yet"),
        ] {
            let refused = speak(&server, trusting(&client)).unwrap_err().to_string();
            assert!(refused.contains(said), "{what}: {refused}");
        }
        let selfmade = Credentials {
            certificate: foreign.certificate().to_owned(),
            key: Secret::any(foreign.key().as_bytes().to_vec()),
            ..node(&own, Role::Manager, now())
        };
        speak(&server, selfmade.client().unwrap()).unwrap_err();
        // And nobody takes a worker, or a stranger, for a manager.
        let client = node(&own, Role::Worker, now()).client().unwrap();
        let worker = node(&own, Role::Worker, now());
        let refused = speak(&worker, client.clone()).unwrap_err().to_string();
        assert!(refused.contains("not valid for name"), "{refused}");
        speak(&node(&foreign, Role::Manager, now()), client).unwrap_err();
        speak(&node(&foreign, Role::Manager, now()), joining()).unwrap_err();
    }

    #[test]
    fn both_authorities_are_taken_while_one_takes_over() {
        let first = Authority::generate(CLUSTER, now()).unwrap();
        let next = Authority::next(&first.succeed(CLUSTER, now()).unwrap());
        let both = first.certificate().to_owned() + next.certificate();
        let with = |authority: &Authority, trusted: &str| Credentials {
            authority: trusted.to_owned(),
            ..node(authority, Role::Manager, now())
        };
        let stages = [
            with(&first, first.certificate()),
            with(&first, &both),
            with(&next, &both),
        ];
        for server in &stages {
            for client in &stages {
                let seen = speak(server, client.client().unwrap());
                assert_eq!(seen.unwrap(), Some(Role::Manager));
            }
            let old = joining_client(ca_digest(first.certificate())).unwrap();
            assert_eq!(speak(server, old).unwrap(), None);
        }
        let new = || joining_client(ca_digest(next.certificate())).unwrap();
        assert_eq!(speak(&stages[2], new()).unwrap(), None);
        // Once the former one is gone, it is of no use.
        let after = with(&next, next.certificate());
        assert_eq!(speak(&after, new()).unwrap(), None);
        speak(&after, stages[0].client().unwrap()).unwrap_err();
    }
}
