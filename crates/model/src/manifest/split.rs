//! Cuts a YAML text into its documents without parsing them, so that a broken one does not take the others along.
//!
//! YAML forbids a line that starts with `---` or `...` (followed by white space or the line's end) inside every scalar, block
//! scalars included: their text is indented (YAML 1.2, production `c-forbidden`). So such a line in the first column always
//! separates documents, and looking at line starts is exact.

/// A document's text and the number of lines before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk<'a> {
    /// From its `---` (if it has one) up to the next separator.
    pub(super) text: &'a str,
    /// Lines of the file before `text`.
    pub(super) lines_before: u32,
}

/// The documents of `text` that hold more than comments, in order.
pub(super) fn split(text: &str) -> Vec<Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut chunks = Vec::new();
    let mut start = 0;
    let mut start_line = 0;
    let mut offset = 0;
    for (line_number, line) in (0_u32..).zip(text.split_inclusive('\n')) {
        let begins = is_marker(line, "---");
        if begins {
            push(&mut chunks, &text[start..offset], start_line);
            (start, start_line) = (offset, line_number);
        }
        offset += line.len();
        if is_marker(line, "...") {
            push(&mut chunks, &text[start..offset], start_line);
            (start, start_line) = (offset, line_number + 1);
        }
    }
    push(&mut chunks, &text[start..], start_line);
    chunks
}

fn push<'a>(chunks: &mut Vec<Chunk<'a>>, text: &'a str, lines_before: u32) {
    if text.lines().any(has_content) {
        chunks.push(Chunk { text, lines_before });
    }
}

/// Whether the line is `marker` alone or followed by white space.
fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Whether a line holds more than a comment, a directive or a separator.
fn has_content(line: &str) -> bool {
    if line.starts_with('%') || is_marker(line, "...") {
        return false;
    }
    let rest = if is_marker(line, "---") { &line[3..] } else { line };
    let rest = rest.trim();
    !rest.is_empty() && !rest.starts_with('#')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<(&str, u32)> {
        split(text).into_iter().map(|chunk| (chunk.text, chunk.lines_before)).collect()
    }

    #[test]
    fn documents_are_cut_at_markers_in_the_first_column() {
        assert_eq!(texts("a: 1\n---\nb: 2\n"), [("a: 1\n", 0), ("---\nb: 2\n", 1)]);
        assert_eq!(texts("---\na: 1\r\n--- # next\r\nb: 2"), [("---\na: 1\r\n", 0), ("--- # next\r\nb: 2", 2)]);
        assert_eq!(texts("--- {a: 1}\n--- {b: 2}\n"), [("--- {a: 1}\n", 0), ("--- {b: 2}\n", 1)]);
        assert_eq!(texts("a: 1\n...\n# done\nb: 2\n"), [("a: 1\n...\n", 0), ("# done\nb: 2\n", 2)]);
    }

    #[test]
    fn nothing_else_is_a_marker() {
        for text in ["a: |\n  ---\n  b\n", "---a: 1\n", "a: x\n ---\n", "a: '\n  ---\n  '\n"] {
            assert_eq!(split(text).len(), 1, "{text:?}");
        }
    }

    #[test]
    fn comments_and_blank_documents_are_no_documents() {
        for text in ["", "\n\n", "# only\n", "---\n---\n# x\n---\n", "%YAML 1.2\n---\n", "\u{feff}# x\n", "...\n"] {
            assert_eq!(texts(text), [], "{text:?}");
        }
    }
}
