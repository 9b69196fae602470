//! Requests and answers as SOAP has them, and the check that a request is written in the order of the API.

use super::fault::Fault;
use super::value::{Data, Value, escape};
use crate::xml::Element;

/// What a parameter, or a field of a data object, holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// A simple value.
    Text,
    /// A reference, with its type.
    Ref,
    /// A data object of one type.
    Of(&'static [Part]),
    /// A data object of one of these types, the declared one first.
    OneOf(&'static [(&'static str, &'static [Part])]),
    /// Whatever stands there.
    Any,
}

/// A parameter, or a field of a data object, in the order of the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) needed: bool,
    pub(super) many: bool,
}

/// One that must stand there.
pub(super) const fn must(name: &'static str, shape: Shape) -> Part {
    Part { name, shape, needed: true, many: false }
}

/// One that may be left out.
pub(super) const fn may(name: &'static str, shape: Shape) -> Part {
    Part { name, shape, needed: false, many: false }
}

/// Any number of them.
pub(super) const fn many(name: &'static str, shape: Shape) -> Part {
    Part { name, shape, needed: false, many: true }
}

/// At least one of them.
pub(super) const fn some(name: &'static str, shape: Shape) -> Part {
    Part { name, shape, needed: true, many: true }
}

/// Finds the method's element in an envelope.
pub(super) fn body(root: &Element) -> Result<&Element, Fault> {
    let broken =
        || Fault::invalid_request("The request is no SOAP envelope with one method in its body");
    let body =
        Some(root).filter(|root| root.name == "Envelope").and_then(|root| root.child("Body"));
    match body.map(|body| body.children.as_slice()) {
        Some([method]) => Ok(method),
        _ => Err(broken()),
    }
}

/// Checks that the children of an element are the parts, in their order.
pub(super) fn check(owner: &str, children: &[Element], parts: &[Part]) -> Result<(), Fault> {
    let mut at = 0;
    for part in parts {
        let run = children[at..].iter().take_while(|child| child.name == part.name);
        let run = &children[at..at + run.count()];
        if run.len() > 1 && !part.many {
            return Err(Fault::invalid_request(format!("{owner}: {} stands twice", part.name)));
        }
        if run.is_empty() && part.needed {
            let found = children.get(at).map_or("the end", |child| child.name.as_str());
            return Err(Fault::invalid_request(format!(
                "{owner}: {} is missing or out of order; found {found} in its place",
                part.name
            )));
        }
        for child in run {
            check_shape(child, part)?;
        }
        at += run.len();
    }
    match children.get(at) {
        None => Ok(()),
        Some(child) if parts.iter().any(|part| part.name == child.name) => {
            Err(Fault::invalid_request(format!("{owner}: {} stands out of its order", child.name)))
        }
        Some(child) => Err(Fault::invalid_request(format!(
            "{owner}: {} is unknown, or not supported by the simulated server",
            child.name
        ))),
    }
}

fn check_shape(element: &Element, part: &Part) -> Result<(), Fault> {
    match part.shape {
        Shape::Any => Ok(()),
        Shape::Text | Shape::Ref if !element.children.is_empty() => {
            Err(Fault::invalid_request(format!("{}: a value holds elements", part.name)))
        }
        Shape::Text => Ok(()),
        Shape::Ref if element.attribute("type").is_none() => {
            Err(Fault::invalid_request(format!("{}: a reference has no type", part.name)))
        }
        Shape::Ref => Ok(()),
        Shape::Of(parts) => check(part.name, &element.children, parts),
        Shape::OneOf(types) => {
            let kind = type_of(element);
            let found = match kind {
                None => types.first(),
                Some(kind) => types.iter().find(|(name, _)| *name == kind),
            };
            let Some((name, parts)) = found else {
                let kind = kind.unwrap_or_default();
                let text = format!("{}: the type {kind} is not supported", part.name);
                return Err(Fault::invalid_request(text));
            };
            check(name, &element.children, parts)
        }
    }
}

/// Returns the `xsi:type` of an element, without its prefix.
pub(super) fn type_of(element: &Element) -> Option<&str> {
    let kind = element.attribute("type")?;
    Some(kind.rsplit(':').next().unwrap_or(kind))
}

/// Reads a truth value, as the schema of XML writes it.
pub(super) fn truth(element: &Element, name: &str) -> Result<bool, Fault> {
    match element.text_of(name) {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1") => Ok(true),
        Some(_) => Err(Fault::invalid_request(format!("{name} is neither true nor false"))),
    }
}

/// Reads a number that may be left out.
pub(super) fn number<T: std::str::FromStr>(
    element: &Element,
    name: &str,
) -> Result<Option<T>, Fault> {
    let wrong = |_| Fault::invalid_request(format!("{name} is no number in its range"));
    element.text_of(name).map(|text| text.parse().map_err(wrong)).transpose()
}

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
<soapenv:Envelope xmlns:soapenc=\"http://schemas.xmlsoap.org/soap/encoding/\" \
xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\" \
xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\">\n<soapenv:Body>\n";
const TAIL: &str = "\n</soapenv:Body>\n</soapenv:Envelope>";

/// Writes the answer of a method; `typed` says the type of the result.
pub(super) fn answer(method: &str, result: &Value, typed: bool) -> String {
    let mut out = String::with_capacity(4096);
    out.push_str(HEAD);
    out.push('<');
    out.push_str(method);
    out.push_str("Response xmlns=\"urn:vim25\">");
    result.write(&mut out, "returnval", typed);
    out.push_str("</");
    out.push_str(method);
    out.push_str("Response>");
    out.push_str(TAIL);
    out
}

/// Writes a fault.
pub(super) fn fault(fault: &Fault) -> String {
    let Fault { message, data } = fault;
    let mut out = String::from(HEAD);
    out.push_str("<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>");
    escape(&mut out, message);
    out.push_str("</faultstring><detail>");
    detail(&mut out, data);
    out.push_str("</detail></soapenv:Fault>");
    out.push_str(TAIL);
    out
}

fn detail(out: &mut String, data: &Data) {
    let kind = data.kind;
    out.push_str(&format!("<{kind}Fault xmlns=\"urn:vim25\" xsi:type=\"{kind}\">"));
    data.write_fields(out);
    out.push_str(&format!("</{kind}Fault>"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> String {
        const PARTS: &[Part] = &[
            must("userName", Shape::Text),
            must("password", Shape::Text),
            may("locale", Shape::Text),
            many("spec", Shape::Of(&[some("obj", Shape::Ref), may("skip", Shape::Text)])),
        ];
        let element = Element::parse(text.as_bytes()).unwrap();
        match check("Login", &element.children, PARTS) {
            Ok(()) => "right".to_owned(),
            Err(fault) => fault.message,
        }
    }

    #[test]
    fn the_order_of_a_request_is_the_apis() {
        let user = "<userName>u</userName>";
        let password = "<password>p</password>";
        assert_eq!(checked(&format!("<a>{user}{password}</a>")), "right");
        assert_eq!(
            checked(&format!("<a>{password}{user}</a>")),
            "Login: userName is missing or out of order; found password in its place"
        );
        assert_eq!(
            checked(&format!("<a>{user}{password}<spec><obj type='A'>1</obj></spec><locale/></a>")),
            "Login: locale stands out of its order"
        );
        assert_eq!(
            checked(&format!("<a>{user}{password}<spec><skip>true</skip></spec></a>")),
            "spec: obj is missing or out of order; found skip in its place"
        );
        assert_eq!(
            checked(&format!("<a>{user}{password}<spec><obj>1</obj></spec></a>")),
            "obj: a reference has no type"
        );
        assert!(checked(&format!("<a>{user}{user}{password}</a>")).ends_with("stands twice"));
        assert!(checked(&format!("<a>{user}{password}<colour/></a>")).contains("unknown"));
    }
}
