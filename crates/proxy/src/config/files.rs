//! Certificates and roots from files of the workload, under the names that Istio gives them: `file-cert:CERTIFICATE~KEY`,
//! `file-root:PATH`, and `file-root:system` for the roots of the operating system. Files may be replaced at any time.

use lateen_model::dataplane::SecretRef;
use lateen_tls::{Credential, CredentialHandle, TrustBundle, TrustHandle};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

const CERTIFICATE: &str = "file-cert:";
const ROOTS: &str = "file-root:";

/// Where operating systems keep their roots; the first that is there counts (Istio's list).
const SYSTEM_ROOTS: [&str; 7] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/etc/ssl/cert.pem",
];

/// When files were last changed, as far as that can be told.
type Stamp = Vec<Option<SystemTime>>;

/// The certificates and roots that TLS configurations take from files.
#[derive(Default)]
pub(crate) struct FileSecrets {
    certificates: BTreeMap<String, (CredentialHandle, Stamp)>,
    /// By name and file of revocation lists.
    roots: BTreeMap<(String, Option<String>), (TrustHandle, Stamp)>,
}

/// The two files of a certificate's name.
pub(crate) fn certificate_files(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(CERTIFICATE)?.split_once('~')
}

/// The file of the name of roots.
pub(crate) fn roots_file(name: &str) -> Option<&str> {
    let path = name.strip_prefix(ROOTS)?;
    if path != SecretRef::SYSTEM {
        return Some(path);
    }
    SYSTEM_ROOTS.into_iter().find(|path| Path::new(path).exists())
}

impl FileSecrets {
    /// Whether a name is that of a certificate from files.
    pub(crate) fn is_certificate(name: &str) -> bool {
        certificate_files(name).is_some()
    }

    /// Whether a name is that of roots from a file.
    pub(crate) fn is_roots(name: &str) -> bool {
        name.starts_with(ROOTS)
    }

    /// The certificate of this name. While its files cannot be read handshakes fail.
    pub(crate) fn credential(&mut self, name: &str) -> Result<CredentialHandle, String> {
        let entry = self.certificates.entry(name.to_owned()).or_insert_with(|| (CredentialHandle::empty(), Stamp::new()));
        read_certificate(name, entry);
        Ok(entry.0.clone())
    }

    /// The roots of this name. While their files cannot be read handshakes fail.
    pub(crate) fn trust(&mut self, name: &str, crl_file: Option<&str>) -> TrustHandle {
        let key = (name.to_owned(), crl_file.map(str::to_owned));
        let entry = self.roots.entry(key).or_insert_with(|| (TrustHandle::empty(), Stamp::new()));
        read_roots(name, crl_file, entry);
        entry.0.clone()
    }

    /// Reads what has changed. What cannot be read stays as it was.
    pub(crate) fn reread(&mut self) {
        self.certificates.iter_mut().for_each(|(name, entry)| read_certificate(name, entry));
        self.roots.iter_mut().for_each(|((name, crl), entry)| read_roots(name, crl.as_deref(), entry));
    }
}

fn stamp<'a>(files: impl IntoIterator<Item = &'a str>) -> Stamp {
    files.into_iter().map(|file| std::fs::metadata(file).and_then(|m| m.modified()).ok()).collect()
}

fn read_certificate(name: &str, entry: &mut (CredentialHandle, Stamp)) {
    let Some((certificate, key)) = certificate_files(name) else { return };
    let now = stamp([certificate, key]);
    if now == entry.1 {
        return;
    }
    entry.1 = now;
    let read = || -> Result<Credential, String> {
        let file = |path: &str| std::fs::read(path).map_err(|e| format!("{path}: {e}"));
        Credential::from_pem(&file(certificate)?, &file(key)?).map_err(|e| e.to_string())
    };
    match read() {
        Ok(credential) => entry.0.replace(credential),
        Err(error) => tracing::warn!(certificate, %error, "a client certificate cannot be used"),
    }
}

fn read_roots(name: &str, crl_file: Option<&str>, entry: &mut (TrustHandle, Stamp)) {
    let Some(path) = roots_file(name) else {
        if entry.0.load().is_none() {
            tracing::warn!("the operating system has no roots; TLS to servers that need them will fail");
        }
        return;
    };
    let now = stamp(std::iter::once(path).chain(crl_file));
    if now == entry.1 {
        return;
    }
    entry.1 = now;
    let is_system = name.strip_prefix(ROOTS) == Some(SecretRef::SYSTEM);
    let read = || -> Result<TrustBundle, String> {
        let file = |path: &str| std::fs::read(path).map_err(|e| format!("{path}: {e}"));
        let (roots, crls) = (file(path)?, crl_file.map(file).transpose()?.unwrap_or_default());
        let bundle = match is_system {
            true => TrustBundle::from_system(&roots, &crls),
            false => TrustBundle::from_pem_with_crls(&roots, &crls),
        };
        bundle.map_err(|e| e.to_string())
    };
    match read() {
        Ok(bundle) => {
            entry.0.replace(bundle);
        }
        Err(error) => tracing::warn!(roots = path, %error, "roots cannot be used"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        assert_eq!(certificate_files("file-cert:/a/c.pem~/a/k.pem"), Some(("/a/c.pem", "/a/k.pem")));
        assert_eq!(certificate_files("file-cert:/a/c.pem"), None);
        assert_eq!(certificate_files("default"), None);
        assert_eq!(roots_file("file-root:/a/ca.pem"), Some("/a/ca.pem"));
        assert_eq!(roots_file("ROOTCA"), None);
        assert!(FileSecrets::is_roots("file-root:system") && !FileSecrets::is_roots("ROOTCA"));
    }

    #[test]
    fn files_that_come_later_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let name = format!("file-root:{}", path.display());
        let mut files = FileSecrets::default();
        let handle = files.trust(&name, None);
        assert!(handle.load().is_none());
        std::fs::write(&path, lateen_testkit::certificates::TestCa::new().root_pem()).unwrap();
        files.reread();
        assert_eq!(handle.load().unwrap().root_count(), 1);
        std::fs::write(&path, "nothing").unwrap();
        files.reread();
        assert!(handle.load().is_some(), "the last good ones stay");
    }
}
