//! The messages of vSphere's API: a method with its parameters in their order becomes an envelope, an answer becomes its tree or
//! the fault that the server named.

use std::fmt::{self, Write as _};

use crate::xml::{Element, XmlError};

/// The namespace of all methods and types.
const NAMESPACE: &str = "urn:vim25";

/// Names an object that the server manages.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ref {
    /// Its type (`VirtualMachine`).
    pub(super) kind: String,
    /// Its id (`vm-12`; on a single host `12`).
    pub(super) id: String,
}

impl Ref {
    pub(super) fn new(kind: &str, id: &str) -> Self {
        Self { kind: kind.to_owned(), id: id.to_owned() }
    }

    /// Reads a reference: its type is an attribute, its id the text.
    pub(super) fn of(element: &Element) -> Option<Self> {
        // A value of any type says before that it is a reference, in an attribute of the same local name.
        let own = |kind: &&str| local(kind) != "ManagedObjectReference";
        let kind = element.attributes("type").find(own)?;
        Some(Self { kind: kind.to_owned(), id: element.text().to_owned() })
    }
}

impl fmt::Display for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

/// Returns what an element says its type is, without prefix.
pub(super) fn kind(element: &Element) -> &str {
    element.attributes("type").next().map_or("", local)
}

fn local(name: &str) -> &str {
    name.rsplit(':').next().unwrap_or(name)
}

/// A call of a method. It may hold a password, so nothing prints it.
#[derive(Clone)]
pub(super) struct Request {
    /// The method's name.
    pub(super) method: &'static str,
    body: String,
}

impl Request {
    /// Begins the call of an object's method.
    pub(super) fn new(method: &'static str, this: &Ref) -> Self {
        let mut body = String::new();
        let _ = write!(body, "<{method} xmlns=\"{NAMESPACE}\">");
        Self { method, body }.reference("_this", this)
    }

    /// Adds a parameter that is a text, a number, a time or a truth value.
    pub(super) fn text(mut self, name: &str, value: impl fmt::Display) -> Self {
        let _ = write!(self.body, "<{name}>{}</{name}>", escaped(&value.to_string()));
        self
    }

    /// Adds a text whose type the server cannot know from its place.
    pub(super) fn any_text(mut self, name: &str, value: &str) -> Self {
        let value = escaped(value);
        let _ = write!(self.body, "<{name} xsi:type=\"xsd:string\">{value}</{name}>");
        self
    }

    /// Adds an object.
    pub(super) fn reference(mut self, name: &str, to: &Ref) -> Self {
        let (kind, id) = (escaped(&to.kind), escaped(&to.id));
        let _ = write!(self.body, "<{name} type=\"{kind}\">{id}</{name}>");
        self
    }

    /// Adds a structure.
    pub(super) fn with(mut self, name: &str, fill: impl FnOnce(Self) -> Self) -> Self {
        let _ = write!(self.body, "<{name}>");
        self = fill(self);
        let _ = write!(self.body, "</{name}>");
        self
    }

    /// Adds a structure of a type that its place leaves open.
    pub(super) fn typed(mut self, name: &str, kind: &str, fill: impl FnOnce(Self) -> Self) -> Self {
        let _ = write!(self.body, "<{name} xsi:type=\"{kind}\">");
        self = fill(self);
        let _ = write!(self.body, "</{name}>");
        self
    }

    /// Returns the message. It holds a secret where the method is `Login`.
    pub(super) fn envelope(&self) -> String {
        let Self { method, body } = self;
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <e:Envelope xmlns:e=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\">\
             <e:Header><operationID>ferry-{method}</operationID></e:Header>\
             <e:Body>{body}</{method}></e:Body></e:Envelope>"
        )
    }
}

/// Writes a text so that it is one in XML. What XML cannot hold at all goes.
fn escaped(text: &str) -> String {
    let allowed = |c: &char| !c.is_control() || matches!(c, '\t' | '\n' | '\r');
    let text: String = text.chars().filter(allowed).collect();
    quick_xml::escape::escape(text).into_owned()
}

/// Why the server did not do what it was asked for, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Its type (`NotAuthenticated`); empty where the server names none.
    pub(super) kind: String,
    /// Its sentence.
    pub(super) text: String,
    /// What it says besides.
    pub(super) detail: Element,
}

impl Fault {
    /// Reads a `LocalizedMethodFault`, as tasks and property collectors give it.
    pub(super) fn localized(element: &Element) -> Self {
        let detail = element.child("fault").cloned().unwrap_or_default();
        let text = element.text_of("localizedMessage").unwrap_or_default().to_owned();
        Self { kind: kind(&detail).to_owned(), text, detail }
    }

    /// Reads a `MethodFault` that is the value of a property.
    pub(super) fn of_method(element: &Element) -> Self {
        let cause = element.child("faultCause").map(Self::localized);
        let text = cause.map(|cause| cause.text).unwrap_or_default();
        Self { kind: kind(element).to_owned(), text, detail: element.clone() }
    }

    fn of(element: &Element) -> Self {
        let text = element.text_of("faultstring").unwrap_or_default().to_owned();
        let detail = element.child("detail").and_then(|detail| detail.children.first());
        let detail = detail.cloned().unwrap_or_default();
        let named = detail.name.strip_suffix("Fault").unwrap_or(&detail.name);
        let kind = Some(kind(&detail)).filter(|kind| !kind.is_empty()).unwrap_or(named).to_owned();
        Self { kind, text, detail }
    }
}

/// What came back.
#[derive(Debug)]
pub(super) enum Answer {
    /// `METHODResponse`, with its `returnval` elements.
    Done(Element),
    /// A fault.
    Fault(Box<Fault>),
}

/// Why an answer makes no sense.
#[derive(Debug, thiserror::Error)]
pub(super) enum Garbled {
    #[error("{0}")]
    Xml(#[from] XmlError),
    #[error("it holds neither an answer to {0} nor a fault")]
    Other(&'static str),
}

/// Reads an answer.
pub(super) fn read(bytes: &[u8], method: &'static str) -> Result<Answer, Garbled> {
    let envelope = Element::parse(bytes)?;
    let body = envelope.child("Body").ok_or(Garbled::Other(method))?;
    if let Some(fault) = body.child("Fault") {
        return Ok(Answer::Fault(Box::new(Fault::of(fault))));
    }
    let done =
        body.children.iter().find(|child| child.name.strip_suffix("Response") == Some(method));
    done.cloned().map(Answer::Done).ok_or(Garbled::Other(method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_one_element_with_its_parameters_in_order() {
        let request = Request::new("ReconfigVM_Task", &Ref::new("VirtualMachine", "vm-1"))
            .with("spec", |spec| spec.text("changeVersion", "a<b").text("memoryMB", 7));
        let body = request.envelope();
        let (_, body) = body.split_once("<e:Body>").unwrap();
        assert_eq!(
            body,
            "<ReconfigVM_Task xmlns=\"urn:vim25\"><_this type=\"VirtualMachine\">vm-1</_this>\
             <spec><changeVersion>a&lt;b</changeVersion><memoryMB>7</memoryMB></spec>\
             </ReconfigVM_Task></e:Body></e:Envelope>"
        );
    }

    #[test]
    fn answers_and_faults_are_told_apart() {
        let envelope = |body: &str| {
            format!("<S:Envelope xmlns:S='s' xmlns:xsi='i'><S:Body>{body}</S:Body></S:Envelope>")
        };
        let done = envelope(
            "<FindByUuidResponse xmlns='urn:vim25'><returnval type='VirtualMachine'>vm-2</returnval></FindByUuidResponse>",
        );
        let Answer::Done(answer) = read(done.as_bytes(), "FindByUuid").unwrap() else {
            panic!("it is an answer")
        };
        let found = Ref::of(answer.child("returnval").unwrap());
        assert_eq!(found, Some(Ref::new("VirtualMachine", "vm-2")));
        let any =
            "<val xmlns:xsi='i' xsi:type='ManagedObjectReference' type='Folder'>group-v3</val>";
        let any = Element::parse(any.as_bytes()).unwrap();
        assert_eq!(Ref::of(&any), Some(Ref::new("Folder", "group-v3")));

        let fault = |detail: &str| {
            let text = format!(
                "<S:Fault><faultcode>ServerFaultCode</faultcode><faultstring>No.</faultstring>{detail}</S:Fault>"
            );
            match read(envelope(&text).as_bytes(), "Login") {
                Ok(Answer::Fault(fault)) => (fault.kind, fault.text),
                other => panic!("{other:?}"),
            }
        };
        let no = |kind: &str| (kind.to_owned(), "No.".to_owned());
        assert_eq!(
            fault("<detail><InvalidLoginFault xsi:type='vim25:InvalidLogin'/></detail>"),
            no("InvalidLogin")
        );
        assert_eq!(fault("<detail><NotFoundFault/></detail>"), no("NotFound"));
        assert_eq!(fault(""), no(""));

        for bad in ["<a/>", "<S:Envelope xmlns:S='s'><S:Body/></S:Envelope>", "<S:Envelope"] {
            assert!(read(bad.as_bytes(), "Login").is_err(), "{bad}");
        }
    }
}
