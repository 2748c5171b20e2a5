//! The supervisor's HTTP interface on a Unix socket, for the command line.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`crate::status::Status`] |
//! | `GET /v1/pods/NAMESPACE/POD/admin/PATH` | what the admin interface of the pod's sidecar answers; also `POST` |
//! | `GET /v1/resources?kind=KIND[&namespace=NS][&name=NAME]` | objects in force with their statuses, as the control plane has them |
//! | `POST /v1/stop` | 202; the mesh stops |

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::UnixListener;

use crate::find::find_pod;
use crate::mesh::Mesh;
use crate::{sidecar, status};

type Answer = Response<Full<Bytes>>;

/// Starts to serve.
pub(crate) fn serve(mesh: Arc<Mesh>) -> io::Result<()> {
    let listener = UnixListener::bind(mesh.dir.api_socket())?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let mesh = mesh.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let mesh = mesh.clone();
                    async move { Ok::<_, Infallible>(answer(&mesh, &request).await) }
                });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(())
}

async fn answer(mesh: &Arc<Mesh>, request: &Request<Incoming>) -> Answer {
    let path = request.uri().path();
    match (request.method(), path) {
        (&Method::GET, "/v1/status") => {
            let body = serde_json::to_vec(&status::status(mesh).await).unwrap_or_default();
            with_type(StatusCode::OK, "application/json", body.into())
        }
        (&Method::GET, "/v1/resources") => match mesh.control.resources(request.uri().query().unwrap_or_default()).await {
            Ok((status, body)) => {
                with_type(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY), "application/json", body)
            }
            Err(e) => problem(StatusCode::BAD_GATEWAY, &format!("the control plane does not answer: {e}")),
        },
        (&Method::POST, "/v1/stop") => {
            mesh.stop();
            with_type(StatusCode::ACCEPTED, "text/plain", Bytes::new())
        }
        (&Method::GET | &Method::POST, _) if path.starts_with("/v1/pods/") => admin(mesh, request).await,
        _ => problem(StatusCode::NOT_FOUND, "no such page"),
    }
}

async fn admin(mesh: &Mesh, request: &Request<Incoming>) -> Answer {
    let parts: Vec<&str> = request.uri().path().splitn(7, '/').collect();
    let ["", "v1", "pods", namespace, pod, "admin", page] = parts[..] else {
        return problem(StatusCode::NOT_FOUND, "the page is /v1/pods/NAMESPACE/POD/admin/PATH");
    };
    let pod = match find_pod(mesh, namespace, pod) {
        Ok(pod) => pod,
        Err(e) => return problem(StatusCode::NOT_FOUND, &e),
    };
    if !pod.identity.injected {
        return problem(StatusCode::NOT_FOUND, &format!("pod {} has no sidecar", pod.key()));
    }
    let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
    match sidecar::admin(&pod, request.method().clone(), &format!("/{page}{query}")).await {
        Ok(answer) => {
            let (head, body) = answer.into_parts();
            let kind = head.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("text/plain");
            with_type(head.status, kind, body)
        }
        Err(e) => problem(StatusCode::BAD_GATEWAY, &format!("the sidecar of {} does not answer: {e}", pod.key())),
    }
}

fn problem(status: StatusCode, text: &str) -> Answer {
    with_type(status, "text/plain", Bytes::from(format!("{text}\n")))
}

fn with_type(status: StatusCode, kind: &str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    if let Ok(value) = kind.parse() {
        answer.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    answer
}
