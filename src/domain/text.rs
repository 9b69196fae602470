//! The one renderer of text that strangers wrote. Names from guests, inventories, OVF descriptors and git may hold terminal
//! escapes, characters that turn the reading direction around, Markdown and HTML.
//!
//! # Guarantees
//!
//! What [`visible`] returns is one line without anything that moves a cursor, changes a colour, hides text or reorders it.
//! [`markdown`] and [`html`] start from that and cannot leave the table cell or the element that they stand in, nor mention a
//! person, link to a place or refer to an issue. [`file_name`] is one path component, and [`file_name_read`] reads it back.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Replaces what a terminal or a reader would obey instead of show by a visible escape (`\u{1b}`). The result is one line.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match letter {
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            '\r' => shown.push_str("\\r"),
            letter if obeyed(letter) => {
                let _ = write!(shown, "\\u{{{:x}}}", u32::from(letter));
            }
            letter => shown.push(letter),
        }
    }
    Cow::Owned(shown)
}

/// Renders text so that Markdown shows it as it is, in a table cell too.
pub fn markdown(text: &str) -> String {
    let text = visible(text);
    let mut shown = String::with_capacity(text.len() + 16);
    let mut rest = text.chars().peekable();
    while let Some(letter) = rest.next() {
        match letter {
            '&' => shown.push_str("&amp;"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            // The invisible space keeps a forge from making a mention, an issue or a link of it.
            '@' => shown.push_str("@&#8203;"),
            '#' => shown.push_str("\\#&#8203;"),
            ':' if rest.peek() == Some(&'/') => shown.push_str(":&#8203;"),
            '.' if shown.to_ascii_lowercase().ends_with("www") => shown.push_str("&#8203;."),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '!' | '$' => {
                shown.push('\\');
                shown.push(letter);
            }
            // At the start of a line these would make a list or a heading of it.
            '-' | '+' | '=' if shown.is_empty() => {
                shown.push('\\');
                shown.push(letter);
            }
            letter => shown.push(letter),
        }
    }
    shown
}

/// Renders text so that HTML shows it as it is, within an element or a quoted attribute.
pub fn html(text: &str) -> String {
    let mut shown = String::with_capacity(text.len() + 16);
    for letter in visible(text).chars() {
        match letter {
            '&' => shown.push_str("&amp;"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            '"' => shown.push_str("&quot;"),
            '\'' => shown.push_str("&#39;"),
            letter => shown.push(letter),
        }
    }
    shown
}

/// Makes one path component of a name: every byte but `A-Z a-z 0-9 . _ -` becomes `%XX`, a leading dot too.
pub fn file_name(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        let kept =
            byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || (byte == b'.' && at > 0);
        if kept {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    if escaped.is_empty() { "%".to_owned() } else { escaped }
}

/// Reads a name back that [`file_name`] wrote; `None` for what it never writes.
pub fn file_name_read(component: &str) -> Option<String> {
    if component == "%" {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(component.len());
    let mut rest = component.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(*hex::decode(digits).ok()?.first()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|name| file_name(name) == component)
}

/// Tells whether a terminal or a reader obeys a character instead of showing it.
fn obeyed(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            // Soft hyphen, Arabic letter mark, fillers and other characters without a shape.
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{3164}' | '\u{ffa0}'
            // Zero width, direction marks, separators, overrides, isolates, invisible operators.
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            // Byte order mark, interlinear annotations.
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            // Tags, which spell text that nobody sees.
            | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_comes_through() {
        assert_eq!(visible("web-01 ü 日本"), "web-01 ü 日本");
        assert!(matches!(visible("web-01"), Cow::Borrowed(_)));
        assert_eq!(
            visible("a\u{1b}[2Jb\u{9b}c\nd\te\u{202e}f\u{200b}"),
            "a\\u{1b}[2Jb\\u{9b}c\\nd\\te\\u{202e}f\\u{200b}"
        );
    }

    #[test]
    fn markdown_stays_in_its_cell_and_mentions_nobody() {
        assert_eq!(markdown("a|b"), "a\\|b");
        assert_eq!(markdown("<img src=x>"), "&lt;img src=x&gt;");
        assert_eq!(markdown("[x](http://evil)"), "\\[x\\](http:&#8203;//evil)");
        assert_eq!(markdown("@org/team #12"), "@&#8203;org/team \\#&#8203;12");
        assert_eq!(markdown("WWW.evil"), "WWW&#8203;.evil");
        assert_eq!(markdown("- item"), "\\- item");
        assert_eq!(markdown("a\n\n# b"), "a\\\\n\\\\n\\#&#8203; b");
    }

    #[test]
    fn html_stays_in_its_attribute() {
        assert_eq!(html("\"><script>'&"), "&quot;&gt;&lt;script&gt;&#39;&amp;");
    }

    proptest! {
        #[test]
        fn file_names_read_back_and_stay_one_component(name in "\\PC*|[./%a ]{0,6}") {
            let component = file_name(&name);
            prop_assert!(!component.contains('/') && !component.starts_with('.'));
            prop_assert!(component.is_ascii() && !component.is_empty());
            prop_assert_eq!(file_name_read(&component), Some(name));
        }

        #[test]
        fn every_rendering_is_one_harmless_line(text in any::<String>()) {
            for shown in [visible(&text).into_owned(), markdown(&text), html(&text)] {
                prop_assert!(!shown.chars().any(obeyed));
            }
        }
    }
}
