//! Memory that a process has and does not need.

use std::io;

/// A part of the process's address space, as `/proc/self/smaps` tells it.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
    /// Whether it shows a file, cannot be written, and no page of it is the process's own: all of it can be had from the file.
    is_of_file: bool,
}

/// Lets go of the pages of program code and constants, of the program and its libraries. The kernel maps 64 KB around each
/// byte that is run, and starting runs through half of a program: afterwards most of it is resident for nothing. What is
/// needed comes back by itself, from the page cache. Gives how many bytes of address space were looked at.
///
/// # Errors
/// When `/proc` cannot be read, or the kernel refuses.
pub fn give_back_code() -> io::Result<usize> {
    let maps = std::fs::read_to_string("/proc/self/smaps")?;
    let mut bytes = 0;
    for Mapping { start, end, .. } in mappings(&maps).into_iter().filter(|mapping| mapping.is_of_file) {
        // SAFETY: the mapping is private, cannot be written and has no page that differs from its file (relocated constants
        // are not among them): dropping its pages changes nothing that could be read there. Should it have been unmapped or
        // replaced since it was listed, by another thread that loads or unloads a library, it would be another one's pages
        // that are dropped: this program loads none.
        let rc = unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        if rc != 0 {
            return Err(io::Error::last_os_error());
        }
        bytes += end - start;
    }
    Ok(bytes)
}

/// The mappings of a listing. What is not understood is left out.
fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        if let Some(field) = first.strip_suffix(':') {
            // A page of a private mapping that was written is anonymous from then on. (Dirty pages are also those of a file that
            // was itself written a moment ago.)
            if matches!(field, "Anonymous" | "Swap") && words.next() != Some("0") {
                mappings.iter_mut().last().into_iter().for_each(|mapping| mapping.is_of_file = false);
            }
        } else if let Some((start, end)) = first.split_once('-')
            && let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
        {
            let may = words.next().unwrap_or_default();
            let path = words.nth(3).unwrap_or_default();
            let is_of_file = matches!(may, "r-xp" | "r--p") && path.starts_with('/');
            mappings.push(Mapping { start, end, is_of_file });
        }
    }
    mappings
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
1000-3000 r--p 00000000 fe:00 12 /usr/bin/lateen
Rss:                   8 kB
Private_Dirty:         0 kB
Anonymous:             0 kB
Swap:                  0 kB
VmFlags: rd mr mw me
3000-5000 r-xp 00002000 fe:00 12 /usr/bin/lateen (deleted)
Private_Dirty:         8 kB
Anonymous:             0 kB
5000-6000 r--p 00004000 fe:00 12 /usr/bin/lateen
Private_Dirty:         4 kB
Anonymous:             4 kB
6000-7000 rw-p 00005000 fe:00 12 /usr/bin/lateen
Private_Dirty:         0 kB
7000-8000 r--p 00000000 00:00 0 [vvar]
8000-9000 r--p 00000000 00:00 0
9000-a000 r--s 00000000 fe:00 13 /var/lib/shared
";

    #[test]
    fn only_what_is_the_same_as_in_its_file_is_given_back() {
        let given: Vec<_> = mappings(LISTING).into_iter().filter(|m| m.is_of_file).map(|m| (m.start, m.end)).collect();
        assert_eq!(given, [(0x1000, 0x3000), (0x3000, 0x5000)]);
        assert_eq!(mappings(LISTING).len(), 7);
    }

    #[test]
    fn the_program_goes_on() {
        let resident = || std::fs::read_to_string("/proc/self/statm").unwrap();
        let resident = || resident().split(' ').nth(2).unwrap().parse::<usize>().unwrap();
        let before = resident();
        assert!(give_back_code().unwrap() > 0);
        assert!(resident() < before, "{before} pages of files were resident, and still are");
        assert_eq!(format!("{:?}", mappings("1-2 r-xp 0 0:0 0 /a")), "[Mapping { start: 1, end: 2, is_of_file: true }]");
    }
}
