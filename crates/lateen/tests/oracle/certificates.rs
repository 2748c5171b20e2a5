//! Certificates in files, which manifests name `%CERTS%/NAME.pem`, for servers outside of the mesh and for their clients.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use lateen_testkit::certificates::TestCa;
use tempfile::TempDir;

/// The files of one mesh.
pub(crate) struct Certificates(TempDir);

impl Certificates {
    /// `ca`, and under it `server` (`secure.example.com` and the names of the base's server) and `client`.
    pub(crate) fn make() -> Result<Self, String> {
        let directory = TempDir::with_prefix("lateen-oracle-").map_err(|e| e.to_string())?;
        let ca = TestCa::new();
        let server = ca.leaf().dns("secure.example.com").dns("secure.legacy.svc.cluster.local").dns("secure.legacy").issue();
        let client = ca.leaf().dns("client.example.com").client_only().issue();
        let files = [
            ("ca.pem", ca.root_pem().to_owned()),
            ("server.pem", server.chain_pem),
            ("server.key", server.key_pem),
            ("client.pem", client.chain_pem),
            ("client.key", client.key_pem),
        ];
        let open = |path: &std::path::Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        let written = files.iter().try_for_each(|(name, text)| {
            let path = directory.path().join(name);
            fs::write(&path, text).and_then(|()| open(&path, 0o644))
        });
        written.and_then(|()| open(directory.path(), 0o755)).map_err(|e| e.to_string())?;
        Ok(Self(directory))
    }

    /// Puts the directory in the place of its name.
    pub(crate) fn fill(&self, text: &str) -> Result<String, String> {
        let path = self.0.path().to_str().ok_or("the directory of temporary files has a strange name")?;
        Ok(text.replace("%CERTS%", path))
    }
}
