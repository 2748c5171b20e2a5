//! Where an authority's certificate and key come from: a directory of its own, or one that an operator filled.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lateen_model::identity::TrustDomain;
use zeroize::Zeroizing;

use crate::ca::{CaError, CertificateAuthority, new_root_key, self_signed_root};
use crate::certificate::PrivateKey;

/// Istio's names for the files of a plugged-in authority (secret `cacerts`).
const CERT: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const CHAIN: &str = "cert-chain.pem";
const ROOT: &str = "root-cert.pem";

/// The names that cert-manager and `kubernetes.io/tls` secrets have.
const TLS_CERT: &str = "tls.crt";
const TLS_KEY: &str = "tls.key";
const TLS_ROOT: &str = "ca.crt";

/// No certificate file is longer; a mistaken path to something huge is noticed.
const MAX_FILE_LEN: u64 = 1024 * 1024;

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum CaFilesError {
    /// A file or directory could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key can be read by others than its owner.
    #[error("{}: mode {mode:o} lets others read the key; it must be 600 or 400", path.display())]
    Permissions {
        /// The key's file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// None of the known sets of files is there.
    #[error("{}: neither ca-cert.pem with ca-key.pem and root-cert.pem, nor tls.crt with tls.key and ca.crt, is here", .0.display())]
    NoFiles(PathBuf),
    /// The files are there, but make no authority.
    #[error("{}: {source}", directory.display())]
    Authority {
        /// Where they are.
        directory: PathBuf,
        /// What is wrong.
        source: CaError,
    },
}

/// What a self-signed root is made with, once.
#[derive(Clone, Debug)]
pub struct RootOptions {
    /// Becomes the root's name (`O=`).
    pub trust_domain: TrustDomain,
    /// How long it lasts.
    pub lifetime: Duration,
}

impl Default for RootOptions {
    /// Istio's: 10 years (`CITADEL_SELF_SIGNED_CA_CERT_TTL`).
    fn default() -> Self {
        Self { trust_domain: TrustDomain::default(), lifetime: Duration::from_secs(3650 * 24 * 3600) }
    }
}

impl CertificateAuthority {
    /// Loads the self-signed root that is kept in `directory`, making both if need be: `ca-key.pem` (mode 0600) and
    /// `ca-cert.pem`. Safe against a crash in between and against a second process doing the same.
    ///
    /// # Errors
    /// [`CaFilesError`]; among others, a key that others could read is not used.
    pub fn load_or_create(directory: &Path, options: &RootOptions) -> Result<Self, CaFilesError> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io_error(directory))?;
        let broken = |source: CaError| CaFilesError::Authority { directory: directory.into(), source };
        let (key_path, cert_path) = (directory.join(KEY), directory.join(CERT));
        if !key_path.exists() {
            let pkcs8 = new_root_key().map_err(broken)?;
            let pem = Zeroizing::new(crate::pem::encode("PRIVATE KEY", pkcs8.as_ref()));
            create_once(&key_path, pem.as_bytes(), 0o600)?;
        }
        let mode = fs::metadata(&key_path).map_err(io_error(&key_path))?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(CaFilesError::Permissions { path: key_path, mode });
        }
        let key = Zeroizing::new(read(&key_path)?);
        if !cert_path.exists() {
            let parsed = PrivateKey::from_pem(&key).map_err(|e| broken(CaError::AuthorityKey(e.to_string())))?;
            let root = self_signed_root(parsed.der(), &options.trust_domain, options.lifetime, SystemTime::now());
            create_once(&cert_path, crate::pem::encode("CERTIFICATE", &root.map_err(broken)?).as_bytes(), 0o644)?;
        }
        let cert = read(&cert_path)?;
        Self::from_pem(&cert, &key, b"", &cert).map_err(broken)
    }

    /// Loads an authority that an operator provides: Istio's `ca-cert.pem`, `ca-key.pem`, `cert-chain.pem` (optional) and
    /// `root-cert.pem`, or cert-manager's `tls.crt` (with its chain), `tls.key` and `ca.crt`.
    ///
    /// # Errors
    /// [`CaFilesError`].
    pub fn load_plugged_in(directory: &Path) -> Result<Self, CaFilesError> {
        let has = |names: [&str; 3]| names.iter().all(|name| directory.join(name).exists());
        let (cert, key, chain, root) = if has([CERT, KEY, ROOT]) {
            (CERT, KEY, CHAIN, ROOT)
        } else if has([TLS_CERT, TLS_KEY, TLS_ROOT]) {
            (TLS_CERT, TLS_KEY, TLS_CERT, TLS_ROOT)
        } else {
            return Err(CaFilesError::NoFiles(directory.into()));
        };
        let chain_path = directory.join(chain);
        let chain = if chain_path.exists() { read(&chain_path)? } else { Vec::new() };
        let key = Zeroizing::new(read(&directory.join(key))?);
        let (cert, root) = (read(&directory.join(cert))?, read(&directory.join(root))?);
        let authority = Self::from_pem(&cert, &key, &chain, &root);
        authority.map_err(|source| CaFilesError::Authority { directory: directory.into(), source })
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> CaFilesError + use<> {
    let path = path.to_owned();
    move |source| CaFilesError::Io { path, source }
}

fn read(path: &Path) -> Result<Vec<u8>, CaFilesError> {
    let length = fs::metadata(path).map_err(io_error(path))?.len();
    if length > MAX_FILE_LEN {
        let source = io::Error::new(io::ErrorKind::FileTooLarge, format!("{length} bytes are more than {MAX_FILE_LEN}"));
        return Err(CaFilesError::Io { path: path.into(), source });
    }
    fs::read(path).map_err(io_error(path))
}

/// Makes a file with its whole contents, or leaves the one that is there: the contents are written beside it first, and a hard
/// link, unlike a rename, never replaces a file.
fn create_once(path: &Path, contents: &[u8], mode: u32) -> Result<(), CaFilesError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.{:016x}.new", std::process::id(), rand::random::<u64>()));
    let beside = path.with_file_name(name);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(contents)?;
        file.sync_all()?;
        match fs::hard_link(&beside, path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    })();
    let removed = fs::remove_file(&beside);
    written.and(removed).map_err(io_error(path))
}
