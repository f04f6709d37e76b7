//! The cluster's certificate authority and the nodes' certificates.
//!
//! A certificate says who a node is (common name) and what it may do (organizational unit); its DNS name is the role
//! again, so that TLS itself refuses to take a worker for a manager.

use std::{fmt, time::Duration};

use overlay_core::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType,
};
use ring::digest::{SHA256, digest};
use thiserror::Error;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::NextAuthority;
use crate::{Peer, api::Role, secret::Secret};

/// A certificate could not be made or read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Making it failed.
    #[error("the certificate could not be made: {reason}")]
    Make {
        /// What the library said.
        reason: String,
    },
    /// It is no certificate, or none of ours.
    #[error("the certificate does not say {what}: it is none of this cluster's")]
    Read {
        /// What is missing.
        what: &'static str,
    },
}

impl From<rcgen::Error> for CertificateError {
    fn from(error: rcgen::Error) -> Self {
        Self::Make {
            reason: error.to_string(),
        }
    }
}

/// A certificate authority: who signs the certificates of a cluster.
pub struct Authority {
    certificate: String,
    key: String,
    cross: Option<String>,
}

/// Whom a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The cluster.
    pub cluster: NodeId,
    /// The node.
    pub node: NodeId,
    /// Its role.
    pub role: Role,
}

impl Authority {
    /// Makes a new one, valid for twenty years.
    ///
    /// # Errors
    ///
    /// [`CertificateError::Make`].
    pub fn generate(cluster: NodeId, unix_now: Duration) -> Result<Self, CertificateError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let parameters = of_authority(&key, cluster, unix_now)?;
        let certificate = to_pem(parameters.self_signed(&key)?.der());
        Ok(Self {
            certificate,
            key: key.serialize_pem(),
            cross: None,
        })
    }

    /// Takes up one from its parts.
    pub fn new(certificate: &str, key: &Secret<0>) -> Self {
        let key = String::from_utf8_lossy(key.expose()).into_owned();
        Self {
            certificate: certificate.to_owned(),
            key,
            cross: None,
        }
    }

    /// Takes up one that takes over from another one: what it signs comes with the proof that the other one knows it.
    pub fn next(next: &NextAuthority) -> Self {
        Self {
            cross: Some(next.cross.clone()),
            ..Self::new(&next.certificate, &next.key)
        }
    }

    /// Makes one that is to take over from this one.
    ///
    /// # Errors
    ///
    /// [`CertificateError::Make`].
    pub fn succeed(
        &self,
        cluster: NodeId,
        unix_now: Duration,
    ) -> Result<NextAuthority, CertificateError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut parameters = of_authority(&key, cluster, unix_now)?;
        let certificate = to_pem(parameters.self_signed(&key)?.der());
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let own = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?;
        let cross = to_pem(parameters.signed_by(&key, &own)?.der());
        Ok(NextAuthority {
            certificate,
            key: Secret::any(key.serialize_pem().into_bytes()),
            cross,
        })
    }

    /// Returns its certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Returns its key, PEM.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Signs the key in a certificate signing request for as long as `length`; whatever else the request asks for is ignored.
    /// The chain of an authority that takes over has two certificates.
    ///
    /// # Errors
    ///
    /// [`CertificateError::Make`] if the request is malformed or its signature wrong.
    pub fn issue(
        &self,
        request: &str,
        subject: Subject,
        unix_now: Duration,
        length: Duration,
    ) -> Result<String, CertificateError> {
        let Subject {
            cluster,
            node,
            role,
        } = subject;
        let request = CertificateSigningRequestParams::from_pem(request)?;
        let key = KeyPair::from_pem(&self.key)?;
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, key)?;
        let mut parameters = CertificateParams::new(Vec::new())?;
        let unit = unit(role);
        parameters.distinguished_name = name(&node.to_string(), &cluster.to_string(), Some(unit));
        let uri = format!("spiffe://{cluster}/node/{node}");
        parameters.subject_alt_names = vec![
            SanType::DnsName(unit.to_owned().try_into()?),
            SanType::URI(uri.try_into()?),
        ];
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        validity(&mut parameters, unix_now, length);
        let certificate = parameters.signed_by(&request.public_key, &issuer)?;
        Ok(to_pem(certificate.der()) + self.cross.as_deref().unwrap_or_default())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority(..)")
    }
}

/// Makes a node's key and the request to sign it, both PEM. The key never leaves the node.
///
/// # Errors
///
/// [`CertificateError::Make`].
pub fn request() -> Result<(Secret<0>, String), CertificateError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let request = CertificateParams::new(Vec::new())?.serialize_request(&key)?;
    Ok((
        Secret::any(key.serialize_pem().into_bytes()),
        request.pem()?,
    ))
}

/// Returns who asks, by the key that it asks to sign: the first half of the SHA-256 of its `SubjectPublicKeyInfo`
/// (RFC 5280 §4.1). So a name is only had with its key: whoever has a token cannot take another node's.
///
/// # Errors
///
/// [`CertificateError::Make`] if the request is malformed or its signature wrong.
pub fn node_of(request: &str) -> Result<NodeId, CertificateError> {
    let request = CertificateSigningRequestParams::from_pem(request)?;
    let digest = digest(&SHA256, &request.public_key.subject_public_key_info());
    let mut half = [0; 16];
    half.copy_from_slice(&digest.as_ref()[..16]);
    Ok(NodeId::from_bytes(half))
}

/// Reads who a certificate's owner is.
///
/// # Errors
///
/// [`CertificateError::Read`].
pub fn peer(certificate: &[u8]) -> Result<Peer, CertificateError> {
    let no = |what| CertificateError::Read { what };
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| no("anything readable"))?;
    let subject = certificate.subject();
    let text = |part: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
        part.and_then(|part| part.as_str().ok()).map(str::to_owned)
    };
    let common = text(subject.iter_common_name().next()).ok_or(no("a node"))?;
    let unit_text = text(subject.iter_organizational_unit().next()).ok_or(no("a role"))?;
    let node = common.parse().map_err(|_| no("a node"))?;
    let role = [Role::Manager, Role::Worker]
        .into_iter()
        .find(|role| unit(*role) == unit_text);
    Ok(Peer {
        node,
        role: role.ok_or(no("a role"))?,
    })
}

/// What a node has to know of its own certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// Whose it is, and for what.
    pub peer: Peer,
    /// From when on it is valid, as Unix time.
    pub not_before: Duration,
    /// Until when.
    pub not_after: Duration,
}

impl Own {
    /// Reads the first certificate of a chain, PEM.
    ///
    /// # Errors
    ///
    /// [`CertificateError::Read`].
    pub fn read(chain: &str) -> Result<Self, CertificateError> {
        let no = |what| CertificateError::Read { what };
        let pem = pem::parse(chain).map_err(|_| no("anything readable"))?;
        let peer = peer(pem.contents())?;
        let (_, certificate) =
            X509Certificate::from_der(pem.contents()).map_err(|_| no("anything readable"))?;
        let validity = certificate.validity();
        let unix = |time: x509_parser::time::ASN1Time| {
            Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or_default())
        };
        Ok(Self {
            peer,
            not_before: unix(validity.not_before),
            not_after: unix(validity.not_after),
        })
    }

    /// Returns whether it is valid at a time.
    pub fn is_valid(&self, unix_now: Duration) -> bool {
        (self.not_before..self.not_after).contains(&unix_now)
    }

    /// Returns whether it is time for a new one: half of its life is over, and for each node a little more, so that not all
    /// come at once.
    pub fn is_due(&self, unix_now: Duration) -> bool {
        let issued = self.not_before + BACKDATED;
        let life = self.not_after.saturating_sub(issued);
        let [first, ..] = self.peer.node.as_bytes();
        let spread = life / 10 * u32::from(*first) / 256;
        unix_now >= issued + life / 2 + spread || unix_now < self.not_before
    }
}

/// Returns the name under which TLS knows a role.
pub const fn unit(role: Role) -> &'static str {
    match role {
        Role::Manager => "overlay-manager",
        Role::Worker => "overlay-worker",
    }
}

/// Writes a certificate in the one form that is digested and stored.
pub fn to_pem(der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", der), config)
}

fn name(common: &str, organization: &str, unit: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, organization);
    if let Some(unit) = unit {
        name.push(DnType::OrganizationalUnitName, unit);
    }
    name.push(DnType::CommonName, common);
    name
}

/// Authorities have names of their own, so that chains are found.
fn of_authority(
    key: &KeyPair,
    cluster: NodeId,
    unix_now: Duration,
) -> Result<CertificateParams, CertificateError> {
    let digest = digest(&SHA256, &key.subject_public_key_info());
    let number: u32 = digest.as_ref()[..4]
        .iter()
        .fold(0, |number, octet| number << 8 | u32::from(*octet));
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.distinguished_name = name(
        &format!("overlay-ca-{number:08x}"),
        &cluster.to_string(),
        None,
    );
    // Below it: an authority that takes over from it, and nodes.
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut parameters, unix_now, YEARS_20);
    Ok(parameters)
}

/// Valid from an hour ago, because clocks differ.
fn validity(parameters: &mut CertificateParams, unix_now: Duration, length: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    parameters.not_before = epoch + unix_now.saturating_sub(BACKDATED);
    parameters.not_after = epoch + unix_now + length;
}

const BACKDATED: Duration = Duration::from_secs(3_600);
const YEARS_20: Duration = Duration::from_secs(20 * 365 * 24 * 3_600);

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_700_000_000);

    #[test]
    fn a_certificate_says_who_and_what() {
        let (cluster, node) = (NodeId::from_bytes([1; 16]), NodeId::from_bytes([2; 16]));
        let authority = Authority::generate(cluster, NOW).unwrap();
        for role in [Role::Manager, Role::Worker] {
            let (_, request) = request().unwrap();
            let subject = Subject {
                cluster,
                node,
                role,
            };
            let life = Duration::from_secs(100);
            let issued = authority.issue(&request, subject, NOW, life).unwrap();
            let der = pem::parse(&issued).unwrap();
            assert_eq!(peer(der.contents()), Ok(Peer { node, role }));
            let own = Own::read(&issued).unwrap();
            assert_eq!(own.peer, Peer { node, role });
            for (seconds, valid, due) in [
                (-3_601, false, true),
                (-3_600, true, false),
                (0, true, false),
                (49, true, false),
                (51, true, true),
                (99, true, true),
                (100, false, true),
            ] {
                let at = Duration::from_secs(NOW.as_secs().strict_add_signed(seconds));
                assert_eq!(
                    (own.is_valid(at), own.is_due(at)),
                    (valid, due),
                    "{seconds}"
                );
            }
        }
    }

    #[test]
    fn a_node_is_named_by_its_key() {
        let (one, other) = (request().unwrap().1, request().unwrap().1);
        assert_eq!(node_of(&one), node_of(&one));
        assert_ne!(node_of(&one), node_of(&other));
        assert!(node_of("junk").is_err());
    }

    #[test]
    fn an_authority_is_no_node() {
        let authority = Authority::generate(NodeId::from_bytes([1; 16]), NOW).unwrap();
        let der = pem::parse(authority.certificate()).unwrap();
        assert!(peer(der.contents()).is_err());
        assert!(peer(b"junk").is_err());
    }
}
