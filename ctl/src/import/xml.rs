//! Reads XML into a small tree. Document types and entities are refused: none of the files has them, and they are how a
//! small file becomes a huge one or reads another file.

use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesRef, BytesStart, Event};

use crate::exit::Exit;

/// The deepest element that is read. FoxyProxy's files have a depth of 5, property lists one of about 6.
const MAX_DEPTH: usize = 32;

/// The most attributes of an element; FoxyProxy writes about 25.
const MAX_ATTRIBUTES: usize = 128;

/// An element with its attributes, its text and its children.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Element {
    pub(super) name: String,
    pub(super) attributes: Vec<(String, String)>,
    pub(super) text: String,
    pub(super) children: Vec<Element>,
}

impl Element {
    /// The value of an attribute; empty if it is missing.
    pub(super) fn get(&self, name: &str) -> &str {
        let found = self.attributes.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }

    /// The children of this name.
    pub(super) fn children<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The first child of this name.
    pub(super) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }
}

fn error(what: impl std::fmt::Display, at: u64) -> Exit {
    Exit::usage(format!(
        "the file is not XML that can be read: {what}, at byte {at}"
    ))
    .hint("give the file that the program exported, as it is")
}

/// Parses a document and returns its root.
///
/// # Errors
/// The text is not well-formed, has a document type with entities, or is nested too deeply.
pub(super) fn parse(text: &str) -> Result<Element, Exit> {
    let mut reader = Reader::from_str(text);
    let mut open = vec![Element::default()];
    loop {
        let at = reader.buffer_position();
        let event = reader.read_event().map_err(|err| error(err, at))?;
        match event {
            Event::Start(start) => {
                if open.len() > MAX_DEPTH {
                    return Err(error(
                        format!("more than {MAX_DEPTH} elements in each other"),
                        at,
                    ));
                }
                open.push(element(&start, at)?);
            }
            Event::Empty(start) => close(&mut open, element(&start, at)?),
            Event::End(_) => {
                if let Some(done) = open.pop() {
                    close(&mut open, done);
                }
            }
            Event::Text(text) => append(&mut open, &text.xml10_content()),
            Event::CData(text) => append(&mut open, &text.xml10_content()),
            Event::GeneralRef(name) => match reference(&name, at)? {
                Some(c) => append(&mut open, c.encode_utf8(&mut [0; 4])),
                None => return Err(error("an entity, which is not allowed", at)),
            },
            // The document type of property lists names Apple's DTD and declares nothing.
            Event::DocType(text) if text.contains('[') => {
                return Err(error("declarations of entities, which are not allowed", at));
            }
            Event::Eof => break,
            _ => {}
        }
    }
    let mut open = open.into_iter();
    match (open.next(), open.next()) {
        (Some(mut document), None) if document.children.len() == 1 => document
            .children
            .pop()
            .ok_or_else(|| error("no element", 0)),
        _ => Err(error("it ends before its last element", text.len() as u64)),
    }
}

/// The character of `&#65;` or of one of XML's own five entities.
fn reference(name: &BytesRef<'_>, at: u64) -> Result<Option<char>, Exit> {
    let character = name.resolve_char_ref().map_err(|err| error(err, at))?;
    let predefined = match &*name.xml10_content() {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => None,
    };
    Ok(character.or(predefined))
}

fn element(start: &BytesStart<'_>, at: u64) -> Result<Element, Exit> {
    let mut attributes = Vec::new();
    // The check for attributes of the same name takes quadratic time.
    for attribute in start.attributes().with_checks(false) {
        if attributes.len() == MAX_ATTRIBUTES {
            return Err(error(format!("more than {MAX_ATTRIBUTES} attributes"), at));
        }
        let attribute = attribute.map_err(|err| error(err, at))?;
        let value = attribute
            .normalized_value(XmlVersion::Implicit1_0)
            .map_err(|err| error(err, at))?;
        attributes.push((attribute.key.as_ref().to_owned(), value.into_owned()));
    }
    Ok(Element {
        name: start.name().as_ref().to_owned(),
        attributes,
        ..Element::default()
    })
}

fn close(open: &mut [Element], done: Element) {
    if let Some(parent) = open.last_mut() {
        parent.children.push(done);
    }
}

fn append(open: &mut [Element], text: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_attributes_and_text_are_read() {
        let text = "<?xml version=\"1.0\"?><!DOCTYPE plist PUBLIC \"x\" \"http://x/y.dtd\">\
                    <a x='1&amp;2'><b/><c>t&lt;&#65;<![CDATA[<]]></c><!-- no --></a>";
        let root = parse(text).unwrap();
        assert_eq!(
            (root.name.as_str(), root.get("x"), root.get("y")),
            ("a", "1&2", "")
        );
        assert_eq!(root.child("c").unwrap().text, "t<A<");
        assert_eq!(root.children("b").count(), 1);
    }

    #[test]
    fn hostile_documents_are_one_error() {
        let deep = "<a>".repeat(100_000);
        let wide = format!("<a {}/>", "x='1' ".repeat(200));
        for (text, part) in [
            ("", "ends before"),
            ("text", "ends before"),
            ("<a>", "ends before"),
            ("<a></b>", "at byte"),
            ("<a/><b/>", "ends before"),
            ("<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>", "entities"),
            (
                "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><a/>",
                "entities",
            ),
            ("<a>&x;</a>", "entity"),
            ("<a b='&x;'/>", "at byte"),
            ("<a b=1/>", "at byte"),
            (&deep, "in each other"),
            (&wide, "attributes"),
        ] {
            let exit = parse(text).unwrap_err();
            let message = exit.message.unwrap();
            assert!(message.contains(part), "{message}");
            assert!(message.len() < 400, "{message}");
        }
    }
}
