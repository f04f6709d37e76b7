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

use crate::{Peer, api::Role, state::Secret};

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
}

impl Authority {
    /// Makes a new one, valid for twenty years.
    ///
    /// # Errors
    ///
    /// [`CertificateError::Make`].
    pub fn generate(cluster: NodeId, unix_now: Duration) -> Result<Self, CertificateError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut parameters = CertificateParams::new(Vec::new())?;
        parameters.distinguished_name = name("overlay-ca", &cluster.to_string(), None);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut parameters, unix_now, YEARS_20);
        let certificate = to_pem(parameters.self_signed(&key)?.der());
        Ok(Self {
            certificate,
            key: key.serialize_pem(),
        })
    }

    /// Takes up one from its parts.
    pub fn new(certificate: &str, key: &Secret<0>) -> Self {
        let key = String::from_utf8_lossy(key.expose()).into_owned();
        Self {
            certificate: certificate.to_owned(),
            key,
        }
    }

    /// Returns its certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Returns its key, PEM.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Signs the key in a certificate signing request for `node`; whatever else the request asks for is ignored.
    ///
    /// # Errors
    ///
    /// [`CertificateError::Make`] if the request is malformed or its signature wrong.
    pub fn issue(
        &self,
        request: &str,
        node: NodeId,
        cluster: NodeId,
        role: Role,
        unix_now: Duration,
    ) -> Result<String, CertificateError> {
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
        validity(&mut parameters, unix_now, DAYS_90);
        let certificate = parameters.signed_by(&request.public_key, &issuer)?;
        Ok(to_pem(certificate.der()))
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
pub fn request() -> Result<(String, String), CertificateError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let request = CertificateParams::new(Vec::new())?.serialize_request(&key)?;
    Ok((key.serialize_pem(), request.pem()?))
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

/// Valid from an hour ago, because clocks differ.
fn validity(parameters: &mut CertificateParams, unix_now: Duration, length: Duration) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    parameters.not_before = epoch + unix_now.saturating_sub(HOUR);
    parameters.not_after = epoch + unix_now + length;
}

const HOUR: Duration = Duration::from_secs(3_600);
const DAYS_90: Duration = Duration::from_secs(90 * 24 * 3_600);
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
            let issued = authority.issue(&request, node, cluster, role, NOW).unwrap();
            let der = pem::parse(&issued).unwrap();
            assert_eq!(peer(der.contents()), Ok(Peer { node, role }));
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
