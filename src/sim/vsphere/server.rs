//! The server: HTTPS, and which part answers what.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Collected, Either, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HeaderValue, SET_COOKIE};
use hyper::http::response::Builder;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use openssl::ssl::{Ssl, SslAcceptor};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::fault::{self, Fault};
use super::files;
use super::lease;
use super::methods::{Asked, Reply, dispatch, named};
use super::scenario::FaultSpec;
use super::shared::Shared;
use super::soap;
use super::value::{Ref, Value};
use crate::xml::Element;

/// A request is no longer than this.
const REQUEST_BYTES_MAX: usize = 8 << 20;

/// A body: all of it, or one that grows.
pub(super) type Body = Either<Full<Bytes>, Channel<Bytes, Cut>>;

/// The connection is cut.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut, as the scenario wants it")]
pub(super) struct Cut;

/// Serves until it is told to stop.
pub(super) async fn serve(
    listener: TcpListener,
    acceptor: SslAcceptor,
    shared: Arc<Shared>,
    mut stop: oneshot::Receiver<()>,
) {
    tokio::spawn(pass_time(shared.clone()));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stop => return,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, acceptor.clone(), shared.clone()));
            }
            // Out of files, mostly: others will be closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Lets happen what is due while nobody asks.
async fn pass_time(shared: Arc<Shared>) {
    let mut changed = shared.changes();
    loop {
        changed.borrow_and_update();
        let next = shared.enter(super::world::World::next_due);
        let wait = next.unwrap_or(Duration::from_hours(1));
        let _ = tokio::time::timeout(wait, changed.changed()).await;
    }
}

async fn converse(stream: TcpStream, acceptor: SslAcceptor, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let Ok(ssl) = Ssl::new(acceptor.context()) else { return };
    let Ok(mut stream) = tokio_openssl::SslStream::new(ssl, stream) else { return };
    if std::pin::Pin::new(&mut stream).accept().await.is_err() {
        return;
    }
    let service = service_fn(move |request| respond(shared.clone(), request));
    // A client that goes away, and a connection that a scenario cuts, end here.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
    if !shared.latency.is_zero() {
        tokio::time::sleep(shared.latency).await;
    }
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::POST, "/sdk" | "/sdk/" | "/sdk/vimService") => method(shared, request).await,
        (&Method::GET, "/sdk/vimServiceVersions.xml") => {
            Ok(text(StatusCode::OK, "text/xml", shared.versions.clone()))
        }
        (&Method::GET | &Method::HEAD, path) if path.starts_with("/folder/") => {
            script(&shared, "GET /folder", files::folder(shared.clone(), &request)).await
        }
        (&Method::GET | &Method::HEAD, path) if path.starts_with("/nfc/") => {
            script(&shared, "GET /nfc", lease::download(shared.clone(), &request)).await
        }
        _ => Ok(text(StatusCode::NOT_FOUND, "text/plain", format!("there is no {path}\n"))),
    }
}

/// Answers a request for a file as the scenario's script wants it.
async fn script(
    shared: &Arc<Shared>,
    name: &str,
    answer: impl FnOnce(Option<u64>) -> Response<Body>,
) -> Result<Response<Body>, Cut> {
    let fault = shared.enter(|world| world.scripted(name)).unwrap_or_default();
    if let Some(status) = fault.status {
        return Ok(refused(status));
    }
    if fault.cut || fault.lost_reply {
        return Err(Cut);
    }
    if let Some(delay) = fault.delay {
        tokio::time::sleep(delay.0).await;
    }
    Ok(answer(fault.truncate))
}

/// Answers a call of the API.
async fn method(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Cut> {
    let cookie = cookie(&request, "vmware_soap_session");
    let action = header(&request, "soapaction");
    let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect().await;
    let Ok(body) = body else { return Ok(refused(413)) };
    let root = match Element::parse(&body.to_bytes()) {
        Ok(root) => root,
        Err(error) => {
            return Ok(faulty(&Fault::invalid_request(format!("The request is no XML: {error}"))));
        }
    };
    let element = match shared.supports(&action).and_then(|()| soap::body(&root)) {
        Ok(element) => element,
        Err(fault) => return Ok(faulty(&fault)),
    };
    let script = shared.enter(|world| world.scripted(&element.name)).unwrap_or_default();
    if let Some(status) = script.status {
        return Ok(refused(status));
    }
    if script.cut {
        return Err(Cut);
    }
    let response = match scripted(script.fault.as_deref(), element) {
        Some(fault) => faulty(&fault),
        None => answer(&shared, cookie.as_deref(), element, &script).await,
    };
    if let Some(delay) = script.delay {
        tokio::time::sleep(delay.0).await;
    }
    match script.truncate {
        _ if script.lost_reply => Err(Cut),
        Some(bytes) => Ok(truncated(response, bytes).await),
        None => Ok(response),
    }
}

/// Makes the fault that a script names.
fn scripted(kind: Option<&str>, request: &Element) -> Option<Fault> {
    let of = named(request).unwrap_or_else(|| Ref::new("ServiceInstance", "ServiceInstance"));
    kind.and_then(fault::known).map(|kind| Fault::scripted(kind, &of))
}

/// Calls the method, again where it waits for a change.
async fn answer(
    shared: &Arc<Shared>,
    cookie: Option<&str>,
    element: &Element,
    script: &FaultSpec,
) -> Response<Body> {
    let mut changed = shared.changes();
    let (since, number) = shared.enter(|world| (world.elapsed, world.number()));
    let mut asked = Asked { since, number, is_first: true };
    loop {
        changed.borrow_and_update();
        let replied = shared.enter(|world| {
            let missing = scripted(script.missing.as_deref(), element);
            let script = (missing, scripted(script.task.as_deref(), element));
            dispatch(world, cookie, element, asked, script)
        });
        match replied {
            Err(fault) => return faulty(&fault),
            Ok(Reply::Value(value)) => return answered(&element.name, &value, false),
            Ok(Reply::Any(value)) => return answered(&element.name, &value, true),
            Ok(Reply::Session { value, cookie }) => {
                let mut response = answered(&element.name, &value, false);
                let cookie = format!("vmware_soap_session={cookie}; Path=/; HttpOnly; Secure; ");
                if let Ok(cookie) = HeaderValue::from_str(&cookie) {
                    response.headers_mut().insert(SET_COOKIE, cookie);
                }
                return response;
            }
            Ok(Reply::Later(wait)) => {
                asked.is_first = false;
                let _ = tokio::time::timeout(wait, changed.changed()).await;
            }
        }
    }
}

fn answered(method: &str, value: &Value, typed: bool) -> Response<Body> {
    text(StatusCode::OK, XML, soap::answer(method, value, typed))
}

const XML: &str = "text/xml; charset=utf-8";

/// Returns a whole answer.
pub(super) fn text(status: StatusCode, kind: &str, text: String) -> Response<Body> {
    let response = Response::builder().status(status).header(CONTENT_TYPE, kind);
    built(response.header(CONTENT_LENGTH, text.len()), Either::Left(Full::new(text.into())))
}

pub(super) fn built(response: Builder, body: Body) -> Response<Body> {
    response.body(body).expect("all headers are made of plain text")
}

fn faulty(fault: &Fault) -> Response<Body> {
    text(StatusCode::INTERNAL_SERVER_ERROR, XML, soap::fault(fault))
}

/// Returns an answer that is only a status.
pub(super) fn refused(status: u16) -> Response<Body> {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    text(status, "text/plain", format!("{status}\n"))
}

/// Cuts the connection after so many bytes of the body.
async fn truncated(response: Response<Body>, bytes: u64) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let whole = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
    let kept = usize::try_from(bytes).unwrap_or(usize::MAX).min(whole.len());
    let (mut sender, channel) = Channel::new(1);
    tokio::spawn(async move {
        let _ = sender.send_data(whole.slice(..kept)).await;
        sender.abort(Cut);
    });
    parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Response::from_parts(parts, Either::Right(channel))
}

pub(super) fn header<B>(request: &Request<B>, name: &str) -> String {
    let value = request.headers().get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

/// Returns the value of a cookie, byte for byte.
pub(super) fn cookie<B>(request: &Request<B>, name: &str) -> Option<String> {
    let cookies = request.headers().get_all(COOKIE).into_iter();
    let pairs = cookies.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(';'));
    pairs
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned())
}
