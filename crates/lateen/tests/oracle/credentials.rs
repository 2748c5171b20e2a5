//! Certificates of the scenarios: made when one is first named, the same on both engines, and in files that every pod may read.
//!
//! `%pem:NAME%` and `%key:NAME%` in a manifest are what a Secret has of the certificate with the DNS name NAME, `%roots:NAME%` and
//! `%crl:NAME%` those of its authority, all in base64; `%file:NAME.pem%`, `.key`, `.roots` and `.crl` are paths. What is before a
//! `/` in NAME says what is special: `old/x` has run out, `strange/x` is another authority's, `revoked/x` is on the revocation
//! list.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Mutex, OnceLock, PoisonError};

use lateen_testkit::certificates::{Leaf, TestCa};
use lateen_tls::Certificate;
use tempfile::TempDir;

struct Made {
    own: TestCa,
    strange: TestCa,
    revoked: Leaf,
    leaves: BTreeMap<String, Leaf>,
    files: TempDir,
}

/// The one set of a run.
fn made() -> &'static Mutex<Made> {
    static MADE: OnceLock<Mutex<Made>> = OnceLock::new();
    MADE.get_or_init(|| {
        let own = TestCa::new();
        let revoked = own.leaf().dns("revoked.example.com").issue();
        let files = TempDir::with_prefix("lateen-oracle-certificates-").unwrap();
        fs::set_permissions(files.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Mutex::new(Made { own, strange: TestCa::new(), revoked, leaves: BTreeMap::new(), files })
    })
}

/// Removes the files.
pub(crate) fn forget() {
    let made = made().lock().unwrap_or_else(PoisonError::into_inner);
    let _ = fs::remove_dir_all(made.files.path());
}

/// The certificate of that name: chain and key in PEM.
pub(crate) fn leaf(name: &str) -> (String, String) {
    let leaf = made().lock().unwrap_or_else(PoisonError::into_inner).leaf(name);
    (leaf.chain_pem, leaf.key_pem)
}

/// Puts what they mean in the place of the names.
pub(crate) fn fill(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, marked)) = rest.split_once('%') {
        out.push_str(before);
        match marked.split_once('%').and_then(|(inner, after)| Some((inner.split_once(':')?, after))) {
            Some(((what @ ("pem" | "key" | "roots" | "crl" | "file"), name), after)) => {
                out.push_str(&made().lock().unwrap_or_else(PoisonError::into_inner).fill(what, name)?);
                rest = after;
            }
            _ => {
                out.push('%');
                rest = marked;
            }
        }
    }
    Ok(out + rest)
}

impl Made {
    fn leaf(&mut self, name: &str) -> Leaf {
        if let Some(leaf) = self.leaves.get(name) {
            return leaf.clone();
        }
        let (special, dns) = name.split_once('/').unwrap_or(("", name));
        let leaf = match special {
            "old" => self.own.leaf().dns(dns).expired().issue(),
            "strange" => self.strange.leaf().dns(dns).issue(),
            "revoked" => self.revoked.clone(),
            _ => self.own.leaf().dns(dns).issue(),
        };
        self.leaves.insert(name.to_owned(), leaf.clone());
        leaf
    }

    fn part(&mut self, what: &str, name: &str) -> String {
        let leaf = self.leaf(name);
        match what {
            "pem" => leaf.chain_pem,
            "key" => leaf.key_pem,
            "roots" if name.starts_with("strange/") => self.strange.root_pem().to_owned(),
            "roots" => self.own.root_pem().to_owned(),
            _ => self.own.revocation_list(Certificate::parse(&self.revoked.der).unwrap().serial()),
        }
    }

    fn fill(&mut self, what: &str, name: &str) -> Result<String, String> {
        if what != "file" {
            return Ok(base64(self.part(what, name).as_bytes()));
        }
        let (name, part) = name.rsplit_once('.').ok_or_else(|| format!("%file:{name}% has no ending"))?;
        if !matches!(part, "pem" | "key" | "roots" | "crl") {
            return Err(format!("%file:{name}.{part}%: the ending is one of pem, key, roots and crl"));
        }
        let path = self.files.path().join(format!("{}.{part}", name.replace(['/', '*'], "_")));
        let text = self.part(part, name);
        let written = fs::write(&path, text).and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)));
        written.map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(path.display().to_string())
    }
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letter = |n: u32| char::from(ALPHABET[usize::try_from(n & 63).unwrap()]);
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let n = chunk.iter().fold(0, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        let letters = [letter(n >> 18), letter(n >> 12), letter(n >> 6), letter(n)];
        out.extend(letters.iter().take(chunk.len() + 1));
        out.extend(std::iter::repeat_n('=', 3 - chunk.len()));
    }
    out
}
